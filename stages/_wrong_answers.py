"""Which answers of a model are wrong: by their record, and by the references. Pure.

The two look at different things. A slot check reads whether every value is said; likeness to what
people wrote notices a text that says them and is none. Where a rung's score knows the slot check
(`checked`), a bound on slot errors alone would speak of that check only, and the second view is
what tells whether the answers are any good.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving._cascade.route import ErrorKind
from serving._cascade.scoring import is_suspect
from serving._text_similarity import similarity
from serving.slots import SlotSchema
from stages._calibrating import Wrong

Example = Mapping[str, Any]
Likeness = NDArray[np.float64]
"""chrF of each answer to its nearest reference, 0..1, shape [answers]."""


def find_slot_errors(
    examples: Sequence[Example], answers: Sequence[Example], schema: SlotSchema | None
) -> Wrong:
    """Whether each answer says other than its record; none does without a schema."""
    pairs = zip(examples, answers, strict=True)
    return np.array([is_suspect(a["text"], e.get("slots"), schema) for e, a in pairs])


def find_likeness(examples: Sequence[Example], answers: Sequence[Example]) -> Likeness | None:
    """How alike each answer is to its nearest reference; None where a prompt has no reference."""
    if not all(example.get("references") for example in examples):
        return None
    pairs = zip(examples, answers, strict=True)
    return np.array(
        [max(similarity(a["text"], text) for text in e["references"]) for e, a in pairs]
    )


def find_wrong(
    error: ErrorKind, slot_errors: Wrong, likeness: Likeness | None, floor: float
) -> Wrong:
    """Whether each answer is wrong: a slot error, a likeness below `floor`, or either."""
    if error == "slots" or likeness is None:
        return slot_errors
    unlike: Wrong = likeness < floor
    return slot_errors | unlike if error == "either" else unlike
