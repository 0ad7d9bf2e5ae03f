"""Before a variant is quantized: cut the student, and train back what cutting and rounding lose.

Recovery distils the variant from the student itself: forward KL to its distributions over the
training references. In every forward pass the weights are rounded as the scheme will round them,
and gradients pass the rounding unchanged (straight-through; Bengio et al. 2013, arXiv:1308.3432),
so the weights learn to be rounded well. Imports torch and transformers; the stage imports it when
it runs.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from serving._quantized_embedding import LARGEST, embeddings_of, quantize_rows, tied_head
from stages._divergences import kl
from stages._losses import shift
from stages._params.quantize import Pruning, Recovery, Variant
from stages._progress import report_progress
from stages._sequences import TrainingSequence, collate, iterate_plan

CLIP_NORM = 1.0
MEASURED_BATCH = 32  # sequences at once that say what matters in a student


def cut(model: Any, settings: Pruning, sequences: Sequence[TrainingSequence]) -> Any:
    """A smaller model of the student's most important parts, as stages/_prune.py measures them.

    Raises:
        StillhouseError: a shape that cannot be cut out of this student.
    """
    from stages._prune import measure_importance, prune, shape_of

    batches = []
    for start in range(0, len(sequences), MEASURED_BATCH):
        part = sequences[start : start + MEASURED_BATCH]
        ids = collate(part, 1).ids
        lengths = torch.tensor([[len(sequence)] for sequence in part])
        mask = (torch.arange(ids.shape[1])[None] < lengths).long()
        batches.append({"input_ids": ids, "attention_mask": mask})
    given = {name: n for name, n in settings.model_dump().items() if n is not None}
    shape = shape_of(model)
    if settings.kv_heads is not None:  # the heads that each one serves go with it
        given["heads"] = settings.kv_heads * (shape.heads // shape.kv_heads)
    return prune(model, replace(shape, **given), measure_importance(model, batches))


def recover(
    model: Any,
    student: Any,
    variant: Variant,
    settings: Recovery,
    sequences: Sequence[TrainingSequence],
    vocabulary: int,
    seed: int,
) -> dict[str, Any]:
    """Train `model` in place towards `student`; both plain and on one device.

    Returns:
        Steps, answer tokens seen, and the divergence of the first and the last tenth of the steps
        [nats per token], rounding included.
    """
    names = rounded_names(model, variant)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1.0 + math.cos(math.pi * step / settings.steps))
    )
    plan = iterate_plan([len(s) for s in sequences], settings.batch_tokens, seed)
    progress = report_progress("recovery", settings.steps)
    nats: list[float] = []
    tokens = 0
    for step in range(settings.steps):
        batch = collate([sequences[i] for i in next(plan)], 1).to(model.device)
        inputs = {"input_ids": batch.ids, "use_cache": False}
        with torch.no_grad():
            target, _ = shift(student(**inputs).logits, batch.labels)
        weights = rounded_weights(model, variant, names)
        found, _ = shift(functional_call(model, weights, (), inputs).logits, batch.labels)
        both = (t[:, :vocabulary].float().log_softmax(-1) for t in (target, found))
        loss = kl(*both).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        nats.append(float(loss.detach()))
        tokens += len(found)
        progress(step + 1)
    part = max(1, settings.steps // 10)
    first, last = (math.fsum(some) / part for some in (nats[:part], nats[-part:]))
    return {
        "steps": settings.steps,
        "training_tokens": tokens,
        "first_kl_nats": first,
        "last_kl_nats": last,
    }


def rounded_names(model: Any, variant: Variant) -> dict[str, bool]:
    """Weights that the variant rounds, by name, and whether they lie transposed."""
    if not variant.is_low_precision:
        return {}
    head = tied_head(model)
    layers = {
        f"{name}.weight": isinstance(part, Conv1D)
        for name, part in model.named_modules()
        if name != head and (type(part) is nn.Linear or isinstance(part, Conv1D))
    }
    if variant.embeddings == "keep":
        return layers
    return {**{f"{name}.weight": False for name in embeddings_of(model)}, **layers}


def rounded_weights(model: Any, variant: Variant, names: dict[str, bool]) -> dict[str, Tensor]:
    """The model's rounded weights; their gradients are those of the weights themselves."""
    tables = {f"{name}.weight" for name in embeddings_of(model)}
    rounded = {}
    for name, transposed in names.items():
        weight = model.get_parameter(name)
        plain = weight.detach().T.contiguous() if transposed else weight.detach()
        scheme = "int8" if name in tables else variant.scheme
        near = _rounded(plain, scheme, variant)
        rounded[name] = weight + ((near.T if transposed else near) - weight).detach()
    return rounded


def _rounded(weight: Tensor, scheme: str, variant: Variant) -> Tensor:
    """[out, in] -> the same after packing and unpacking."""
    if scheme in ("nf4", "fp4"):
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        packed, state = quantize_4bit(
            weight,
            blocksize=variant.block_size,
            compress_statistics=bool(variant.double_quantization),
            quant_type=scheme,
        )
        unpacked: Tensor = dequantize_4bit(packed, state)
        return unpacked
    # LLM.int8() and CTranslate2 have absmax scales by output row too, of different fineness.
    codes, scales = quantize_rows(weight, torch.float32, _levels(variant))
    return codes * scales[:, None]


def _levels(variant: Variant) -> int:
    if variant.engine == "transformers":
        return LARGEST
    from stages._ctranslate2 import LEVELS

    return LEVELS
