"""What a distillation step costs over a plain one, and how near training is to the processor.

    python -m benchmarks.distill_step            # minutes, on a machine with nothing else to do
    python -m benchmarks.distill_step --write    # also benchmarks/distill_step.json

Students of one shape and seed take steps on the same batches, in turns (A B C A B C …):

    plain    cross-entropy on references, as recipe method sft
    distill  alpha 0.5, forward KL to 16 log-probabilities and a tail, read back from a label store
    live     the same with the teacher in memory and all its log-probabilities: what a store saves

A step is that of stages/_training.py: collate, forward, backward, clip, optimizers. Texts are those
of data/prepared, or of the incidents generator where there is none; the teacher is untrained. Peak
memory comes from a fresh process per variant. Then student, teacher and a wider model take plain
steps, in turns with bare products: 1,024 x 1,024, and those of the models' own linear layers.

In bfloat16 the first step with a new number of rows waits for oneDNN to make kernels, which stay in
a cache of the process. So every batch is taken in two laps: the first lap says what a new shape
costs, the second one is compared.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmarks._ratios import ratio_of_medians
from benchmarks._training_bench import (
    ROOT,
    Action,
    Batches,
    Bench,
    Trainee,
    choose_batches,
    open_bench,
    read_examples,
    read_pairs,
    read_stored,
    take_turns,
    write_inputs,
)
from benchmarks._training_rate import DTYPES, measure_rates
from stages import _io
from stages._learner import PLAIN
from stages._losses import Objective
from stages._optimizers import has_bf16
from stages._params import Params, load_params
from stages._provenance import git_state, installed_versions, peak_memory_mb

VARIANTS = ("plain", "distill", "live")
DISTILL = Objective(alpha=0.5, divergence="forward_kl")


def make_variant(name: str, bench: Bench, folder: Path) -> Action:
    """A student's step, with what it learns from in memory."""
    pairs = read_pairs(folder)
    if name == "distill":
        return Trainee(bench, "student", DISTILL).on(read_stored(folder, pairs))
    return Trainee(bench, "student", DISTILL if name == "live" else PLAIN, name == "live").on(pairs)


def measure_variants(bench: Bench, folder: Path, batches: Batches) -> dict[str, Any]:
    """Median step of each variant, ratios to the plain one, and what reading the store adds.

    The plain step comes first and so pays for a new shape; with that on both sides of a ratio it
    would be nearer to 1.
    """
    actions = {name: make_variant(name, bench, folder) for name in VARIANTS}
    first, taken = take_turns("variants", actions, batches)
    pairs = read_pairs(folder)
    started = time.perf_counter()
    read_stored(folder, pairs)
    read_ms = (time.perf_counter() - started) * 1e3
    per_batch = read_ms * fmean(len(batch) for batch in batches) / len(pairs)
    with_reading = [ms + per_batch for ms in taken["distill"]]
    return {
        "step_ms": {name: median(values) for name, values in taken.items()},
        "plain_step_on_new_shape_ms": median(first["plain"]),
        "ratio_to_plain": {
            "distill": ratio_of_medians(taken["distill"], taken["plain"]),
            "distill_with_reading": ratio_of_medians(with_reading, taken["plain"]),
            "live": ratio_of_medians(taken["live"], taken["plain"]),
        },
        "read_ms_per_batch": per_batch,
    }


def measure_peak(name: str, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Peak memory of a fresh process that trains one variant: in all, and before its model."""
    passed = {name: getattr(options, name) for name in ("threads", "steps", "precision")}
    passed |= {"batch-tokens": options.batch_tokens, "peak-of": name, "folder": folder}
    flags = [f"--{flag}={value}" for flag, value in passed.items() if value is not None]
    command = [sys.executable, "-m", "benchmarks.distill_step", *flags]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def train_for_peak(params: Params, options: argparse.Namespace) -> dict[str, float]:
    """What the fresh process does; VmHWM and not ru_maxrss, which would start at the parent's."""
    bench = open_bench(options.folder, params, options)
    before = peak_memory_mb()
    act = make_variant(options.peak_of, bench, options.folder)
    for batch in choose_batches(read_pairs(options.folder), params, options):
        act(batch)
    return {"peak_mb": peak_memory_mb(), "before_mb": before}


def describe_machine(options: argparse.Namespace) -> dict[str, Any]:
    """Processor, what it was busy with, and versions."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "bf16_instructions": has_bf16(cpu=True),
        "load_before": os.getloadavg()[0],
        "commit": git_state(ROOT)._asdict(),
        "versions": installed_versions(),
    }


def run(params: Params, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All measurements, in `folder`."""
    machine = describe_machine(options)
    source, examples = read_examples(params, options.prompts)
    totals = write_inputs(folder, params, examples)
    watched = VARIANTS if options.memory else ()
    peaks = {name: measure_peak(name, folder, options) for name in watched}
    bench, pairs = open_bench(folder, params, options), read_pairs(folder)
    batches = choose_batches(pairs, params, options)
    new_batches = choose_batches(pairs, params, options, start=len(batches))
    return {
        "machine": machine | {"precision": bench.accelerator.mixed_precision},
        "data": {
            "source": source,
            "pairs": len(pairs),
            "vocabulary": len(bench.tokenizer),
            "prompt_tokens": fmean(len(pair.prompt) for pair in pairs),
            "answer_tokens": fmean(len(pair.answer) for pair in pairs),
            "steps": options.steps,
        },
        "store": {name: totals[name] for name in ("labels", "tokens", "bytes", "bytes_per_token")},
        **measure_variants(bench, folder, batches),
        "memory": peaks,
        "rates": measure_rates(bench, pairs, new_batches),
    }


def summarise(results: Mapping[str, Any]) -> str:
    """The figures that have a limit, beside it."""
    cost = results["ratio_to_plain"]["distill"]
    lines = [
        "distill / plain step: {ratio:.3f} [{low:.3f}, {high:.3f}], at most 1.15".format(**cost),
        f"label store: {results['store']['bytes_per_token']:.0f} bytes per token, at most 200",
    ]
    for name, model in results["rates"]["models"].items():
        square, own = model["share_of_square"], model["share_of_own_products"]
        shares = ", ".join(
            f"{what} {square[what]['bf16']:.2f} ({own[what]['bf16']:.2f})" for what in square
        )
        lines.append(f"{name}, of the bf16 rate (of that at its own shapes): {shares}")
    return "\n".join([*lines, "training is to reach at least 0.5 of the bf16 rate"])


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2, help="of torch (2)")
    parser.add_argument("--steps", type=int, default=40, help="counted steps of each (40)")
    parser.add_argument("--precision", choices=("auto", *DTYPES), default="auto")
    parser.add_argument("--prompts", type=int, default=1200, help="training prompts taken (1200)")
    parser.add_argument("--batch-tokens", type=int, help="padded tokens of a step (params.yaml)")
    memory = argparse.BooleanOptionalAction
    parser.add_argument("--memory", action=memory, default=True, help="peaks, in fresh processes")
    parser.add_argument("--write", action="store_true", help="write benchmarks/distill_step.json")
    parser.add_argument("--peak-of", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write JSON where asked to."""
    options, params = read_options(arguments), load_params(ROOT / "params.yaml")
    if options.peak_of:
        print(json.dumps(train_for_peak(params, options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        results = run(params, options, Path(folder))
    json.dump(results, sys.stdout, indent=2)
    print(f"\n{summarise(results)}")
    if options.write:
        _io.write_json(ROOT / "benchmarks/distill_step.json", results)


if __name__ == "__main__":
    main()
