"""Against the model that serves: what forgets the old prompts is refused, slice by slice."""

from dataclasses import replace

import pytest
from select_cases import FIGURES, PUBS, Case, evaluation, said, write_model

from serving.errors import StillhouseError
from stages import _io
from stages._forgetting import compare_retrained, incumbent_gates, part_of, slices_of
from stages._gates import Gate
from stages._params.select import Gates, Retrained
from stages._retention import measure
from stages.select import select

WINDOW = 60  # the last prompts of 240 are the window's
DRAWN = (400, 0.95, 20)


def answers(old_wrong=0, window_wrong=0):
    """Right answers but for the first ones of the old prompts and of the window's."""
    texts = list(said())
    wrong = said(wrong=len(PUBS))
    for place in (*range(old_wrong), *range(240 - WINDOW, 240 - WINDOW + window_wrong)):
        texts[place] = wrong[place]
    return tuple(texts)


def mark(lines):
    return [line | ({"window": "w"} if n >= 240 - WINDOW else {}) for n, line in enumerate(lines)]


def measured(name, **wrong):
    report, lines = evaluation(answers(**wrong))
    return measure(name, report, mark(lines))


def gates_of(incumbent, candidate, **limits):
    found = incumbent_gates(
        Gates(min_prompts=100), Retrained(**limits), incumbent, candidate, DRAWN
    )
    return {gate.gate: gate for gate in found}


def test_slices_are_the_old_prompts_and_each_window():
    lines = [{}, {"window": "b"}, {"window": "a"}, {}, {"window": "b"}]
    assert slices_of(lines) == {"old": [0, 3], "window_b": [1, 4], "window_a": [2]}
    assert slices_of(lines[1:3]) == {"window_b": [0], "window_a": [1]}


def test_a_part_has_the_lines_and_statistics_of_its_prompts():
    part = part_of(measured("a", window_wrong=6), range(180, 240))
    assert [line["window"] for line in part.lines] == ["w"] * 60
    errors = part.statistics["slot_error_rate"].rows.sum(axis=0)
    assert (errors[0], errors[1]) == (6.0, 180.0)


def test_what_keeps_the_old_and_learns_the_window_passes_every_gate():
    gates = gates_of(measured("incumbent", window_wrong=30), measured("student"))
    assert {name: gate.verdict for name, gate in gates.items()} == {
        "old_slot_error_rate_rise": "pass",
        "old_bleu_fall": "pass",
        "window_w_slot_error_rate_rise": "pass",
        "window_w_bleu_fall": "pass",
    }
    assert gates["window_w_slot_error_rate_rise"].value == pytest.approx(-30 / 180)
    assert gates["window_w_slot_error_rate_rise"].high < 0


def test_what_forgets_the_old_fails_on_the_old_slice_alone():
    gates = gates_of(measured("incumbent", window_wrong=30), measured("student", old_wrong=30))
    verdicts = {name: gate.verdict for name, gate in gates.items()}
    assert verdicts["old_slot_error_rate_rise"] == "fail"
    assert gates["old_slot_error_rate_rise"].value == pytest.approx(30 / 540)
    assert verdicts["window_w_slot_error_rate_rise"] == "pass"


def test_a_mean_over_all_prompts_would_hide_what_was_forgotten():
    candidate, incumbent = measured("s", old_wrong=20), measured("i", window_wrong=30)
    rates = [
        one.statistics["slot_error_rate"].rows.sum(axis=0)[0] for one in (candidate, incumbent)
    ]
    assert rates[0] < rates[1]
    assert gates_of(incumbent, candidate)["old_slot_error_rate_rise"].verdict == "fail"


def test_a_window_of_too_few_prompts_is_inconclusive():
    gates = gates_of(measured("i"), measured("s"), window_prompts=61)
    assert gates["window_w_slot_error_rate_rise"].verdict == "inconclusive"
    assert gates["old_slot_error_rate_rise"].verdict == "pass"


def test_gates_that_are_off_are_not_there():
    off = dict.fromkeys(("old_bleu_fall", "window_slot_error_rate_rise", "window_bleu_fall"))
    assert set(gates_of(measured("i"), measured("s"), **off)) == {"old_slot_error_rate_rise"}


def test_a_metric_that_one_side_lacks_is_no_pass():
    lacking = measured("i")
    kept = {k: v for k, v in lacking.statistics.items() if k != "slot_error_rate"}
    gates = gates_of(replace(lacking, statistics=kept), measured("s"))
    assert gates["old_slot_error_rate_rise"].verdict == "inconclusive"


def gate(name, low, high):
    return Gate(name, (low + high) / 2, low, high, 0.02, "pass", "r")


