"""How near plain training steps come to the processor's rate of bare matrix products."""

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks._training_bench import (
    WARM_UP,
    Action,
    Batches,
    Bench,
    Sequences,
    Trainee,
    take_turns,
)
from stages._learner import PLAIN
from stages._muon import ROUNDS
from stages._params import DecoderShape

SQUARE, SQUARES = 1024, 5  # side of a bare layer, layers in a turn; each is three products
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
Layers = Sequence[tuple[int, int, int]]


class Size(NamedTuple):
    """What a batch asks of a model."""

    positions: int  # rows x length, padding included: it is multiplied too
    answer_tokens: int  # positions that the head runs on
    length: int


def linear_layers(shape: DecoderShape, vocabulary: int, size: Size) -> list[tuple[int, int, int]]:
    """Rows, in and out of every linear layer of a model, the head at last: on answer tokens.

    The embedding is looked up and not multiplied.
    """
    width, inside = shape.width, shape.feed_forward
    keys = width // shape.heads * shape.kv_heads
    attention = [(width, width), (width, keys), (width, keys), (width, width)]
    layer = [*attention, (width, inside), (width, inside), (inside, width)]
    layers = [(size.positions, *matrix) for matrix in layer] * shape.layers
    return [*layers, (size.answer_tokens, width, vocabulary)]


def product_flops(layers: Layers) -> float:
    """Forward and backward of linear layers: 6 per weight and row, of which 4 are backward."""
    return sum(6.0 * rows * inside * outside for rows, inside, outside in layers)


def step_flops(shape: DecoderShape, vocabulary: int, size: Size) -> float:
    """Of a training step: `product_flops` and 6 x layers x length x width per position.

    The second is attention's scores and sums, half of them because of the causal mask (Kaplan et
    al. 2020, arXiv:2001.08361, section 2.1; without that half: Chowdhery et al. 2022, PaLM,
    arXiv:2204.02311, appendix B). Neither the optimizer nor logits that are made again in backward
    are in it.
    """
    attention = 6.0 * shape.layers * size.length * shape.width * size.positions
    return product_flops(linear_layers(shape, vocabulary, size)) + attention


def muon_flops(layers: Layers) -> float:
    """Of Muon's rounds on matrices [r, c], r <= c: X X^T, its square, and both times X."""
    sides = [sorted(layer[1:]) for layer in layers]
    return sum(ROUNDS * (4.0 * r * r * c + 2.0 * r**3) for r, c in sides)


def bare_products(layers: Layers, dtype: torch.dtype) -> Action:
    """The products that `product_flops` counts, with nothing around them."""
    given = {key: _operands(*key, dtype) for key in set(layers)}

    def multiply(_: object) -> None:
        for rows, weight, gradient in (given[key] for key in layers):
            _ = rows @ weight.T, gradient @ weight, gradient.T @ rows

    return multiply


def _operands(rows: int, inside: int, outside: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    sides = (rows, inside), (outside, inside), (rows, outside)
    return tuple(torch.randn(*side).to(dtype) for side in sides)


def size_of(pairs: Sequences, batch: Sequence[int]) -> Size:
    """Of the padded batch."""
    length = max(len(pairs[i]) for i in batch)
    return Size(len(batch) * length, sum(len(pairs[i].answer) for i in batch), length)


def measure_rates(bench: Bench, pairs: Sequences, batches: Batches) -> dict[str, Any]:
    """GFLOPS of bare products and of plain training steps, in turns, and shares of both."""
    sizes = [size_of(pairs, batch) for batch in batches][WARM_UP:]
    mean = Size(*(round(fmean(values)) for values in zip(*sizes, strict=True)))
    bare = {name: linear_layers(s, len(bench.tokenizer), mean) for name, s in bench.shapes.items()}
    bare["square"] = [(SQUARE, SQUARE, SQUARE)] * SQUARES
    actions = {name: Trainee(bench, name, PLAIN).on(pairs) for name in bench.shapes}
    for name, layers in bare.items():
        actions |= {f"{name} {kind}": bare_products(layers, d) for kind, d in DTYPES.items()}
    first, taken = take_turns("rates", actions, batches)
    rates = {
        name: {k: product_flops(layers) / median(taken[f"{name} {k}"]) / 1e6 for k in DTYPES}
        for name, layers in bare.items()
    }
    models = {
        name: _describe_rate(bench, name, sizes, (first[name], taken[name]), bare[name], rates)
        for name in bench.shapes
    }
    return {"mean_batch": mean._asdict(), "square_gflops": rates["square"], "models": models}


def _describe_rate(
    bench: Bench,
    name: str,
    sizes: Sequence[Size],
    step_ms: tuple[list[float], list[float]],
    layers: Layers,
    rates: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """One model's rate; `with_optimizer` counts Muon's products as work too.

    `on_new_shapes` is the first lap: what training reaches where no two batches are alike.
    """
    first, second = step_ms
    flops = np.array([step_flops(bench.shapes[name], len(bench.tokenizer), size) for size in sizes])
    muon = muon_flops(layers[:-1]) if bench.training.optimizer == "muon" else 0.0
    reached = {
        "model": float(np.median(flops / second)) / 1e6,
        "on_new_shapes": float(np.median(flops / first)) / 1e6,
        "with_optimizer": float(np.median((flops + muon) / second)) / 1e6,
    }
    return {
        "matrix_weights": sum(inside * outside for _, inside, outside in layers),
        "step_ms": median(second),
        "step_on_new_shape_ms": median(first),
        "step_gflop": float(flops.mean()) / 1e9,
        "optimizer_gflop": muon / 1e9,
        "gflops": reached,
        "own_products_gflops": dict(rates[name]),
        "share_of_square": {
            what: {k: rate / rates["square"][k] for k in DTYPES} for what, rate in reached.items()
        },
        "share_of_own_products": {
            what: {k: rate / rates[name][k] for k in DTYPES} for what, rate in reached.items()
        },
    }
