"""The `ctranslate2` engine: decoder models converted for CTranslate2, on CPU or CUDA, no torch.

serving/_answering.py says what is answered; serving/_ctranslate2_generation.py makes the tokens.
Folders are made by stages/_ctranslate2.py.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from serving import _ctranslate2_generation as generation
from serving._answering import Answer, TokenPredictor, chances, check_vocabulary, gone_rows
from serving._ctranslate2_model import load_generator
from serving._prompts import PromptEncoder
from serving._shots import load_shots
from serving.completion import Request
from serving.contract import Contract
from serving.errors import StillhouseError


class CTranslate2Predictor(TokenPredictor):
    """A converted causal language model behind the interface that all engines share.

    The same seed and request give the same answer, whatever else is asked: greedy answers of a
    batch are those of single requests up to rounding, beams are searched among prompts of the same
    length, and samples are drawn with our own numbers. Samples cost several times what greedy
    does (serving/_ctranslate2_generation.py says why).
    """

    def __init__(self, folder: Path, contract: Contract, device: str | None = None) -> None:
        """Load model and tokenizer from `folder`; `device` is CUDA where there is one, else CPU.

        Raises:
            StillhouseError: the folder, its template, limits or decoding settings do not work, or
                this device cannot compute as the contract says.
        """
        loaded = load_generator(folder, contract, device)
        self.generator, self.ends = loaded.generator, loaded.ends
        self.positions, self.vocabulary = loaded.positions, loaded.vocabulary
        self.device, self.threads = self.generator.device, loaded.threads
        self.prompts = PromptEncoder(folder, contract.prompt_template)
        check_vocabulary(folder, self.prompts, self.vocabulary)
        shared = self.prompts.prefix()
        self.prefix = shared if len(shared) >= generation.SHARED_PREFIX else []
        self.shots = load_shots(folder, contract)
        self.use(contract)
        if self.decoding.cache != "dynamic":
            raise StillhouseError(
                f"{folder} asks for cache {self.decoding.cache!r}, which the engine ctranslate2 "
                f'does not have; it has "dynamic". Correct decoding.cache.'
            )

    def token_logprobs(
        self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Log-probability [nats] of each answer token after its prompt."""
        return generation.token_logprobs(self.generator, prompts, answers, self.vocabulary)

    def decode(
        self, prompts: Sequence[list[int]], requests: Sequence[Request], count: int
    ) -> list[list[Answer]]:
        """Answers of one batch, `count` per prompt where there are as many.

        Beams come best first, without log-probabilities.
        """
        if self.decoding.method == "greedy":
            made = generation.greedy(
                self.generator,
                self.ends,
                self.decoding,
                prompts,
                lambda row: requests[row].abandoned,
                self.prefix,
            )
            return [[answer] for answer in made]
        if self.decoding.method == "beam":
            found = generation.beams(self.generator, self.ends, self.decoding, prompts, count)
            return [[(beam, []) for beam in beams] for beams in found]
        return self._samples(prompts, requests, count)

    def one_by_one(self, prompt: list[int], request: Request) -> Iterator[tuple[int, float]]:
        """Token and log-probability [nats], one by one, of a greedy answer or of one sample."""
        if self.decoding.method == "sample":
            for step in self._steps([prompt], [request], 1):
                yield step[0][1:]
        else:
            yield from generation.greedy_tokens(
                self.generator,
                self.ends,
                self.decoding,
                prompt,
                lambda _row: request.abandoned,
                self.prefix,
            )

    def _samples(
        self, prompts: Sequence[list[int]], requests: Sequence[Request], count: int
    ) -> list[list[Answer]]:
        rows: list[Answer] = [([], []) for _ in range(len(prompts) * count)]
        for step in self._steps(prompts, requests, count):
            for row, token, logprob in step:
                rows[row][0].append(token)
                rows[row][1].append(logprob)
        return [rows[start : start + count] for start in range(0, len(rows), count)]

    def _steps(
        self, prompts: Sequence[list[int]], requests: Sequence[Request], count: int
    ) -> Iterator[list[tuple[int, int, float]]]:
        return generation.sample_steps(
            self.generator,
            self.ends,
            self.decoding,
            [prompt for prompt in prompts for _ in range(count)],
            chances(self.decoding, requests, count),
            self.vocabulary,
            gone_rows(requests, count),
        )
