"""The cascade: models are asked in the route's order until one is sure enough of its answer.

A rung that cannot be asked, fails or refuses is passed over, and what became of it is told. A
remote rung gets no prompt in which personal data was found, nor one that nobody has looked through.
The time of an item is that of all its rungs together. A request shares nothing with another.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from serving._cascade.route import Route, Rung, RungName
from serving._cascade.scoring import checked_score, is_suspect
from serving._items import Answer, Choice, Item, Refusal, ServiceError
from serving._live.checks import BRIEF_CHARS, AnswerChecks, record_of
from serving._spending.prices import PriceOf

SPARE_S = 0.03
"""With less time left nobody is asked: a teacher's client keeps a part of it for the way back."""
LOG = logging.getLogger(__name__)
Outcome = Literal[
    "accepted",
    "unsure",  # it answered, and its score is below the threshold
    "remote_forbidden",  # personal data was found, or nobody looked for any
    "unavailable",  # there is no such model here, it failed, or it had no time left
    "refused",  # it cannot do this request
    "over_budget",  # what it costs is more than may be spent
]
OF_REFUSALS: Mapping[Refusal, Outcome] = {
    "invalid_request": "refused",
    "prompt_too_long": "refused",
    "body_too_large": "refused",
    "rate_limited": "over_budget",  # a budget's word; a remote model's own rates are "unavailable"
}


class RungModel(Protocol):
    """What a rung asks; serving/_model_client.py fits, and the teachers of this package."""

    async def answer(self, item: Item) -> Answer:
        """The answer, a refusal perhaps; cancelling it cancels the work."""
        ...


@dataclass(frozen=True)
class Tried:
    """What became of one rung; all that an answer used is the sum over those tried."""

    rung: RungName
    outcome: Outcome
    score: float | None = None
    """Of the answer's first choice; None: it gave none, or there was no answer."""
    threshold: float | None = None
    """None: whatever it answers is accepted."""
    seconds: float = 0.0
    """Until it answered or was given up."""
    compute_s: float = 0.0
    """Its share of the micro-batch's time [s]; 0 where no answer says."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Of all choices."""
    cost_usd: float = 0.0
    """By the price of what the answer says it used; 0 where there is none."""


@dataclass(frozen=True)
class Routed:
    """What the cascade gives."""

    answer: Answer | None
    """None: no rung was sure, and the route says to abstain then."""
    rung: RungName | None
    """Whose answer it is."""
    sure: bool
    """Whether that rung's threshold was met, so that the route's bound on errors holds."""
    tried: tuple[Tried, ...]
    """In the order in which they were asked, those passed over included."""


class CascadeError(ServiceError):
    """No rung gave any answer, or the time was over; `tried` is what that has cost."""

    def __init__(self, fault: ServiceError, tried: Sequence[Tried]) -> None:
        super().__init__(fault.refusal, fault.message, fault.retry_after_s, fault.parameter)
        self.tried = tuple(tried)


@dataclass(frozen=True)
class _Found:
    """What one rung came to: an answer that is one, or a fault, or neither (it was not asked)."""

    tried: Tried
    answer: Answer | None = None
    fault: ServiceError | None = None


