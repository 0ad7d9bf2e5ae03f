"""The `transformers` engine: decoder models in Hugging Face format, on CPU or CUDA.

Greedy and sampled answers come from the loop below, beams from the library's `generate`. The loop
is there because streaming and answering are then the same code, samples do not depend on what else
is in the batch, finished rows leave it, and log-probabilities need no [steps, rows, vocabulary]
array. This module imports torch; `serving.predictor.load` imports it when a folder asks for it.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from serving._decoding import Decoding, cut_batches, fewest_slot_errors
from serving._prompts import PromptEncoder, TextStream
from serving._transformers_model import (
    check_vocabulary,
    generation_config,
    load_model,
    longest_prompt,
)
from serving.completion import Completion, Request
from serving.contract import Contract
from serving.errors import StillhouseError
from serving.slots import SlotSchema, parse_record

# Largest float32 [rows, positions, vocabulary] array of a rescoring pass: 64 MB.
RESCORED_LOGITS = 16_000_000


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
        self._use(model, ends, prompts, contract)

    @classmethod
    def around(
        cls, model: Any, ends: frozenset[int], prompts: PromptEncoder, contract: Contract
    ) -> "TransformersPredictor":
        """A predictor of a model in memory, such as one that is being trained."""
        predictor = cls.__new__(cls)
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

    def answer(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer a batch; where `decoding.answers` compete, the fewest slot errors win."""
        found = self.answer_many(requests, self.decoding.answers)
        return [self._best(request, many) for request, many in zip(requests, found, strict=True)]

    def answer_many(self, requests: Sequence[Request], count: int) -> list[list[Completion]]:
        """Up to `count` answers with different texts per request, the likeliest first.

        Beams are ordered by their score (length penalty included), samples by log-probability.
        Completion tokens and log-probabilities include the end token: writing it is a decision
        like any other.

        Raises:
            StillhouseError: a prompt is empty or too long, or the method has no `count` answers.
        """
        self._check_count(count)
        prompts = [self._encode(number, request) for number, request in enumerate(requests)]
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
        if self.decoding.rows > 1:
            yield self.answer([request])[0].text
            return
        text = TextStream(self.prompts)
        for step in self._steps([self._encode(0, request)], self._chances([request], 1)):
            if piece := text.add(step[0][1]):
                yield piece
        if piece := text.finish():
            yield piece

    def token_logprobs(
        self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Log-probability [nats] of each answer token after its prompt, in one forward pass."""
        longest = max((len(p) + len(a) for p, a in zip(prompts, answers, strict=True)), default=0)
        rows = max(1, RESCORED_LOGITS // max(1, longest * self.model.config.vocab_size))
        scored: list[list[float]] = []
        for start in range(0, len(prompts), rows):
            part = slice(start, start + rows)
            scored += self._rescore(prompts[part], answers[part])
        return scored

    def _encode(self, number: int, request: Request) -> list[int]:
        ids = self.prompts.encode(request)
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
        record = request.slots if request.slots is not None else parse_record(request.prompt)
        texts = [completion.text for completion in answers]
        return answers[fewest_slot_errors(texts, record, self.schema)]

    def _decode_batch(
        self, prompts: list[list[int]], requests: list[Request], count: int
    ) -> list[list[Completion]]:
        if self.decoding.method == "beam":
            tokens = self._beams(prompts, count)
            repeated = [prompt for prompt in prompts for _ in range(count)]
            logprobs = self.token_logprobs(repeated, tokens)
        else:
            tokens = [[] for _ in range(len(prompts) * count)]
            logprobs = [[] for _ in tokens]
            for step in self._steps(prompts, self._chances(requests, count)):
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

    @torch.inference_mode()
    def _steps(
        self, prompts: Sequence[list[int]], chances: Tensor | None
    ) -> Iterator[list[tuple[int, int, float]]]:
        """Generate; each step gives (row, token, log-probability) of every row still running.

        `chances` [rows, steps] decides each draw; its rows may be a multiple of the prompts', then
        every prompt is answered that many times. Without it the likeliest token is taken.
        """
        ids, mask = _pad_left(prompts, self.device)
        cache = DynamicCache(config=self.model.config)
        logits = self._forward(ids, mask, (mask.cumsum(1) - 1).clamp(min=0), cache)
        copies = 1 if chances is None else len(chances) // len(prompts)
        if copies > 1:
            cache.batch_repeat_interleave(copies)
            logits, mask = (t.repeat_interleave(copies, dim=0) for t in (logits, mask))
        running = list(range(len(logits)))
        for step in range(self.decoding.max_new_tokens):
            if chances is None:
                tokens = logits.argmax(-1)
            else:
                tokens = _draw(logits, chances[running, step], self.decoding)
            logprobs = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
            chosen = tokens.tolist()
            yield list(zip(running, chosen, logprobs.tolist(), strict=True))
            keep = [row for row, token in enumerate(chosen) if token not in self.ends]
            if not keep or step + 1 == self.decoding.max_new_tokens:
                return
            if len(keep) < len(running):
                chosen_rows = torch.tensor(keep, device=self.device)
                cache.batch_select_indices(chosen_rows)
                tokens, mask = tokens[chosen_rows], mask[chosen_rows]
                running = [running[row] for row in keep]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            logits = self._forward(tokens[:, None], mask, mask.sum(1, keepdim=True) - 1, cache)

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        """Float32 logits [rows, vocabulary] of the last position."""
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1].float()
        return logits

    @torch.inference_mode()
    def _beams(self, prompts: Sequence[list[int]], count: int) -> list[list[int]]:
        """The `count` best beams of each prompt, best first, cut after their end token."""
        ids, mask = _pad_left(prompts, self.device)
        settings = generation_config(
            self.ends,
            do_sample=False,
            num_beams=self.decoding.beams,
            num_return_sequences=count,
            length_penalty=self.decoding.length_penalty,
            max_new_tokens=self.decoding.max_new_tokens,
        )
        sequences = self.model.generate(ids, attention_mask=mask, generation_config=settings)
        return [self._cut(row) for row in sequences[:, ids.shape[1] :].tolist()]

    def _cut(self, tokens: list[int]) -> list[int]:
        ends = [place for place, token in enumerate(tokens) if token in self.ends]
        return tokens[: ends[0] + 1] if ends else tokens

    @torch.inference_mode()
    def _rescore(
        self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        rows = [[*p, *a] for p, a in zip(prompts, answers, strict=True)]
        # Padding on the right needs no mask: under causal attention nothing looks at it.
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=self.device)
        first = min(map(len, prompts))  # no answer starts before this position
        output = self.model(ids[:, :-1], use_cache=False, logits_to_keep=width - first)
        logits, targets = output.logits.float(), ids[:, first:, None]
        scores = (logits.gather(2, targets)[:, :, 0] - logits.logsumexp(-1)).tolist()
        return [
            row[len(prompt) - first : len(prompt) - first + len(answer)]
            for row, prompt, answer in zip(scores, prompts, answers, strict=True)
        ]


def _pad_left(prompts: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both [rows, longest]; the padding's id does not matter."""
    width = max(map(len, prompts))
    ids = [[0] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _draw(logits: Tensor, chances: Tensor, decoding: Decoding) -> Tensor:
    """Tokens [rows] by inverting the cumulative distribution at `chances` [rows].

    Nucleus sampling (Holtzman et al., 2020): the likeliest tokens until they reach `top_p`.
    """
    ordered, tokens = (logits / decoding.temperature).softmax(-1).sort(-1, descending=True)
    kept = ordered * (ordered.cumsum(-1) - ordered < decoding.top_p)
    reached = kept.cumsum(-1)
    place = (reached <= chances[:, None] * reached[:, -1:]).sum(-1, keepdim=True)
    last = (kept > 0).sum(-1, keepdim=True) - 1  # rounding may point past the end
    return tokens.gather(1, torch.minimum(place, last))[:, 0]


def _request_seed(seed: int, request: Request, number: int) -> list[int]:
    text = "\0".join([str(seed), str(number), request.prompt, request.context or ""])
    return list(hashlib.sha256(text.encode()).digest())
