"""A request's way: guard, caches, budget, cascade, checks, guard again; then it is told and kept.

All that a caller gets is in `Given`. What stands in a cache is an answer that some rung was sure
of and that the guard let pass as it is; an answer from there costs nothing and is guarded again,
since the policy may have changed. A prompt in which personal data was found, or which a check could
not read, is neither looked up nor kept.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from serving._cascade.bodies import body_of, read_body
from serving._cascade.route import Route, RungName
from serving._cascade.running import Cascade, CascadeError, Routed, Tried
from serving._guard import Guard, Guarded
from serving._items import Answer, Choice, Item, ServiceError
from serving._live.checks import AnswerChecks, Checked
from serving._live.uncertainty import Uncertainty, uncertainty_of
from serving._responses.cache import ResponseCache
from serving._responses.keys import response_key
from serving._spending.budgets import Budgets
from serving._spending.prices import most_usd, usage_of

Source = Literal["off", "miss", "memory", "redis", "object", "shared", "semantic"]


@dataclass(frozen=True)
class Given:
    """What the caller gets, and all that is known of it."""

    item: Item
    """As the models saw it: masked where the guard's policy says so."""
    answer: Answer | None
    """None: no rung was sure."""
    rung: RungName | None
    sure: bool
    """Whether the bound on errors holds for it."""
    source: Source
    """The cache that it is from; miss: looked up and made; off: made."""
    tried: tuple[Tried, ...]
    """Empty where a cache answered: nothing was used."""
    checked: Checked
    uncertainty: Uncertainty | None
    guard_in: Guarded
    guard_out: Guarded | None
    seconds: float = 0.0
    """From the guard to the guard."""

    @property
    def choice(self) -> Choice | None:
        """The text that is given."""
        return self.answer.choices[0] if self.answer else None

    @property
    def usage(self) -> dict[str, Any]:
        """What it used: `cost_usd`, `compute_s`, `cost_by_rung`."""
        return usage_of(self.tried)


class Alike:
    """Prompts that ask the same as others before: none, where that is not switched on."""

    async def find(self, item: Item) -> str | None:  # noqa: ARG002
        """The key of the answer to such a prompt."""
        return None

    async def add(self, item: Item, key: str) -> None:
        """Note a prompt whose answer is kept under `key`."""

    async def body(self, key: str) -> dict[str, Any] | None:  # noqa: ARG002
        """The answer that is kept under `key`."""
        return None


@dataclass(frozen=True)
class Parts:
    """What a flow is made of."""

    route: Route
    cascade: Cascade
    guard: Guard
    budgets: Budgets
    checks: AnswerChecks
    template: str
    """Of the student's prompts: a part of the cache's key."""
    longest_s: float
    """Deadline of a request that has none [s]."""
    longest_answer: int
    """Room for an answer that names no length [tokens]."""
    cache: ResponseCache | None = None
    alike: Alike = field(default_factory=Alike)
    tell: Callable[[Given], None] = lambda _given: None
    """Told of all that was given."""
    spend: Callable[[str, Sequence[Tried]], None] = lambda _tenant, _tried: None
    """Told of what each request of a tenant has tried, answered or not."""


