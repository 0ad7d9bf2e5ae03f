"""The cascade's part of the entry: requests for the model "cascade", and rungs side by side."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

from serving._cascade.flow import Given, refuse_blocked
from serving._cascade.opening import Opened
from serving._cascade.route import Rung
from serving._cascade.running import Tried
from serving._charging import charge, settle
from serving._entry_items import Prepared, State
from serving._guard import Guard, Guarded
from serving._items import Answer, Choice, Item, ServiceError
from serving._live.checks import AnswerChecks, Checked
from serving._live.uncertainty import uncertainty_of
from serving._observing import record_of
from serving._openai_requests import Asked
from serving._openai_responses import Answered, Begun, Ended, ModelCard, Piece, Spent
from serving._openai_streams import Event
from serving._spending.prices import usage_of

MODEL_NAME = "cascade"
Prepare = Callable[[Asked, State], Awaitable[Prepared]]


class CascadeEntry:
    """Answers by the cascade, in the form that each route wants."""

    def __init__(self, opened: Opened, prepare: Prepare, owner: str, created: int) -> None:
        """`prepare` makes items, their tokens reserved."""
        self.opened, self._prepare = opened, prepare
        self.card = ModelCard(MODEL_NAME, created, owner, opened.route.sha256[:12])

    async def answer(self, asked: Asked, state: State) -> Answered:
        """One answer to one prompt; an empty one where the cascade abstains.

        Raises:
            ServiceError: as `Flow.answer`, or more than one answer is asked for.
        """
        prepared, given = await self._given(asked, state)
        answer = given.answer or _nothing(given.item, prepared)
        return Answered(
            [answer],
            prepared.dropped_tokens,
            prepared.dropped_turns,
            used=given.usage,
            routing=routing_of(given),
            uncertainty=given.uncertainty.as_field() if given.uncertainty else None,
            abstained=given.answer is None,
        )

    async def stream(self, asked: Asked, state: State) -> AsyncGenerator[Event, None]:
        """The answer as a stream of one piece: it is checked as a whole before it goes out."""
        prepared, given = await self._given(asked, state)
        yield Begun(prepared.prompt_tokens, prepared.dropped_tokens, prepared.dropped_turns)
        choice = given.choice or _nothing(given.item, prepared).choices[0]
        yield Spent(given.usage, routing_of(given))
        if choice.text:
            yield Piece(choice.text, 0, choice.completion_tokens)
        yield Ended(
            choice.finish_reason,
            choice.completion_tokens,
            0,
            choice.confidence,
            choice.mean_logprob,
            choice.min_logprob,
            given.uncertainty.as_field() if given.uncertainty else None,
        )

    async def native(self, asked: Asked, state: State) -> dict[str, Any]:
        """The answer of /cascade."""
        prepared, given = await self._given(asked, state)
        choice = given.choice
        return {
            "id": given.item.id,
            "text": choice.text if choice else None,
            "finish_reason": choice.finish_reason if choice else None,
            "prompt_tokens": prepared.prompt_tokens,
            "completion_tokens": choice.completion_tokens if choice else 0,
            "confidence": choice.confidence if choice else None,
            "uncertainty": given.uncertainty.as_field() if given.uncertainty else None,
            "routing": routing_of(given),
            "usage": given.usage,
            "dropped": {"tokens": prepared.dropped_tokens, "turns": prepared.dropped_turns},
        }

    async def rungs(self, item: Item) -> dict[str, Any]:
        """What every rung answers, and whose answer the cascade would give.

        Raises:
            ServiceError: blocked, or unavailable (the guard); budget_exceeded.
        """
        parts, rungs = self.opened.flow.parts, self.opened.route.rungs
        guarded = parts.guard.check_item(item)
        refuse_blocked(guarded.verdict)
        found = await self._ask_all(guarded.item, guarded.verdict.personal)
        told = [
            await _side(rung, answer, tried, guarded.item, parts.checks, parts.guard)
            for rung, (answer, tried) in zip(rungs, found, strict=True)
        ]
        chosen = next((one["rung"] for one in told if one["accepted"]), None)
        return {"rungs": told, "chosen": chosen}

    async def _ask_all(
        self, item: Item, personal: bool | None
    ) -> Sequence[tuple[Answer | None, Tried]]:
        """Every rung's answer, on the tenant's account like any other."""
        flow, parts = self.opened.flow, self.opened.flow.parts
        reservation = await parts.budgets.reserve(item.tenant, flow.most_usd(item))
        found: Sequence[tuple[Answer | None, Tried]] = ()
        try:
            found = await asyncio.gather(
                *(
                    self.opened.cascade.shadow(rung.name, item, personal=personal)
                    for rung in self.opened.route.rungs
                )
            )
        finally:  # of a caller who left nobody knows what was used
            tried = [one for _, one in found]
            cost = usage_of(tried)["cost_usd"] if found else None
            parts.spend(item.tenant, tried)
            await parts.budgets.settle(reservation, cost)
        return found

    async def _given(self, asked: Asked, state: State) -> tuple[Prepared, Given]:
        if len(asked.prompts) > 1 or asked.candidates > 1:
            fault = "the cascade gives one answer to one prompt. Ask so, or ask the student."
            raise ServiceError("invalid_request", fault, parameter="n")
        prepared = await self._prepare(asked, state)
        record = record_of({"state": state})
        record.model, record.model_digest = self.card.id, self.card.fingerprint
        try:
            given = await self.opened.flow.answer(prepared.items[0], cacheable=asked.repeatable)
        except ServiceError:
            await charge(state, 0)
            raise
        record.rung, record.source = given.rung, given.source
        record.cost_usd = given.usage["cost_usd"]
        await settle(state, prepared, [given.answer] if given.answer else [])
        return prepared, given


def routing_of(given: Given) -> dict[str, Any]:
    """How the cascade came to it."""
    return {
        "rung": given.rung,
        "sure": given.sure,
        "source": given.source,
        "tried": [_step(one) for one in given.tried],
        "checks": {"slots": given.checked.slots, "grounding": given.checked.grounding},
        "guard": {
            "in": given.guard_in.state,
            "out": given.guard_out.state if given.guard_out else "not_run",
        },
    }


def _step(tried: Tried) -> dict[str, Any]:
    names = ("rung", "outcome", "score", "threshold", "seconds", "cost_usd")
    return {name: getattr(tried, name) for name in names}


def _nothing(item: Item, prepared: Prepared) -> Answer:
    """The answer of a cascade that abstains."""
    choice = Choice(text="", finish_reason="stop", completion_tokens=0)
    return Answer(id=item.id, choices=[choice], prompt_tokens=prepared.prompt_tokens)


async def _side(
    rung: Rung,
    answer: Answer | None,
    tried: Tried,
    item: Item,
    checks: AnswerChecks,
    guard: Guard,
) -> dict[str, Any]:
    """One rung's answer as /compare shows it, with the places of what the checks found."""
    side: dict[str, Any] = {
        "rung": rung.name,
        "text": None,
        "error": None,
        "score": tried.score,
        "threshold": rung.threshold,
        "accepted": tried.outcome == "accepted",
        "uncertainty": None,
        "checks": None,
        "latency_ms": 1000.0 * tried.seconds,
        "completion_tokens": tried.completion_tokens,
        "cost_usd": tried.cost_usd,
    }
    if answer is None:
        return side | {"error": {"code": tried.outcome, "message": WHY.get(tried.outcome)}}
    choice = answer.choices[0]
    guarded: Guarded = guard.check_out(choice.text)
    if guarded.action == "block":
        return side | {"error": {"code": "blocked", "message": guarded.message()}}
    checked = await checks.checked(item, guarded.text)
    uncertainty = uncertainty_of(choice, checked)
    return side | {
        "text": guarded.text,
        "uncertainty": uncertainty.as_field() if uncertainty else None,
        "checks": _marks(checks, item, guarded.text, checked),
    }


WHY = {
    "remote_forbidden": "the prompt holds personal data, or was not checked for any",
    "unavailable": "this model does not answer",
    "refused": "this model cannot answer such a request",
    "over_budget": "there is no money left for it",
}


def _marks(checks: AnswerChecks, item: Item, text: str, checked: Checked) -> dict[str, Any]:
    """Places in the answer: said right, wrong, added; and which slots are missing."""
    marks: list[dict[str, Any]] = [
        {"start": one.start, "end": one.end, "kind": "right", "slot": one.slot}
        for one in checks.right(item, text)
    ]
    missing: list[str | None] = []
    claims: list[dict[str, Any]] = []
    for one in checked.findings:
        place: dict[str, Any] = {"start": one.start, "end": one.end, "kind": one.kind}
        if one.check == "grounding":
            claims.append(place)
        elif one.start is None:
            missing.append(one.slot)
        else:
            marks.append(place | {"slot": one.slot})
    return {
        "slots": {"state": checked.slots, "marks": marks, "missing": missing},
        "grounding": {"state": checked.grounding, "marks": claims},
    }
