"""Rows as columns: what of each answered request is compared, whatever is known of it.

Input is what was asked, output what was answered and how sure the model was, quality what checks
found wrong, for which nobody needs labels. What a row does not say (no clear text, a check that did
not run) is a gap in its columns, and gaps are left out test by test, never filled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stages._drift.verdict import Kind
from stages._drift.vocabulary import Training, full_prompt, order_share, unseen_share

Row = Mapping[str, Any]
"""A row with the columns of a window (stages/_windows/columns.py)."""
Column = NDArray[np.float64]
"""A value per row, shape [rows]; NaN where it is not known."""
Values = list[tuple[str, ...] | None]
"""Values per row, none or several; None where it is not known."""

NUMBERS: Final[dict[str, Kind]] = {
    "prompt_chars": "input",
    "prompt_unseen_words": "input",
    "slot_count": "input",
    "slots_not_in_training": "input",
    "slot_order_not_in_training": "input",
    "answer_chars": "output",
    "answer_to_prompt_chars": "output",
    "answer_unseen_words": "output",
    "mean_logprob": "output",
    "min_logprob": "output",
    "confidence": "output",
}
"""Columns of numbers."""
SHARES: Final[dict[str, Kind]] = {
    "unknown_slots": "input",
    "values_outside_schema": "input",
    "cut_answers": "output",
    "answers_with_slot_errors": "quality",
    "answers_with_ungrounded_claims": "quality",
}
"""Columns of yes (1) and no (0)."""
CATEGORIES: Final[dict[str, Kind]] = {"slot_names": "input", "rung": "output", "cache": "output"}
"""Columns of names; besides, one of each slot's values."""
SLOT_VALUES: Final = "slot_values."
NEW_VALUE: Final = "(new value of known words)"
NEW_WORDS: Final = "(value with new words)"
"""How a value is called that training does not have: an open slot has new values every day, made of
the words that it always had; a new product or unit brings words that it never had."""


@dataclass(frozen=True)
class Table:
    """One side of a comparison, all columns of one length."""

    rows: Sequence[Row]
    texts: list[str]
    """Prompt with its context; empty where it is not known."""
    numbers: dict[str, Column]
    shares: dict[str, Column]
    categories: dict[str, Values]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.texts)

    def take(self, places: Sequence[int] | NDArray[np.int64]) -> "Table":
        """The rows at `places`, in that order."""
        chosen = [int(place) for place in places]
        return Table(
            [self.rows[place] for place in chosen],
            [self.texts[place] for place in chosen],
            {name: column[chosen] for name, column in self.numbers.items()},
            {name: column[chosen] for name, column in self.shares.items()},
            {name: [column[place] for place in chosen] for name, column in self.categories.items()},
        )


def kind_of(name: str) -> Kind:
    """Which drift a column shows."""
    known = NUMBERS | SHARES | CATEGORIES
    return "input" if name.startswith(SLOT_VALUES) else known[name]


def distinct_places(table: Table) -> list[int]:
    """Places of the rows that ask something for the first time; rows without text all count.

    What one client asks again and again is one thing that is asked: repeats would pass for
    independent evidence.
    """
    seen = set[str]()
    kept = []
    for place, text in enumerate(table.texts):
        if not text or text not in seen:
            kept.append(place)
            seen.add(text)
    return kept


