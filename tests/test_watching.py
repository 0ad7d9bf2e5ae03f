"""Whether to retrain, each rule and brake by hand: verdicts in time, one outcome, one reason."""

from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from stages._params.watch import Watch
from stages._watching import Attempt, History, Labels, Watched, decide, in_order

START = datetime(2026, 11, 1, tzinfo=UTC)
NOW = START + timedelta(days=30)
ENOUGH = Labels(prompts=100, gold=40, gold_sha256="g")
BRAKES = {"cool_down_hours": 24.0, "retrainings_per_week": 2, "min_prompts": 30, "min_gold": 20}
RULES = Watch(windows=3, alarms=2, **BRAKES)
LETTERS = {"D": "drift", "n": "no_evidence", "f": "too_few_rows"}


def window(day, letter="D", name=None):
    """A window of one day, counted from the start."""
    first = START + timedelta(days=day)
    last = first + timedelta(hours=23)
    return Watched(name or f"w{day}", first, last, LETTERS[letter])


def windows(letters):
    """A window a day, a letter each: D drift, n no evidence, f too few rows."""
    return [window(day, letter) for day, letter in enumerate(letters)]


def attempt(day=0, ending="promoted", hours_ago=1000.0, gold="g", name=None):
    watched = window(day, name=name)
    started = NOW - timedelta(hours=hours_ago)
    return Attempt(watched.window, watched.last, gold, started, ending)


def kind(letters, attempts=(), labels=ENOUGH, rules=RULES, now=NOW):
    return decide(History(windows(letters), list(attempts), labels), now, rules).kind


def test_nothing_watched_is_nothing_to_do():
    outcome = decide(History([], [], ENOUGH), NOW, RULES)
    assert (outcome.kind, outcome.window, outcome.until) == ("nothing", None, None)


@pytest.mark.parametrize(
    ("letters", "expected"),
    [
        ("n", "nothing"),
        ("DDn", "nothing"),  # the newest one must be among them
        ("DDf", "nothing"),  # too few rows is no alarm
        ("D", "wait"),
        ("nnD", "wait"),
        ("DnnD", "wait"),  # the first one is no longer among the last three
        ("DD", "retrain"),
        ("DnD", "retrain"),
        ("nDD", "retrain"),
        ("DffD", "retrain"),  # windows with too few rows take no place
        ("DnffD", "retrain"),
        ("DnnffD", "wait"),
    ],
)
def test_k_of_the_last_n_windows_must_be_in_drift_the_newest_among_them(letters, expected):
    assert kind(letters) == expected


@pytest.mark.parametrize(("size", "least"), [(n, k) for n in (1, 2, 3, 4) for k in range(1, n + 1)])
def test_k_of_n_holds_for_every_history_of_five_windows(size, least):
    rules = RULES.model_copy(update={"windows": size, "alarms": least})
    for letters in product("Dnf", repeat=5):
        judged = [letter for letter in letters if letter != "f"][-size:]
        alarm = letters[-1] == "D" and judged.count("D") >= least
        assert (kind("".join(letters), rules=rules) == "retrain") == alarm, letters


def test_windows_count_by_their_time_and_not_by_the_order_of_the_file():
    late, early = window(5, "D"), window(1, "n")
    history = History([late, window(4), early], [], ENOUGH)
    outcome = decide(history, NOW, RULES)
    assert (outcome.kind, outcome.window) == ("retrain", "w5")
    assert [one.window for one in in_order(history.windows)] == ["w1", "w4", "w5"]


def test_a_window_that_is_there_twice_counts_once_as_it_was_first():
    again = window(1, "D", name="w0")
    history = History([window(0, "n"), again, window(2, "D")], [], ENOUGH)
    assert decide(history, NOW, RULES).kind == "wait"


@pytest.mark.parametrize("ending", ["promoted", "refused"])
def test_a_window_is_never_taken_twice(ending):
    assert kind("DDD", [attempt(2, ending)]) == "nothing"


@pytest.mark.parametrize("ending", ["failed", None])
def test_a_retraining_that_failed_or_never_ended_may_be_repeated_at_once(ending):
    assert kind("DDD", [attempt(2, ending, hours_ago=0.5)]) == "retrain"


def test_more_gold_makes_a_refused_window_new():
    assert kind("DDD", [attempt(2, "refused", gold="less")]) == "retrain"
    assert kind("DDD", [attempt(2, "refused", gold=None)]) == "retrain"


