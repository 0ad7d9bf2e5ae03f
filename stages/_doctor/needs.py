"""What the chosen models need, from params.yaml and, for pretrained ones, their config.json. Pure
but for reading that file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving._decoding import Decoding
from serving._threads import batches_at_once, training_copies
from stages._doctor.memory import (
    JUDGED_ROWS,
    MB,
    WEIGHT,
    Shape,
    Tuning,
    answering_mb,
    decoder_shape,
    trained_weights,
    training_mb,
)
from stages._labeller import BATCH_TOKENS
from stages._params import DecoderShape, Params, Pretrained, Training

BYTES_PER_LABEL_TOKEN = 90.0
"""At top_k 16 (benchmarks/distill_step.json: 77), and in proportion for others."""
TOKENS_PER_LABEL = 40
CACHED = 2
"""DVC keeps a copy of every output."""
CHECKPOINTS = 7
"""Times the trained weights: the last checkpoint and the next, each with two moments, and the best
weights."""
FIXED_MB = 200.0
"""MLflow's store, reports, prepared data; the default run took 119 MB with all its models."""


@dataclass(frozen=True)
class Need:
    """What one piece of work needs at its peak."""

    what: str
    memory_mb: float | None
    """None where it cannot be known before the model is there."""
    step: str
    """How to need less, or how to find out."""


def training_needs(params: Params, shapes: Mapping[str, Shape | None]) -> list[Need]:
    """Peak of teacher and students; `shapes` as `find_shapes` gives them."""
    needs: list[Need] = []
    if params.teacher.source != "endpoint":
        tuned = _tuned_teacher(params)
        needs.append(_need(params, "teacher", shapes["teacher"], params.teacher.training, tuned))
    recipes = params.distill.recipes
    for start in dict.fromkeys(recipe.init for recipe in recipes.values()):
        tuned = params.distill.pretrained if start == "pretrained" else None
        name = "student" if start != "pretrained" else "pretrained student"
        if f"train {name}" not in [need.what for need in needs]:
            needs.append(_need(params, name, shapes[name], params.distill.training, tuned))
    return [*needs, *_side_by_side(params, needs), *_answering(params, shapes)]


def _side_by_side(params: Params, needs: Sequence[Need]) -> list[Need]:
    """As many of the largest student as `make repro` trains at a time."""
    count = min(params.pipeline.lanes, len(params.distill.recipes))
    students = [need.memory_mb or 0.0 for need in needs if need.what.endswith("student")]
    if count < 2 or not any(students):
        return []
    step = f"set pipeline.lanes: {count - 1}, one stage at a time takes less"
    return [Need(f"train {count} students side by side", count * max(students), step)]


def find_shapes(params: Params, read_config: Any) -> dict[str, Shape | None]:
    """Shapes of all models; None where a config is not there.

    Args:
        read_config: gives a pretrained model's config.json, or None.
    """
    own = params.teacher.scratch
    match params.teacher.source:
        case "scratch":
            teacher: Shape | None = _own(own.vocabulary, own.shape)
        case "pretrained":
            teacher = _pretrained(params.teacher.pretrained, read_config)
        case "endpoint":
            teacher = None
    vocabulary = teacher.vocabulary if teacher else own.vocabulary  # student takes its teacher's
    return {
        "teacher": teacher,
        "student": _own(vocabulary, params.distill.shape),
        "pretrained student": _pretrained(params.distill.pretrained, read_config),
    }


def shape_of_config(config: Mapping[str, Any]) -> Shape | None:
    """A decoder's shape by its config.json; None where it names other keys than decoders do."""
    whole = {**config, **config.get("text_config", {})}
    try:
        heads = int(whole["num_attention_heads"])
        return decoder_shape(
            int(whole["vocab_size"]),
            int(whole["num_hidden_layers"]),
            int(whole["hidden_size"]),
            heads,
            int(whole.get("num_key_value_heads") or heads),
            int(whole["intermediate_size"]),
            head=whole.get("head_dim"),
            tied=bool(whole.get("tie_word_embeddings", True)),
            bf16=(whole.get("dtype") or whole.get("torch_dtype")) == "bfloat16",
        )
    except (KeyError, TypeError, ValueError):
        return None


