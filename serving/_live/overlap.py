"""Sentence BLEU of two texts, without sacrebleu: for answers side by side in the live service.

BLEU (Papineni et al. 2002) of word n-grams, n = 1 to 4, of one text against one reference, lower
case, tokens of mteval-v13a. An order without a match counts as 1 / (2^k * its n-grams) where it is
the k-th such order: "smoothing 3" of Chen and Cherry 2014 (A systematic comparison of smoothing
techniques for sentence-level BLEU, WMT), which is mteval-v13a.pl's and sacreBLEU's "exp", its
default. Orders that the text is too short for are left out ("effective order"). Figures are
sacreBLEU's `sentence_bleu`, but for the scale; a figure of a corpus is none of these averaged.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

ORDER = 4
MAX_CHARS = 4_000
"""Of each text that are read."""
SIGNATURE = "sentence BLEU|case:lc|eff:yes|tok:13a|smooth:exp|scale:0-1"

_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_RULES = (  # of mteval-v13a, for Western languages
    (re.compile(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])"), r" \1 "),
    (re.compile(r"([^0-9])([\.,])"), r"\1 \2 "),
    (re.compile(r"([\.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)


def sentence_bleu(text: str, reference: str) -> float:
    """Smoothed BLEU of `text` against `reference`: 0 no word in common, 1 the same words."""
    made, wanted = (tokens_of(one[:MAX_CHARS].lower()) for one in (text, reference))
    matches = [_matches(made, wanted, n) for n in range(1, ORDER + 1)]
    if not any(matches):
        return 0.0
    logs, without = [], 0
    for n, matched in enumerate(matches, 1):
        total = len(made) - n + 1
        if total <= 0:
            break
        without += not matched
        logs.append(math.log((matched or 2.0**-without) / total))
    brevity = min(0.0, 1.0 - len(wanted) / len(made))
    return math.exp(brevity + sum(logs) / len(logs))


def tokens_of(text: str) -> list[str]:
    """Tokens as mteval-v13a makes them."""
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, sign in _ENTITIES:
        text = text.replace(entity, sign)
    text = f" {text} "
    for pattern, spaced in _RULES:
        text = pattern.sub(spaced, text)
    return text.split()


def _matches(made: Sequence[str], wanted: Sequence[str], n: int) -> int:
    return (_ngrams(made, n) & _ngrams(wanted, n)).total()


def _ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
