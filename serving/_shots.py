"""Examples in a prompt: training pairs shown to a model that was not trained on the task.

A model folder whose contract says `shots: 4` holds the training pairs with an index below `shots/`,
and its engine writes the 4 nearest to each request where the template says {shots}. It does so
wherever it answers: what is measured, what labels are made with and what is served are the same
prompts. Arrays are safetensors, texts JSON; nothing is pickled.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from serving._retrieval import Index, build_index, load_index, retrieval_text, save_index
from serving.completion import Request
from serving.contract import Contract
from serving.errors import StillhouseError
from serving.slots import SlotSchema, check_answer, is_record, parse_record

FOLDER = "shots"  # in the model folder
PROMPTS = "prompts.jsonl"
NEIGHBOURS = 200  # looked through for those to show; fixed, so that no request depends on its batch
MAX_FEATURES = 50_000  # of the index, as baseline.max_features is by default
SHOT = "Input: {prompt}\nOutput: {answer}\n\n"
# Part of a prompt's hash: with another retrieval or format its figures would not hold.
RETRIEVAL = f"{SHOT}; nearest by TF-IDF cosine ({MAX_FEATURES} terms) last; none asks the same"

T = TypeVar("T", bound=Sized)


@dataclass(frozen=True)
class Shots:
    """Training pairs that can be shown, and how many are."""

    index: Index
    prompts: tuple[Request, ...]
    """What each entry of the index answers."""
    count: int
    """Examples shown with each request, at most [count]."""

    def near(self, requests: Sequence[Request]) -> list[list[str]]:
        """The examples to show with each request, as texts in the format `SHOT`, the nearest last.

        One that asks what the request asks is never shown: for a training prompt it would give
        the answer away, and in production the prompt must be no other than it was.
        """
        if not requests:
            return []
        schema = self.index.schema
        texts = [retrieval_text(r.prompt, _record(r, schema), schema, r.context) for r in requests]
        wanted = min(NEIGHBOURS + self.count, len(self.prompts))
        vectors = self.index.vectoriser.transform(texts)
        distances, rows = self.index.neighbours.kneighbors(vectors, wanted)
        # Equal distances are common among records; the row decides, not the search's inner order.
        order = np.lexsort((rows, distances.round(6)))
        found = np.take_along_axis(rows, order, axis=1).tolist()
        return [self._shown(near, request) for near, request in zip(found, requests, strict=True)]

    def _shown(self, rows: Sequence[int], request: Request) -> list[str]:
        asked = _key(request, self.index.schema)
        others = [row for row in rows if self._keys[row] != asked]
        return [self._text(row) for row in reversed(others[: self.count])]

    def _text(self, row: int) -> str:
        prompt, (answer,) = self.prompts[row], self.index.entries[row].references
        asked = f"{prompt.context}\n{prompt.prompt}" if prompt.context else prompt.prompt
        return SHOT.format(prompt=asked, answer=answer)

    @cached_property
    def _keys(self) -> tuple[str, ...]:
        return tuple(_key(prompt, self.index.schema) for prompt in self.prompts)


def build_shots(train: Sequence[Mapping[str, Any]], schema: SlotSchema | None, count: int) -> Shots:
    """Index prepared training examples to show `count` of them with every request.

    Of an example's references the one with the fewest slot errors is shown, of equals the first.
    """
    shown = [{**example, "references": [_best(example, schema)]} for example in train]
    prompts = tuple(Request(e["prompt"], e.get("slots"), e.get("context")) for e in train)
    return Shots(build_index(shown, schema, MAX_FEATURES), prompts, count)


def save_shots(folder: Path, shots: Shots) -> None:
    """Write the examples and their index to `folder`/shots, which must not exist."""
    place = folder / FOLDER
    place.mkdir()
    save_index(place, shots.index, "float32")
    rows = [{"prompt": prompt.prompt, "context": prompt.context} for prompt in shots.prompts]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (place / PROMPTS).write_text("".join(lines), encoding="utf-8")


def load_shots(folder: Path, contract: Contract) -> Shots | None:
    """The examples of a model folder; None where its contract shows none.

    Raises:
        StillhouseError: the template has no place for them, or the folder holds none.
    """
    if not contract.shots:
        return None
    place = folder / FOLDER
    if contract.prompt_template.count("{shots}") != 1 or not place.is_dir():
        raise StillhouseError(
            f"{folder} shows {contract.shots} examples with each prompt: expected {FOLDER}/ and "
            f"{{shots}} once in the template, found {contract.prompt_template!r}. "
            f"Run the stage that makes this model again."
        )
    schema = SlotSchema.from_dict(contract.slot_schema) if contract.slot_schema else None
    index = load_index(place, schema)
    lines = (place / PROMPTS).read_text(encoding="utf-8").split("\n")[:-1]
    rows = zip(map(json.loads, lines), index.entries, strict=True)
    prompts = tuple(Request(row["prompt"], entry.slots, row["context"]) for row, entry in rows)
    return Shots(index, prompts, contract.shots)


def fit(render: Callable[[str], T], shown: Sequence[str], longest: int | None) -> T:
    """What `render` makes of the examples that fit into `longest`; the farthest are left out first.

    Without any example it is given whatever its length: that is for the engine to refuse.
    """
    for first in range(len(shown)):
        made = render("".join(shown[first:]))
        if longest is None or len(made) <= longest:
            return made
    return render("")


def prompt_digest(template: str, shots: int) -> str:
    """SHA-256 of all that decides a prompt beside the training data: for a label manifest."""
    content = json.dumps([template, shots, RETRIEVAL], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()


def _best(example: Mapping[str, Any], schema: SlotSchema | None) -> str:
    answers: list[str] = example["references"]
    slots = example.get("slots")
    if schema is None or slots is None:
        return answers[0]
    return min(answers, key=lambda answer: check_answer(answer, slots, schema).errors)


def _record(request: Request, schema: SlotSchema | None) -> Mapping[str, str] | None:
    """The request's record, where retrieval goes by records and the request is one."""
    if schema is None:
        return None
    if request.slots is None and is_record(request.prompt):
        return parse_record(request.prompt)
    return request.slots


def _key(request: Request, schema: SlotSchema | None) -> str:
    """The same for requests that ask the same, in any order of slots, letter case and spacing."""
    record = _record(request, schema)
    asked = [request.prompt] if not record else sorted(f"{k}: {v}" for k, v in record.items())
    return "\n".join(" ".join(t.casefold().split()) for t in [request.context or "", *asked])
