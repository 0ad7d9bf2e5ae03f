"""Answering, as every engine does it that makes tokens itself: prompts in, the best answers out.

An engine adds how tokens are made, in `decode`, `one_by_one` and `token_logprobs`. All that has an
opinion is here: how a prompt is encoded, how batches are cut, which of several answers is given,
when greedy decoding is asked again, what a completion says, and where random numbers come from.

Imports neither torch nor any engine: the CPU service carries none that it does not use.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from serving._decoding import Decoding, cut_batches, retry_settings
from serving._faults import find_faults, least_faulty
from serving._prompts import PromptEncoder, TextStream, true_size
from serving._shots import Shots, fit
from serving.completion import Completion, Request
from serving.contract import Contract
from serving.errors import StillhouseError
from serving.slots import SlotSchema

AGAIN = "Run the stage that makes this model again."
# Ids of an answer's tokens, the end token included, and the log-probability [nats] of each; of a
# beam none yet, since that takes another pass, which only those that are given are worth.
Answer = tuple[list[int], list[float]]
T = TypeVar("T")


@dataclass(frozen=True)
class _Beam(Completion):
    """A beam before its tokens have log-probabilities."""

    prompt: Sequence[int] = ()
    tokens: Sequence[int] = ()


class TokenPredictor(ABC):
    """What a predictor does whatever makes its tokens; an engine fills in the first four."""

    prompts: PromptEncoder
    ends: frozenset[int]
    """Ids of the tokens that end an answer."""
    positions: int | None
    """Longest prompt and answer together [tokens]; None where the model has no such limit."""
    shots: Shots | None

    @abstractmethod
    def decode(
        self, prompts: Sequence[list[int]], requests: Sequence[Request], count: int
    ) -> list[list[Answer]]:
        """Answers of one batch, `count` per prompt where there are as many.

        Beams come best first, without log-probabilities.
        """

    @abstractmethod
    def one_by_one(self, prompt: list[int], request: Request) -> Iterator[tuple[int, float]]:
        """Token and log-probability [nats], one by one, of a greedy answer or of one sample."""

    @abstractmethod
    def token_logprobs(
        self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Log-probability [nats] of each answer token after its prompt."""

    def each(self, work: Callable[[list[int]], T], batches: Sequence[list[int]]) -> Iterable[T]:
        """`work` of every batch, in their order; an engine may do some at once."""
        return map(work, batches)

    def use(self, contract: Contract) -> None:
        """Take decoding, limits and slots from `contract`, once the engine's part is filled in.

        Raises:
            StillhouseError: settings that are wrong or do not fit the model.
        """
        self.schema = SlotSchema.from_dict(contract.slot_schema) if contract.slot_schema else None
        self._decide(contract)

    def _decide(self, contract: Contract) -> None:
        self.contract = contract
        self.decoding = Decoding.from_dict(contract.decoding)
        self.longest_prompt = longest_prompt(contract, self.decoding, self.positions)
        retry = retry_settings(contract.decoding) if self.schema else None
        self.second = self.using(retry) if retry else None

    def using(self, decoding: Mapping[str, object]) -> Self:
        """The same model with other decoding settings.

        Raises:
            StillhouseError: settings that are wrong or do not fit the model.
        """
        other = copy(self)  # the schema with it: reading one takes a tenth of a second
        other._decide(replace(self.contract, decoding=dict(decoding)))
        return other

    def answer(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer a batch; where `decoding.answers` compete, the fewest faults win."""
        count = 1 if self.decoding.method == "greedy" else self.decoding.answers
        found = self._answer_many(requests, count)
        if self.second:
            self._try_again(self.second, requests, found)
        pairs = zip(requests, found, strict=True)
        return self._score([least_faulty(asked, made, self.schema) for asked, made in pairs])

    def _try_again(
        self, second: "TokenPredictor", requests: Sequence[Request], found: list[list[Completion]]
    ) -> None:
        """Add beams to the answers in `found` that have faults and are still waited for."""
        wrong = [n for n, (answer,) in enumerate(found) if self._wanted_better(requests[n], answer)]
        more = second._answer_many([requests[number] for number in wrong], self.decoding.answers)
        for number, answers in zip(wrong, more, strict=True):
            found[number] += answers

    def answer_many(self, requests: Sequence[Request], count: int) -> list[list[Completion]]:
        """Up to `count` answers with different texts per request, the likeliest first.

        Beams are ordered by their score (length penalty included), samples by log-probability.
        Completion tokens and log-probabilities include the end token: writing it is a decision
        like any other.

        Raises:
            StillhouseError: a prompt is empty or too long, or the method has no `count` answers.
        """
        found = self._answer_many(requests, count)
        scored = iter(self._score([answer for answers in found for answer in answers]))
        return [[next(scored) for _ in answers] for answers in found]

    def _answer_many(self, requests: Sequence[Request], count: int) -> list[list[Completion]]:
        """`answer_many` with beams that have no log-probabilities."""
        self._check_count(count)
        prompts = self.encode(requests)
        rows = max(self.decoding.beams, count)
        lengths = [len(prompt) for prompt in prompts]
        budget = self.decoding.batch_tokens // rows
        found: dict[int, list[Completion]] = {}
        batches = cut_batches(lengths, budget, self.decoding.max_new_tokens)

        def decode(batch: list[int]) -> list[list[Answer]]:
            return self.decode([prompts[i] for i in batch], [requests[i] for i in batch], count)

        for batch, made in zip(batches, self.each(decode, batches), strict=True):
            for number, answers in zip(batch, made, strict=True):
                found[number] = self._completions(prompts[number], answers)
        return [found[number] for number in range(len(requests))]

    def _score(self, answers: Sequence[Completion]) -> list[Completion]:
        """The answers, beams with the log-probabilities of their tokens."""
        beams = [answer for answer in answers if isinstance(answer, _Beam)]
        if not beams:
            return [*answers]
        beams.sort(key=lambda beam: len(beam.prompt) + len(beam.tokens))  # little padding
        found: dict[int, Completion] = {}
        logprobs = self.token_logprobs([b.prompt for b in beams], [b.tokens for b in beams])
        for beam, scores in zip(beams, logprobs, strict=True):
            found[id(beam)] = self.completion(beam.prompt, [*beam.tokens], scores)
        return [found.get(id(answer), answer) for answer in answers]

    def stream(self, request: Request) -> Iterator[str]:
        """Yield the answer as it is made; whole, where several answers compete."""
        yield from self.stream_answer(request)

    def stream_answer(self, request: Request) -> Generator[str, None, Completion]:
        """`stream` that returns the completion when the last piece is out."""
        if not self.streams:
            answer = self.answer([request])[0]
            yield answer.text
            return answer
        prompt = self.encode([request])[0]
        tokens: list[int] = []
        logprobs: list[float] = []
        text = TextStream(self.prompts)
        for token, logprob in self.one_by_one(prompt, request):
            tokens.append(token)
            logprobs.append(logprob)
            if piece := text.add(token):
                yield piece
        if piece := text.finish():
            yield piece
        return self.completion(prompt, tokens, logprobs)

    @property
    def streams(self) -> bool:
        """Whether pieces of an answer can be given before it is whole: nothing competes with it."""
        how = self.decoding
        alone = how.method == "greedy" or (how.method == "sample" and how.answers == 1)
        return alone and self.second is None

    def encode(self, requests: Sequence[Request]) -> list[list[int]]:
        """Token ids of every request's prompt, with the examples that are shown and fit.

        Raises:
            StillhouseError: a prompt is empty, or too long without any example.
        """
        shown = self.shots.near(requests) if self.shots else [[] for _ in requests]
        numbered = enumerate(zip(requests, shown, strict=True))
        return [self._encode(number, request, texts) for number, (request, texts) in numbered]

    def _encode(self, number: int, request: Request, shown: Sequence[str]) -> list[int]:
        ids = fit(partial(self.prompts.encode, request), shown, self.longest_prompt)
        if not ids or len(ids) > self.longest_prompt:
            raise StillhouseError(
                f"request {number} has a prompt of {len(ids)} tokens, this model takes "
                f"1 to {self.longest_prompt}. Shorten it or split it."
            )
        return ids

    def _check_count(self, count: int) -> None:
        method, beams = self.decoding.method, self.decoding.beams
        if count < 1 or (method == "greedy" and count > 1) or (method == "beam" and count > beams):
            raise StillhouseError(
                f"{count} answers per request were asked of method {method} with {beams} beams. "
                f'Ask at most as many as there are beams, or use method "sample".'
            )

    def _wanted_better(self, request: Request, answer: Completion) -> bool:
        return any(find_faults(request, answer, self.schema)) and not request.abandoned

    def _completions(self, prompt: Sequence[int], answers: list[Answer]) -> list[Completion]:
        if self.decoding.method == "sample":
            answers = sorted(answers, key=lambda answer: -sum(answer[1]))
        different: dict[str, Completion] = {}
        for tokens, logprobs in answers:
            completion = self.completion(prompt, tokens, logprobs)
            if not logprobs:
                completion = _Beam(**vars(completion), prompt=prompt, tokens=tokens)
            different.setdefault(completion.text, completion)
        return list(different.values())

    def completion(
        self, prompt: Sequence[int], tokens: list[int], logprobs: Sequence[float]
    ) -> Completion:
        """What is given for the tokens of an answer, their end token included."""
        return Completion(
            text=self.prompts.decode(tokens),
            prompt_tokens=len(prompt),
            completion_tokens=len(tokens),
            finish_reason="stop" if tokens[-1] in self.ends else "length",
            confidence=None,
            mean_logprob=sum(logprobs) / len(logprobs) if logprobs else None,
            min_logprob=min(logprobs, default=None),
        )


def gone_rows(requests: Sequence[Request], count: int = 1) -> Callable[[int], bool]:
    """Whether nobody waits for a row's answer any more; every request has `count` rows."""
    return lambda row: requests[row // count].abandoned


def chances(decoding: Decoding, requests: Sequence[Request], count: int) -> NDArray[np.float64]:
    """One uniform number per row and step, [requests * count, steps].

    They follow from seed and request alone: the same in any batch, and in any engine.
    """
    drawn = [
        np.random.default_rng(_hashed(decoding.seed, request, number)).random(
            decoding.max_new_tokens
        )
        for request in requests
        for number in range(count)
    ]
    return np.stack(drawn)


def longest_prompt(contract: Contract, decoding: Decoding, positions: int | None) -> int:
    """Longest prompt [tokens] by the contract's limits, checked against the model's positions."""
    longest = contract.limits.get("max_prompt_tokens")
    if longest is None:
        raise StillhouseError(f"The contract's limits lack max_prompt_tokens. {AGAIN}")
    if positions is not None and longest + decoding.max_new_tokens > positions:
        raise StillhouseError(
            f"max_prompt_tokens {longest} and max_new_tokens {decoding.max_new_tokens} "
            f"do not fit the model's {positions} positions. Lower one of them and make it again."
        )
    return longest


def check_vocabulary(folder: Path, prompts: PromptEncoder, size: int) -> None:
    """Refuse a tokenizer with more tokens than the model's `size` embeddings."""
    tokens = true_size(prompts.tokenizer)
    if tokens > size:
        raise StillhouseError(
            f"{folder}: the tokenizer has {tokens} tokens, the model {size}; "
            f"they do not belong together. {AGAIN}"
        )


def _hashed(seed: int, request: Request, number: int) -> list[int]:
    """Seed of one row; the request's own goes before that of the settings."""
    seed = seed if request.seed is None else request.seed
    text = "\0".join([str(seed), str(number), request.prompt, request.context or ""])
    return list(hashlib.sha256(text.encode()).digest())
