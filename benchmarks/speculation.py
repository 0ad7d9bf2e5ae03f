"""Speculative decoding with the student as draft: the teacher's own tokens, in fewer passes of it.

    python -m benchmarks.speculation                 # models/teacher and student, after `dvc repro`
    python -m benchmarks.speculation --shape 4,256,4,704,1536 --draft-shape 2,96,3,256,1536
    taskset -c 1 python -m benchmarks.speculation --write    # also benchmarks/speculation.json

Every round answers other prompts, greedily, once by each of these, in turns (A B C …, then back):

    teacher      alone, one request at a time
    student      alone, one request at a time: what a draft's passes cost
    together     the teacher alone, all prompts of the round as one batch
    draft_<n>    the student drafts up to n tokens, the teacher verifies; one request at a time

Told are, for each draft length, answers that equal the teacher's alone, passes of the teacher for
an answer with and without, the share of drafted tokens that it accepted, and tokens/s as a ratio to
the teacher alone with a 95 % interval (a bootstrap over rounds). `together` is what speculation
gives up: it answers one request after the other.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmarks._engine_models import random_model, read_requests
from benchmarks._ratios import ratio_of_medians
from benchmarks.distill_step import describe_machine
from serving._answering import TokenPredictor
from serving._speculation import Counts
from serving.completion import Completion, Request
from serving.errors import StillhouseError
from serving.predictor import load
from serving.speculative_engine import SpeculativePredictor
from stages import _io
from stages._progress import report_progress
from stages._speculative import assemble

ROOT = Path(__file__).parent.parent
WARM_UP = 1  # rounds that are not counted


@dataclass
class Taken:
    """What one variant made of all rounds that count."""

    answers: list[Completion] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    """Tokens/s of each round."""
    counts: Counts = field(default_factory=Counts)
    """Of a draft's; nothing for the others."""


def answer_each(predictor: TokenPredictor, requests: Sequence[Request]) -> list[Completion]:
    """Answers, one request at a time."""
    return [predictor.answer([request])[0] for request in requests]


def take_round(
    name: str, predictor: TokenPredictor, requests: Sequence[Request], taken: Taken
) -> None:
    """Answer one round's prompts and note what came of it."""
    if isinstance(predictor, SpeculativePredictor):
        predictor.counts = taken.counts
    started = time.perf_counter()
    whole = name == "together"
    answers = predictor.answer(requests) if whole else answer_each(predictor, requests)
    seconds = time.perf_counter() - started
    taken.answers += answers
    taken.rates.append(sum(answer.completion_tokens for answer in answers) / seconds)


def measure(
    variants: Mapping[str, TokenPredictor], requests: Sequence[Request], size: int
) -> dict[str, Taken]:
    """All variants on rounds of `size` prompts; the first warms up and is not counted."""
    rounds = [requests[i : i + size] for i in range(0, len(requests), size)]
    rounds = [rounds[0]] * WARM_UP + rounds
    taken = {name: Taken() for name in variants}
    progress = report_progress("speculation", len(rounds))
    for number, prompts in enumerate(rounds):
        for name in variants if number % 2 else reversed(list(variants)):
            counted = taken[name] if number >= WARM_UP else Taken()
            take_round(name, variants[name], prompts, counted)
        progress(number + 1)
    return taken


def is_same(one: Completion, other: Completion) -> bool:
    """Whether two answers have the same tokens, as far as text, count and end tell."""
    return (one.text, one.completion_tokens, one.finish_reason) == (
        other.text,
        other.completion_tokens,
        other.finish_reason,
    )


def describe_alone(taken: Taken) -> dict[str, float]:
    """Figures of a model without draft; every token of an answer is a pass of it."""
    return {
        "tokens_per_s": median(taken.rates),
        "passes_per_answer": fmean(answer.completion_tokens for answer in taken.answers),
    }


def describe_draft(taken: Taken, alone: Taken) -> dict[str, Any]:
    """Figures of one draft length against the teacher alone."""
    counts, answers = taken.counts, len(taken.answers)
    pairs = list(zip(taken.answers, alone.answers, strict=True))
    return {
        "same_answers": sum(is_same(one, other) for one, other in pairs),
        "answers": answers,
        "teacher_passes_per_answer": counts.steps / answers,
        "teacher_passes_ratio": counts.steps / counts.tokens,
        "accepted_share": counts.accepted / max(1, counts.drafted),
        "tokens_per_s": median(taken.rates),
        "tokens_per_s_ratio": ratio_of_medians(taken.rates, alone.rates),
    }


