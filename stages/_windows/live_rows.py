"""The service's records as a window's rows: a RecordBatch of the one, a RecordBatch of the other.

Texts come through as far as they can be read: clear ones as they are, sealed ones with their key,
hashed ones and those that were not kept as null. Imports pyarrow.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from serving._live.columns import SCHEMA as RECORD
from serving._live.texts import Key, open_sealed
from serving.errors import StillhouseError
from stages._windows.columns import COLUMNS, FIGURES, TEXTS

NEEDED: Final = (
    "id",
    "time",
    "rung",
    "models",
    "texts",
    "sealed",
    "key_id",
    *TEXTS,
    "prompt_chars",
    "answer_chars",
    "slot_names",
    "prompt_tokens",
    "completion_tokens",
    "finish_reason",
    "cache",
    *FIGURES,
    "slots_state",
    "grounding_state",
    "slots_asked",
    "claims",
    "findings",
)
"""Columns of a record that a window needs."""
RECORD_COLUMNS: Any = pa.schema([RECORD.field(name) for name in NEEDED])


@dataclass(frozen=True)
class Converted:
    """What became of a batch of records."""

    batch: Any
    """Rows of a window, of those records alone that can be used."""
    used: NDArray[np.intp]
    """Places of these records in the batch."""
    reasons: Counter[str]
    """Why the others cannot be used [count]."""
    states: list[str]
    """Of the used: clear, opened (sealed, and the key was there), sealed, hashed, off."""


def convert(batch: Any, keys: Mapping[str, Key]) -> Converted:
    """Rows of a window; `keys` by their ids.

    Raises:
        StillhouseError: never for a record; what is wrong with one is told in `reasons`.
    """
    states = _states(batch, keys)
    texts, faults = _read_texts(batch, states, keys)
    faults = _broken_slots(texts["slots"]) | faults
    used = np.array([n for n in range(batch.num_rows) if n not in faults], dtype=np.intp)
    made = pa.RecordBatch.from_arrays(
        [(texts.get(name) if name in texts else _column(batch, name)) for name in COLUMNS.names],
        schema=COLUMNS,
    )
    return Converted(
        made.take(pa.array(used)) if faults else made,
        used,
        Counter(faults.values()),
        [states[n] for n in used],
    )


def _states(batch: Any, keys: Mapping[str, Key]) -> list[str]:
    """What can be read of each record's texts."""
    policies, sealed, key_ids = (batch[n].to_pylist() for n in ("texts", "sealed", "key_id"))
    return [
        policy or "off"
        if policy != "clear" or not closed
        else ("opened" if key_id in keys else "sealed")
        for policy, closed, key_id in zip(policies, sealed, key_ids, strict=True)
    ]


def _read_texts(
    batch: Any, states: list[str], keys: Mapping[str, Key]
) -> tuple[dict[str, Any], dict[int, str]]:
    """Columns of texts, and the rows that have one which does not open."""
    clear = pa.array([state == "clear" for state in states], pa.bool_())
    nothing = pa.scalar(None, pa.string())
    columns = {name: pc.if_else(clear, batch[name], nothing) for name in TEXTS}
    opened = [n for n, state in enumerate(states) if state == "opened"]
    if not opened:
        return columns, {}
    faults: dict[int, str] = {}
    ids, key_ids = batch["id"].to_pylist(), batch["key_id"].to_pylist()
    for name in TEXTS:
        closed, read = batch[name].to_pylist(), columns[name].to_pylist()
        for n in (n for n in opened if closed[n] is not None):
            try:
                read[n] = open_sealed(closed[n], keys[key_ids[n]], ids[n], name)
            except StillhouseError:
                faults[n] = f"{name} does not open with its key: changed or moved"
        columns[name] = pa.array(read, pa.string())
    return columns, faults


def _broken_slots(slots: Any) -> dict[int, str]:
    """Rows whose slots are no JSON object of texts."""
    broken = {}
    for n, text in enumerate(slots.to_pylist()):
        if text is not None and not _is_record(text):
            broken[n] = "slots are no JSON object of texts"
    return broken


def _is_record(text: str) -> bool:
    try:
        found = json.loads(text)
        "".join([*found, *found.values()]).encode()  # JSON may bring half a surrogate pair
    except (ValueError, TypeError, AttributeError, RecursionError):
        return False
    return True


def _column(batch: Any, name: str) -> Any:
    """A column that holds no text."""
    match name:
        case "model_sha256":
            return _models(batch)
        case "slots_asked":
            return _where_ran(batch, "slots", batch[name])
        case "claims":
            return _where_ran(batch, "grounding", batch[name])
        case "slot_errors":
            return _where_ran(batch, "slots", _findings(batch, "slots"))
        case "ungrounded":
            return _where_ran(batch, "grounding", _findings(batch, "grounding"))
        case _:
            return batch[name].cast(COLUMNS.field(name).type)


def _models(batch: Any) -> Any:
    """Digest of the model of the rung that answered."""
    found = pa.nulls(batch.num_rows, pa.string())
    for rung in pc.unique(batch["rung"]).drop_null().to_pylist():
        asked = pc.map_lookup(batch["models"], pa.scalar(rung), "first")
        found = pc.if_else(pc.equal(batch["rung"], rung), asked, found)
    return found


def _where_ran(batch: Any, check: str, counts: Any) -> Any:
    """Counts of a check, null where it did not run."""
    ran = pc.is_in(batch[f"{check}_state"], value_set=pa.array(["ok", "found"]))
    return pc.if_else(ran, counts, pa.scalar(None, pa.int64()))


def _findings(batch: Any, check: str) -> Any:
    """Findings of a check per row."""
    findings = batch["findings"]
    lengths = pc.fill_null(pc.list_value_length(findings), 0).to_numpy(zero_copy_only=False)
    checks = pc.struct_field(pc.list_flatten(findings), "check")
    of_it = pc.fill_null(pc.equal(checks, check), False).to_numpy(zero_copy_only=False)
    owners = np.repeat(np.arange(len(lengths)), lengths)
    counts = np.bincount(owners[of_it], minlength=len(lengths))
    return pa.array(counts, pa.int64())
