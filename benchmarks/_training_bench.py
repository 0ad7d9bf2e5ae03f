"""What the training benchmark measures with: its data, its models' steps, and turns of actions.

Training pairs are written once, with a label store on the same pairs, and read back by every
process. A step is that of stages/_training.py.
"""

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from serving._prompts import PromptEncoder
from stages import _io
from stages import _labels as stored
from stages._attention import keep_attention_in_float32
from stages._decoder import build_decoder
from stages._distributions import judge
from stages._incidents import IncidentCounts, generate
from stages._learner import Learner, head_of, hidden_states
from stages._losses import Objective, TeacherHidden
from stages._optimizers import make_accelerator, make_optimizers
from stages._params import DecoderShape, Params, Training
from stages._progress import report_progress
from stages._sequences import TrainingSequence, collate, encode_examples, iterate_plan
from stages._tokenizer import END, template_for, train_tokenizer

ROOT = Path(__file__).parent.parent
PREPARED = ROOT / "data/prepared/train.jsonl"
TOP_K = 16
WIDE = DecoderShape(layers=4, width=512, heads=8, kv_heads=8, feed_forward=1408, positions=512)
WARM_UP = 2  # rounds that are not counted
Action = Callable[[Sequence[int]], object]
Sequences = Sequence[TrainingSequence]
Batches = Sequence[Sequence[int]]
Times = dict[str, list[float]]


class Bench(NamedTuple):
    """What all models of a run share."""

    training: Training
    accelerator: Any
    tokenizer: Any
    shapes: dict[str, DecoderShape]
    seed: int


