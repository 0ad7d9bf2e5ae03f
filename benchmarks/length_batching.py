"""Micro-batches cut by length against first-in-first-out, on the same queues of prompts.

    python -m benchmarks.length_batching --model models/student
    python -m benchmarks.length_batching --shape 4,256,4,704,1536    # random weights
    E2E_DIR=/path/to/e2e python -m benchmarks.length_batching --write   # benchmarks/*.json too

Three mixes of prompts, of which each round lets so many wait at once as `--waiting` says:

    e2e           meaning representations of the E2E data's test set (needs E2E_DIR)
    incidents     the built-in generator's
    heavy_tailed  incidents strung together to lengths of a Pareto distribution, with its seed

Both orders answer the same queue in turns, greedily, from text to text, in batches cut by
serving/_micro_batches.py under the same budget and row limit. Told are the share of padding in the
prompts (what an engine whose finished rows leave does in vain) and in prompts and answers together
(one that keeps them until the longest is done), utilisation against first-in-first-out (1 -
padding, the figure to beat is 1.40), rows per batch, and tokens/s with its ratio and a 95 %
interval (a bootstrap over rounds).
"""

import argparse
import csv
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from benchmarks._engine_models import random_model
from benchmarks._ratios import ratio_of_medians
from benchmarks.distill_step import describe_machine
from serving._answering import TokenPredictor
from serving._micro_batches import Bounds, Order, Waiting, cut
from serving.completion import Request
from serving.errors import StillhouseError
from serving.predictor import load
from stages import _io
from stages._incidents import IncidentCounts, generate
from stages._progress import report_progress

ROOT = Path(__file__).parent.parent
ORDERS: tuple[Order, ...] = ("first_in_first_out", "length")
SEED = 20
TAIL = 1.2  # exponent of the Pareto distribution: a mean, and no variance
LEAST_TOKENS = 16  # its smallest length
TARGET = 1.40  # utilisation by length over first-in-first-out
WARM_UP = 1  # rounds that are not counted


class Taken(NamedTuple):
    """What one order made of one queue."""

    seconds: float
    tokens: int
    """Of the answers."""
    prompts: list[list[int]]
    """Lengths by batch [tokens]."""
    wholes: list[list[int]]
    """Lengths of prompts and answers together, by batch [tokens]."""
    texts: list[str]


def read_e2e(count: int) -> list[Request]:
    """Different meaning representations of the E2E test set, in the file's order."""
    path = Path(os.environ["E2E_DIR"]) / "testset_w_refs.csv"
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            found = dict.fromkeys(row["mr"] for row in csv.DictReader(stream))
    except (OSError, KeyError) as error:
        raise StillhouseError(
            f"E2E_DIR was expected to hold testset_w_refs.csv with a column mr, found "
            f"{error}. Name the folder with the three CSV files of the E2E data."
        ) from None
    return [Request(prompt) for prompt in found][:count]


def read_incidents(count: int) -> list[Request]:
    """New incidents."""
    examples = generate(SEED, IncidentCounts(count, 0, 0, 0, 1))["train"]
    return [Request(example["prompt"]) for example in examples]