def tabulate(rows: Sequence[Row], training: Training, models: frozenset[str] | None) -> Table:
    """The columns of `rows`.

    Args:
        models: digests of the models whose answers may be compared: answers of others have no
            output and no quality here. None: all.
    """
    answered = [row if _comparable(row, models) else {} for row in rows]
    slots = [row.get("slots") for row in rows]
    numbers: dict[str, list[float | None]] = {
        "prompt_chars": [_number(row, "prompt_chars") for row in rows],
        "prompt_unseen_words": [
            unseen_share(full_prompt(row), training.prompt_words) for row in rows
        ],
        "slot_count": [_slot_count(row) for row in rows],
        "slots_not_in_training": [_unseen_values(one, training) for one in slots],
        "slot_order_not_in_training": [order_share(row, training.orders) for row in rows],
        "answer_chars": [_number(row, "answer_chars") for row in answered],
        "answer_to_prompt_chars": [_length_ratio(row) for row in answered],
        "answer_unseen_words": [
            unseen_share(row.get("answer") or "", training.answer_words) for row in answered
        ],
        **{
            name: [_number(row, name) for row in answered]
            for name in ("mean_logprob", "min_logprob", "confidence")
        },
    }
    return Table(
        list(rows),
        [full_prompt(row) for row in rows],
        {name: _column(values) for name, values in numbers.items()},
        {name: _column(values) for name, values in _shares(slots, answered, training).items()},
        _categories(rows, answered, training),
    )


def _shares(
    slots: Sequence[Mapping[str, str] | None], answered: Sequence[Row], training: Training
) -> dict[str, list[float | None]]:
    known = training.schema.slots if training.schema else None
    return {
        "unknown_slots": [
            None if one is None or known is None else float(any(slot not in known for slot in one))
            for one in slots
        ],
        "values_outside_schema": [
            None
            if one is None or known is None
            else float(any(training.outside_schema(*pair) for pair in one.items()))
            for one in slots
        ],
        "cut_answers": [_is(row, "finish_reason", "length") for row in answered],
        "answers_with_slot_errors": [_any(row, "slot_errors") for row in answered],
        "answers_with_ungrounded_claims": [_any(row, "ungrounded") for row in answered],
    }


def _categories(
    rows: Sequence[Row], answered: Sequence[Row], training: Training
) -> dict[str, Values]:
    """Names of slots, each slot's values, who answered, and where the answer came from."""
    columns: dict[str, Values] = {
        "slot_names": [_slot_names(row) for row in rows],
        "rung": [_one(row.get("rung")) for row in answered],
        "cache": [_one(row.get("cache")) for row in answered],
    }
    for slot in sorted({slot for row in rows for slot in row.get("slots") or {}}):
        columns[SLOT_VALUES + slot] = [
            (named_value(slot, row["slots"][slot], training),)
            if slot in (row.get("slots") or {})
            else None
            for row in rows
        ]
    return columns


def named_value(slot: str, value: str, training: Training) -> str:
    """A value's form where training has it, else what is new about it."""
    form = training.form(slot, value)
    if form in training.values.get(slot, ()):
        return form
    return NEW_VALUE if training.knows_words(slot, value) else NEW_WORDS


def _comparable(row: Row, models: frozenset[str] | None) -> bool:
    return models is None or row.get("model_sha256") in models


def _slot_names(row: Row) -> tuple[str, ...] | None:
    if row.get("slots"):
        return tuple(row["slots"])
    names = row.get("slot_names")
    return tuple(names) if names else None


def _slot_count(row: Row) -> float | None:
    names = _slot_names(row)
    return None if names is None else float(len(names))


def _unseen_values(slots: Mapping[str, str] | None, training: Training) -> float | None:
    if not slots:
        return None
    return sum(not training.knows(*pair) for pair in slots.items()) / len(slots)


def _length_ratio(row: Row) -> float | None:
    asked, said = _number(row, "prompt_chars"), _number(row, "answer_chars")
    return said / asked if asked and said is not None else None


def _number(row: Row, name: str) -> float | None:
    value = row.get(name)
    return None if value is None else float(value)


def _any(row: Row, name: str) -> float | None:
    value = row.get(name)
    return None if value is None else float(value > 0)


def _is(row: Row, name: str, wanted: str) -> float | None:
    value = row.get(name)
    return None if value is None else float(value == wanted)


def _one(value: str | None) -> tuple[str, ...] | None:
    return None if value is None else (value,)


def _column(values: Sequence[float | None]) -> Column:
    found = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    found[~np.isfinite(found)] = np.nan  # a broken model's infinite log-probability is not known
    return found
