"""An answer beside a shadow's: the same words, the same slots, how alike."""

from dataclasses import dataclass

from serving._items import Item
from serving._live.checks import AnswerChecks
from serving._live.overlap import sentence_bleu
from serving._text_similarity import similarity

MAX_CHARS = 4_000
"""Of each text that are compared, which bounds the time."""


@dataclass(frozen=True)
class Compared:
    """The given answer against a shadow's, the shadow's as the reference; figures 0 to 1."""

    exact: bool
    """The same but for spaces and capitals."""
    slots_equal: bool | None
    """Both say the same values of the same slots; None without a slot schema."""
    similarity: float
    """chrF."""
    bleu: float
    """Smoothed sentence BLEU."""


def compared(checks: AnswerChecks, item: Item, given: str, shadow: str) -> Compared:
    """Milliseconds for long texts: run it beside the event loop."""
    given, shadow = given[:MAX_CHARS], shadow[:MAX_CHARS]
    said = checks.said(item, given)
    return Compared(
        exact=given.casefold().split() == shadow.casefold().split(),
        slots_equal=None if said is None else said == checks.said(item, shadow),
        similarity=similarity(given, shadow),
        bleu=sentence_bleu(given, shadow),
    )
