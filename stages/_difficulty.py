"""How hard a data set is, measured: no figure here is assumed.

A generated data set is a template toy when its references repeat each other or when its test set
only asks for what training showed. So: how one reference scores against the others of its prompt
(human references of the E2E restaurant data land near 58 BLEU), how much of what test asks for
never occurs in training, and how varied the texts are. Works for any prepared examples, with or
without slots; pure functions of the examples, no randomness.

BLEU is sacrebleu's, lower-cased, 13a tokens, the way the E2E data is scored (Papineni et al. 2002;
Post 2018). Self-BLEU follows Zhu et al. 2018 (Texygen), on an evenly spaced sample.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

Example = Mapping[str, Any]

ROUNDS = 5  # each prompt gives this many different hypotheses, one per round
SELF_BLEU_SAMPLE = 200  # texts scored against OTHERS texts of other prompts
OTHERS = 20
OPENING_WORDS = 3
_WORD = re.compile(r"\w+(?:[-'.]\w+)*")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")


def difficulty(train: Sequence[Example], test: Sequence[Example]) -> dict[str, Any]:
    """Difficulty figures of `test` given `train`.

    Shares are in 0..1, BLEU in 0..100. Figures that the examples cannot give (no slots, one
    reference per prompt) are None.
    """
    references = list(_references(test))
    return {
        "one_reference_against_rest": reference_agreement(test),
        "unseen_values": unseen_values(train, test),
        "unseen_slot_combinations": unseen_combinations(train, test),
        "variety": variety(test),
        "self_bleu": self_bleu(test),
        "prompts": len(test),
        "references": len(references),
        "references_per_prompt_min": min((len(row["references"]) for row in test), default=0),
    }


def reference_agreement(examples: Sequence[Example]) -> dict[str, Any] | None:
    """Corpus BLEU of one reference per prompt against the prompt's other references.

    In round r prompt j offers its reference (j + r) mod n, so every prompt weighs the same in
    every round. Returns the mean over rounds, its least and greatest round, and the signature;
    None when no prompt has two references.
    """
    groups = [list(row["references"]) for row in examples if len(row["references"]) > 1]
    if not groups:
        return None
    rounds = min(ROUNDS, max(len(group) for group in groups))
    scores: list[float] = []
    signature = ""
    for number in range(rounds):
        picks = [(index + number) % len(group) for index, group in enumerate(groups)]
        hypotheses = [group[pick] for group, pick in zip(groups, picks, strict=True)]
        rest = [group[:pick] + group[pick + 1 :] for group, pick in zip(groups, picks, strict=True)]
        score, signature = _bleu(hypotheses, rest)
        scores.append(score)
    return {
        "bleu": round(sum(scores) / len(scores), 2),
        "least": round(min(scores), 2),
        "greatest": round(max(scores), 2),
        "signature": signature,
    }


def unseen_values(train: Sequence[Example], test: Sequence[Example]) -> dict[str, Any] | None:
    """Share of test's (slot, value) pairs that never occur in train, distinct and by occurrence."""
    asked = [pair for row in test for pair in _pairs(row)]
    if not asked:
        return None
    known = {pair for row in train for pair in _pairs(row)}
    by_slot: dict[str, list[bool]] = {}
    for slot, value in asked:
        by_slot.setdefault(slot, []).append((slot, value) not in known)
    distinct = set(asked)
    return {
        "distinct": _share(len(distinct - known), len(distinct)),
        "occurrences": _share(sum(pair not in known for pair in asked), len(asked)),
        "by_slot": {slot: _share(sum(new), len(new)) for slot, new in sorted(by_slot.items())},
        "distinct_values": len(distinct),
    }


def unseen_combinations(train: Sequence[Example], test: Sequence[Example]) -> dict[str, Any] | None:
    """Share of test prompts whose set of slot names never occurs in train, and of distinct sets."""
    asked = [frozenset(row["slots"]) for row in test if row.get("slots")]
    if not asked:
        return None
    known = {frozenset(row["slots"]) for row in train if row.get("slots")}
    distinct = set(asked)
    return {
        "prompts": _share(sum(names not in known for names in asked), len(asked)),
        "distinct": _share(len(distinct - known), len(distinct)),
        "distinct_combinations": len(distinct),
    }


