"""The columns of a window's rows.parquet. Imports pyarrow.

Every column but `id` and `time` may be null: prompt, context, slots and answer where the service
kept no clear text, slots_asked and slot_errors where the slots were not checked, claims and
ungrounded where the grounding was not, the others where nothing said them.
"""

from typing import Any, Final

import pyarrow as pa

_TEXT, _COUNT, _FIGURE = pa.string(), pa.int64(), pa.float64()

TEXTS: Final = ("prompt", "context", "slots", "answer")
"""What somebody wrote; `slots` is a JSON object of slot to value."""
CATEGORIES: Final = ("rung", "model_sha256", "cache", "finish_reason")
"""Names of a small set."""
COUNTS: Final = (
    "prompt_chars",
    "answer_chars",
    "prompt_tokens",
    "completion_tokens",
    "slots_asked",
    "slot_errors",
    "claims",
    "ungrounded",
)
"""Whole numbers."""
FIGURES: Final = (
    "confidence",
    "mean_logprob",
    "min_logprob",
    "uncertainty",
    "latency_ms",
    "cost_usd",
)
"""Real numbers: probabilities, nats, milliseconds, USD."""
COLUMNS: Any = pa.schema(
    [
        pa.field("id", _TEXT, nullable=False),
        pa.field("time", pa.timestamp("us", tz="UTC"), nullable=False),
        *(pa.field(name, _TEXT) for name in TEXTS),
        *(pa.field(name, _TEXT) for name in CATEGORIES),
        pa.field("slot_names", pa.list_(_TEXT)),  # of known slots: there without clear texts, too
        *(pa.field(name, _COUNT) for name in COUNTS),
        *(pa.field(name, _FIGURE) for name in FIGURES),
    ]
)


def differences(found: Any, wanted: Any) -> list[str]:
    """What keeps a file's schema from having the wanted columns; more columns are no matter."""
    told = []
    for field in wanted:
        at = found.get_field_index(field.name)  # -1 too where two columns share a name
        if at < 0:
            told.append(f"column {field.name} is missing")
        elif not _same(found.field(at).type, field.type):
            told.append(f"column {field.name} is {found.field(at).type}, expected {field.type}")
    return told


def _same(found: Any, wanted: Any) -> bool:
    """Equal types; what Parquet calls the elements of a list differs between versions."""
    if pa.types.is_list(found) and pa.types.is_list(wanted):
        return bool(found.value_type == wanted.value_type)
    return bool(found == wanted)
