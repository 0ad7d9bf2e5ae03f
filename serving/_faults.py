"""What is wrong with an answer as far as a program can see, and which of several is given.

An answer is at fault when it was cut off at its longest length instead of coming to its end (small
decoders that repeat themselves do that), and for every slot error where there are slots to check.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from serving.completion import Completion, Request
from serving.slots import SlotSchema, check_answer, is_record, parse_record


class Faults(NamedTuple):
    """Faults of one answer; fewer compare as less, and no slot error weighs as much as a cut."""

    cut: bool
    """Whether the answer was cut off before its end token."""
    slot_errors: int
    """Missing, added and wrong slots [count]; 0 where there are none to check."""


def find_faults(request: Request, answer: Completion, schema: SlotSchema | None) -> Faults:
    """Faults of an answer to `request`; slots are those given with it or read from its prompt."""
    cut, record = answer.finish_reason != "stop", _record(request)
    if record is None or schema is None:
        return Faults(cut, 0)
    return Faults(cut, check_answer(answer.text, record, schema).errors)


def least_faulty(
    request: Request, answers: Sequence[Completion], schema: SlotSchema | None
) -> Completion:
    """The answer with the fewest faults, the first among equals."""
    if len(answers) == 1:
        return answers[0]
    return min(answers, key=lambda answer: find_faults(request, answer, schema))


def _record(request: Request) -> Mapping[str, str] | None:
    if request.slots is not None:
        return request.slots
    return parse_record(request.prompt) if is_record(request.prompt) else None
