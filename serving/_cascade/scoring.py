"""The score `checked`: how sure a model is of an answer, far lower where a check finds an error.

The stage `route` calibrates on it and the cascade decides by it, so that both mean the same. A
check that did not read an answer to its end has not found it right.
"""

from collections.abc import Mapping

from serving.slots import SlotSchema, check_answer

FOUND_COSTS = 100.0
"""What an error that was found takes off a score [nats]: more than scores differ by, so that such
answers stand behind all others and keep their order."""


def checked_score(
    min_logprob: float | None, confidence: float | None, *, is_suspect: bool
) -> float | None:
    """The least log-probability of its tokens, or the confidence of a model that has none of those.

    Without a record or a schema nothing is suspect, and this is that score alone.
    """
    own = confidence if min_logprob is None else min_logprob
    return own if own is None or not is_suspect else own - FOUND_COSTS


def is_suspect(text: str, record: Mapping[str, str] | None, schema: SlotSchema | None) -> bool:
    """Whether an answer says other than its record, or is too long to be read to its end."""
    if schema is None or not record:
        return False
    check = check_answer(text, record, schema)
    return check.errors > 0 or check.cut
