"""The built-in data: repeatable, clean, hard enough, good English, and drifting as planted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from serving.errors import StillhouseError
from serving.slots import parse_record
from stages._difficulty import reference_agreement, unseen_combinations, unseen_values, variety
from stages._incidents import IncidentCounts, drifted, generate
from stages._incidents.causes import ACTIONS, CAUSES
from stages._incidents.choice import combination_held_out, held_out
from stages._incidents.drift import FLEET, SCENARIOS, Drift
from stages._incidents.records import MOST_SLOTS, SLOTS
from stages._incidents.world import METRICS, SUFFIXES, SYMPTOMS

ROOT = Path(__file__).parent.parent
SMALL = IncidentCounts(train=1200, validation=20, calibration=20, test=220)
PINNED_PROMPT = (
    "service[fare-cache], metric[memory usage], value[93 %], threshold[92 %], "
    "region[ap-southeast-2], start[23:32 UTC], customers[304 users], action[reverted the change]"
)
PINNED_REFERENCES = [
    "fare-cache in ap-southeast-2 had memory usage of 93% against a threshold of 92%. "
    "The incident began at 23:32 UTC and affected 304 users. We reverted the change.",
    "The memory usage of fare-cache in ap-southeast-2 rose to 93 %, over the 92% limit. "
    "The incident started at 23:32 UTC and affected 304 users. The change was reverted.",
]
HELD_OUT_SPLITS = ("validation", "calibration", "test")


@pytest.fixture(scope="module")
def data():
    return generate(7, SMALL)


def all_rows(data):
    return [row for rows in data.values() for row in rows]


# --- repeatable


def test_same_seed_gives_the_same_data_and_another_seed_does_not():
    few = IncidentCounts(30, 5, 5, 5)
    assert generate(3, few) == generate(3, few)
    assert generate(3, few)["test"] != generate(4, few)["test"]


@pytest.mark.parametrize("hash_seed", ["0", "12345"])
def test_data_does_not_depend_on_the_hash_seed(hash_seed):
    code = (
        "import json; from stages._incidents import *;"
        "print(json.dumps(generate(3, IncidentCounts(40, 5, 5, 10))))"
    )
    environment = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == generate(3, IncidentCounts(40, 5, 5, 10))


def test_the_first_row_of_seed_1_is_what_it_was():
    # a change of this text is a change of everybody's data: bump it knowingly
    row = generate(1, IncidentCounts(1, 0, 0, 0))["train"][0]
    assert row["prompt"] == PINNED_PROMPT
    assert row["references"] == PINNED_REFERENCES


def test_the_size_of_train_does_not_change_what_is_held_out():
    small, large = IncidentCounts(10, 5, 5, 30), IncidentCounts(200, 5, 5, 30)
    assert generate(3, small)["test"] == generate(3, large)["test"]


# --- counts and shape


def test_counts_are_as_asked(data):
    assert {split: len(rows) for split, rows in data.items()} == {
        "train": 1200,
        "validation": 20,
        "calibration": 20,
        "test": 220,
    }
    assert {len(row["references"]) for row in data["train"]} == {2}
    assert {len(row["references"]) for split in HELD_OUT_SPLITS for row in data[split]} == {5}


def test_default_counts_are_twelve_thousand_pairs_and_six_hundred_test_prompts():
    counts = IncidentCounts()
    assert counts.train * counts.train_references == 12_000
    assert counts.test >= 600 and counts.held_out_references >= 4


def test_prompts_are_unique_over_all_splits(data):
    prompts = [row["prompt"] for row in all_rows(data)]
    assert len(set(prompts)) == len(prompts) == 1460


def test_the_prompt_is_the_record_in_canonical_order(data):
    for row in all_rows(data):
        assert parse_record(row["prompt"]) == row["slots"]
        assert list(row["slots"]) == [slot for slot in SLOTS if slot in row["slots"]]
        assert 3 <= len(row["slots"]) <= MOST_SLOTS


def test_every_reference_names_its_plan(data):
    for row in all_rows(data):
        assert len(row["meta"]["plans"]) == len(row["references"])
        assert "drift" not in row["meta"]


# --- hard enough


def test_train_never_shows_a_held_out_value_or_combination(data):
    for row in data["train"]:
        assert not combination_held_out(row["slots"])
        assert not [item for item in row["slots"].items() if held_out(*item)]


def test_test_asks_for_held_out_values_in_every_open_slot(data):
    asked = {slot for row in data["test"] for slot, v in row["slots"].items() if held_out(slot, v)}
    closed = {"severity", "data_loss", "workaround", "status"}
    assert asked == set(SLOTS) - closed


def test_at_least_thirty_percent_of_the_values_in_test_are_unseen_by_either_count():
    counts = IncidentCounts(train=2000, validation=0, calibration=0, test=300)
    data = generate(1, counts)
    known = [item for row in data["test"] for item in row["slots"].items() if held_out(*item)]
    total = sum(len(row["slots"]) for row in data["test"])
    found = unseen_values(data["train"], data["test"])
    assert found["distinct"] >= 0.3 and found["occurrences"] >= 0.3
    assert len(known) / total >= 0.25  # most of it by holding out, whatever train's size


def test_some_combinations_of_slots_in_test_are_unseen(data):
    assert unseen_combinations(data["train"], data["test"])["prompts"] >= 0.2


def test_one_reference_scores_50_to_65_bleu_against_the_rest(data):
    assert 50 <= reference_agreement(data["test"])["bleu"] <= 65


def test_references_are_varied(data):
    found = variety(data["test"])
    assert found["distinct_references"] > 0.95
    assert found["distinct_skeletons"] > 0.9
    assert found["commonest_opening"] < 0.1


# --- planted drift


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 1.0])
def test_the_share_of_drifted_rows_is_exact(scenario, share):
    rows = drifted(5, 40, scenario, share, references=1)
    assert sum("drift" in row["meta"] for row in rows) == 40 * share


def test_without_drift_fresh_rows_are_drawn_like_the_held_out_splits():
    plain = drifted(5, 30, "services", 0.0)
    assert plain == drifted(5, 30, "style", 0.0)
    assert {len(row["references"]) for row in plain} == {5}
    assert [row["prompt"] for row in plain] != [
        row["prompt"] for row in generate(5, IncidentCounts(0, 0, 0, 30))["test"]
    ]


def test_rows_that_do_not_drift_are_the_same_at_any_share():
    none, some = drifted(5, 30, "units", 0.0), drifted(5, 30, "units", 0.3)
    kept = [(a, b) for a, b in zip(none, some, strict=True) if "drift" not in b["meta"]]
    assert len(kept) == 21
    assert all(a == b for a, b in kept)


def test_drifted_services_have_names_that_the_data_set_never_has(data):
    known = tuple(f"-{suffix}" for suffixes in SUFFIXES.values() for suffix in suffixes)
    for row in drifted(5, 60, "services", 1.0, references=1):
        assert row["slots"]["service"].endswith(FLEET.suffixes)
        assert not row["slots"]["service"].endswith(known)


def test_drifted_units_are_new_to_the_data_set(data):
    usual = {row["slots"]["value"].split()[1] for row in all_rows(data) if "value" in row["slots"]}
    new = {row["slots"]["value"].split()[1] for row in drifted(5, 80, "units", 1.0, references=1)}
    assert {"µs", "MiB/s", "req/min"} <= new
    assert not new & usual


def test_drifted_records_are_longer_than_any_other(data):
    longest = max(len(row["slots"]) for row in all_rows(data))
    rows = drifted(5, 60, "long_records", 1.0, references=1)
    assert longest == MOST_SLOTS < min(len(row["slots"]) for row in rows)


def test_drifted_style_says_the_same_in_other_words_and_order():
    rows = drifted(5, 60, "style", 1.0, references=2)
    assert {plan for row in rows for plan in row["meta"]["plans"]} == {"ticket", "chat"}
    shuffled = [list(r["slots"]) != [s for s in SLOTS if s in r["slots"]] for r in rows]
    assert sum(shuffled) > 50


def test_a_drifted_data_set_changes_every_split_at_its_share():
    data = generate(3, IncidentCounts(40, 10, 10, 20), Drift("services", 0.5))
    changed = {s: sum("drift" in row["meta"] for row in rows) for s, rows in data.items()}
    assert changed == {"train": 20, "validation": 5, "calibration": 5, "test": 10}


@pytest.mark.parametrize(
    ("scenario", "share"), [("weather", 0.5), ("units", 1.5), ("units", -0.1)], ids=str
)
def test_an_impossible_drift_is_refused_in_one_line(scenario, share):
    with pytest.raises(StillhouseError) as refused:
        Drift(scenario, share)
    assert "\n" not in str(refused.value)


# --- tables


def test_every_cause_has_known_actions_and_training_keeps_one_of_each():
    for cause in CAUSES:
        assert set(cause.actions) <= set(ACTIONS), cause.head
        assert any(not held_out("action", action) for action in cause.actions), cause.head


def test_every_kind_of_service_keeps_a_metric_and_a_symptom_in_training():
    for kind in SUFFIXES:
        metrics = [m.name for m in METRICS if kind in m.kinds]
        symptoms = [s.name for s in SYMPTOMS if kind in s.kinds]
        assert [name for name in metrics if not held_out("metric", name)], kind
        assert [name for name in symptoms if not held_out("symptom", name)], kind


def test_one_day_and_several_days_are_one_unit():
    from stages._incidents.numbers import in_seconds

    assert in_seconds("1 day") * 14 == in_seconds("14 days")


def test_every_seed_generates():
    for seed in range(15, 25):
        generate(seed, IncidentCounts(train=300, validation=20, calibration=20, test=40))