def disk_mb(params: Params, shapes: Mapping[str, Shape | None]) -> float:
    """What labels and models take, with DVC's copies and the checkpoints of a run under way."""
    label = params.label
    prompts = (label.train_prompts or params.prepare.incidents.train_prompts) * label.answers
    prompts += (label.pool_prompts or 0) * label.pool_answers
    labels = prompts * TOKENS_PER_LABEL * BYTES_PER_LABEL_TOKEN * label.top_k / 16 / MB
    sizes = _models(params, shapes)
    student = max(written for written, _ in sizes[1:])
    count = len(params.distill.recipes) + len(params.quantize.variants)
    checkpoints = max(kept for _, kept in sizes)
    return FIXED_MB + CACHED * (labels + sizes[0][0] + student * count) + checkpoints


def missing_files(params: Params, expand: Any) -> list[str]:
    """Raw files that params.yaml names and that are not there; addresses are not looked at."""
    files = params.prepare.files
    if params.prepare.source not in ("csv", "jsonl") or files is None:
        return []
    named = [
        one.path for one in (files.train, files.validation, files.calibration, files.test) if one
    ]
    local = [path for path in named if "://" not in path or path.startswith("file://")]
    return [path for path in local if not Path(expand(path.removeprefix("file://"))).is_file()]


def read_config(folder: Path) -> Mapping[str, Any] | None:
    """A model folder's config.json; None where there is none to read."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _need(
    params: Params, what: str, shape: Shape | None, training: Training, tuned: Pretrained | None
) -> Need:
    if shape is None:
        model = tuned.model if tuned else what
        return Need(
            f"train {what}",
            None,
            f"its config.json is not on this machine; fetch {model} (run.offline: false), or name "
            f"a local folder",
        )
    tokens = training.micro_batch_tokens or training.batch_tokens
    rank = tuned.adapter.rank if tuned else 0
    on_cpu = params.run.device != "cuda" and tuned is None
    threads = params.run.threads if on_cpu else 1
    copies = training_copies(WEIGHT * shape.parameters, threads, training.batch_tokens)
    needed = training_mb(shape, tokens, _tuning(tuned), rank, copies)
    return Need(
        f"train {what}",
        needed,
        f"lower {'teacher' if what == 'teacher' else 'distill'}.training."
        f"micro_batch_tokens (now {tokens}), take a smaller model, or tuning: qlora of a large one",
    )


def _answering(params: Params, shapes: Mapping[str, Shape | None]) -> list[Need]:
    """Labels, of large micro-batches and with their distributions, and test answers.

    The teacher alone is looked at: a student that it trains needs less to answer than to learn.
    """
    shape = shapes["teacher"]
    if shape is None:
        return []
    stored = shape.stored_bytes(_tuning(_tuned_teacher(params)))
    judged = JUDGED_ROWS if params.label.top_k else 0
    threads = params.run.threads if params.run.device != "cuda" else 1
    at_once = batches_at_once(stored * shape.parameters, threads)
    labels = answering_mb(shape, BATCH_TOKENS, stored, judged, at_once)
    answers = answering_mb(shape, at_once * Decoding.batch_tokens, stored, 0, at_once)
    step = "take a smaller teacher, or one behind an endpoint"
    return [Need("make labels", labels, step), Need("answer with the teacher", answers, step)]


def _tuned_teacher(params: Params) -> Pretrained | None:
    return params.teacher.pretrained if params.teacher.source == "pretrained" else None


def _tuning(tuned: Pretrained | None) -> Tuning:
    """Our own decoders are trained whole."""
    return tuned.tuning if tuned else "full"


def _own(vocabulary: int, shape: DecoderShape) -> Shape:
    return decoder_shape(
        vocabulary, shape.layers, shape.width, shape.heads, shape.kv_heads, shape.feed_forward
    )


def _pretrained(settings: Pretrained | None, read: Any) -> Shape | None:
    config = read(settings) if settings else None
    return shape_of_config(config) if config else None


def _models(params: Params, shapes: Mapping[str, Shape | None]) -> list[tuple[float, float]]:
    """Of the teacher, then of each kind of student: what is written, and its checkpoints [MB]."""
    sizes = [_sizes_mb(shapes.get("teacher"), _tuned_teacher(params))]
    starts = {recipe.init for recipe in params.distill.recipes.values()}
    if "pretrained" in starts:
        sizes.append(_sizes_mb(shapes.get("pretrained student"), params.distill.pretrained))
    if starts - {"pretrained"}:
        sizes.append(_sizes_mb(shapes.get("student"), None))
    return sizes


def _sizes_mb(shape: Shape | None, tuned: Pretrained | None) -> tuple[float, float]:
    if shape is None:
        return 0.0, 0.0
    written = shape.stored_bytes(_tuning(tuned)) * shape.parameters
    trained = trained_weights(shape, _tuning(tuned), tuned.adapter.rank if tuned else 0)
    return written / MB, CHECKPOINTS * WEIGHT * trained / MB
