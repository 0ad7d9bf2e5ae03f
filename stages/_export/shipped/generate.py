"""Greedy answers from the ONNX graph of one step, whoever runs it: onnxruntime, or a server.

    python -m stages._export.shipped.generate models/export/student "name[The Eagle], food[fish]"
    python -m stages._export.shipped.generate models/export/student "…" --triton localhost:8000

The graph takes the keys and values of past tokens and gives them back with those of the new ones,
so an answer costs as many steps as it has tokens, and each step reads one token. Needs numpy and
tokenizers; and onnxruntime, or tritonclient[http] where Triton runs the steps.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving._prompts import PromptEncoder
from serving.completion import Completion, Request
from serving.contract import read_contract
from serving.errors import StillhouseError

MODEL_NAME = "model.onnx"
DECODER = "student_decoder"
"""What the graph is called in a Triton repository."""

Array = NDArray[Any]
Tensors = dict[str, Array]
Step = Callable[[Tensors], Mapping[str, Array]]
"""Runs the graph once: its inputs by their names to its outputs by theirs."""
Tokens = tuple[list[int], list[float]]
"""Ids of an answer, the end token included, and the log-probability [nats] of each."""


@dataclass(frozen=True)
class Past:
    """The shape of what a decoder keeps of past tokens: [rows, heads, tokens, width] per layer."""

    layers: int
    heads: int
    width: int

    @property
    def inputs(self) -> list[str]:
        """Names of the graph's inputs for it."""
        return [f"past_key_values.{n}.{kind}" for n in range(self.layers) for kind in KINDS]

    @property
    def outputs(self) -> list[str]:
        """Names of the graph's outputs for it, in the order of the inputs."""
        return [f"present.{n}.{kind}" for n in range(self.layers) for kind in KINDS]


KINDS = ("key", "value")


def generate(
    step: Step, past: Past, prompts: Sequence[Sequence[int]], ends: Sequence[int], most: int
) -> list[Tokens]:
    """The likeliest next token until one ends the answer, or there are `most`; all rows at once."""
    found: list[Tokens] = [([], []) for _ in prompts]
    running = np.arange(len(prompts))
    feeds = _first_feeds(past, prompts)
    for number in range(most):
        outputs = step(feeds)
        tokens, logprobs = _likeliest(outputs["logits"])
        for row, token, logprob in zip(running, tokens.tolist(), logprobs.tolist(), strict=True):
            found[row][0].append(token)
            found[row][1].append(logprob)
        going = ~np.isin(tokens, ends)
        if number + 1 == most or not going.any():
            break
        running = running[going]
        feeds = _next_feeds(past, feeds, outputs, tokens, going)
    return found


def _first_feeds(past: Past, prompts: Sequence[Sequence[int]]) -> Tensors:
    """Whole prompts, padded on the left, behind one past place that the mask hides.

    Without that place the past would be a tensor without elements, which not every server takes.
    """
    rows, longest = len(prompts), max(map(len, prompts))
    ids, mask = np.zeros((rows, longest), np.int64), np.zeros((rows, 1 + longest), np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
        mask[row, 1 + longest - len(prompt) :] = 1
    hidden = np.zeros((rows, past.heads, 1, past.width), np.float32)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": np.maximum(mask[:, 1:].cumsum(1) - 1, 0),
        **dict.fromkeys(past.inputs, hidden),
    }


def _next_feeds(
    past: Past, feeds: Tensors, outputs: Mapping[str, Array], tokens: Array, going: Array
) -> Tensors:
    """One token of each row that goes on, behind everything that was there."""
    mask = feeds["attention_mask"][going]
    mask = np.concatenate([mask, np.ones((len(mask), 1), np.int64)], axis=1)
    kept = zip(past.inputs, past.outputs, strict=True)
    return {
        "input_ids": tokens[going, None],
        "attention_mask": mask,
        "position_ids": mask.sum(1, keepdims=True) - 1,
        **{name: outputs[present][going] for name, present in kept},
    }


