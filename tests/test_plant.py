"""The planted window: a stated share is new, the winner's answers are checked, runs repeat."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from toy import NAMES, SCHEMA, example

from serving._live.checks import AnswerChecks
from serving.completion import Completion
from serving.contract import digest
from serving.errors import StillhouseError
from serving.slots import SlotSchema, check_answer, parse_record
from stages import _io
from stages._incidents import IncidentCounts, generate
from stages._incidents.drift import SCENARIOS, Scenario
from stages._params import check_params, read_yaml
from stages._params.plant import Plant
from stages._windows.gold import read_gold
from stages._windows.planting import change_text, coin_words, plant_changes, plant_incidents
from stages._windows.reading import read_window
from stages.baseline import baseline
from stages.plant import choose_gold, make_row, plant
from tests.structure import ROOT

COUNTS = IncidentCounts(train=60, validation=12, calibration=1, test=10)
PUBS = [example(name, food, "yes") for name in NAMES for food in ("fish", "pasta")]
PLAIN = [
    {"id": str(n), "prompt": f"Tell me about number {n}, please.", "references": ["Fine."]}
    for n in range(50)
]


def params_of(source="incidents", **settings):
    sections = {
        "baseline": {"confidence_rows": 50, "jobs": 1},
        "prepare": {"source": source},
        "plant": {"rows": 12} | settings,
    }
    if source == "jsonl":
        sections["prepare"]["files"] = {"train": {"path": "train.jsonl"}}
    return check_params(sections, Path("params.yaml"))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Prepared incidents and a baseline that won."""
    root = tmp_path_factory.mktemp("plant")
    for split, rows in generate(20, COUNTS).items():
        named = [{"id": f"{split}-{n}", **row} for n, row in enumerate(rows)]
        _io.write_jsonl(root / f"{split}.jsonl", named)
    _io.write_json(root / "slots.json", read_yaml(ROOT / "configs/schemas/incidents.yaml"))
    inputs = {n: root / n for n in ("train.jsonl", "validation.jsonl", "slots.json")}
    outputs = {"model": root / "model", "reports": root / "reports"}
    baseline(params_of(), inputs, outputs)
    won = {"candidate": "baseline", "folder": str(root / "model")}
    won["model_sha256"] = digest(root / "model")
    _io.write_json(root / "winner.json", {"cpu": won, "cuda": None})
    return root


def run(project, tmp_path, params):
    inputs = {name: project / f"{name}.jsonl" for name in ("train", "test")}
    inputs |= {name: project / f"{name}.json" for name in ("slots", "winner")}
    return plant(params, inputs, {"window": tmp_path / "planted"})


def completion(text, **fields):
    return Completion(text, 3, 4, "stop", None, **fields)


def test_the_planted_window_is_a_window_like_any_other(project, tmp_path):
    told = run(project, tmp_path, params_of(share=0.5, gold_share=0.25))
    window = read_window(tmp_path / "planted")
    rows = list(window.rows())
    assert (told["rows"], told["changed"], told["gold"]) == (12, 6, 3)
    assert window.info["planted"] == {"scenario": "services+units", "share": 0.5, "changed": 6}
    assert (window.info["id"], window.info["rows_with_text"]) == ("planted", 12)
    assert [row["slots"] for row in rows] == [parse_record(row["prompt"]) for row in rows]
    assert {row["model_sha256"] for row in rows} == {digest(project / "model")}
    assert rows[1]["time"] == datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
    assert all(row["answer"] and row["confidence"] is not None for row in rows)
    assert {row["latency_ms"] for row in rows} == {None}


def test_a_second_run_writes_the_same_bytes(project, tmp_path):
    for name in ("one", "two"):
        run(project, tmp_path / name, params_of(rows=6))
    first, second = (sorted((tmp_path / n / "planted").iterdir()) for n in ("one", "two"))
    assert [path.name for path in first] == [path.name for path in second]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert len(first) == 4


def test_gold_belongs_to_rows_of_the_window(project, tmp_path):
    run(project, tmp_path, params_of(rows=8, gold_share=1.0))
    gold = read_gold(tmp_path / "planted")
    assert (len(gold.references), gold.rejected) == (8, [])
    assert all(len(references) == 5 for references in gold.references.values())


def test_other_data_gets_made_up_values_in_a_share_of_its_own_prompts(project, tmp_path):
    told = run(project, tmp_path, params_of("jsonl", share=0.5))
    window = read_window(tmp_path / "planted")
    test = {row["prompt"] for row in _io.read_jsonl(project / "test.jsonl")}
    changed = [row for row in window.rows() if row["prompt"] not in test]
    assert told["rows"] == len(test) == 10  # there are no more
    assert told["changed"] == len(changed) == len(test) // 2
    assert all(parse_record(row["prompt"]) == row["slots"] for row in changed)
    assert window.info["planted"]["scenario"] == "made_up"


