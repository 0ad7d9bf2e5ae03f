"""The detectors tried on the reference itself: sizes, counts, intervals, and what is kept."""

import numpy as np
import pytest
from drift_cases import FAST, live_row, pubs
from toy import SCHEMA

from serving.slots import SlotSchema
from stages._drift.comparing import Side
from stages._drift.detecting import alarms, compare
from stages._drift.features import tabulate
from stages._drift.self_calibration import (
    Cut,
    calibrate,
    cut_sizes,
    keep,
    kept_under,
    read_kept,
)
from stages._drift.vocabulary import learn
from stages._params.drift import Drift

TRAINING = learn(pubs(400, "train"), SlotSchema.from_dict(SCHEMA))
ROWS = [live_row(pub, number) for number, pub in enumerate(pubs(160, "reference"))]


def settings(repeats=3, **changed):
    calibration = {"repeats": repeats, "shift": changed.pop("shift", 0.6)}
    return Drift.model_validate({**FAST, "calibration": calibration, **changed})


def try_it(rows=ROWS, window=60, **changed):
    return calibrate(rows, window, TRAINING, {}, settings(**changed), 20)


def test_a_part_as_large_as_the_window_is_held_against_the_rest():
    assert cut_sizes(500, 50, most=500) == Cut(450, 50)
    assert cut_sizes(500, 400, most=500) == Cut(250, 250)
    assert cut_sizes(2000, 1000, most=500) == Cut(500, 500)


def test_a_large_shift_is_found_and_the_reference_itself_raises_no_alarm():
    found = try_it()
    assert (found["n"], found["n_reference"], found["repeats"]) == (60, 100, 3)
    assert found["false_alarm_rate"] == 0.0
    assert found["power"] == 1.0
    low, high = found["intervals"]["power"]  # Clopper and Pearson: 0.025 ** (1 / 3)
    assert (low, high) == (pytest.approx(0.2924, abs=1e-4), 1.0)
    assert found["not_run"] is None


def test_a_shift_of_no_row_is_found_no_more_often_than_chance():
    found = try_it(shift=0.0)
    assert found["power"] == found["false_alarm_rate"]


def test_too_small_a_reference_says_why_nothing_was_tried():
    found = try_it(rows=ROWS[:50])
    assert found["power"] is None
    assert found["not_run"].startswith("25 and 25 reference prompts would be compared")
    assert try_it(repeats=0)["not_run"] == "drift.calibration.repeats is 0"


def test_a_reference_without_text_has_no_shift_to_find():
    hidden = [row | {"prompt": None, "slots": None} for row in ROWS]
    assert "no text in the reference" in try_it(rows=hidden)["not_run"]


def test_a_result_is_kept_for_windows_of_one_size_and_the_same_settings(tmp_path):
    def key(rows=ROWS, window=60, seed=20, **changed):
        return kept_under(rows, window, TRAINING, "model", settings(**changed), seed)

    keep(tmp_path, key(), {"power": 1.0})
    assert read_kept(tmp_path, key()) == {"power": 1.0}
    others = [key(ROWS[1:]), key(window=61), key(seed=21), key(repeats=4), key(alpha=0.1)]
    assert len({key(), *others}) == 6
    assert all(read_kept(tmp_path, other) is None for other in others)
    windows = [settings(window=name) for name in ("one", "two")]
    assert len({kept_under(ROWS, 60, TRAINING, "", one, 20) for one in windows}) == 1


def test_a_comparison_depends_on_its_seed_alone():
    table = tabulate(ROWS, TRAINING, None)
    halves = Side(table.take(range(80)), {}), Side(table.take(range(80, 160)), {})
    first, again = (compare(*halves, settings(), (20,)).verdict for _ in range(2))
    other = compare(*halves, settings(), (21,)).verdict
    assert first == again
    assert [one.test.p_value for one in first.judged] != [one.test.p_value for one in other.judged]


def test_vectors_that_lie_apart_are_drift_and_none_are_said_to_be_missing():
    table = tabulate(ROWS, TRAINING, None)
    halves = table.take(range(80)), table.take(range(80, 160))
    rng = np.random.default_rng(0)
    vectors = {text: rng.normal(size=8) for text in halves[0].texts}
    vectors |= {text: rng.normal(size=8) + 2.0 for text in halves[1].texts}
    wanted = settings(embeddings=True)
    found = compare(Side(halves[0], vectors), Side(halves[1], vectors), wanted, (20,)).verdict
    assert [one.test.name for one in alarms(found.judged)] == ["prompt_vectors"]
    without = compare(Side(halves[0], {}), Side(halves[1], {}), settings(), (20,)).verdict
    reasons = {one.name: one.reason for one in without.not_compared}
    assert reasons["prompt_vectors"] == "drift.embeddings is false"