@pytest.mark.parametrize(
    ("gates", "expected"),
    [
        ([gate("window_w_slot_error_rate_rise", -0.2, -0.1)], "replace"),
        ([gate("window_w_slot_error_rate_rise", -0.2, 0.01)], "keep"),
        ([gate("window_w_slot_error_rate_rise", -0.2, 0.0)], "keep"),
        ([gate("old_slot_error_rate_rise", -0.2, -0.1)], "keep"),
        ([gate("old_bleu_fall", -3, -1), gate("window_v_bleu_fall", -3, -1)], "replace"),
        ([], "keep"),
    ],
)
def test_only_a_gain_on_a_window_that_is_shown_replaces_the_incumbent(gates, expected):
    assert compare_retrained(gates)["verdict"] == expected


class Both(Case):
    """A project whose incumbent answers beside a student, on old prompts and a window's."""

    def __init__(self, root, student, incumbent, **select):
        limits = {"window_slot_error_rate_rise": 0.03}
        super().__init__(root, gates={"min_prompts": 100}, retrained=limits, **select)
        self.add("student", answers(**student), {})
        sha256 = self.add("incumbent", answers(**incumbent), {"cost_per_1k_requests_usd": 1e-6})
        self.serves = self._move(sha256, incumbent)
        self.release({"candidate": "ct2", "model_sha256": self.serves})
        for name in ("student", "incumbent"):
            path = root / f"reports/evaluate/{name}.jsonl"
            _io.write_jsonl(path, mark(_io.read_jsonl(path)))

    def _move(self, sha256, _):
        """The incumbent lies in a folder of its own, not among the variants."""
        self.candidates["incumbent"] = (self.root / "models/incumbent").as_posix()
        (self.root / "models/variants/incumbent").rename(self.root / "models/incumbent")
        return sha256


def run(case):
    return select(case.params(), *case.paths())


def test_a_retrained_student_that_kept_and_learned_replaces_the_incumbent(tmp_path):
    case = Both(tmp_path, {}, {"window_wrong": 30})
    run(case)
    decision = case.decision()
    assert decision["winners"]["cpu"] == "student"
    assert decision["incumbent"]["cpu"]["verdict"] == "replace"
    assert "it learned the window: window_w_slot_error_rate_rise -0.1667" in decision["reason"]
    assert decision["retraining"] == {
        "incumbent_sha256": case.serves,
        "prompts": {"old": 180, "window_w": 60},
    }


def test_a_student_that_forgets_is_refused_by_name_of_the_gate(tmp_path):
    case = Both(tmp_path, {"old_wrong": 30}, {"window_wrong": 30})
    with pytest.raises(StillhouseError, match=r"student: old_slot_error_rate_rise 0\.05556"):
        run(case)
    assert case.decision()["winners"]["cpu"] is None
    assert not (tmp_path / "models/winner.json").exists()


def test_a_student_that_learned_nothing_is_no_reason_to_change(tmp_path):
    case = Both(tmp_path, {}, {})
    run(case)
    assert case.decision()["incumbent"]["cpu"]["verdict"] == "keep"


def test_the_incumbent_itself_cannot_win(tmp_path):
    case = Both(tmp_path, {}, {})
    run(case)
    entries = {one["name"]: one for one in case.decision()["candidates"]}
    assert case.winner()["cpu"]["candidate"] == "student"
    assert not entries["incumbent"]["eligible"]


def test_after_the_release_of_the_retrained_one_it_is_the_same(tmp_path):
    case = Both(tmp_path, {}, {"window_wrong": 30})
    run(case)
    case.release(case.winner()["cpu"])
    run(case)
    assert case.decision()["incumbent"]["cpu"]["verdict"] == "same"


def test_another_model_in_force_is_compared_by_figures(tmp_path):
    case = Both(tmp_path, {}, {"window_wrong": 30})
    case.release({"candidate": "x", "model_sha256": "9" * 64})
    run(case)
    assert case.decision()["incumbent"]["cpu"]["verdict"] == "not_comparable"


def test_an_incumbent_that_was_not_evaluated_is_missed(tmp_path):
    case = Both(tmp_path, {}, {})
    (tmp_path / "reports/evaluate/incumbent.json").unlink()
    with pytest.raises(StillhouseError, match="no evaluation of incumbent"):
        run(case)


def test_an_incumbent_that_was_changed_after_it_answered_is_refused(tmp_path):
    case = Both(tmp_path, {}, {})
    write_model(tmp_path / "models/incumbent", "other weights")
    with pytest.raises(StillhouseError, match=r"incumbent was evaluated as"):
        run(case)
    assert FIGURES["device"] == "cpu"