def heavy_tailed(predictor: TokenPredictor, count: int) -> list[Request]:
    """Incidents strung together until they have the lengths drawn, up to the longest allowed."""
    drawn, words = random.Random(SEED), " ".join(r.prompt for r in read_incidents(200)).split()
    made = []
    for _ in range(count):
        wanted = min(LEAST_TOKENS * drawn.paretovariate(TAIL), 0.9 * predictor.longest_prompt)
        start, text = drawn.randrange(len(words) // 2), ""
        for word in words[start:]:
            longer = f"{text} {word}".strip()
            if text and len(predictor.prompts.encode(Request(longer))) > wanted:
                break
            text = longer
        made.append(Request(text))
    return made


def make_mixes(
    predictor: TokenPredictor, count: int
) -> tuple[dict[str, list[Request]], dict[str, str]]:
    """The mixes that can be had here, and why the others cannot."""
    mixes, missing = {"incidents": read_incidents(count)}, {}
    if "E2E_DIR" in os.environ:
        mixes["e2e"] = read_e2e(count)
    else:
        missing["e2e"] = "E2E_DIR names no folder with the E2E data"
    return {**mixes, "heavy_tailed": heavy_tailed(predictor, count)}, missing


def take(
    predictor: TokenPredictor, queue: Sequence[Request], bounds: Bounds, order: Order
) -> Taken:
    """Cut a queue and answer its batches."""
    started = time.perf_counter()
    room = predictor.decoding.max_new_tokens
    lengths = [len(ids) for ids in predictor.encode(queue)]
    waiting = [Waiting(length, room, float(number)) for number, length in enumerate(lengths)]
    batches = cut(waiting, bounds, order)
    answers = {}
    for batch in batches:
        found = predictor.answer([queue[index] for index in batch])
        answers.update(zip(batch, found, strict=True))
    seconds = time.perf_counter() - started
    made = [answers[index].completion_tokens for index in range(len(queue))]
    return Taken(
        seconds,
        sum(made),
        [[lengths[index] for index in batch] for batch in batches],
        [[lengths[index] + made[index] for index in batch] for batch in batches],
        [answers[index].text for index in range(len(queue))],
    )


def padding(batches: Sequence[Sequence[int]]) -> float:
    """Share of padding in all batches together, each as wide as its longest row."""
    real = sum(map(sum, batches))
    return 1.0 - real / sum(len(batch) * max(batch) for batch in batches)


def measure_mix(
    predictor: TokenPredictor, name: str, prompts: Sequence[Request], options: argparse.Namespace
) -> dict[str, Any]:
    """All figures of one mix."""
    bounds = Bounds(options.batch_tokens, options.max_rows)
    taken: dict[Order, list[Taken]] = {order: [] for order in ORDERS}
    drawn = random.Random(SEED)
    progress = report_progress(name, options.rounds + WARM_UP)
    for number in range(options.rounds + WARM_UP):
        queue = drawn.choices(prompts, k=options.waiting)
        for order in ORDERS if number % 2 else reversed(ORDERS):
            taken[order].append(take(predictor, queue, bounds, order))
        progress(number + 1)
    return compare({order: rounds[WARM_UP:] for order, rounds in taken.items()})


def compare(taken: dict[Order, list[Taken]]) -> dict[str, Any]:
    """Each order's figures, and by length against first-in-first-out."""
    found = {order: summarise_order(rounds) for order, rounds in taken.items()}
    first, ours = (found[order] for order in ORDERS)
    rates = {order: [r.tokens / r.seconds for r in rounds] for order, rounds in taken.items()}
    return {
        **found,
        "utilisation_ratio": {
            kind: (1.0 - ours[f"padded_share_{kind}"]) / (1.0 - first[f"padded_share_{kind}"])
            for kind in ("prompts", "with_answers")
        },
        "tokens_per_s_ratio": ratio_of_medians(rates["length"], rates["first_in_first_out"]),
        "same_answers": fmean(
            a == b
            for one, two in zip(*taken.values(), strict=True)
            for a, b in zip(one.texts, two.texts, strict=True)
        ),
        "rounds": len(taken["length"]),
    }


def summarise_order(rounds: Sequence[Taken]) -> dict[str, float]:
    """Padding of all rounds together, and the median rate."""
    prompts = [batch for each in rounds for batch in each.prompts]
    wholes = [batch for each in rounds for batch in each.wholes]
    return {
        "padded_share_prompts": padding(prompts),
        "padded_share_with_answers": padding(wholes),
        "rows_per_batch": fmean(map(len, prompts)),
        "tokens_per_s": median(each.tokens / each.seconds for each in rounds),
    }


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All measurements, in `folder`."""
    machine = describe_machine(options)
    model = random_model(options.shape, folder / "model") if options.shape else options.model
    decoding = {"max_new_tokens": options.tokens, "batch_tokens": options.batch_tokens}
    predictor = load(model, decoding, "cpu")
    if not isinstance(predictor, TokenPredictor):
        raise StillhouseError(
            f"{model} makes no tokens itself, so nothing of it can be batched. Choose a --model "
            f"of the engine transformers or ctranslate2."
        )
    mixes, missing = make_mixes(predictor, options.prompts)
    return {
        "machine": machine,
        "model": {
            "name": f"random {options.shape}" if options.shape else options.model.as_posix(),
            "engine": predictor.contract.engine,
        },
        "settings": {
            name: getattr(options, name)
            for name in ("waiting", "batch_tokens", "max_rows", "tokens", "prompts")
        },
        "seed": SEED,
        "missing": missing,
        "mixes": {
            name: measure_mix(predictor, name, prompts, options) for name, prompts in mixes.items()
        },
    }


def summarise(results: dict[str, Any]) -> str:
    """A line for each mix."""
    lines = []
    for name, found in results["mixes"].items():
        first, ours = (found[order] for order in ORDERS)
        utilised = found["utilisation_ratio"]
        lines.append(
            f"{name}: padding of prompts {first['padded_share_prompts']:.1%} -> "
            f"{ours['padded_share_prompts']:.1%}, utilisation x {utilised['prompts']:.2f} "
            f"(with answers x {utilised['with_answers']:.2f}; to beat: {TARGET:.2f}), "
            f"{ours['tokens_per_s']:,.0f} tokens/s, "
            "{ratio:.2f} [{low:.2f}, {high:.2f}] of first-in-first-out".format(
                **found["tokens_per_s_ratio"]
            )
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
    parser.add_argument("--threads", type=int, default=1, help="of the engine (1)")
    parser.add_argument("--waiting", type=int, default=128, help="prompts of a queue (128)")
    parser.add_argument("--batch-tokens", type=int, default=8192, help="most of a batch (8192)")
    parser.add_argument("--max-rows", type=int, default=32, help="most of a batch (32)")
    parser.add_argument("--rounds", type=int, default=20, help="counted queues of each mix (20)")
    parser.add_argument("--tokens", type=int, default=64, help="longest answer (64)")
    parser.add_argument("--prompts", type=int, default=600, help="different prompts of a mix (600)")
    parser.add_argument("--write", action="store_true", help="write benchmarks/*.json")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write JSON where asked to."""
    options = read_options(arguments)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # torch and ctranslate2 read it
    try:
        with tempfile.TemporaryDirectory() as folder:
            results = run(options, Path(folder))
    except StillhouseError as error:
        sys.exit(f"error: length_batching: {error}")
    json.dump(results, sys.stdout, indent=2)
    print(f"\n{summarise(results)}")
    if options.write:
        _io.write_json(ROOT / "benchmarks/length_batching.json", results)


if __name__ == "__main__":
    main()
