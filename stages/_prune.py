"""A student cut out of a trained teacher, in depth and width: a better start than random weights.

What matters is measured from activations on a few batches, forward passes only, as in Minitron
(Muralidharan et al. 2024, arXiv:2407.14679): norm outputs for channels of the residual stream,
attention output for heads, the input of the down projection for feed-forward neurons; layers by
Block Influence (Men et al. 2024, ShortGPT, arXiv:2403.03853). Minitron's code takes the mean over a
sequence and L2 over sequences; here it is L2 over a sequence and the mean over sequences.

L = layers, D = width, G = key/value heads (a group is one with the query heads it serves),
F = feed-forward neurons, N = 2 L + 1 norms in the order they run. Imports torch and transformers.
"""

import math
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaForCausalLM, Qwen2ForCausalLM

from serving.errors import StillhouseError

# What the rows and the columns of a module's weight are; a bias and a norm have rows only.
AXES = {
    "embed_tokens": ("tokens", "channels"),
    "input_layernorm": ("channels",),
    "q_proj": ("queries", "channels"),
    "k_proj": ("keys", "channels"),
    "v_proj": ("keys", "channels"),
    "o_proj": ("channels", "queries"),
    "post_attention_layernorm": ("channels",),
    "gate_proj": ("neurons", "channels"),
    "up_proj": ("neurons", "channels"),
    "down_proj": ("channels", "neurons"),
    "norm": ("channels",),
    "lm_head": ("tokens", "channels"),
}
CONFIG_NAMES = {
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "feed_forward": "intermediate_size",
}