class Trainee:
    """A model with its loss and its optimizers; with `live` it asks an untrained teacher."""

    def __init__(self, bench: Bench, shape: str, objective: Objective, live: bool = False) -> None:
        self.bench, self.accelerator = bench, bench.accelerator
        model = self._make(shape).train()
        self.teacher = self._make("teacher").eval() if live else None
        self.learner = self.accelerator.prepare(Learner(model, objective, len(bench.tokenizer)))
        bf16 = self.accelerator.mixed_precision == "bf16"
        self.optimizers = make_optimizers(model, bench.training, bf16)

    def on(self, sequences: Sequences) -> Action:
        """The step on those of `sequences` that a batch names."""
        return lambda indices: self.step([sequences[i] for i in indices])

    def step(self, sequences: Sequences) -> list[float]:
        """One optimizer step as stages/_training.py takes it; sums of CE and KD [nats], tokens."""
        batch: Any = collate(sequences, sum(len(s.answer) for s in sequences))
        with self.accelerator.autocast():
            if self.teacher is not None:
                batch = replace(batch, teacher=self._ask(batch.ids))
            loss, sums = self.learner(batch, 1)
            loss.backward()
        nn.utils.clip_grad_norm_(self.learner.parameters(), self.bench.training.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        found: list[float] = sums.tolist()
        assert all(map(math.isfinite, found)), f"a step on no numbers is no step: {found}"
        return found

    def _make(self, shape: str) -> Any:
        given = self.bench.shapes[shape], self.bench.tokenizer, self.bench.seed
        return build_decoder(*given, self.bench.training.attention)

    @torch.no_grad()
    def _ask(self, ids: Tensor) -> TeacherHidden:
        causal, hidden = hidden_states(self.teacher, ids)
        return TeacherHidden(hidden, head_of(causal))


def read_examples(params: Params, count: int) -> tuple[str, list[dict[str, Any]]]:
    """Where they come from, and the first `count` training examples."""
    if PREPARED.is_file():
        return "data/prepared", _io.read_jsonl(PREPARED)[:count]
    references = params.prepare.incidents.train_references
    rows = generate(params.seed, IncidentCounts(count, 0, 0, 0, references))["train"]
    return "incidents", [row | {"id": f"{number:016x}"} for number, row in enumerate(rows)]


def write_inputs(
    folder: Path, params: Params, examples: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Write tokenizer/, pairs.json (token ids) and labels/ on the same pairs; its totals."""
    settings = params.teacher.scratch
    texts = (text for e in examples for text in (e["prompt"], *e["references"]))
    tokenizer = train_tokenizer(texts, settings.vocabulary)
    tokenizer.save_pretrained(folder / "tokenizer")
    prompts = PromptEncoder(folder / "tokenizer", template_for(examples))
    end: Any = tokenizer.convert_tokens_to_ids(END)
    longest = min(settings.shape.positions, params.distill.shape.positions)
    pairs = encode_examples(examples, prompts, end, longest)
    _io.write_json(folder / "pairs.json", [[pair.prompt, pair.answer] for pair in pairs])
    teacher = build_decoder(settings.shape, tokenizer, params.seed).eval()
    thoughts = judge(teacher, pairs, TOP_K, len(tokenizer))
    names = [(e["id"], n, text) for e in examples for n, text in enumerate(e["references"])]
    labels = [
        stored.Label(
            name, text, np.array(p.answer), "stop", float(d.token_logprobs.mean()), n, "gold", d
        )
        for (name, n, text), p, d in zip(names, pairs, thoughts, strict=True)
    ]
    manifest = _manifest(len(tokenizer), [e["id"] for e in examples])
    stored.write_shard(folder / "labels", manifest, 0, labels)
    return stored.write_index(folder / "labels", manifest).totals


def _manifest(vocabulary: int, ids: Sequence[str]) -> stored.Manifest:
    """Of one shard, and nothing that made it has a name."""
    kinds = ("teacher", "tokenizer", "template", "prompt", "data")
    nameless: Any = {f"{kind}_sha256": stored.hash_ids([]) for kind in kinds}
    return stored.Manifest(
        **nameless,
        teacher_revision=None,
        decoding={},
        top_k=TOP_K,
        vocab_size=vocabulary,
        example_ids_sha256=stored.hash_ids(ids),
        example_count=len(ids),
        filters=asdict(stored.Filters()),
        shard_size=len(ids),
    )


def read_pairs(folder: Path) -> list[TrainingSequence]:
    """Prompts with references, which a plain step learns from."""
    return [TrainingSequence(*pair) for pair in _io.read_json(folder / "pairs.json")]


def read_stored(folder: Path, pairs: Sequences) -> list[TrainingSequence]:
    """The same with the teacher's distributions, checked and read as the distill stage does."""
    place = folder / "labels"
    store = stored.read_labels(place, stored.read_index(place).manifest)
    return [
        TrainingSequence(pair.prompt, label.token_ids.tolist(), label.distribution)
        for pair, label in zip(pairs, stored.iterate_labels(store), strict=True)
    ]


def open_bench(folder: Path, params: Params, options: argparse.Namespace) -> Bench:
    """Precision and settings as the distill stage would have them."""
    torch.set_num_threads(options.threads)
    accelerator = make_accelerator("cpu", options.precision)
    if accelerator.mixed_precision == "bf16":
        keep_attention_in_float32()
    library: Any = PreTrainedTokenizerFast
    tokenizer = library.from_pretrained(folder / "tokenizer", local_files_only=True)
    shapes = {"student": params.distill.shape, "teacher": params.teacher.scratch.shape}
    shapes["wide"] = WIDE
    return Bench(params.distill.training, accelerator, tokenizer, shapes, params.seed)


def choose_batches(
    pairs: Sequences, params: Params, options: argparse.Namespace, start: int = 0
) -> list[list[int]]:
    """Batches of the seed's plan from `start` on, warm-up included."""
    tokens = options.batch_tokens or params.distill.training.batch_tokens
    plan = iterate_plan([len(pair) for pair in pairs], tokens, params.seed, start)
    return list(islice(plan, options.steps + WARM_UP))


def take_turns(label: str, actions: Mapping[str, Action], batches: Batches) -> tuple[Times, Times]:
    """Milliseconds of each action on each batch but the warm-up's, in a first and a second lap.

    Every batch meets all actions, in turns, and then all of them again.
    """
    laps: tuple[Times, Times] = ({name: [] for name in actions}, {name: [] for name in actions})
    progress = report_progress(label, len(batches))
    for number, batch in enumerate(batches, start=1):
        for lap in laps:
            for name, act in actions.items():
                started = time.perf_counter()
                act(batch)
                lap[name].append((time.perf_counter() - started) * 1e3)
        progress(number)
    first, second = ({name: ms[WARM_UP:] for name, ms in lap.items()} for lap in laps)
    return first, second
