"""From rows to prepared examples: group by prompt, cut splits, remove copies, count everything.

A row is one prompt with one reference, as read from a file. `Groups` keeps, for each split, the
rows that share a prompt, and a list of the rows that were turned away with their reason; at any
moment, rows read = rows in the groups + rows rejected.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, Literal

from serving.errors import StillhouseError
from serving.slots import SlotSchema, check_answer, is_record, parse_record, render_record
from stages._duplicates import Match, exact_key, near_duplicate_sets, shingles, slot_pairs
from stages._params import SplitShares
from stages._privacy import PersonalData
from stages._sources import GroupReason, Reason, Rejection, Row

Split = Literal["train", "validation", "calibration", "test"]
HELD_OUT: tuple[Split, ...] = ("validation", "calibration", "test")
SPLITS: tuple[Split, ...] = ("train", *HELD_OUT)
Example = dict[str, Any]
Key = tuple[str, str, str]
"""Prompt, context and slots: what one example asks."""


@dataclass
class Groups:
    """Rows by split and prompt, and the rows turned away."""

    rows: dict[str, dict[Key, list[Row]]] = field(
        default_factory=lambda: {split: {} for split in SPLITS}
    )
    rejected: list[Rejection] = field(default_factory=list)
    read: int = 0

    def examples(self, split: str) -> list[Example]:
        """The prepared examples of one split."""
        return [make_example(rows) for rows in self.rows[split].values()]

    def counts(self) -> dict[str, Any]:
        """Where every row went; the parts add up to `rows_read`."""
        used = {split: sum(map(len, self.rows[split].values())) for split in SPLITS}
        reasons = Counter(rejection.reason for rejection in self.rejected)
        counts = {
            "rows_read": self.read,
            "rows_used": used,
            "rows_rejected": len(self.rejected),
            "rejected_by_reason": dict(sorted(reasons.items())),
            "prompts": {split: len(self.rows[split]) for split in SPLITS},
        }
        assert self.read == sum(used.values()) + len(self.rejected), f"rows lost: {counts}"
        return counts


def group_rows(
    stream: Iterable[Row | Rejection], schema: SlotSchema | None, seen: PersonalData
) -> Groups:
    """Group rows by prompt within their split; rows without a split wait in train."""
    groups = Groups()
    for item in stream:
        groups.read += 1
        checked = with_slots(item, schema) if isinstance(item, Row) else item
        if isinstance(checked, Rejection):
            groups.rejected.append(seen.clean(checked))
            continue
        row = seen.look(checked)
        split = row.split or "train"
        same_prompt = groups.rows[split].setdefault(_key(row), [])
        if split == "train" and any(other.reference == row.reference for other in same_prompt):
            groups.rejected.append(_reject(row, "duplicate_row", "prompt and reference repeated"))
        else:
            same_prompt.append(row)
    return groups


def _key(row: Row) -> Key:
    return row.prompt, row.context or "", json.dumps(row.slots, sort_keys=True)


def family(row: Row) -> str:
    """What a row asks, whatever its order and spelling."""
    context = exact_key(row.context, None) if row.context else ""
    return f"{exact_key(row.prompt, row.slots)}\x1f{context}"


def with_slots(row: Row, schema: SlotSchema | None) -> Row | Rejection:
    """The row with its record parsed, where the data has a schema."""
    if schema is None:
        return row
    if row.slots is None:
        if not is_record(row.prompt):
            return _reject(row, "not_a_record", "expected slot[value], slot[value] as the prompt")
        row = replace(row, slots=parse_record(row.prompt))
    assert row.slots is not None, "set just above"
    if unknown := sorted(row.slots.keys() - schema.slots.keys()):
        return _reject(row, "unknown_slots", f"not in the slot schema: {', '.join(unknown)}")
    return row if _is_writable(row.slots) else _reject(row, "bad_slots", f"{row.slots}")


def _is_writable(slots: dict[str, str]) -> bool:
    try:
        render_record(slots)
    except StillhouseError:
        return False
    return True


def _reject(row: Row, reason: GroupReason | Reason, detail: str) -> Rejection:
    return Rejection(row.file, row.line, reason, f"{detail}: {row.prompt[:120]}")


def cut_splits(groups: Groups, shares: SplitShares, seed: int, given: Collection[str] = ()) -> None:
    """Move a share of the training prompts into each held-out split that the source does not give.

    Prompts that ask for the same thing in another order or spelling move together. Which ones move
    depends on their text and the seed only, not on their order in the file. A split that is `given`
    stays as it is, even when none of its rows could be used.
    """
    families: dict[str, list[Key]] = {}
    for key, rows in groups.rows["train"].items():
        families.setdefault(family(rows[0]), []).append(key)
    order = sorted(families, key=lambda name: _hash(f"{seed}\x1f{name}"))
    start = 0
    for split in HELD_OUT:
        if split in given or groups.rows[split]:
            continue
        count = round(getattr(shares, split) * len(families))
        for name in order[start : start + count]:
            for key in families[name]:
                groups.rows[split][key] = groups.rows["train"].pop(key)
        start += count


def remove_leaks(groups: Groups, text_similarity: float, record_similarity: float) -> None:
    """Reject training prompts that are exact or near copies of a held-out prompt.

    Records are compared by their slot-value pairs, other prompts by word 3-shingles.
    """
    held_out = [rows[0] for split in HELD_OUT for rows in groups.rows[split].values()]
    exact = {family(row) for row in held_out}
    train = groups.rows["train"]
    for key in [key for key, rows in train.items() if family(rows[0]) in exact]:
        _drop(groups, key, "copy_of_held_out", "asks what a held-out prompt asks")
    keys = list(train)
    firsts = [train[key][0] for key in keys]
    for match in near_copies(firsts, held_out, text_similarity, record_similarity):
        prompt = held_out[match.held_out_index].prompt[:80]
        detail = f"similarity {match.similarity:.2f} to {prompt!r}"
        _drop(groups, keys[match.candidate_index], "near_copy_of_held_out", detail)


def near_copies(
    candidates: Sequence[Row],
    others: Sequence[Row],
    text_similarity: float,
    record_similarity: float,
) -> Iterator[Match]:
    """Rows that nearly ask what one of the others asks, records first, with their best match."""
    for has_slots, similarity in ((True, record_similarity), (False, text_similarity)):
        mine, theirs = (
            [place for place, row in enumerate(rows) if (row.slots is not None) == has_slots]
            for rows in (candidates, others)
        )
        near = near_duplicate_sets(
            [_features(candidates[place]) for place in mine],
            [_features(others[place]) for place in theirs],
            similarity,
        )
        for match in near:
            candidate, other = mine[match.candidate_index], theirs[match.held_out_index]
            yield Match(candidate, other, match.similarity)


def _features(row: Row) -> frozenset[str]:
    context = shingles(row.context) if row.context else frozenset()
    return context | (shingles(row.prompt) if row.slots is None else slot_pairs(row.slots))


def _drop(groups: Groups, key: Key, reason: GroupReason, detail: str) -> None:
    for row in groups.rows["train"].pop(key):
        groups.rejected.append(_reject(row, reason, detail))


def remove_unfaithful(groups: Groups, schema: SlotSchema, most: int) -> None:
    """Reject training references with more than `most` slot errors against their record.

    Held-out references stay as they are. What people wrote for a record omits and adds facts, and a
    model learns both (Dusek, Howcroft and Rieser 2019, "Semantic Noise Matters for NLG").
    """
    train = groups.rows["train"]
    for key, rows in list(train.items()):
        kept = []
        for row in rows:
            assert row.slots is not None, "with a schema every row has a record"
            check = check_answer(row.reference, row.slots, schema)
            if check.errors <= most:
                kept.append(row)
                continue
            found = {f.slot for f in (*check.missing, *check.added, *check.wrong)}
            detail = f"slot errors: {check.errors} ({', '.join(sorted(found))})"
            groups.rejected.append(_reject(row, "slot_errors", detail))
        if kept:
            train[key] = kept
        else:
            del train[key]


def make_example(rows: Sequence[Row]) -> Example:
    """The prepared example of rows that share a prompt, in the words of the first."""
    first = rows[0]
    example: Example = {
        "id": _hash("\x1f".join(_key(first)))[:16],
        "prompt": first.prompt,
        "references": [row.reference for row in rows],
    }
    optional = {"slots": first.slots, "context": first.context, "meta": first.meta}
    return example | {name: value for name, value in optional.items() if value is not None}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def vocabulary(examples: Mapping[Split, list[Example]]) -> dict[str, dict[str, float]]:
    """Distinct words of each split's references, and the share that train's never use."""
    words = {
        split: Counter(w for row in rows for text in row["references"] for w in _words(text))
        for split, rows in examples.items()
    }
    known = words["train"].keys()
    return {
        split: {
            "distinct_words": len(counts),
            "unseen_distinct": len(counts.keys() - known) / max(len(counts), 1),
            "unseen_occurrences": sum(n for w, n in counts.items() if w not in known)
            / max(counts.total(), 1),
        }
        for split, counts in words.items()
    }


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def shared_prompts(examples: Mapping[Split, list[Example]]) -> dict[str, int]:
    """Prompts that two splits both ask, whatever the order and spelling; train shares none."""
    keys = {
        split: {(exact_key(row["prompt"], row.get("slots")), row.get("context")) for row in rows}
        for split, rows in examples.items()
    }
    pairs = combinations(keys, 2)
    return {f"{first} and {second}": len(keys[first] & keys[second]) for first, second in pairs}


def length_histogram(examples: Mapping[Split, list[Example]], width: int = 5) -> Iterator[str]:
    """CSV lines: for each bin of words, the share of each split's prompts and references in it."""
    columns: dict[str, Counter[int]] = {}
    for split, rows in examples.items():
        prompts = Counter(len(row["prompt"].split()) // width for row in rows)
        answers = Counter(len(r.split()) // width for row in rows for r in row["references"])
        columns |= {f"{split}_prompts": prompts, f"{split}_references": answers}
    yield ",".join(["words", *columns])
    last = max((max(counts, default=0) for counts in columns.values()), default=0)
    for number in range(last + 1):
        shares = [counts[number] / max(counts.total(), 1) for counts in columns.values()]
        yield ",".join([str(number * width), *(f"{share:.4f}" for share in shares)])
