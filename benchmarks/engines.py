"""Our engines against plain `transformers`, on the same model, prompts, threads and machine.

    python -m benchmarks.engines                     # models/student, after `dvc repro distill`
    python -m benchmarks.engines --shape 4,256,4,704,1536     # random weights, 3.6 M parameters
    python -m benchmarks.engines --model models/teacher --draft models/student
    python -m benchmarks.engines --write             # also benchmarks/engines.json

Variants answer the same batch of prompts greedily, in turns (A B C A B C …), from text to text:

    plain        the library as its documentation has it: fp32, SDPA, left padding, generate()
    transformers our transformers engine, fp32
    ct2_float32  our ctranslate2 engine after conversion, fp32
    ct2_int8     the same with 8-bit weights
    speculative  where a --draft is given: it drafts, the model verifies; one request at a time

Told are medians of tokens/s by batch size, the ratio to plain with a 95 % interval (a bootstrap
over pairs), answers that equal plain's, and how far tokens/s are from what the processor allows.
For that the products of the model's own linear layers run in the same turns, with as many rows as
the batch has requests, and a square product of 1,024. A token costs 2 FLOP for every weight of
these layers (the embedding is looked up, the head counts); the work on prompts is not counted.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks._engine_models import matrices_of, random_model, read_requests
from benchmarks._engine_variants import Variant, make_variants
from benchmarks._ratios import ratio_of_medians
from benchmarks.distill_step import describe_machine
from serving.completion import Request
from serving.errors import StillhouseError
from stages import _io
from stages._progress import report_progress

ROOT = Path(__file__).parent.parent
SQUARE = 1024  # side of the product that a model's own are compared with
TARGETS = {1: 3.0, 32: 1.7}  # of the best variant over plain, by batch size
WARM_UP = 1  # rounds that are not counted


def own_products(matrices: Sequence[tuple[int, int]], rows: int) -> Callable[[], None]:
    """One token's linear layers for `rows` requests, with nothing around them."""
    weights = [torch.randn(outside, inside) for inside, outside in matrices]
    inputs = {inside: torch.randn(rows, inside) for inside, _ in matrices}

    def multiply() -> None:
        for weight in weights:
            _ = torch.nn.functional.linear(inputs[weight.shape[1]], weight)

    return multiply


def take_turns(
    variants: Mapping[str, Variant],
    products: Mapping[str, Callable[[], None]],
    batches: Sequence[Sequence[Request]],
    label: str,
) -> tuple[dict[str, list[float]], dict[str, list[float]], dict[str, list[bool]]]:
    """Tokens/s of each variant, seconds of each product, and answers that equal the first's."""
    rates: dict[str, list[float]] = {name: [] for name in variants}
    seconds: dict[str, list[float]] = {name: [] for name in products}
    same: dict[str, list[bool]] = {name: [] for name in variants}
    progress = report_progress(label, len(batches))
    for number, batch in enumerate(batches, start=1):
        texts: list[str] = []
        for name, answer in variants.items():
            started = time.perf_counter()
            found = answer(batch)
            rates[name].append(found.tokens / (time.perf_counter() - started))
            texts = texts or found.texts
            same[name] += [a == b for a, b in zip(texts, found.texts, strict=True)]
        for name, multiply in products.items():
            started = time.perf_counter()
            multiply()
            seconds[name].append(time.perf_counter() - started)
        progress(number)
    counted = {name: values[WARM_UP:] for name, values in rates.items()}
    return counted, {name: values[WARM_UP:] for name, values in seconds.items()}, same


