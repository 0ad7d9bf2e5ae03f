"""A record: all that is kept of one answer, as one row of plain JSON.

Types of the columns are in columns.py; docs/live.md explains each. Texts pass through the
policy (texts.py) under the field names of `TEXTS`; under "hashed" the tenant does, too. Everything
else is a number, a name of a fixed set, a digest, or an id.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, get_args
from uuid import uuid4

from serving._cascade.route import RungName
from serving._items import Choice, Item
from serving._live.checks import Checked, record_of
from serving._live.shadow import Shadowed
from serving._live.texts import Keeper
from serving._live.uncertainty import Uncertainty

SCHEMA = 1
SHADOW_TEXTS = tuple(f"shadow_{rung}" for rung in get_args(RungName))
TEXTS = ("prompt", "context", "slots", "answer", *SHADOW_TEXTS)
LONGEST_ID = 128
"""Of an id that a caller chooses [characters]."""


@dataclass(frozen=True)
class GuardFinding:
    """What a guard found; never the text."""

    side: str
    """in: prompt and context; out: answer."""
    rule: str
    kind: str
    start: int
    end: int


@dataclass(frozen=True)
class LiveRecord:
    """One answered request with all that is known of it."""

    time: float
    """When it was answered [seconds since 1970]."""
    item: Item
    choice: Choice
    """The text that was given; of several the first."""
    rung: RungName
    models: Mapping[str, str]
    """Digest of each rung's model that could have answered."""
    prompt_tokens: int = 0
    checked: Checked = field(default_factory=Checked)
    uncertainty: Uncertainty | None = None
    sure: bool | None = None
    """Whether the rung's threshold was met; None without a route."""
    cost_usd: float = 0.0
    latency_s: float = 0.0
    cache: str = "off"
    """Where the answer came from: off, miss, memory, redis, object, shared, semantic."""
    guard_in: str = "not_run"
    guard_out: str = "not_run"
    """clean, found, not_run."""
    guard_findings: Sequence[GuardFinding] = ()
    shadows: Sequence[Shadowed] = ()

    @property
    def characters(self) -> int:
        """Of its texts, by which a queue of records is bounded."""
        texts = (self.item.prompt, self.item.context, self.choice.text)
        return sum(len(text or "") for text in (*texts, *(one.text for one in self.shadows)))


def row_of(record: LiveRecord, keeper: Keeper, known_slots: frozenset[str]) -> dict[str, Any]:
    """The row; `known_slots` are the schema's, whose names alone are features and no texts."""
    item, choice, checked = record.item, record.choice, record.checked
    slots = record_of(item)
    row_id = uuid4().hex

    def kept(text: str | None, name: str) -> str | None:
        return keeper.keep(text, row_id, name)

    hashed = keeper.policy == "hashed"
    row: dict[str, Any] = {
        "schema": SCHEMA,
        "id": row_id,
        "time": datetime.fromtimestamp(record.time, UTC).isoformat(timespec="microseconds"),
        "request_id": item.id[:LONGEST_ID],
        "tenant": kept(item.tenant, "tenant") if hashed else item.tenant[:LONGEST_ID],
        "rung": record.rung,
        "models": dict(record.models),
        "texts": keeper.policy,
        "sealed": keeper.sealed,
        "key_id": keeper.key_id,
        "prompt": kept(item.prompt, "prompt"),
        "context": kept(item.context, "context"),
        "slots": kept(_json(slots), "slots") if slots else None,
        "answer": kept(choice.text, "answer"),
        "prompt_chars": len(item.prompt),
        "context_chars": len(item.context or ""),
        "answer_chars": len(choice.text),
        "slot_names": [name for name in slots or {} if name in known_slots],
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": choice.completion_tokens,
        "finish_reason": choice.finish_reason,
        "confidence": choice.confidence,
        "mean_logprob": choice.mean_logprob,
        "min_logprob": choice.min_logprob,
        "sure": record.sure,
        "cost_usd": record.cost_usd,
        "latency_ms": 1000.0 * record.latency_s,
        "cache": record.cache,
        "guard_in": record.guard_in,
        "guard_out": record.guard_out,
        "guard_findings": [vars(one) for one in record.guard_findings],
        "shadows": [_shadow(one) for one in record.shadows],
    }
    row |= {f"shadow_{s.rung}": kept(s.text, f"shadow_{s.rung}") for s in record.shadows}
    return row | _checks(checked) | _uncertainty(record.uncertainty)


def _checks(checked: Checked) -> dict[str, Any]:
    return {
        "slots_state": checked.slots,
        "grounding_state": checked.grounding,
        "slots_asked": checked.slots_asked,
        "slots_unchecked": checked.slots_unchecked,
        "slots_said": checked.slots_said,
        "claims": checked.claims,
        "findings": [one._asdict() for one in checked.findings],
    }


def _uncertainty(found: Uncertainty | None) -> dict[str, Any]:
    if found is None:
        return {"uncertainty": None, "uncertainty_basis": None, "uncertainty_parts": {}}
    return {
        "uncertainty": found.score,
        "uncertainty_basis": found.basis,
        "uncertainty_parts": found.parts,
    }


def _shadow(one: Shadowed) -> dict[str, Any]:
    told = {
        "rung": one.rung,
        "outcome": one.outcome,
        "seconds": one.seconds,
        "cost_usd": one.cost_usd,
    }
    return told | (vars(one.compared) if one.compared else {})


def _json(slots: Mapping[str, str]) -> str:
    return json.dumps(dict(slots), sort_keys=True, ensure_ascii=False)