def test_a_winner_that_is_not_the_chosen_model_is_refused(project, tmp_path):
    broken = tmp_path / "project"
    shutil.copytree(project, broken)
    winner = _io.read_json(project / "winner.json")
    winner["cpu"]["model_sha256"] = "0" * 64
    _io.write_json(broken / "winner.json", winner)
    with pytest.raises(StillhouseError, match="chose 000000000000"):
        run(broken, tmp_path, params_of())
    _io.write_json(broken / "winner.json", {"cpu": None})
    with pytest.raises(StillhouseError, match="names no winner for the CPU"):
        run(broken, tmp_path, params_of())
    assert not (tmp_path / "planted").exists()


def test_scenarios_take_turns_in_the_changed_rows():
    rows = plant_incidents(20, 20, ["services", "units"], 0.3)
    kinds = [row["meta"].get("drift") for row in rows]
    assert [kind for kind in kinds if kind] == ["services", "units"] * 3
    alone = plant_incidents(20, 20, ["style"], 0.3)
    assert [row["meta"].get("drift") is None for row in alone] == [kind is None for kind in kinds]
    same = [a == b for a, b, kind in zip(rows, alone, kinds, strict=True) if kind is None]
    assert all(same)
    assert len(same) == 14


def test_params_name_every_scenario():
    kinds = get_args(Plant.model_fields["scenario"].annotation)[0]
    assert get_args(kinds) == SCENARIOS == get_args(Scenario)


def test_a_changed_record_has_new_values_in_prompt_slots_and_reference_alike():
    train = [example(f"{name} {end}", "fish", "yes") for name in NAMES for end in ("Inn", "Arms")]
    made = plant_changes(PUBS, train, 12, 0.5, np.random.default_rng(3))
    changed = [row for row in made if (row.get("meta") or {}).get("drift")]
    schema = SlotSchema.from_dict(SCHEMA)
    assert (len(made), len(changed)) == (12, 6)
    for row in changed:
        assert row["slots"]["name"] not in NAMES
        assert parse_record(row["prompt"]) == row["slots"]
        check = check_answer(row["references"][0], row["slots"], schema)
        assert not (check.missing or check.added or check.wrong)
    assert all(row in PUBS for row in made if row not in changed)


def test_a_changed_plain_text_has_made_up_words_and_no_reference():
    rng = np.random.default_rng(3)
    words = coin_words(rng)
    made = change_text(PLAIN[7], words, rng)
    new = set(made["prompt"].replace(",", " ").replace(".", " ").split())
    assert new & set(words)
    assert {"7", "me"} <= new  # short words and numbers stay
    assert (made["references"], made["meta"]) == ([], {"drift": "made_up"})
    assert change_text({"prompt": "1 + 1"}, words, rng)["prompt"].startswith("1 + 1 ")


def test_the_stated_share_of_plain_texts_is_changed():
    made = plant_changes(PLAIN, PLAIN, 40, 0.25, np.random.default_rng(3))
    assert len(made) == 40
    assert sum("meta" in row for row in made) == 10
    assert len({row["id"] for row in made}) == 40


def test_made_up_words_are_few_and_of_no_language():
    words = coin_words(np.random.default_rng(1))
    assert len(set(words)) == 24
    assert sum(word[0] in "aeiou" for word in words) == 12


def test_a_row_carries_the_errors_of_its_answer():
    checks = AnswerChecks(SlotSchema.from_dict(SCHEMA))
    answer = completion("The Mill serves curry for 9 pounds.", mean_logprob=-0.5)
    row = make_row(7, example("The Mill", "fish", "yes"), answer, checks)
    assert (row["id"], row["slots_asked"]) == ("planted-00007", 3)
    assert row["slot_errors"] == 3  # another food, no word of dogs, a number that nobody asked
    assert row["ungrounded"] >= 1
    assert json.loads(row["slots"])["food"] == "fish"
    assert row["slot_names"] == ["name", "food", "dogs"]


def test_a_row_without_records_has_no_slot_errors():
    row = make_row(0, PLAIN[0], completion("Fine."), AnswerChecks(None))
    assert (row["slots"], row["slots_asked"], row["slot_errors"]) == (None, None, None)
    assert row["slot_names"] == []
    assert row["ungrounded"] == 0


def test_gold_is_drawn_from_rows_that_have_references():
    rows = [{"id": str(n)} for n in range(10)]
    examples = [{"references": ["x"] if n % 2 else []} for n in range(10)]
    gold = choose_gold(rows, examples, 0.3, seed=1)
    assert len(gold) == 3
    assert all(int(entry["id"]) % 2 for entry in gold)
    assert gold == choose_gold(rows, examples, 0.3, seed=1)
    assert len(choose_gold(rows, examples, 1.0, seed=1)) == 5
