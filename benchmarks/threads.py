"""What a second thread is worth to a small decoder: in each product, or on other rows.

    python -m benchmarks.threads            # on a machine with nothing else to do: minutes
    python -m benchmarks.threads --write    # also benchmarks/threads.json

Decoders of several sizes, untrained, do the same work in turns (A B C A B C …):

    one       one thread
    products  all threads within each product, asleep while they wait (settings.env)
    spinning  the same, awake for 1,000 turns of a loop first, as `teacher` and `evaluate` have it
    rows      each thread a part of the rows: copies that train (stages/_replicas.py), or batches
              answered side by side (serving/transformers_engine.py)

A training step is that of stages/_training.py in float32; answers are greedy, of 32 tokens, in
micro-batches of 8,192 tokens. How a thread waits is fixed when a process starts, so `spinning` has
a process of its own, takes turns with a `one` there, and its ratio is to that. The sizes in
serving/_threads.py rest on these ratios.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._engine_models import random_model
from benchmarks._ratios import ratio_of_medians
from benchmarks._training_bench import (
    ROOT,
    Bench,
    Sequences,
    Trainee,
    open_bench,
    read_examples,
    read_pairs,
    write_inputs,
)
from benchmarks.distill_step import describe_machine
from serving._threads import AT_ONCE
from serving._transformers_model import weight_bytes
from serving.completion import Request
from serving.contract import read_contract
from serving.transformers_engine import TransformersPredictor
from stages import _io
from stages._learner import PLAIN
from stages._params import DecoderShape, Params, load_params
from stages._progress import report_progress
from stages._replicas import Replicas
from stages._sequences import collate, iterate_plan, split_shares

# Layers, width, heads, feed-forward: weights of 1.5 to 87 MB with 1,536 words.
SHAPES = ((2, 96, 3, 256), (2, 160, 5, 448), (3, 160, 5, 448), (4, 256, 8, 704), (6, 512, 8, 1408))
SPINS = "1000"
ANSWER_TOKENS = 32
WARM_UP = 2  # rounds that are not counted
Action = Callable[[], object]


def train_in_parts(trainee: Trainee, replicas: Replicas, sequences: Sequences) -> None:
    """One step by copies, as stages/_training.py takes it."""
    tokens = sum(len(sequence.answer) for sequence in sequences)

    def backward(learner: Any, parts: list[list[int]]) -> Tensor:
        sums = torch.zeros(3)
        for part in parts:
            loss, found = learner(collate([sequences[i] for i in part], tokens), 1)
            loss.backward()
            sums += found
        return sums

    lengths = [len(sequence) for sequence in sequences]
    replicas.run(backward, split_shares(range(len(sequences)), lengths, None, len(replicas)))
    nn.utils.clip_grad_norm_(trainee.learner.parameters(), trainee.bench.training.clip_norm)
    for optimizer in trainee.optimizers:
        optimizer.step()
        optimizer.zero_grad()


def training(
    bench: Bench, pairs: Sequences, ways: Sequence[str], threads: int
) -> dict[str, Action]:
    """A step of each way; all of them go through the same batches."""

    def step(way: str) -> Action:
        trainee = Trainee(bench, "this", PLAIN)
        replicas = Replicas(trainee.learner, threads) if way == "rows" else None
        for optimizer in trainee.optimizers[:1] if replicas else ():
            optimizer.each = replicas.pool.map
        plan = iterate_plan([len(pair) for pair in pairs], 2048, bench.seed)

        def act() -> None:
            torch.set_num_threads(threads if way in ("products", "spinning") else 1)
            sequences = [pairs[i] for i in next(plan)]
            if replicas:
                train_in_parts(trainee, replicas, sequences)
            else:
                trainee.step(sequences)

        return act

    return {way: step(way) for way in ways}


def answering(folder: Path, ways: Sequence[str], threads: int, prompts: int) -> dict[str, Action]:
    """The same prompts answered each way."""
    contract = read_contract(folder)
    predictor = TransformersPredictor(folder, contract, "cpu").using(
        {"max_new_tokens": ANSWER_TOKENS}
    )
    _, examples = read_examples(load_params(ROOT / "params.yaml"), prompts)
    requests = [Request(example["prompt"]) for example in examples]

    def act(way: str) -> None:
        torch.set_num_threads(threads if way in ("products", "spinning") else 1)
        predictor.at_once = min(AT_ONCE, threads) if way == "rows" else 1
        predictor.answer(requests)

    return {way: partial(act, way) for way in ways}


def take_turns(label: str, actions: Mapping[str, Action], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each action, in turns."""
    taken: dict[str, list[float]] = {name: [] for name in actions}
    progress = report_progress(label, rounds + WARM_UP)
    for number in range(rounds + WARM_UP):
        for name, act in actions.items():
            started = time.perf_counter()
            act()
            taken[name].append((time.perf_counter() - started) * 1e3)
        progress(number + 1)
    return {name: ms[WARM_UP:] for name, ms in taken.items()}