def test_what_was_promoted_starts_the_count_anew_and_what_was_refused_does_not():
    assert kind("DDD", [attempt(1, "promoted")]) == "wait"  # only the third is newer
    assert kind("DDDD", [attempt(1, "promoted")]) == "retrain"
    assert kind("DDD", [attempt(1, "refused")]) == "retrain"
    assert kind("DDD", [attempt(1, "failed")]) == "retrain"


def test_a_window_that_is_no_newer_than_the_promoted_one_asks_for_nothing():
    outcome = decide(History(windows("DD"), [attempt(7)], ENOUGH), NOW, RULES)
    assert outcome.kind == "nothing"
    assert "not newer" in outcome.reason


@pytest.mark.parametrize(
    ("prompts", "gold", "told"),
    [
        (29, 40, "drift, but 29 new prompts with text (at least 30)"),
        (30, 19, "drift, but 19 new prompts with gold (at least 20)"),
        (0, 0, "0 new prompts with text (at least 30) and 0 new prompts with gold (at least 20)"),
        (30, 20, None),
    ],
)
def test_drift_without_new_labels_is_an_outcome_of_its_own(prompts, gold, told):
    outcome = decide(History(windows("DD"), [], Labels(prompts, gold, "g")), NOW, RULES)
    assert outcome.kind == ("no_new_labels" if told else "retrain")
    assert told is None or told in outcome.reason


@pytest.mark.parametrize(
    ("hours", "expected"),
    [(0.0, "cooling_down"), (23.99, "cooling_down"), (24.0, "retrain"), (-5.0, "cooling_down")],
)
@pytest.mark.parametrize("ending", ["promoted", "refused"])
def test_retrainings_keep_their_distance(hours, expected, ending):
    history = History(windows("nnnnDD"), [attempt(0, ending, hours)], ENOUGH)
    outcome = decide(history, NOW, RULES)
    assert outcome.kind == expected
    if expected == "cooling_down":
        assert outcome.until == NOW + timedelta(hours=24.0 - hours)


def test_the_last_retraining_counts_and_not_the_last_line():
    attempts = [attempt(0, hours_ago=2.0), attempt(0, "refused", hours_ago=900.0)]
    assert kind("nnnnDD", attempts) == "cooling_down"


@pytest.mark.parametrize("ending", ["promoted", "refused", "failed", None])
def test_a_week_has_a_budget_in_which_every_start_counts(ending):
    attempts = [attempt(0, ending, 100.0), attempt(0, ending, 30.0)]
    outcome = decide(History(windows("nnnnDD"), attempts, ENOUGH), NOW, RULES)
    assert outcome.kind == "over_budget"
    assert outcome.until == NOW + timedelta(hours=68.0)  # a week after the earlier one


def test_what_is_a_week_old_is_out_of_the_budget():
    week = 7 * 24.0
    assert kind("nnnnDD", [attempt(0, hours_ago=week), attempt(0, hours_ago=30.0)]) == "retrain"
    late = [attempt(0, hours_ago=week - 0.01), attempt(0, hours_ago=30.0)]
    assert kind("nnnnDD", late) == "over_budget"


def test_a_budget_of_none_never_lets_go():
    rules = RULES.model_copy(update={"retrainings_per_week": 0})
    outcome = decide(History(windows("DD"), [], ENOUGH), NOW, rules)
    assert (outcome.kind, outcome.until) == ("over_budget", None)


def test_of_several_reasons_the_first_is_told():
    attempts = [attempt(0, hours_ago=1.0), attempt(0, hours_ago=2.0)]
    assert kind("nnnnDn", attempts, Labels(0, 0)) == "nothing"
    assert kind("nnnnnD", attempts, Labels(0, 0)) == "wait"
    assert kind("nnnnDD", attempts, Labels(0, 0)) == "no_new_labels"
    assert kind("nnnnDD", attempts) == "cooling_down"
    assert kind("nnnnDD", attempts, rules=RULES.model_copy(update={"cool_down_hours": 0.0})) == (
        "over_budget"
    )


def test_the_same_history_gives_the_same_outcome_and_is_not_changed():
    history = History(windows("nDD"), [attempt(0)], ENOUGH)
    before = (list(history.windows), list(history.attempts))
    assert decide(history, NOW, RULES) == decide(history, NOW, RULES)
    assert (history.windows, history.attempts) == before


def test_more_alarms_than_windows_are_a_mistake_of_the_params():
    with pytest.raises(ValueError, match="4 alarms of 3 windows can never be"):
        Watch(windows=3, alarms=4)
