"""The unquantized student in memory: what a variant is made from and compared with.

Imports torch and transformers; the stage imports it when it runs.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

from serving._prompts import PromptEncoder, true_size
from serving._shots import Shots, load_shots
from serving._transformers_model import find_device, load_model
from serving.completion import Request
from serving.contract import Contract, read_contract, write_contract
from serving.transformers_engine import TransformersPredictor
from stages._agreement import agreement, read_student
from stages._divergences import TopK
from stages._params.quantize import Variant
from stages._recovery import cut, recover
from stages._roundtrip import answer_tokens
from stages._sequences import TrainingSequence, encode_examples
from stages._value_noise import invent_values

MEASURED = 256  # training sequences that say which parts of a student matter


@dataclass(frozen=True)
class PlainStudent:
    """A student and what it says to the prompts that variants are checked on."""

    model: Any
    ends: frozenset[int]
    prompts: PromptEncoder
    shots: Shots | None
    contract: Contract
    requests: Sequence[Request]
    answers: list[list[int]]
    """Tokens of its greedy answers."""
    sequences: list[TrainingSequence]
    """Requests and answers."""
    distributions: list[TopK]
    """Over these."""

    @classmethod
    def read(
        cls, folder: Path, contract: Contract, requests: Sequence[Request], device: str
    ) -> "PlainStudent":
        """Load a student and let it answer.

        Args:
            contract: with the decoding that the check has.
            device: auto, cpu or cuda.

        Raises:
            StillhouseError: the folder cannot be loaded, or there is no such device.
        """
        model, ends = load_model(folder, contract, find_device(device))
        prompts = PromptEncoder(folder, contract.prompt_template)
        shots = load_shots(folder, contract)
        predictor = TransformersPredictor.around(model, ends, prompts, contract, shots)
        answers = answer_tokens(predictor, requests)
        pairs = zip(predictor.encode(requests), answers, strict=True)
        sequences = [TrainingSequence(prompt, answer) for prompt, answer in pairs]
        distributions = read_student(model, sequences, true_size(prompts.tokenizer))
        return cls(
            model, ends, prompts, shots, contract, requests, answers, sequences, distributions
        )

    @property
    def vocabulary(self) -> int:
        """Tokens that exist; a model may have more rows [count]."""
        return true_size(self.prompts.tokenizer)

    def answer(self, model: Any) -> list[list[int]]:
        """Tokens that another model gives in its place."""
        ours = (self.ends, self.prompts, self.contract, self.shots)
        return answer_tokens(TransformersPredictor.around(model, *ours), self.requests)

    def compare(self, model: Any) -> dict[str, Any]:
        """How near another model's distributions are."""
        return agreement(model, self.distributions, self.sequences, self.vocabulary)

    def changed(
        self, variant: Variant, train: Sequence[dict[str, Any]], seed: int
    ) -> tuple[Any, dict[str, Any] | None]:
        """A copy, cut and recovered where the variant asks for it, and the recovery's report."""
        if variant.prune is None and variant.recovery is None:
            return deepcopy(self.model), None
        # Which end token it is does not matter: it marks a position and is never read.
        end, positions = min(self.ends), self.model.config.max_position_embeddings
        if variant.recovery is not None:
            train = invent_values(train, variant.recovery.value_noise, seed)
        texts = encode_examples(train, self.prompts, end, positions)
        if variant.prune is None:
            made = deepcopy(self.model)
        else:
            made = cut(self.model, variant.prune, texts[:MEASURED])
        if variant.recovery is None:
            return made, None
        asked = variant.recovery
        return made, recover(made, self.model, variant, asked, texts, self.vocabulary, seed)

    @contextmanager
    def folder_of(
        self, variant: Variant, source: Path, train: Sequence[dict[str, Any]], seed: int
    ) -> Iterator[tuple[Path, dict[str, Any] | None]]:
        """A folder to convert, of the student itself or of what `changed` makes, and the report."""
        if variant.prune is None and variant.recovery is None:
            yield source, None
            return
        model, report = self.changed(variant, train, seed)
        with TemporaryDirectory() as scratch:
            folder = Path(scratch)
            for name in read_contract(source, check_files=False).files:
                if not name.endswith(".safetensors"):
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    copyfile(source / name, folder / name)
            model.save_pretrained(folder)
            write_contract(folder, self.contract)
            yield folder, report