def measure(
    ways: Sequence[str], params: Params, options: argparse.Namespace, folder: Path
) -> list[dict[str, Any]]:
    """A row for each shape: what the work takes [ms], and its ratio to one thread."""
    write_inputs(folder, params, read_examples(params, options.prompts)[1])
    pairs, found = read_pairs(folder), []
    for number in range(options.shapes or len(SHAPES)):
        layers, width, heads, inside = SHAPES[number]
        shape = DecoderShape(
            layers=layers, width=width, heads=heads, kv_heads=heads, feed_forward=inside,
            positions=512,
        )  # fmt: skip
        bench = open_bench(folder, params, options)
        bench = bench._replace(shapes={"this": shape}, training=params.teacher.training)
        model = random_model(f"{layers},{width},{heads},{inside},1536", folder / str(number))
        size = weight_bytes(Trainee(bench, "this", PLAIN).learner)
        row: dict[str, Any] = {"shape": SHAPES[number], "weights_mb": size / 1e6}
        work = {
            "training": (training(bench, pairs, ways, options.threads), options.steps),
            "answering": (answering(model, ways, options.threads, options.prompts), options.rounds),
        }
        for kind, (actions, rounds) in work.items():
            taken = take_turns(f"{size / 1e6:.1f} MB {kind}", actions, rounds)
            ratios = {way: ratio_of_medians(taken[way], taken["one"]) for way in ways[1:]}
            row[kind] = {"ms": {way: median(ms) for way, ms in taken.items()}, "to_one": ratios}
        found.append(row)
    return found


def run(options: argparse.Namespace, words: Sequence[str]) -> dict[str, Any]:
    """All measurements, by processes that wait as they should."""
    machine = describe_machine(options)
    rows = _in_a_process(words, ("one", "products", "rows"), {})
    spinning = _in_a_process(words, ("one", "spinning"), {"GOMP_SPINCOUNT": SPINS})
    for row, other in zip(rows, spinning, strict=True):
        for kind in ("training", "answering"):
            row[kind]["to_one"] |= other[kind]["to_one"]
            row[kind]["ms"]["spinning"] = other[kind]["ms"]["spinning"]
    settings = {name: getattr(options, name) for name in ("steps", "rounds", "prompts")}
    return {"machine": machine, "settings": settings, "models": rows}


def _in_a_process(
    words: Sequence[str], ways: Sequence[str], waiting: Mapping[str, str]
) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "benchmarks.threads", *words, "--ways", *ways]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", **waiting}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def summarise(results: Mapping[str, Any]) -> str:
    """A line for each model: time of each way over that of one thread."""
    lines = []
    for row in results["models"]:
        for kind in ("training", "answering"):
            ratios = (f"{way} {found['ratio']:.2f}" for way, found in row[kind]["to_one"].items())
            one = row[kind]["ms"]["one"]
            lines.append(f"{row['weights_mb']:.1f} MB, {kind}: {one:,.0f} ms; {', '.join(ratios)}")
    return "\n".join([*lines, "(time over that of one thread)"])


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2, help="beside one (2)")
    parser.add_argument("--steps", type=int, default=8, help="counted steps of each (8)")
    parser.add_argument("--rounds", type=int, default=4, help="counted rounds of answers (4)")
    parser.add_argument("--prompts", type=int, default=256, help="answered in a round (256)")
    parser.add_argument("--shapes", type=int, help="so many of the smallest (all)")
    parser.add_argument("--write", action="store_true", help="write benchmarks/threads.json")
    parser.add_argument("--ways", nargs="+", help=argparse.SUPPRESS)
    found = parser.parse_args(arguments)
    found.precision = "fp32"
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write JSON where asked to."""
    words = sys.argv[1:] if arguments is None else arguments
    options = read_options(words)
    if options.ways:
        with tempfile.TemporaryDirectory() as name:
            params = load_params(ROOT / "params.yaml")
            print(json.dumps(measure(options.ways, params, options, Path(name))))
        return
    results = run(options, [word for word in words if word != "--write"])
    json.dump(results, sys.stdout, indent=2)
    print(f"\n{summarise(results)}")
    if options.write:
        _io.write_json(ROOT / "benchmarks/threads.json", results)


if __name__ == "__main__":
    main()