def make_variants(
    teacher: Path, student: Path, drafted: Sequence[int], folder: Path, tokens: int
) -> dict[str, TokenPredictor]:
    """What is compared, loaded, by name."""
    decoding = {"max_new_tokens": tokens}
    assemble(teacher, student, folder)
    alone = load(teacher, decoding, "cpu")
    small = load(student, decoding, "cpu")
    assert isinstance(alone, TokenPredictor) and isinstance(small, TokenPredictor)
    variants: dict[str, TokenPredictor] = {"teacher": alone, "student": small, "together": alone}
    for length in drafted:
        both = load(folder, decoding, "cpu")
        assert isinstance(both, SpeculativePredictor)
        both.drafted = length
        variants[f"draft_{length}"] = both
    return variants


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All measurements, in `folder`."""
    import torch

    torch.set_num_threads(options.threads)
    machine = describe_machine(options)
    teacher, student = find_models(options, folder)
    variants = make_variants(teacher, student, options.drafted, folder / "both", options.tokens)
    requests = read_requests(options.prompts)
    taken = measure(variants, requests, options.size)
    alone = taken["teacher"]
    return {
        "machine": machine,
        "models": {
            "teacher": describe_model(variants["teacher"], options.shape),
            "student": describe_model(variants["student"], options.draft_shape),
        },
        "settings": {"prompts": len(requests), "round": options.size, "tokens": options.tokens},
        "alone": {name: describe_alone(taken[name]) for name in ("teacher", "student", "together")},
        "together_ratio": ratio_of_medians(taken["together"].rates, alone.rates),
        "drafts": {
            str(length): describe_draft(taken[f"draft_{length}"], alone)
            for length in options.drafted
        },
    }


def find_models(options: argparse.Namespace, folder: Path) -> tuple[Path, Path]:
    """Folders of teacher and student, of random weights where a shape is given."""
    teacher = random_model(options.shape, folder / "teacher") if options.shape else options.teacher
    student = (
        random_model(options.draft_shape, folder / "student")
        if options.draft_shape
        else options.student
    )
    return teacher, student


def describe_model(predictor: TokenPredictor, shape: str | None) -> dict[str, Any]:
    """Shape of a model; no path, which would be this machine's."""
    model: Any = predictor.model  # type: ignore[attr-defined]
    return {
        "name": f"random {shape}" if shape else "trained",
        "layers": model.config.num_hidden_layers,
        "width": model.config.hidden_size,
        "parameters": sum(weight.numel() for weight in model.parameters()),
    }


def summarise(results: dict[str, Any]) -> str:
    """A line for each draft length."""
    alone = results["alone"]
    lines = [
        f"teacher alone {alone['teacher']['tokens_per_s']:,.0f} tokens/s one at a time, "
        f"{alone['together']['tokens_per_s']:,.0f} together; student alone "
        f"{alone['student']['tokens_per_s']:,.0f}"
    ]
    for length, found in results["drafts"].items():
        lines.append(
            f"drafts of {length}: {found['same_answers']} of {found['answers']} answers the same, "
            f"{found['teacher_passes_per_answer']:.1f} passes of the teacher for an answer instead "
            f"of {alone['teacher']['passes_per_answer']:.1f}, {found['accepted_share']:.0%} "
            f"accepted, "
            "{ratio:.2f} [{low:.2f}, {high:.2f}] of its tokens/s".format(
                **found["tokens_per_s_ratio"]
            )
        )
    return "\n".join(lines)


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", type=Path, default=Path("models/teacher"))
    parser.add_argument("--student", type=Path, default=Path("models/student"))
    parser.add_argument("--shape", help="layers,width,heads,feed_forward,vocabulary: at random")
    parser.add_argument("--draft-shape", help="the same for the student")
    parser.add_argument("--drafted", type=int, nargs="+", default=[1, 2, 4, 6, 8], help="[tokens]")
    parser.add_argument("--threads", type=int, default=1, help="of the engine (1)")
    parser.add_argument("--prompts", type=int, default=200, help="different ones (200)")
    parser.add_argument("--size", type=int, default=20, help="prompts of a round (20)")
    parser.add_argument("--tokens", type=int, default=96, help="longest answer (96)")
    parser.add_argument("--write", action="store_true", help="write benchmarks/*.json")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write JSON where asked to."""
    options = read_options(arguments)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    try:
        with tempfile.TemporaryDirectory() as folder:
            results = run(options, Path(folder))
    except StillhouseError as error:
        sys.exit(f"error: speculation: {error}")
    json.dump(results, sys.stdout, indent=2)
    print(f"\n{summarise(results)}")
    if options.write:
        _io.write_json(ROOT / "benchmarks/speculation.json", results)


if __name__ == "__main__":
    main()