def _likeliest(logits: Array) -> tuple[Array, Array]:
    """Tokens [rows] and their log-probabilities, from logits [rows, 1, vocabulary]."""
    last = logits[:, -1].astype(np.float64)
    tokens = last.argmax(1)
    last -= last.max(1, keepdims=True)
    rows = np.arange(len(last))
    return tokens, last[rows, tokens] - np.log(np.exp(last).sum(1))


class Student:
    """Texts in, completions out; the same for every server."""

    def __init__(self, folder: Path, step: Step) -> None:
        """Read tokenizer and contract.

        Raises:
            StillhouseError: `folder` is not what its contract says.
        """
        contract = read_contract(folder)
        if contract.engine != "onnx":
            raise StillhouseError(
                f"{folder} is for engine {contract.engine!r}, expected an export for onnx. "
                f'Run "make export".'
            )
        limits, self._step = contract.limits, step
        self._past = Past(limits["layers"], limits["heads"], limits["head_width"])
        self._longest, self._most = limits["max_prompt_tokens"], contract.decoding["max_new_tokens"]
        self._ends = contract.decoding["end_tokens"]
        self._prompts = PromptEncoder(folder, contract.prompt_template)

    def encode(self, prompt: str, context: str | None = None) -> list[int]:
        """Token ids of one prompt in the model's template.

        Raises:
            StillhouseError: it is too long.
        """
        ids = self._prompts.encode(Request(prompt, context=context))
        if not 1 <= len(ids) <= self._longest:
            raise StillhouseError(
                f"the prompt has {len(ids)} tokens, this model takes 1 to {self._longest}. "
                f"Shorten it or split it."
            )
        return ids

    def tokens(self, prompts: Sequence[list[int]]) -> list[Tokens]:
        """What is generated for encoded prompts, in one batch."""
        return generate(self._step, self._past, prompts, self._ends, self._most)

    def answer(self, prompts: Sequence[list[int]]) -> list[Completion]:
        """Completions of encoded prompts, in one batch."""
        if not prompts:
            return []
        pairs = zip(prompts, self.tokens(prompts), strict=True)
        return [
            Completion(
                text=self._prompts.decode(tokens),
                prompt_tokens=len(prompt),
                completion_tokens=len(tokens),
                finish_reason="stop" if tokens[-1] in self._ends else "length",
                confidence=None,
                mean_logprob=sum(logprobs) / len(logprobs),
                min_logprob=min(logprobs),
            )
            for prompt, (tokens, logprobs) in pairs
        ]


def open_student(folder: Path) -> Student:
    """The student of an exported folder, its steps run in this process.

    Raises:
        StillhouseError: `folder` is not what its contract says; no graph is loaded then.
    """
    read_contract(folder)
    return Student(folder, onnxruntime_step(folder / MODEL_NAME))


def onnxruntime_step(path: Path, threads: int = 1) -> Step:
    """Steps run in this process."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, feeds), strict=True))


def triton_step(address: str, model: str = DECODER) -> Step:
    """Steps run by a Triton server at `address`, host:port of its HTTP."""
    from tritonclient import http  # type: ignore[import-untyped]
    from tritonclient.utils import np_to_triton_dtype  # type: ignore[import-untyped]

    client = http.InferenceServerClient(address)

    def step(feeds: Tensors) -> Mapping[str, Array]:
        inputs = []
        for name, value in feeds.items():
            inputs.append(http.InferInput(name, value.shape, np_to_triton_dtype(value.dtype)))
            inputs[-1].set_data_from_numpy(np.ascontiguousarray(value))
        result = client.infer(model, inputs)
        names = [output["name"] for output in result.get_response()["outputs"]]
        return {name: result.as_numpy(name) for name in names}

    return step


def main() -> None:
    """Answer the prompts of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="models/export/student, or a copy of it")
    parser.add_argument("prompts", nargs="+")
    parser.add_argument("--triton", metavar="HOST:PORT", help="a Triton server runs the steps")
    asked = parser.parse_args()
    try:
        folder = asked.folder
        student = (
            Student(folder, triton_step(asked.triton)) if asked.triton else open_student(folder)
        )
        for completion in student.answer([student.encode(prompt) for prompt in asked.prompts]):
            sys.stdout.write(f"{completion.text}\n")
    except StillhouseError as error:
        sys.exit(f"error: generate: {error}")


if __name__ == "__main__":
    main()