class Flow:
    """The way of the requests to the cascade."""

    def __init__(self, parts: Parts) -> None:
        """`parts` as they were opened."""
        self.parts = parts

    async def answer(self, item: Item, *, cacheable: bool) -> Given:
        """What the caller gets.

        Raises:
            ServiceError: blocked or unavailable (the guard), budget_exceeded, or what the rungs
                said, if none of them answered.
        """
        began = time.perf_counter()
        guarded = self.parts.guard.check_item(item)
        refuse_blocked(guarded.verdict)
        item, personal = guarded.item, guarded.verdict.personal
        unseen = personal or guarded.verdict.reasons  # a check that should have run did not
        if self.parts.cache is None or not cacheable or unseen:
            given = await self._make(item, guarded.verdict, "off")
        else:
            given = await self._fetch(self.parts.cache, item, guarded.verdict)
        given = replace(given, seconds=time.perf_counter() - began)
        self.parts.tell(given)
        return given

    async def _fetch(self, cache: ResponseCache, item: Item, verdict: Guarded) -> Given:
        """A kept answer, or one that is made and kept."""
        parts, key = self.parts, self._key(item)
        made: list[Given] = []

        async def make() -> dict[str, Any] | None:
            alike = await parts.alike.find(item)
            if alike and (body := await parts.alike.body(alike)):
                made.append(self._kept(item, verdict, body, "semantic"))
                return None  # kept under its own key alone: what is like it may be unlike this
            given = await self._make(item, verdict, "miss")
            made.append(given)
            changed = given.guard_out is not None and given.guard_out.action in ("mask", "block")
            return None if changed or not given.sure else body_of(given)

        body, source = await cache.fetch(key, make)
        if made:
            if body is not None:
                await parts.alike.add(item, key)
            return made[0]
        assert body is not None, "an answer was kept, or made here"
        return self._kept(item, verdict, body, source)

    async def _make(self, item: Item, verdict: Guarded, source: Source) -> Given:
        """An answer of the cascade, checked and guarded."""
        routed = await self._paid(item, verdict.personal)
        if routed.answer is None:
            return Given(
                item,
                None,
                None,
                sure=False,
                source=source,
                tried=routed.tried,
                checked=Checked(),
                uncertainty=None,
                guard_in=verdict,
                guard_out=None,
            )
        answer, guarded = self._guarded(routed.answer)
        checked = await self.parts.checks.checked(item, answer.choices[0].text)
        return Given(
            item,
            answer,
            routed.rung,
            sure=routed.sure,
            source=source,
            tried=routed.tried,
            checked=checked,
            uncertainty=uncertainty_of(answer.choices[0], checked),
            guard_in=verdict,
            guard_out=guarded,
        )

    def _kept(self, item: Item, verdict: Guarded, body: dict[str, Any], source: Source) -> Given:
        """An answer out of a cache: for nothing, and guarded again."""
        kept = read_body(body)
        own = {"id": item.id, "queue_s": 0.0, "compute_s": 0.0}
        answer, guarded = self._guarded(kept.answer.model_copy(update=own))
        return Given(
            item,
            answer,
            kept.rung,
            sure=True,
            source=source,
            tried=(),
            checked=kept.checked,
            uncertainty=uncertainty_of(answer.choices[0], kept.checked),
            guard_in=verdict,
            guard_out=guarded,
        )

    async def _paid(self, item: Item, personal: bool | None) -> Routed:
        """The cascade's answer, its most reserved before and its cost charged after."""
        parts = self.parts
        reservation = await parts.budgets.reserve(item.tenant, self.most_usd(item))
        tried: Sequence[Tried] | None = None
        try:
            routed = await parts.cascade.answer(item, personal=personal)
            tried = routed.tried
            return routed
        except CascadeError as error:
            tried = error.tried
            raise
        finally:  # of a caller who left nobody knows what was used, so that all of it is spent
            cost = None if tried is None else usage_of(tried)["cost_usd"]
            parts.spend(item.tenant, tried or ())
            await parts.budgets.settle(reservation, cost)

    def _guarded(self, answer: Answer) -> tuple[Answer, Guarded]:
        """The answer as the policy lets it pass.

        Raises:
            ServiceError: blocked or unavailable.
        """
        choice = answer.choices[0]
        guarded = self.parts.guard.check_out(choice.text)
        refuse_blocked(guarded)
        given = choice.model_copy(update={"text": guarded.text})
        return answer.model_copy(update={"choices": [given, *answer.choices[1:]]}), guarded

    def _key(self, item: Item) -> str:
        return response_key(
            models=self.parts.route.sha256,
            template=self.parts.template,
            decoding=item.decoding,
            tenant=item.tenant,
            prompt=item.prompt,
            context=item.context,
            slots=item.slots,
            answers=item.answers,
        )

    def most_usd(self, item: Item) -> float:
        """The most that a request can cost [USD]."""
        longest = item.decoding.get("max_new_tokens", self.parts.longest_answer)
        letters = len(f"{item.prompt}{item.context or ''}".encode(errors="replace"))
        return most_usd(
            self.parts.route.prices,
            seconds=self.parts.longest_s if item.timeout_s is None else item.timeout_s,
            prompt_tokens=letters if item.prompt_tokens is None else item.prompt_tokens,
            completion_tokens=int(longest) * item.answers,
        )


def refuse_blocked(guarded: Guarded) -> None:
    """Raise what the guard's policy says.

    Raises:
        ServiceError: blocked; unavailable, where a check that must run could not.
    """
    if guarded.action == "block":
        refusal: Literal["blocked", "unavailable"] = "unavailable" if guarded.reasons else "blocked"
        raise ServiceError(refusal, guarded.message())
