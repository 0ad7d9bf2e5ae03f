"""Of several answers the one with the fewest faults is given: an end first, then slot errors."""

from toy import SCHEMA

from serving._faults import Faults, find_faults, least_faulty
from serving.completion import Completion, Request
from serving.slots import SlotSchema

PARSED = SlotSchema.from_dict(SCHEMA)
REQUEST = Request("name[The Eagle], food[fish], dogs[no]")
RIGHT = "The Eagle serves fish and dogs must stay outside."


def said(text, finish_reason="stop"):
    return Completion(text, 5, len(text.split()), finish_reason, None)


def test_the_fewest_slot_errors_win_and_the_first_among_equals():
    answers = [
        said("The Eagle serves fish."),
        said(RIGHT),
        said("At The Eagle you get fish; dogs must stay outside."),
    ]
    assert least_faulty(REQUEST, answers, PARSED) is answers[1]
    assert least_faulty(REQUEST, answers, None) is answers[0]
    assert least_faulty(Request("any text"), answers, PARSED) is answers[0]


def test_an_answer_that_ended_beats_one_cut_off_with_fewer_slot_errors():
    cut, ended = said(f"{RIGHT} Fish, fish, fish", "length"), said("The Eagle serves fish.")
    assert find_faults(REQUEST, cut, PARSED) == Faults(cut=True, slot_errors=0)
    assert find_faults(REQUEST, ended, PARSED) == Faults(cut=False, slot_errors=1)
    assert least_faulty(REQUEST, [cut, ended], PARSED) is ended
    assert least_faulty(REQUEST, [cut, ended], None) is ended, "no schema is needed to see a cut"


def test_a_record_that_comes_with_the_request_is_the_one_that_counts():
    request = Request("any text", slots={"name": "The Eagle", "food": "fish", "dogs": "no"})
    assert find_faults(request, said("The Eagle serves fish."), PARSED).slot_errors == 1
