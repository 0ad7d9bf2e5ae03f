"""The `transformers` engine: decoder models in Hugging Face format, on CPU or CUDA.

serving/_answering.py says what is answered; serving/_generation.py makes the tokens. This module
imports torch; `serving.predictor.load` imports it when a folder asks for it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from serving import _generation as generation
from serving._answering import Answer, TokenPredictor, chances, check_vocabulary, gone_rows
from serving._prompts import PromptEncoder
from serving._shots import Shots, load_shots
from serving._threads import allowed_threads, answering_threads, batches_at_once
from serving._transformers_model import find_device, load_model, weight_bytes
from serving.completion import Request
from serving.contract import Contract

T = TypeVar("T")


class TransformersPredictor(TokenPredictor):
    """A causal language model behind the interface that all engines share."""

    def __init__(self, folder: Path, contract: Contract, device: str | None = None) -> None:
        """Load model and tokenizer from `folder`; `device` is CUDA where there is one, else CPU.

        On a CPU the process computes with as many threads from here on as the model's size asks
        for (serving/_threads.py).

        Raises:
            StillhouseError: the folder, its template, limits or decoding settings do not work.
        """
        where = find_device(device)
        model, ends = load_model(folder, contract, where)
        allowed = allowed_threads(unset=torch.get_num_threads())
        if where.type == "cpu":
            torch.set_num_threads(answering_threads(weight_bytes(model), allowed))
        prompts = PromptEncoder(folder, contract.prompt_template)
        check_vocabulary(folder, prompts, model.config.vocab_size)
        self._take(model, ends, prompts, load_shots(folder, contract), allowed)
        self.use(contract)

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
        predictor._take(model, ends, prompts, shots, allowed_threads(unset=torch.get_num_threads()))
        predictor.use(contract)
        return predictor

    def _take(
        self,
        model: Any,
        ends: frozenset[int],
        prompts: PromptEncoder,
        shots: Shots | None,
        allowed: int = 1,
    ) -> None:
        self.model, self.ends, self.prompts, self.shots = model, ends, prompts, shots
        self.device, self.threads = model.device, torch.get_num_threads()
        self.positions = getattr(model.config, "max_position_embeddings", None)
        # bitsandbytes packs a layer at its first product, so its models take turns.
        quantized = getattr(model.config, "quantization_config", None) is not None
        shared = model.device.type == "cpu" and not quantized
        self.at_once = batches_at_once(weight_bytes(model), allowed) if shared else 1

    def each(self, work: Callable[[list[int]], T], batches: Sequence[list[int]]) -> Iterable[T]:
        """`work` of every batch; a small model on a CPU answers some of them at once.

        Each has a thread: torch lets go of Python's lock in every operation.
        """
        count = min(self.at_once, len(batches))
        if count < 2:
            yield from map(work, batches)
            return
        limit = partial(torch.set_num_threads, 1)
        with ThreadPoolExecutor(count, initializer=limit) as pool:
            yield from pool.map(work, batches)

    def token_logprobs(
        self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Log-probability [nats] of each answer token after its prompt."""
        return generation.token_logprobs(self.model, prompts, answers)

    def decode(
        self, prompts: Sequence[list[int]], requests: Sequence[Request], count: int
    ) -> list[list[Answer]]:
        """Answers of one batch, `count` per prompt; beams best first, without log-probabilities."""
        tokens: list[list[int]] = [[] for _ in range(len(prompts) * count)]
        logprobs: list[list[float]] = [[] for _ in tokens]
        if self.decoding.method == "beam":
            tokens = generation.beams(self.model, self.ends, self.decoding, prompts, count)
        else:
            for step in self._steps(prompts, requests, count):
                for row, token, logprob in step:
                    tokens[row].append(token)
                    logprobs[row].append(logprob)
        rows = list(zip(tokens, logprobs, strict=True))
        return [rows[start : start + count] for start in range(0, len(rows), count)]

    def one_by_one(self, prompt: list[int], request: Request) -> Iterator[tuple[int, float]]:
        """Token and log-probability [nats], one by one, of a greedy answer or of one sample."""
        for step in self._steps([prompt], [request], 1):
            yield step[0][1:]

    def _steps(
        self, prompts: Sequence[list[int]], requests: Sequence[Request], count: int
    ) -> Iterator[list[tuple[int, int, float]]]:
        return generation.steps(
            self.model,
            self.ends,
            self.decoding,
            prompts,
            self._chances(requests, count),
            gone_rows(requests, count),
        )

    def _chances(self, requests: Sequence[Request], count: int) -> Tensor | None:
        """One uniform number per row and step, [rows, steps]; None where nothing is drawn."""
        if self.decoding.method != "sample":
            return None
        drawn = chances(self.decoding, requests, count)
        return torch.from_numpy(drawn).to(self.device, torch.float32)