class Cascade:
    """The models of one route."""

    def __init__(
        self,
        route: Route,
        models: Mapping[RungName, RungModel],
        price: PriceOf,
        observe: Callable[[Tried], None],
        checks: AnswerChecks | None = None,
    ) -> None:
        """`observe` is told of every rung tried, also when its request then fails.

        Args:
            models: of the route's rungs; one that is missing is passed over. Whether they are those
                that the thresholds belong to is checked before (`check_route`), and by
                a remote one's client with every answer.
            checks: with the schema of the contract; needed where a rung's score is `checked`.

        Raises:
            ValueError: a rung's score is `checked`, and there are no checks.
        """
        if checks is None and any(rung.score == "checked" for rung in route.rungs):
            raise ValueError("a rung's score is checked: expected its checks, found none")
        self._route, self._models = route, models
        self._price, self._observe = price, observe
        self._schema = checks.schema if checks else None

    async def answer(self, item: Item, *, personal: bool | None) -> Routed:
        """The first answer that is sure enough; cancelling it cancels the rung being asked.

        Args:
            personal: whether personal data was found; None: nobody looked, which counts as found.

        Raises:
            CascadeError: expired, or no rung gave an answer though one was asked: then the fault
                that may pass soonest.
        """
        until = _deadline(item)
        tried: list[Tried] = []
        faults: list[ServiceError] = []
        unsure: list[tuple[Rung, Answer]] = []
        for rung in self._route.rungs:
            if _is_over(until):
                raise CascadeError(_expired(), tried)
            found = await self._try(rung, item, _left_s(until), personal)
            tried.append(found.tried)
            self._observe(found.tried)
            if found.tried.outcome == "accepted":
                return Routed(found.answer, rung.name, True, tuple(tried))
            if found.answer is not None:
                unsure.append((rung, found.answer))
            if found.fault is not None:
                faults.append(found.fault)
        if faults and _is_over(until):
            raise CascadeError(_expired(), tried)
        if faults and not unsure:
            raise CascadeError(max(faults, key=lambda fault: fault.status), tried)
        return self._otherwise(unsure, tried)

    async def shadow(
        self, name: RungName, item: Item, *, personal: bool | None
    ) -> tuple[Answer | None, Tried]:
        """Ask one rung, whatever the others say, for a comparison that nobody waits for.

        It is not observed, because no caller is answered by it; it costs what `Tried` says, and a
        remote rung is held to the same rule. It never fails: what went wrong is the outcome.
        """
        for rung in self._route.rungs:
            if rung.name == name:
                found = await self._try(rung, item, item.timeout_s, personal)
                return found.answer, found.tried
        return None, Tried(name, "unavailable")

    def _otherwise(self, unsure: Sequence[tuple[Rung, Answer]], tried: Sequence[Tried]) -> Routed:
        """No rung is sure: the last local answer, marked, or none."""
        local = [(rung.name, answer) for rung, answer in unsure if rung.place == "local"]
        if self._route.otherwise == "abstain" or not local:
            return Routed(None, None, False, tuple(tried))
        name, answer = local[-1]
        return Routed(answer, name, False, tuple(tried))

    async def _try(
        self, rung: Rung, item: Item, left_s: float | None, personal: bool | None
    ) -> _Found:
        """Ask one rung, if it may be asked."""
        blank = Tried(rung.name, "unavailable", threshold=rung.threshold)
        if rung.place == "remote" and personal is not False:
            return _Found(replace(blank, outcome="remote_forbidden"))
        if rung.name == "baseline" and not _is_greedy(item):
            fault = ServiceError("invalid_request", "the baseline gives one answer, and no samples")
            return _Found(replace(blank, outcome="refused"), fault=fault)
        began = asyncio.get_running_loop().time()
        found = await self._ask(rung.name, item.model_copy(update={"timeout_s": left_s}))
        seconds = asyncio.get_running_loop().time() - began
        if isinstance(found, ServiceError):
            outcome = OF_REFUSALS.get(found.refusal, "unavailable")
            return _Found(replace(blank, outcome=outcome, seconds=seconds), fault=found)
        return await self._judge(replace(blank, seconds=seconds), rung, found, item)

    async def _ask(self, name: RungName, item: Item) -> Answer | ServiceError:
        """What a rung says within the item's time, or why it says nothing."""
        if (model := self._models.get(name)) is None:
            return ServiceError("unavailable", f"there is no {name} here", 1.0)
        try:
            async with asyncio.timeout(item.timeout_s) as limit:
                return await model.answer(item)
        except ServiceError as error:
            return error
        except Exception as error:
            if limit.expired():
                return _expired()
            LOG.error("request %s: the %s failed: %s", item.id, name, type(error).__name__)
            return ServiceError("internal", f"the {name} failed")

    async def _judge(self, blank: Tried, rung: Rung, answer: Answer, item: Item) -> _Found:
        """Whether an answer is one, is accepted, and what it cost."""
        compute_s = answer.compute_s / max(answer.batch_rows, 1)
        completion_tokens = sum(choice.completion_tokens for choice in answer.choices)
        cost_usd = self._price(rung.name, compute_s, answer.prompt_tokens, completion_tokens)
        used = replace(
            blank,
            compute_s=compute_s,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=completion_tokens,
            cost_usd=cost_usd,
        )
        if (fault := _fault_of(rung, answer, item)) is not None:
            outcome = OF_REFUSALS.get(fault.refusal, "unavailable")
            return _Found(replace(used, outcome=outcome), fault=fault)
        score = await self._score(rung, answer.choices[0], item)
        met = score is not None and rung.threshold is not None and score >= rung.threshold
        accepted = met or rung.threshold is None
        outcome = "accepted" if accepted else "unsure"
        return _Found(replace(used, outcome=outcome, score=score), answer=answer)

    async def _score(self, rung: Rung, choice: Choice, item: Item) -> float | None:
        """How sure a rung is of its answer; None where it does not say."""
        if rung.score != "checked":
            score: float | None = getattr(choice, rung.score)
            return score
        suspect = self._schema is not None and await self._is_suspect(choice.text, item)
        return checked_score(choice.min_logprob, choice.confidence, is_suspect=suspect)

    async def _is_suspect(self, text: str, item: Item) -> bool:
        """What the check finds; an answer that it fails on counts as one with an error.

        It takes about 2 ms; long texts are read beside the event loop, for others wait for it.
        """
        try:
            if len(item.prompt) + len(text) <= BRIEF_CHARS:
                return is_suspect(text, record_of(item), self._schema)
            return await asyncio.to_thread(lambda: is_suspect(text, record_of(item), self._schema))
        except Exception as error:  # its words may quote the answer
            LOG.error("request %s: the slot check failed: %s", item.id, type(error).__name__)
            return True


def _fault_of(rung: Rung, answer: Answer, item: Item) -> ServiceError | None:
    """Why an answer is none."""
    if answer.refusal:
        return ServiceError(answer.refusal, answer.message or "there is no answer")
    if not answer.choices:
        return ServiceError("internal", "there is no answer")
    longest = item.decoding.get("max_new_tokens")
    words = answer.choices[0].completion_tokens
    # the baseline picks whole answers; it counts words, and a word is a token at least
    if rung.name == "baseline" and isinstance(longest, int) and words > longest:
        return ServiceError("invalid_request", "the baseline has no answer as short as asked for")
    return None


def _is_greedy(item: Item) -> bool:
    """Whether one answer is asked for, and no sample or beam."""
    return item.answers == 1 and item.decoding.get("method", "greedy") == "greedy"


def _expired() -> ServiceError:
    message = "there was no answer within the request's time. Ask again, or allow more."
    return ServiceError("expired", message, 1.0)


def _deadline(item: Item) -> float | None:
    """When an item's time is over, on the loop's clock [s]."""
    now = asyncio.get_running_loop().time()
    return None if item.timeout_s is None else now + item.timeout_s


def _left_s(until: float | None) -> float | None:
    return None if until is None else until - asyncio.get_running_loop().time()


def _is_over(until: float | None) -> bool:
    left_s = _left_s(until)
    return left_s is not None and left_s <= SPARE_S
