"""Whether the teacher must learn the window: its errors there against its usual ones, by hand."""

import json
import shutil

import pytest
from retrain_cases import asked, gold_line, make_window, pub
from tiny_pipeline import taught
from toy import SCHEMA

from serving.slots import SlotSchema
from stages import _io
from stages._params.retrain import Retrain
from stages._retraining.teacher import Level, choose_rows, compare, judge, measure_teacher
from stages._scores import Score
from stages.retrain import choose_use

PUBS = SlotSchema.from_dict(SCHEMA)
SETTINGS = Retrain()


def said(numbers, wrong=0):
    """Rows of the window and answers to them; the first `wrong` ones name another food."""
    rows = [pub(n) | {"id": f"row-{n:06d}"} for n in numbers]
    texts = [row["references"][0] for row in rows]
    texts[:wrong] = [text.replace("fish", "pies") for text in texts[:wrong]]
    return list(zip(rows, texts, strict=True))


def level(window, usual, gold=(), schema=PUBS):
    references = {f"row-{n:06d}": pub(n)["references"] for n in gold}
    return compare(window, usual, references, schema, SETTINGS, 20)


def test_a_teacher_that_errs_on_the_window_must_learn_it():
    found = level(said(range(100), wrong=40), said(range(200, 300), wrong=2), gold=range(3))
    assert found.verdict == "must_learn"
    assert found.metric == "slot_error_rate"
    assert found.window["score"] == pytest.approx(40 / 300)
    assert found.calibration["score"] == pytest.approx(2 / 300)
    assert found.loss["score"] == pytest.approx(38 / 300)
    assert found.loss["low"] > found.loss["limit"] == 0.02
    assert found.wrong_gold == ("row-000000", "row-000001", "row-000002")
    assert found.prompts == 100


def test_a_teacher_that_errs_as_always_is_good_enough():
    found = level(said(range(300), wrong=3), said(range(400, 700), wrong=3))
    assert found.verdict == "good_enough"
    assert found.loss["score"] == 0.0


def test_few_prompts_are_unclear():
    found = level(said(range(12), wrong=1), said(range(400, 420)))
    assert found.verdict == "unclear"
    assert "too few prompts to tell" in found.reason


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.021, 0.1, "must_learn"),
        (0.02, 0.1, "unclear"),
        (0.0, 0.0201, "unclear"),
        (0.0, 0.02, "good_enough"),
        (-0.2, -0.1, "good_enough"),
    ],
)
def test_only_a_proven_loss_calls_for_another_teacher(low, high, expected):
    assert judge(Score(0.02, low, high, "s"), 0.02)[0] == expected


def test_without_records_answers_are_compared_with_the_gold():
    window = [(row, "Something else entirely.") for row, _ in said(range(60))]
    found = level(window, said(range(100, 160)), gold=range(40), schema=None)
    assert (found.metric, found.prompts, found.verdict) == ("chrf", 40, "must_learn")
    assert found.loss["score"] == found.calibration["score"] - found.window["score"] > 50
    assert found.loss["low"] <= found.loss["score"] <= found.loss["high"]


def test_gold_that_the_teacher_is_far_from_is_named_the_farthest_first():
    window = said(range(12))
    window[3] = (window[3][0], window[3][0]["references"][0][: len("Pub")])
    window[7] = (window[7][0], "")
    found = level(window, said(range(100, 160)), gold=range(12), schema=None)
    assert found.wrong_gold == ("row-000007", "row-000003")


def test_nothing_to_compare_with_is_not_measured():
    assert level(said(range(5)), [], gold=range(5)).verdict == "not_measured"
    assert level(said(range(5)), said(range(5)), schema=None).verdict == "not_measured"


def test_prompts_with_gold_come_first_and_each_once(tmp_path):
    rows = [asked(n) for n in range(30)] + [asked(5, id="again"), asked(40, prompt=None)]
    folder = make_window(tmp_path, rows)
    gold = {f"row-{n:06d}": ["r"] for n in (7, 23, 29)}
    chosen = [row["id"] for row in choose_rows(folder, gold, 10, 20)]
    assert set(chosen[:3]) == gold.keys()
    assert len(chosen) == 10
    assert len(choose_rows(folder, gold, 200, 20)) == 30
    assert choose_rows(folder, gold, 10, 20)[4]["slots"]["food"] == "fish"


@pytest.mark.parametrize(
    ("gold", "verdict", "expected"),
    [
        ("auto", "must_learn", "train"),
        ("auto", "unclear", "held_out"),
        ("auto", "good_enough", "held_out"),
        ("held_out", "must_learn", "held_out"),
        ("train", "good_enough", "train"),
    ],
)
def test_gold_goes_to_training_where_the_teacher_must_learn_it(
    tmp_path, capsys, gold, verdict, expected
):
    folder = make_window(tmp_path, [asked(n) for n in range(3)], gold=[0])
    found = Level(verdict, "r", wrong_gold=("row-000000",))
    assert choose_use(Retrain(gold=gold), found, folder)["gold"] == expected
    told = capsys.readouterr().out
    assert ("first of all row-000000" in told) == (verdict == "must_learn")
    assert ("learns it now" in told) == (verdict == "must_learn" and expected == "train")


@pytest.mark.slow
def test_a_real_teacher_is_asked_and_compared_with_its_own_calibration_answers(tmp_path):
    shutil.copytree(taught() / "teacher", tmp_path / "models/teacher")
    shutil.copytree(taught() / "prepared", tmp_path / "data/prepared")
    calibration = _io.read_jsonl(tmp_path / "data/prepared/calibration.jsonl")
    rows = [{"id": row["id"], "text": row["references"][0]} for row in calibration]
    _io.write_jsonl(tmp_path / "data/answers/teacher.calibration.jsonl", rows)
    folder = make_window(tmp_path / "data/windows", [asked(n) for n in range(12)], gold=range(4))
    assert json.loads((folder / "gold.jsonl").read_text().splitlines()[0]) == gold_line(0)
    found = measure_teacher(tmp_path, folder, SETTINGS, 20)
    assert (found.verdict, found.prompts) == ("must_learn", 12)  # it was trained for 12 steps
    assert found.calibration["score"] == 0.0
