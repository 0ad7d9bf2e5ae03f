"""What the issue on drift says: verdicts and figures, and no word of what people asked."""

from stages._drift_issue import MAX_ALARMS, render

OUTCOME = {"kind": "retrain", "window": "w-1", "reason": "2 of 3 windows", "until": None}


def one_test(name, effect, alarm=True):
    return {
        "name": name,
        "effect": effect,
        "threshold": 0.1,
        "p_adjusted": 0.004,
        "alarm": alarm,
        "detail": {"prompts": ["a customer's own words"]},
    }


def drift(*tests):
    return {
        "verdict": "drift",
        "verdicts": {"input": "drift", "quality": "no_evidence"},
        "detectors": list(tests),
        "window": {"rows": 400, "first": "2026-11-15", "last": "2026-11-21"},
        "top_features": ["a customer's own words"],
    }


def test_it_says_what_to_do_why_and_what_was_found():
    text = render(drift(one_test("lengths", 0.2), one_test("names", 0.5)), OUTCOME)
    assert "**retrain**: 2 of 3 windows" in text
    assert "Window w-1: 400 rows, 2026-11-15 to 2026-11-21. Verdict: **drift**" in text
    assert "- quality: no_evidence" in text
    assert text.index("| names | 0.5 | 0.1 | 0.004 |") < text.index("| lengths |")


def test_it_holds_no_word_of_a_prompt():
    assert "customer" not in render(drift(one_test("names", 0.5)), OUTCOME)


def test_tests_without_an_alarm_are_left_out_and_many_are_cut():
    quiet = render(drift(one_test("names", 0.5, alarm=False)), OUTCOME)
    assert "No test raised an alarm" in quiet
    many = render(drift(*(one_test(f"shift {n}", 0.5) for n in range(25))), OUTCOME)
    assert many.count("| shift") == MAX_ALARMS
    assert "5 more" in many


def test_a_brake_says_until_when():
    outcome = OUTCOME | {"kind": "cooling_down", "until": "2026-11-23T08:00:00+00:00"}
    assert "Not before 2026-11-23T08:00:00+00:00." in render(drift(), outcome)