def measure_batch_size(
    variants: Mapping[str, Variant],
    matrices: Sequence[tuple[int, int]],
    requests: Sequence[Request],
    size: int,
    rounds: int,
) -> dict[str, Any]:
    """All figures of one batch size."""
    numbers = range((rounds + WARM_UP) * size)
    asked = [requests[number % len(requests)] for number in numbers]
    batches = [asked[start : start + size] for start in range(0, len(asked), size)]
    square = [(SQUARE, SQUARE)]
    products = {"own": own_products(matrices, size), "square": own_products(square, SQUARE)}
    rates, seconds, same = take_turns(variants, products, batches, f"batch {size}")
    per_token = 2.0 * sum(inside * outside for inside, outside in matrices)
    gflops = {
        "own": per_token * size / median(seconds["own"]) / 1e9,
        "square": 2.0 * SQUARE**3 / median(seconds["square"]) / 1e9,
    }
    allowed = {name: 1e9 * rate / per_token for name, rate in gflops.items()}
    return {
        "tokens_per_s": {name: median(values) for name, values in rates.items()},
        "ratio_to_plain": {
            name: ratio_of_medians(values, rates["plain"])
            for name, values in rates.items()
            if name != "plain"
        },
        "same_answers": {name: sum(equal) / len(equal) for name, equal in same.items()},
        "gflops": gflops,
        "allowed_tokens_per_s": allowed,
        "share_of_allowed": {
            name: {what: median(values) / limit for what, limit in allowed.items()}
            for name, values in rates.items()
        },
        "rounds": rounds,
    }


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All measurements, in `folder`."""
    torch.set_num_threads(options.threads)
    machine = describe_machine(options)
    model = random_model(options.shape, folder / "model") if options.shape else options.model
    variants, missing = make_variants(model, options.draft, options.tokens, folder)
    matrices = matrices_of(model)
    requests = read_requests(options.prompts)
    return {
        "machine": machine,
        "model": {
            "name": f"random {options.shape}" if options.shape else options.model.as_posix(),
            "matrix_weights": sum(inside * outside for inside, outside in matrices),
            "max_new_tokens": options.tokens,
        },
        "missing": missing,
        "batch_sizes": {
            str(size): measure_batch_size(variants, matrices, requests, size, options.rounds)
            for size in options.batch_sizes
        },
    }


def summarise(results: Mapping[str, Any]) -> str:
    """The best variant of each batch size, and what it is to reach."""
    lines = []
    for size, found in results["batch_sizes"].items():
        ratios = found["ratio_to_plain"]
        best = max(ratios, key=lambda name: ratios[name]["ratio"])
        share = found["share_of_allowed"][best]
        lines.append(
            f"batch {size}: {best} {found['tokens_per_s'][best]:,.0f} tokens/s, "
            "{ratio:.2f} [{low:.2f}, {high:.2f}] of plain".format(**ratios[best])
            + (f", at least {TARGETS[int(size)]}" if int(size) in TARGETS else "")
            + f"; {share['own']:.2f} of its own products' rate, {share['square']:.2f} of a square's"
        )
    return "\n".join([*lines, *(f"{name}: {why}" for name, why in results["missing"].items())])


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=Path("models/student"))
    parser.add_argument(
        "--shape", help="layers,width,heads,feed_forward,vocabulary: random weights"
    )
    parser.add_argument("--draft", type=Path, help="model that drafts for --model")
    parser.add_argument("--threads", type=int, default=2, help="of torch and ctranslate2 (2)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=20, help="counted batches of each (20)")
    parser.add_argument("--tokens", type=int, default=64, help="longest answer (64)")
    parser.add_argument("--prompts", type=int, default=256, help="different prompts (256)")
    parser.add_argument("--write", action="store_true", help="write benchmarks/engines.json")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write JSON where asked to."""
    options = read_options(arguments)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # ctranslate2 reads it
    try:
        with tempfile.TemporaryDirectory() as folder:
            results = run(options, Path(folder))
    except StillhouseError as error:
        sys.exit(f"error: engines: {error}")
    json.dump(results, sys.stdout, indent=2)
    print(f"\n{summarise(results)}")
    if options.write:
        _io.write_json(ROOT / "benchmarks/engines.json", results)


if __name__ == "__main__":
    main()
