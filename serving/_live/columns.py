"""The Parquet files' schema: what a row of a record becomes. Imports pyarrow."""

from typing import Any

import pyarrow as pa

from serving._live.records import TEXTS

_TEXT, _COUNT, _FIGURE, _FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()
_FINDING = pa.struct({"check": _TEXT, "kind": _TEXT, "slot": _TEXT, "start": _COUNT, "end": _COUNT})
_GUARD = pa.struct({"side": _TEXT, "rule": _TEXT, "kind": _TEXT, "start": _COUNT, "end": _COUNT})
_SHADOW = pa.struct(
    {
        "rung": _TEXT,
        "outcome": _TEXT,
        "seconds": _FIGURE,
        "cost_usd": _FIGURE,
        "exact": _FLAG,
        "slots_equal": _FLAG,
        "similarity": _FIGURE,
        "bleu": _FIGURE,
    }
)
SCHEMA: Any = pa.schema(
    {
        "schema": _COUNT,
        "id": _TEXT,
        "time": pa.timestamp("us", tz="UTC"),
        "request_id": _TEXT,
        "tenant": _TEXT,
        "rung": _TEXT,
        "models": pa.map_(_TEXT, _TEXT),
        "texts": _TEXT,
        "sealed": _FLAG,
        "key_id": _TEXT,
        **dict.fromkeys(TEXTS, _TEXT),
        "prompt_chars": _COUNT,
        "context_chars": _COUNT,
        "answer_chars": _COUNT,
        "slot_names": pa.list_(_TEXT),
        "prompt_tokens": _COUNT,
        "completion_tokens": _COUNT,
        "finish_reason": _TEXT,
        "confidence": _FIGURE,
        "mean_logprob": _FIGURE,
        "min_logprob": _FIGURE,
        "sure": _FLAG,
        "cost_usd": _FIGURE,
        "latency_ms": _FIGURE,
        "cache": _TEXT,
        "guard_in": _TEXT,
        "guard_out": _TEXT,
        "guard_findings": pa.list_(_GUARD),
        "slots_state": _TEXT,
        "grounding_state": _TEXT,
        "slots_asked": _COUNT,
        "slots_unchecked": _COUNT,
        "slots_said": _COUNT,
        "claims": _COUNT,
        "findings": pa.list_(_FINDING),
        "uncertainty": _FIGURE,
        "uncertainty_basis": _TEXT,
        "uncertainty_parts": pa.map_(_TEXT, _FIGURE),
        "shadows": pa.list_(_SHADOW),
    }
)
