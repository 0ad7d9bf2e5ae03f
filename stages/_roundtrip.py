"""A model folder answers in a new process, loaded as it will be in production.

    python -m stages._roundtrip folder prompts.json tokens.json

What a process has in memory says nothing about what it wrote: only a fresh load does.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from serving._answering import TokenPredictor
from serving._decoding import cut_batches
from serving.completion import Request
from serving.errors import StillhouseError
from serving.predictor import load
from stages import _io

ROOT = Path(__file__).parent.parent


def requests_of(examples: Sequence[Mapping[str, Any]]) -> list[Request]:
    """The prompts of prepared examples."""
    return [Request(e["prompt"], e.get("slots"), e.get("context")) for e in examples]


def answer_tokens(predictor: TokenPredictor, requests: Sequence[Request]) -> list[list[int]]:
    """The likeliest answer's tokens for each request, in the predictor's own batches."""
    prompts = predictor.encode(requests)
    how = predictor.decoding
    found: dict[int, list[int]] = {}
    lengths = [len(prompt) for prompt in prompts]
    for batch in cut_batches(lengths, how.batch_tokens, how.max_new_tokens):
        made = predictor.decode([prompts[i] for i in batch], [requests[i] for i in batch], 1)
        found |= {i: answers[0][0] for i, answers in zip(batch, made, strict=True)}
    return [found[number] for number in range(len(requests))]


def answer_afresh(
    folder: Path,
    requests: Sequence[Request],
    max_new_tokens: int,
    device: str = "auto",
    threads: int = 1,
) -> list[list[int]]:
    """Greedy answers of `folder` as tokens, from a process that knows nothing but the folder.

    Raises:
        StillhouseError: the process does not load the folder, or does not answer.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    with tempfile.TemporaryDirectory() as scratch:
        asked, told = Path(scratch) / "prompts.json", Path(scratch) / "tokens.json"
        rows = [asdict(request) for request in requests]
        _io.write_json(
            asked, {"max_new_tokens": max_new_tokens, "device": device, "requests": rows}
        )
        names = [str(path.resolve()) for path in (folder, asked, told)]
        ended = subprocess.run(  # noqa: S603 - this very module
            [sys.executable, "-m", "stages._roundtrip", *names],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        if ended.returncode or not told.is_file():
            said = ended.stderr.strip().splitlines() or ["it said nothing"]
            raise StillhouseError(
                f"{folder} could not be loaded again and answer in a new process "
                f"(exit {ended.returncode}): {said[-1][:300]}"
            )
        tokens: list[list[int]] = _io.read_json(told)["tokens"]
    return tokens


def require_identical(
    expected: Sequence[Sequence[int]], found: Sequence[Sequence[int]], name: str
) -> None:
    """Refuse answers that differ after the reload.

    Raises:
        StillhouseError: how many differ, and where the first one does.
    """
    pairs = enumerate(zip(expected, found, strict=True))
    wrong = [number for number, (a, b) in pairs if list(a) != list(b)]
    if wrong:
        raise StillhouseError(
            f"variant {name} answers {len(wrong)} of {len(expected)} prompts differently after a "
            f"reload in a new process, the first is prompt {wrong[0]}. What was written is not "
            f"what was made; report this with the versions in run.json."
        )


def share_identical(a: Sequence[Sequence[int]], b: Sequence[Sequence[int]]) -> float:
    """Share of answers that are the same, token by token."""
    return sum(list(x) == list(y) for x, y in zip(a, b, strict=True)) / len(a)


def main() -> None:
    """Answer, for the process that started this one."""
    folder, asked, told = map(Path, sys.argv[1:4])
    task = _io.read_json(asked)
    try:
        device = None if task["device"] == "auto" else task["device"]
        predictor = load(folder, {"max_new_tokens": task["max_new_tokens"]}, device)
        assert isinstance(predictor, TokenPredictor), "variants have engines that make tokens"
        tokens = answer_tokens(predictor, [Request(**row) for row in task["requests"]])
    except StillhouseError as error:
        sys.exit(f"error: {error}")
    _io.write_json(told, {"tokens": tokens})


if __name__ == "__main__":
    main()