def variety(examples: Sequence[Example]) -> dict[str, Any]:
    """How varied the references are: openings, skeletons, words; lengths in words."""
    texts = list(_references(examples))
    words = [[word.lower() for word in _WORD.findall(text)] for text in texts]
    openings = Counter(" ".join(found[:OPENING_WORDS]) for found in words)
    tokens = sum(len(found) for found in words)
    types = len({word for found in words for word in found})
    skeletons = {
        skeleton(text, row.get("slots") or {}) for row in examples for text in row["references"]
    }
    frames = {" ".join(frame.split()[:OPENING_WORDS]) for frame in skeletons}
    lengths = sorted(len(found) for found in words)
    return {
        "distinct_references": _share(len(set(texts)), len(texts)),
        "distinct_openings": _share(len(openings), len(texts)),
        "commonest_opening": _share(max(openings.values(), default=0), len(texts)),
        "distinct_skeletons": _share(len(skeletons), len(texts)),
        "skeletons": len(skeletons),
        "opening_frames": len(frames),
        "types": types,
        "tokens": tokens,
        "type_token_ratio": _share(types, tokens),
        "words_mean": round(tokens / len(texts), 2) if texts else None,
        "words_p95": lengths[int(0.95 * (len(lengths) - 1))] if texts else None,
    }


def frame_overlap(train: Sequence[Example], held_out: Sequence[Example]) -> dict[str, float]:
    """Share of held-out references whose `skeleton` is that of a training reference, and of prompts
    with at least one such reference: how much a model gains by copying sentences with new values.
    """
    known = {skeleton(text, row.get("slots", {})) for row in train for text in row["references"]}
    found = [
        [skeleton(text, row.get("slots", {})) in known for text in row["references"]]
        for row in held_out
    ]
    return {
        "references": _share(sum(map(sum, found)), sum(map(len, found))),
        "prompts": _share(sum(map(any, found)), len(found)),
    }


def skeleton(text: str, slots: Mapping[str, str]) -> str:
    """`text` with the record's values and all numbers blanked, lower-cased: the sentence's frame.

    Longest values go first, so that a value inside another one leaves no remains; a hyphen in a
    value is also a space in the text.
    """
    return _frame(text, tuple(slots.items()))


@lru_cache(maxsize=50_000)  # each reference is asked for once a report
def _frame(text: str, slots: tuple[tuple[str, str], ...]) -> str:
    frame = text.lower()
    for slot, value in sorted(slots, key=lambda item: (-len(item[1]), item)):
        if len(value) > 2:
            frame = _spelled(value).sub(f"<{slot}>", frame)
    return _NUMBER.sub("#", frame)


@lru_cache(maxsize=10_000)
def _spelled(value: str) -> re.Pattern[str]:
    return re.compile(re.escape(value.lower()).replace(r"\-", "[- ]"))


def self_bleu(examples: Sequence[Example]) -> float | None:
    """Mean BLEU of sampled references against OTHERS references of other prompts; low is varied."""
    firsts = [row["references"][0] for row in examples if row["references"]]
    if len(firsts) <= OTHERS:
        return None
    step = max(1, len(firsts) // SELF_BLEU_SAMPLE)
    places = list(range(0, len(firsts), step))
    stride = max(1, (len(firsts) - 1) // OTHERS)
    rest = [
        [firsts[(place + 1 + other * stride) % len(firsts)] for other in range(OTHERS)]
        for place in places
    ]
    score, _ = _bleu([firsts[place] for place in places], rest)
    return round(score, 2)


def _bleu(hypotheses: Sequence[str], rest: Sequence[Sequence[str]]) -> tuple[float, str]:
    """Corpus BLEU (0..100) and its signature; shorter reference lists are padded with None."""
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(lowercase=True, tokenize="13a")
    width = max(len(group) for group in rest)
    columns = [
        [group[column] if column < len(group) else None for group in rest]
        for column in range(width)
    ]
    # sacrebleu takes None for an absent reference, though its annotation does not say so
    score = metric.corpus_score(list(hypotheses), columns).score  # type: ignore[arg-type]
    return float(score), str(metric.get_signature())


def _references(examples: Sequence[Example]) -> Iterator[str]:
    for row in examples:
        yield from row["references"]


def _pairs(row: Example) -> list[tuple[str, str]]:
    return list((row.get("slots") or {}).items())


def _share(part: int, whole: int) -> float:
    """`part` of `whole` as a share, rounded to four places; an empty whole has share 0."""
    return round(part / whole, 4) if whole else 0.0
