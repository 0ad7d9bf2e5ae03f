"""The `transformers` engine: decoder models in Hugging Face format, on CPU or CUDA.

Requests in, completions out; serving/_generation.py makes the tokens in between. This module
imports torch; `serving.predictor.load` imports it when a folder asks for it.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from serving import _generation as generation
from serving._decoding import Decoding, cut_batches, fewest_slot_errors, retry_settings
from serving._prompts import PromptEncoder, TextStream
from serving._shots import Shots, fit, load_shots
from serving._transformers_model import (
    check_vocabulary,
    load_model,
    longest_prompt,
)
from serving.completion import Completion, Request
from serving.contract import Contract
from serving.errors import StillhouseError
from serving.slots import SlotSchema, check_answer, is_record, parse_record


class TransformersPredictor:
    """A causal language model behind the interface that all engines share."""

    def __init__(self, folder: Path, contract: Contract, device: str | None = None) -> None:
        """Load model and tokenizer from `folder`; `device` is CUDA where there is one, else CPU.

        Raises:
            StillhouseError: the folder, its template, limits or decoding settings do not work.
        """
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        model, ends = load_model(folder, contract, where)
        prompts = PromptEncoder(folder, contract.prompt_template)
        check_vocabulary(folder, prompts, model.config)
        self.shots = load_shots(folder, contract)
        self._use(model, ends, prompts, contract)

    @classmethod
    def around(
        cls,
        model: Any,
        ends: frozenset[int],
        prompts: PromptEncoder,
        contract: Contract,
        shots: Shots | None = None,
    ) -> "TransformersPredictor":
        """A predictor of a model in memory, such as one that is being trained."""
        predictor = cls.__new__(cls)
        predictor.shots = shots
        predictor._use(model, ends, prompts, contract)
        return predictor

    def _use(
        self, model: Any, ends: frozenset[int], prompts: PromptEncoder, contract: Contract
    ) -> None:
        self.contract = contract
        self.decoding = Decoding.from_dict(contract.decoding)
        self.model, self.ends, self.prompts = model, ends, prompts
        self.device = model.device
        self.longest_prompt = longest_prompt(contract, self.decoding, model.config)
        self.schema = SlotSchema.from_dict(contract.slot_schema) if contract.slot_schema else None
        retry = retry_settings(contract.decoding) if self.schema else None
        again = replace(contract, decoding=retry or contract.decoding)
        self.second = self.around(model, ends, prompts, again, self.shots) if retry else None

    def answer(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer a batch; where `decoding.answers` compete, the fewest slot errors win."""
        count = 1 if self.decoding.method == "greedy" else self.decoding.answers
        found = self.answer_many(requests, count)
        if self.second:
            self._try_again(self.second, requests, found)
        return [self._best(request, many) for request, many in zip(requests, found, strict=True)]

    def _try_again(
        self,
        second: "TransformersPredictor",
        requests: Sequence[Request],
        found: list[list[Completion]],
    ) -> None:
        """Add beams to the answers in `found` that have slot errors."""
        wrong = [n for n, (answer,) in enumerate(found) if self._errors(requests[n], answer)]
        more = second.answer_many([requests[number] for number in wrong], self.decoding.answers)
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
        self._check_count(count)
        prompts = self.encode(requests)
        rows = max(self.decoding.beams, count)
        lengths = [len(prompt) for prompt in prompts]
        budget = self.decoding.batch_tokens // rows
        found: dict[int, list[Completion]] = {}
        for batch in cut_batches(lengths, budget, self.decoding.max_new_tokens):
            answers = self._decode_batch(
                [prompts[i] for i in batch], [requests[i] for i in batch], count
            )
            found |= dict(zip(batch, answers, strict=True))
        return [found[number] for number in range(len(requests))]

    def stream(self, request: Request) -> Iterator[str]:
        """Yield the answer as it is made; whole, where several answers compete."""
        how = self.decoding
        if self.second or how.method == "beam" or (how.method == "sample" and how.answers > 1):
            yield self.answer([request])[0].text
            return
        text = TextStream(self.prompts)
        for step in self._steps(self.encode([request]), [request], 1):
            if piece := text.add(step[0][1]):
                yield piece
        if piece := text.finish():
            yield piece

    def token_logprobs(
        self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Log-probability [nats] of each answer token after its prompt."""
        return generation.token_logprobs(self.model, prompts, answers)

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

    def _best(self, request: Request, answers: Sequence[Completion]) -> Completion:
        if len(answers) == 1 or self.schema is None:
            return answers[0]
        texts = [completion.text for completion in answers]
        return answers[fewest_slot_errors(texts, _record(request), self.schema)]

    def _errors(self, request: Request, answer: Completion) -> int:
        record = _record(request)
        if record is None or self.schema is None:
            return 0
        return check_answer(answer.text, record, self.schema).errors

    def _decode_batch(
        self, prompts: list[list[int]], requests: list[Request], count: int
    ) -> list[list[Completion]]:
        if self.decoding.method == "beam":
            tokens = generation.beams(self.model, self.ends, self.decoding, prompts, count)
            repeated = [prompt for prompt in prompts for _ in range(count)]
            logprobs = self.token_logprobs(repeated, tokens)
        else:
            tokens = [[] for _ in range(len(prompts) * count)]
            logprobs = [[] for _ in tokens]
            for step in self._steps(prompts, requests, count):
                for row, token, logprob in step:
                    tokens[row].append(token)
                    logprobs[row].append(logprob)
        found = []
        for number, prompt in enumerate(prompts):
            rows = list(range(number * count, (number + 1) * count))
            if self.decoding.method == "sample":
                rows.sort(key=lambda row: -sum(logprobs[row]))
            made = [self._completion(prompt, tokens[row], logprobs[row]) for row in rows]
            different: dict[str, Completion] = {}
            for completion in made:
                different.setdefault(completion.text, completion)
            found.append(list(different.values()))
        return found

    def _completion(
        self, prompt: Sequence[int], tokens: list[int], logprobs: Sequence[float]
    ) -> Completion:
        return Completion(
            text=self.prompts.decode(tokens),
            prompt_tokens=len(prompt),
            completion_tokens=len(tokens),
            finish_reason="stop" if tokens[-1] in self.ends else "length",
            confidence=None,
            mean_logprob=sum(logprobs) / len(logprobs),
            min_logprob=min(logprobs),
        )

    def _steps(
        self, prompts: Sequence[list[int]], requests: Sequence[Request], count: int
    ) -> Iterator[list[tuple[int, int, float]]]:
        chances = self._chances(requests, count)
        return generation.steps(self.model, self.ends, self.decoding, prompts, chances)

    def _chances(self, requests: Sequence[Request], count: int) -> Tensor | None:
        """One uniform number per row and step, [rows, steps], from seed and request alone."""
        if self.decoding.method != "sample":
            return None
        steps = self.decoding.max_new_tokens
        drawn = [
            np.random.default_rng(_request_seed(self.decoding.seed, request, number)).random(steps)
            for request in requests
            for number in range(count)
        ]
        return torch.from_numpy(np.stack(drawn)).to(self.device, torch.float32)


def _record(request: Request) -> Mapping[str, str] | None:
    if request.slots is not None:
        return request.slots
    return parse_record(request.prompt) if is_record(request.prompt) else None


def _request_seed(seed: int, request: Request, number: int) -> list[int]:
    text = "\0".join([str(seed), str(number), request.prompt, request.context or ""])
    return list(hashlib.sha256(text.encode()).digest())
