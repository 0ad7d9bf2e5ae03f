"""Who answers and judges while labels are made: a model in memory, or an endpoint.

Both give the answers that compete for each prompt, best first. A model in memory also says what it
thinks at each token, of its own answers and of references. An endpoint gives text; what it has
answered goes to a journal before anything else happens, because it was paid for.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from serving.completion import Completion, Request
from serving.contract import Contract
from serving.predictor import load
from stages._labels import Label, Manifest
from stages._params import Generation, Params

Example = dict[str, Any]
BATCH_TOKENS = 65_536  # of a generation batch: nobody waits for a single answer here


class Labeller(Protocol):
    """Answers prompts, judges texts, and says what it cost."""

    def answer(self, examples: Sequence[Example], number: int, /) -> list[list[Completion]]:
        """The answers that compete for each prompt of shard `number`, best first."""
        ...

    def judge(self, examples: Sequence[Example], labels: Sequence[Label], /) -> list[Label]:
        """The labels with their token ids and distributions, as far as the teacher gives them."""
        ...

    def cost(self) -> dict[str, Any]:
        """What was paid so far, units in the names."""
        ...


def make_labeller(
    params: Params, teacher: Path, contract: Contract, manifest: Manifest, folder: Path
) -> Labeller:
    """The labeller of a teacher's folder.

    Args:
        folder: where an endpoint's journals are kept until their shard is written.
    """
    decoding = decoding_of(params.label.generation, params.seed)
    if contract.engine == "endpoint":
        return _Endpoint(load(teacher, decoding), params, manifest.fingerprint(), folder)
    return _Model(load(teacher, decoding), params, manifest)


def decoding_of(generation: Generation, seed: int) -> dict[str, Any]:
    """Decoding settings of a labelling run: all answers come back, filters choose among them."""
    own = {"seed": seed, "answers": 1, "batch_tokens": BATCH_TOKENS}
    return generation.model_dump(mode="json") | own


def requests_of(examples: Sequence[Example]) -> list[Request]:
    """The examples' prompts as requests."""
    return [Request(e["prompt"], e.get("slots"), e.get("context")) for e in examples]


@dataclass
class _Model:
    predictor: Any
    params: Params
    manifest: Manifest

    def answer(self, examples: Sequence[Example], _number: int) -> list[list[Completion]]:
        count = self.params.label.generation.answers
        found: list[list[Completion]] = self.predictor.answer_many(requests_of(examples), count)
        return found

    def judge(self, examples: Sequence[Example], labels: Sequence[Label]) -> list[Label]:
        from stages._distributions import judge
        from stages._sequences import TrainingSequence

        prompts, end = self.predictor.prompts, min(self.predictor.ends)
        encoded = {
            e["id"]: prompts.encode(r) for e, r in zip(examples, requests_of(examples), strict=True)
        }
        sequences = [
            TrainingSequence(encoded[label.example_id], [*prompts.encode_answer(label.text), end])
            for label in labels
        ]
        ids = [np.asarray(sequence.answer) for sequence in sequences]
        if self.manifest.top_k == 0:
            return [replace(n, token_ids=i) for n, i in zip(labels, ids, strict=True)]
        found = judge(
            self.predictor.model, sequences, self.manifest.top_k, self.manifest.vocab_size
        )
        return [
            replace(
                label,
                token_ids=tokens,
                distribution=thought,
                mean_logprob=float(thought.token_logprobs.mean()),
            )
            for label, tokens, thought in zip(labels, ids, found, strict=True)
        ]

    def cost(self) -> dict[str, Any]:
        return {"usd": 0.0}


@dataclass
class _Endpoint:
    predictor: Any
    params: Params
    fingerprint: str
    folder: Path

    def answer(self, examples: Sequence[Example], number: int) -> list[list[Completion]]:
        """Ask for what the shard's journal does not have; answers are written as they come."""
        journal = journal_path(self.folder, number)
        found = _read_journal(journal, self.fingerprint)
        waiting = [example for example in examples if example["id"] not in found]
        journal.parent.mkdir(parents=True, exist_ok=True)
        with journal.open("a", encoding="utf-8") as stream:
            count = self.params.label.generation.answers
            for index, answers in self.predictor.answer_many_each(requests_of(waiting), count):
                name = waiting[index]["id"]
                found[name] = answers
                row = {"made_by": self.fingerprint, "id": name}
                row |= {"answers": [asdict(answer) for answer in answers]}
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        return [found[example["id"]] for example in examples]

    def judge(self, _examples: Sequence[Example], labels: Sequence[Label]) -> list[Label]:
        return list(labels)

    def cost(self) -> dict[str, Any]:
        usage = self.predictor.usage
        names = ("requests", "retries", "prompt_tokens", "completion_tokens")
        return {"usd": usage.cost_usd} | {name: getattr(usage, name) for name in names}


def journal_path(folder: Path, number: int) -> Path:
    """What an endpoint answered for a shard that is not written yet."""
    return folder / f"journal-{number:05d}.jsonl"


def _read_journal(path: Path, fingerprint: str) -> dict[str, list[Completion]]:
    """Answers by example id that this very labelling paid for; a torn last line is left out."""
    found: dict[str, list[Completion]] = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for line in lines:
        try:
            row: Mapping[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            continue
        if row["made_by"] == fingerprint:
            found[row["id"]] = [Completion(**answer) for answer in row["answers"]]
    return found
