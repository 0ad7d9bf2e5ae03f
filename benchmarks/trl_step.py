"""A distillation step beside that of TRL's trainers, on the same models, batches and optimizer.

    python -m benchmarks.trl_step            # minutes, on a machine with nothing else to do
    python -m benchmarks.trl_step --write    # also benchmarks/trl_step.json

Students of one shape and seed take steps in turns on the same batches, each meeting all of them
twice (the second time counts):

    plain          ours: cross-entropy on references
    distill        ours: cross-entropy and forward KL to stored distributions, half and half
    live           ours: the same with the teacher in memory
    trl_plain      trl.SFTTrainer
    trl_distill    trl.experimental.gkd.GKDTrainer, lmbda 0 and beta 0: forward KL to a teacher in
                   memory

Both train by AdamW in the precision that this processor has, batches padded alike, without
activation checkpointing (TRL's default has it; it saves memory and costs time). TRL's step is its
own `training_step`, with clipping and optimizer after it; neither its data loader nor its logging
is timed. TRL runs twice: as it comes, and with our attention (float32 under autocast on a CPU; rows
that end in _attention), because that is a choice which its users could make, too.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from benchmarks._ratios import ratio_of_medians
from benchmarks._training_bench import (
    ROOT,
    Action,
    Bench,
    Sequences,
    Trainee,
    choose_batches,
    open_bench,
    read_examples,
    read_pairs,
    read_stored,
    take_turns,
    write_inputs,
)
from benchmarks.distill_step import DISTILL, describe_machine
from stages import _io
from stages._attention import keep_attention_in_float32
from stages._decoder import build_decoder
from stages._learner import PLAIN
from stages._params import Params, load_params

IGNORED = -100  # label of a position that takes no part in the loss, in transformers and TRL
OURS, THEIRS = ("plain", "distill", "live"), ("trl_plain", "trl_distill")
COMPARED = {"plain": "trl_plain", "distill": "trl_distill", "live": "trl_distill"}


def pad(sequences: Sequences, filler: int) -> dict[str, torch.Tensor]:
    """Right-padded ids, mask and labels [B, L]; prompts take no part in the loss."""
    longest = max(len(one) for one in sequences)
    rows: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for one in sequences:
        gap = longest - len(one)
        rows["input_ids"].append([*one.prompt, *one.answer] + [filler] * gap)
        rows["attention_mask"].append([1] * len(one) + [0] * gap)
        rows["labels"].append([IGNORED] * len(one.prompt) + list(one.answer) + [IGNORED] * gap)
    return {name: torch.tensor(values) for name, values in rows.items()}


class TrlTrainee:
    """A model under TRL's trainer, in bfloat16 where `low`.

    `distills` asks a teacher, else it learns from references.
    """

    def __init__(self, bench: Bench, distills: bool, low: bool, folder: Path) -> None:
        self.bench, self.low, self.folder = bench, low, folder
        self.filler: Any = bench.tokenizer.convert_tokens_to_ids(bench.tokenizer.eos_token)
        self.trainer = self._open(distills)
        self.trainer.create_optimizer()
        self.trainer.current_gradient_accumulation_steps = 1
        self.model = self.trainer.accelerator.prepare(self.trainer.model.train())

    def on(self, sequences: Sequences) -> Action:
        """The step on those of `sequences` that a batch names."""
        return lambda indices: self.step([sequences[i] for i in indices])

    def step(self, sequences: Sequences) -> float:
        """One optimizer step; the loss [nats a token]."""
        inputs: dict[str, Any] = pad(sequences, self.filler)
        tokens = torch.tensor(sum(len(one.answer) for one in sequences))
        loss = self.trainer.training_step(self.model, inputs, num_items_in_batch=tokens)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.bench.training.clip_norm)
        self.trainer.optimizer.step()
        self.model.zero_grad()
        assert torch.isfinite(loss), f"a step on no numbers is no step: {loss}"
        return float(loss)

    def _open(self, distills: bool) -> Any:
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer
        from trl.experimental.gkd import GKDConfig, GKDTrainer

        shared: dict[str, Any] = {
            "output_dir": str(self.folder),
            "use_cpu": True,
            "bf16": self.low,  # TRL's own accelerator replaces the state of ours
            "activation_checkpointing": False,
            "learning_rate": self.bench.training.learning_rates[0],
            "report_to": [],
            "max_length": None,
        }
        given: dict[str, Any] = {
            "model": self._make("student"),
            "processing_class": self.bench.tokenizer,
            "train_dataset": Dataset.from_list([{"input_ids": [0], "labels": [0]}]),
            "data_collator": list,
        }
        if distills:
            settings = GKDConfig(**shared, lmbda=0.0, beta=0.0, temperature=1.0)
            return GKDTrainer(**given, args=settings, teacher_model=self._make("teacher").eval())
        skipped = {"dataset_kwargs": {"skip_prepare_dataset": True}}
        return SFTTrainer(**given, args=SFTConfig(**shared, **skipped))

    def _make(self, shape: str) -> Any:
        given = self.bench.shapes[shape], self.bench.tokenizer, self.bench.seed
        return build_decoder(*given, self.bench.training.attention)


def with_attention(action: Action, ours: bool) -> Action:
    """The action under transformers' own attention, or under ours."""

    def act(batch: Sequence[int]) -> object:
        if ours:
            keep_attention_in_float32()
        else:
            AttentionInterface.register("sdpa", sdpa_attention_forward)
        return action(batch)

    return act


