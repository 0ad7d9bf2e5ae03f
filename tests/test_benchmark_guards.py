"""What a model hands on and what the guard finds of it: on a model whose answers are known."""

import pytest

from benchmarks._guard_models import LEAK_KINDS, _measure, covers, leaking_prompts, plant_in
from serving._guard import Guard, GuardPolicy
from serving.completion import Completion

ROWS = [
    {"prompt": f"service[api-{n}], cause[bug]", "slots": {"service": f"api-{n}", "cause": "bug"}}
    for n in "abcdefghij"
]


class Model:
    """Says the service's name, or nothing of it."""

    def __init__(self, says_it):
        self.says_it = says_it

    def answer(self, requests):
        said = (one.slots["service"] if self.says_it else "It" for one in requests)
        return [Completion(f"{one} had a bug.", 9, 5, "stop", 0.5) for one in said]


def measured(says_it):
    return _measure(Model(says_it), ROWS, Guard(GuardPolicy.from_text("personal.out=mask")), 1)


def test_each_prompt_holds_its_value_in_place_of_the_service():
    leaks = leaking_prompts(ROWS, 1)
    assert [one.kind for one in leaks] == [*LEAK_KINDS, *LEAK_KINDS]
    for one in leaks:
        assert one.request.prompt == f"service[{one.value}], cause[bug]"
        assert one.request.slots == {"service": one.value, "cause": "bug"}


def test_what_a_model_hands_on_is_counted_and_found_by_kind():
    told = measured(True)["handed_on"]
    assert (told["given_away_whole"]["hits"], told["of_these_found"]["hits"]) == (10, 10)
    assert {kind: one["n"] for kind, one in told["found_by_kind"].items()} == dict.fromkeys(
        LEAK_KINDS, 2
    )


def test_a_model_that_hands_on_nothing_still_has_values_planted_into_its_answers():
    told = measured(False)
    assert told["handed_on"]["given_away_whole"]["hits"] == 0
    assert told["handed_on"]["of_these_found"] is None
    assert {one["hits"] for one in told["planted_in_answers"]["plain"].values()} == {10}
    assert told["planted_in_answers"]["line_break"]["hits"] == 0
    assert told["false_alarms"]["hits"] == 0


@pytest.mark.parametrize(
    ("answer", "text", "place"),
    [("The api fell.", "The x@y fell.", 4), ("It fell.", "It fell. x@y", 9)],
)
def test_a_value_stands_where_the_service_is_named_or_at_the_end(answer, text, place):
    assert plant_in(answer, "api", "x@y") == (text, place)


def test_a_value_is_covered_when_no_letter_or_digit_of_it_is_left():
    assert covers([(3, 5), (6, 8)], "to ab-cd", 3, 8)
    assert not covers([(3, 5)], "to ab-cd", 3, 8)