@dataclass(frozen=True)
class Shape:
    """What pruning may change. The dimension of a head is no part of it: heads go whole."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    feed_forward: int


@dataclass(frozen=True)
class Importance:
    """What a teacher uses, in float64 on the CPU; more is more important."""

    layers: Tensor  # [L] Block Influence: 1 - cos(input, output), mean over tokens
    channels: Tensor  # [N, D] norm outputs
    groups: Tensor  # [L, G] attention outputs of a group before o_proj
    neurons: Tensor  # [L, F] inputs of down_proj
    energy: Tensor  # [N, D] x^2 / mean over D of x^2 of a norm's inputs, mean over tokens


def shape_of(model: Any) -> Shape:
    """The shape of a Llama or Qwen2."""
    return Shape(**{field: getattr(model.config, name) for field, name in CONFIG_NAMES.items()})


@torch.no_grad()
def measure_importance(model: Any, batches: Iterable[dict[str, Tensor]]) -> Importance:
    """Run `model` on input_ids and, where given, attention_mask (1 = text), each [B, S].

    Padding counts for nothing on either side, nor does it matter how rows are cut into batches.

    Raises:
        StillhouseError: a model that cannot be pruned, or batches without a token.
    """
    _check_model(model)
    totals: dict[str, Tensor] = {}
    rows = tokens = 0
    training = model.training
    model.eval()  # dropout is no part of what a unit does
    try:
        for batch in batches:
            ids = batch["input_ids"].to(model.device)
            mask = batch.get("attention_mask", torch.ones_like(ids)).to(model.device) != 0
            for name, seen in _measure_batch(model, ids, mask).items():
                totals[name] = torch.stack(seen).cpu().double() + totals.get(name, 0.0)
            rows, tokens = rows + int(mask.any(1).sum()), tokens + int(mask.sum())
    finally:
        model.train(training)
    if not tokens:
        raise StillhouseError("importance is measured on text, found no token. Give more rows.")
    per_token = {name: totals.pop(name) / tokens for name in ("layers", "energy")}
    return Importance(**per_token, **{name: total / rows for name, total in totals.items()})


def prune(model: Any, shape: Shape, importance: Importance) -> Any:
    """A new, trainable model of the same architecture, dtype, device and mode; `model` stays as is.

    The most important layers, channels (the same everywhere), groups and neurons (chosen layer by
    layer) are kept, in their order; of equals the first. The new config has an explicit head_dim.

    Raises:
        StillhouseError: a model that cannot be pruned, or a shape that cannot be cut from it.
        ValueError: `importance` was measured on a model of another shape.
    """
    _check_model(model)
    _check_shape(model, shape)
    _check_importance(importance, shape_of(model))
    layers = _best(importance.layers, shape.layers).tolist()
    with torch.random.fork_rng(devices=[]):  # random weights, all of which are replaced
        library: Any = AutoModelForCausalLM  # without types
        student = library.from_config(
            _smaller_config(model, shape, layers),
            dtype=model.dtype,
            attn_implementation=model.config._attn_implementation,
        )
    student.load_state_dict(_cut_weights(model, shape, importance, layers))
    student.generation_config = deepcopy(model.generation_config)  # which tokens end an answer
    return student.to(model.device).train(model.training)


def _measure_batch(model: Any, ids: Tensor, mask: Tensor) -> dict[str, list[Tensor]]:
    """Per module, in the order they run: sums over tokens (layers, energy) or rows (the others)."""
    seen: dict[str, list[Tensor]] = {field.name: [] for field in fields(Importance)}
    hooks = _watch(model, mask, seen)
    try:
        positions = (mask.cumsum(1) - 1).clamp(min=0)  # of text, whichever side is padded
        model.model(ids, attention_mask=mask.long(), position_ids=positions, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _watch(model: Any, mask: Tensor, seen: dict[str, list[Tensor]]) -> list[Any]:
    """Hooks by which each module adds what it does to `seen`; the mask [B, S] is true on text."""

    def text(states: Tensor) -> Tensor:  # filled, not multiplied: padding may hold NaN
        return states.float().masked_fill(~mask[..., None], 0.0)

    def lengths(states: Tensor, units: int) -> Tensor:  # [units], each with its share of columns
        squares = text(states).square().reshape(*mask.shape, units, -1)
        return squares.sum((1, 3)).sqrt().sum(0)

    def layer(_module: Any, inputs: Any, output: Tensor) -> None:
        change = 1.0 - functional.cosine_similarity(inputs[0].float(), output.float(), dim=-1)
        seen["layers"].append(text(change[..., None]).sum())

    def norm(module: Any, inputs: Any, output: Tensor) -> None:
        squares = text(inputs[0]).square()
        mean = squares.mean(-1, keepdim=True) + module.variance_epsilon
        seen["energy"].append((squares / mean).sum((0, 1)))
        seen["channels"].append(lengths(output, output.shape[-1]))

    def attention(_module: Any, inputs: Any) -> None:
        seen["groups"].append(lengths(inputs[0], model.config.num_key_value_heads))

    def neurons(_module: Any, inputs: Any) -> None:
        seen["neurons"].append(lengths(inputs[0], inputs[0].shape[-1]))

    hooks = [model.model.norm.register_forward_hook(norm)]
    for block in model.model.layers:
        hooks += [
            block.register_forward_hook(layer),
            block.input_layernorm.register_forward_hook(norm),
            block.post_attention_layernorm.register_forward_hook(norm),
            block.self_attn.o_proj.register_forward_pre_hook(attention),
            block.mlp.down_proj.register_forward_pre_hook(neurons),
        ]
    return hooks


def _best(scores: Tensor, count: int) -> Tensor:
    """Places of the `count` highest of [n], in rising order."""
    return scores.argsort(descending=True, stable=True)[:count].sort().values


def _smaller_config(model: Any, shape: Shape, layers: list[int]) -> Any:
    config = model.config
    changes = {
        **{name: getattr(shape, field) for field, name in CONFIG_NAMES.items()},
        "head_dim": model.model.layers[0].self_attn.head_dim,  # else width / heads
        "rms_norm_eps": config.rms_norm_eps * config.hidden_size / shape.width,  # see _norm_factor
    }
    if getattr(config, "layer_types", None) is not None:  # Qwen2: full or sliding attention
        changes["layer_types"] = [config.layer_types[layer] for layer in layers]
    return type(config).from_dict({**config.to_dict(), **changes})


def _cut_weights(
    model: Any, shape: Shape, importance: Importance, layers: list[int]
) -> dict[str, Tensor]:
    """The teacher's kept weights under the student's names."""
    last = model.config.num_hidden_layers
    norms = [norm for layer in layers for norm in (2 * layer, 2 * layer + 1)] + [2 * last]
    channels = _best(importance.channels[norms].sum(0), shape.width)
    cut: dict[str, Tensor] = {}
    for old, weight in model.state_dict().items():
        path = old.split(".")
        layer = int(path[2]) if "layers" in path else last
        if layer < last:
            if layer not in layers:
                continue
            path[2] = str(layers.index(layer))
        kept = {"channels": channels, **_kept_inside(model, shape, importance, layer)}
        for axis, units in enumerate(AXES[path[-2]][: weight.dim()]):
            if units in kept:
                weight = weight.index_select(axis, kept[units].to(weight.device))
        if "norm" in path[-2]:
            norm = 2 * layer + (path[-2] == "post_attention_layernorm")
            weight = weight * _norm_factor(importance.energy[norm], channels)
        cut[".".join(path)] = weight
    return cut


def _kept_inside(model: Any, shape: Shape, importance: Importance, layer: int) -> dict[str, Tensor]:
    """Rows and columns kept in one layer; nothing for what lies outside of the layers."""
    if layer == len(importance.layers):
        return {}
    groups = _best(importance.groups[layer], shape.kv_heads)
    head = model.model.layers[0].self_attn.head_dim
    served = head * model.config.num_attention_heads // model.config.num_key_value_heads
    return {
        "keys": (groups[:, None] * head + torch.arange(head)).flatten(),
        "queries": (groups[:, None] * served + torch.arange(served)).flatten(),
        "neurons": _best(importance.neurons[layer], shape.feed_forward),
    }


def _norm_factor(energy: Tensor, channels: Tensor) -> float:
    """What a norm's weight is multiplied by, so that kept channels leave it as large as before.

    RMSNorm divides by sqrt(mean(x^2) + eps). Over the K channels kept the mean is r^2 times as
    large, so the output would be r times too small. r differs from token to token; a weight can
    hold one number, its root mean square. Where removed channels are always 0, r^2 is D / K for
    every token and, with eps times D / K as well, the output is exactly as before.
    """
    ratio = float(energy[channels].mean() / energy.mean())
    return math.sqrt(ratio) if ratio > 0.0 else 1.0  # no kept energy (or NaN, none at all)


def _check_model(model: Any) -> None:
    plain = all(weight.is_floating_point() for weight in model.parameters())
    if not plain or not isinstance(model, LlamaForCausalLM | Qwen2ForCausalLM):
        raise StillhouseError(
            f"pruning cuts an unquantized LlamaForCausalLM or Qwen2ForCausalLM, the teacher is a "
            f'{"" if plain else "quantized "}{type(model).__name__}. Choose init "scratch" for '
            f"the student, or such a teacher."
        )


def _check_shape(model: Any, shape: Shape) -> None:
    teacher = asdict(shape_of(model))
    wrong = [
        f"{name} {value} (teacher {teacher[name]})"
        for name, value in asdict(shape).items()
        if not 1 <= value <= teacher[name]
    ]
    if wrong:
        raise StillhouseError(
            f"a pruned student has at most what its teacher has and at least 1 of it, found "
            f'{", ".join(wrong)}. Correct the student\'s shape, or choose init "scratch".'
        )
    served = teacher["heads"] // teacher["kv_heads"]
    if shape.heads != shape.kv_heads * served:
        raise StillhouseError(
            f"each of the teacher's kv_heads serves {served} heads and goes with them, found heads "
            f"{shape.heads} and kv_heads {shape.kv_heads}. Ask for {shape.kv_heads * served} heads."
        )
    if isinstance(model, LlamaForCausalLM) and shape.width % shape.heads:
        below = shape.width - shape.width % shape.heads
        fits = [str(n) for n in (below, below + shape.heads) if 0 < n <= teacher["width"]]
        raise StillhouseError(
            f"the heads of a Llama must divide its width, found width {shape.width} and heads "
            f"{shape.heads}. Ask for width {' or '.join(fits)}."
        )


def _check_importance(importance: Importance, teacher: Shape) -> None:
    depth, norms = teacher.layers, (2 * teacher.layers + 1, teacher.width)
    expected = [(depth,), norms, (depth, teacher.kv_heads), (depth, teacher.feed_forward), norms]
    found = [tuple(scores.shape) for scores in vars(importance).values()]
    if found != expected:
        raise ValueError(f"importance: expected {expected} for this model, found {found}")
