"""The teacher as an OpenAI-compatible endpoint that is paid by the token: a model folder of one.

The engine is synchronous, so each request has a thread, and more than the endpoint may be asked at
once are refused. A call that is under way cannot be taken back: whoever leaves does not wait for
it, its place stays taken until it ends, and what it came to counts as wasted.
"""

import asyncio
import contextlib
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

from serving._breaker import Breaker
from serving._cascade.faults import FaultError, watch
from serving._decoding import Decoding, retry_settings
from serving._endpoint import RefusedError
from serving._endpoint_account import LimitError, Usage
from serving._item_decoding import merge
from serving._items import Answer, Choice, Item, ServiceError
from serving.completion import Completion, Request
from serving.contract import digest
from serving.endpoint_engine import EndpointPredictor
from serving.errors import StillhouseError
from serving.predictor import load


@dataclass
class PaidCounts:
    """What became of requests to the endpoint since the process started [count]."""

    asked: int = 0
    answered: int = 0
    shed: int = 0
    """Not sent, because too many were under way."""
    wasted: int = 0
    """Answers that nobody waited for any more."""
    wasted_tokens: int = 0
    """Of their prompts and answers."""


class EndpointTeacher:
    """A rung that asks a model folder of the engine `endpoint`; use it from one event loop."""

    def __init__(self, folder: Path, *, faults: int = 5, open_s: float = 5.0) -> None:
        """Read `folder` and the key that it names; nothing is sent yet.

        Args:
            faults: in a row, each after all of its repeats, after which the endpoint is left alone
                for `open_s` [s].

        Raises:
            StillhouseError: it is not what its contract says, of another engine, or has no key.
        """
        predictor = load(folder)
        if not isinstance(predictor, EndpointPredictor):
            raise StillhouseError(
                f"{folder} has the engine {predictor.contract.engine}, not endpoint. Serve it as a "
                f"service of its own, and name its address as the teacher's."
            )
        self.model_sha256 = digest(folder)
        self._predictor = predictor
        self._most = predictor.settings.concurrency
        self._pool = ThreadPoolExecutor(self._most, thread_name_prefix="teacher")
        self._breaker = Breaker(faults, open_s)
        self._counts, self._under_way = PaidCounts(), 0

    @property
    def counts(self) -> PaidCounts:
        """A copy."""
        return replace(self._counts)

    @property
    def usage(self) -> Usage:
        """Tokens, requests and cost so far by the endpoint's account, repeats and waste included.

        An answer says its own tokens; what it took beyond them (repeats, answers that competed) is
        in here alone.
        """
        return self._predictor.usage

    @property
    def is_available(self) -> bool:
        """Whether it is asked at all: not while it is left alone after faults."""
        return self._breaker.is_closed

    def limit_cost(self, usd: float) -> None:
        """Send nothing from now on that could lift the cost of all requests above `usd`."""
        self._predictor.limit_cost(usd)

    async def close(self) -> None:
        """Begin nothing more and let the connections go."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._predictor.close()

    async def answer(self, item: Item) -> Answer:
        """The endpoint's answer; cancelling it does not take the call back.

        Raises:
            ServiceError: invalid_request or prompt_too_long: it cannot take such a request;
                rate_limited: it would cost more than is left; overloaded, unavailable or expired.
        """
        predictor = self._predictor_for(item)
        if self._under_way >= self._most:
            self._counts.shed += 1
            raise ServiceError("overloaded", "the teacher has too much to do", 1.0)
        with watch(self._breaker, "teacher"):
            began = asyncio.get_running_loop().time()
            answers = await self._wait_for(self._begin(predictor, item), item.timeout_s)
            self._counts.answered += 1
            seconds = asyncio.get_running_loop().time() - began
        return Answer(
            id=item.id,
            choices=[_choice(completion) for completion in answers],
            prompt_tokens=answers[0].prompt_tokens,
            compute_s=seconds,
            batch_rows=1,
        )

    def _begin(self, predictor: EndpointPredictor, item: Item) -> Future[list[Completion]]:
        """Have a thread ask; its place is free again when that ends, whoever waits for it."""
        loop = asyncio.get_running_loop()
        work = self._pool.submit(_draw, predictor, item)
        self._counts.asked += 1
        self._under_way += 1

        def ended(_: Future[list[Completion]]) -> None:
            with contextlib.suppress(RuntimeError):  # the service has stopped meanwhile
                loop.call_soon_threadsafe(self._free)

        work.add_done_callback(ended)
        return work

    def _free(self) -> None:
        self._under_way -= 1

    async def _wait_for(
        self, work: Future[list[Completion]], timeout_s: float | None
    ) -> list[Completion]:
        """What the thread brings in time; what it brings later is wasted."""
        answers = asyncio.wrap_future(work)
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(answers)
        except asyncio.CancelledError:
            answers.add_done_callback(self._waste)
            raise
        except TimeoutError:
            answers.add_done_callback(self._waste)
            message = "the teacher did not answer in the request's time"
            raise ServiceError("expired", message, 1.0) from None
        except RefusedError:
            message = "the teacher cannot take this request"
            raise ServiceError("invalid_request", message) from None
        except LimitError:
            message = "the teacher would cost more than is left to spend"
            raise ServiceError("rate_limited", message) from None
        except StillhouseError:
            raise FaultError("unavailable", "the teacher does not answer") from None

    def _waste(self, answers: "asyncio.Future[list[Completion]]") -> None:
        if answers.cancelled() or answers.exception() is not None:
            return
        made = answers.result()
        self._counts.wasted += 1
        self._counts.wasted_tokens += made[0].prompt_tokens
        self._counts.wasted_tokens += sum(completion.completion_tokens for completion in made)

    def _predictor_for(self, item: Item) -> EndpointPredictor:
        """The predictor with an item's decoding; connections and account are shared.

        Raises:
            ServiceError: no endpoint can be asked for such decoding, or for so long a prompt.
        """
        contract = self._predictor.contract
        longest = contract.limits.get("max_prompt_chars")
        if longest is not None and len(item.prompt) + len(item.context or "") > longest:
            message = f"the teacher reads {longest:,} characters of prompt and context"
            raise ServiceError("prompt_too_long", message)
        merged = merge(contract.decoding, item.decoding)
        most = contract.decoding["max_new_tokens"]
        merged["max_new_tokens"] = min(merged["max_new_tokens"], most)
        try:
            decoding = Decoding.from_dict(merged)
        except StillhouseError as error:
            raise ServiceError("invalid_request", str(error)) from None
        several = decoding.method == "greedy" and item.answers > 1
        if decoding.method == "beam" or retry_settings(merged) or several:
            raise ServiceError("invalid_request", "the teacher has no beams, only samples")
        other = copy(self._predictor)
        other.decoding = decoding
        return other


def _draw(predictor: EndpointPredictor, item: Item) -> list[Completion]:
    """The answers to an item, in a thread."""
    request = Request(item.prompt, item.slots, item.context)
    if item.answers > 1:
        return predictor.answer_many([request], item.answers)[0]
    return predictor.answer([request])


def _choice(found: Completion) -> Choice:
    return Choice(
        text=found.text,
        finish_reason=found.finish_reason,
        completion_tokens=found.completion_tokens,
        confidence=found.confidence,
        mean_logprob=found.mean_logprob,
        min_logprob=found.min_logprob,
    )