def open_actions(bench: Bench, folder: Path) -> dict[str, Action]:
    """The step of each row, by its name."""
    pairs = read_pairs(folder)
    stored = read_stored(folder, pairs)
    ours = {
        "plain": Trainee(bench, "student", PLAIN).on(pairs),
        "distill": Trainee(bench, "student", DISTILL).on(stored),
        "live": Trainee(bench, "student", DISTILL, live=True).on(pairs),
    }
    low = bench.accelerator.mixed_precision == "bf16"  # in float32 there is nothing to choose
    actions = {name: with_attention(action, low) for name, action in ours.items()}
    for name, attention in product(THEIRS, (False, True) if low else (False,)):
        row = f"{name}_attention" if attention else name
        trainee = TrlTrainee(bench, name == "trl_distill", low, folder / row)
        actions[row] = with_attention(trainee.on(pairs), attention)
    return actions


def run(params: Params, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All measurements, in `folder`."""
    machine = describe_machine(options)
    source, examples = read_examples(params, options.prompts)
    write_inputs(folder, params, examples)
    bench = open_bench(folder, params, options)
    adamw = bench.training.model_copy(update={"optimizer": "adamw"})
    bench = bench._replace(training=adamw)
    machine |= {"precision": bench.accelerator.mixed_precision}
    batches = choose_batches(read_pairs(folder), params, options)
    _, taken = take_turns("steps", open_actions(bench, folder), batches)
    return {
        "machine": machine,
        "data": {"source": source, "steps": options.steps},
        "step_ms": {name: median(values) for name, values in taken.items()},
        "ratio_to_trl": compare(taken),
    }


def compare(taken: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """TRL's step over ours with its interval, by `ours / theirs`: above 1 ours is faster."""
    return {
        f"{theirs} / {ours}": ratio_of_medians(taken[theirs], taken[ours])
        for ours, peer in COMPARED.items()
        for theirs in (peer, f"{peer}_attention")
        if theirs in taken
    }


def summarise(results: Mapping[str, Any]) -> str:
    """A table of steps and ratios."""
    rows = [f"{name:<24} {ms:8.1f} ms" for name, ms in results["step_ms"].items()]
    ratios = [
        "{0:<34} {ratio:.2f} [{low:.2f}, {high:.2f}]".format(name, **found)
        for name, found in results["ratio_to_trl"].items()
    ]
    return "\n".join([*rows, "", "TRL's step over ours (above 1: ours is faster)", *ratios])


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2, help="of torch (2)")
    parser.add_argument("--steps", type=int, default=40, help="counted steps of each (40)")
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    parser.add_argument("--prompts", type=int, default=1200, help="training prompts taken (1200)")
    parser.add_argument("--batch-tokens", type=int, help="padded tokens of a step (params.yaml)")
    parser.add_argument("--write", action="store_true", help="write benchmarks/trl_step.json")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write JSON where asked to."""
    options, params = read_options(arguments), load_params(ROOT / "params.yaml")
    with tempfile.TemporaryDirectory() as folder:
        results = run(params, options, Path(folder))
    json.dump(results, sys.stdout, indent=2)
    print(f"\n{summarise(results)}")
    if options.write:
        _io.write_json(ROOT / "benchmarks/trl_step.json", results)


if __name__ == "__main__":
    main()
