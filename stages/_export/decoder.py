"""A decoder as one ONNX graph: a step from tokens and the past to logits and the longer past.

The graph is made by transformers' own exporter (torch.export, then torch.onnx). Rows, tokens and
the past may be of any length; prompts are padded on the left, and the mask covers past and new.
Inputs   input_ids, position_ids [rows, tokens]; attention_mask [rows, past + tokens], all int64;
         past_key_values.<layer>.key and .value [rows, heads, past, width], float32
Outputs  logits [rows, 1, vocabulary] of the last token; present.<layer>.key and .value
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from serving.errors import StillhouseError
from stages._export.shipped.generate import Past

Shapes = dict[str, list[int | str]]
"""Lengths of tensors by their names; those that may be any have names, too."""
TRACED = ("input_ids", "attention_mask", "position_ids")
OPSET = 18
SAMPLE = {"rows": 2, "tokens": 3, "past": 5}
"""Lengths of the traced inputs; different ones, so that no two are taken for the same."""
LARGEST_BYTES = 2_000_000_000  # of a file in protobuf's format


def describe_past(model: Any) -> Past:
    """What the model keeps of past tokens.

    Raises:
        StillhouseError: a layer keeps something else than all keys and values.
    """
    cache = sample_past(model, 1, 1)
    shapes = {tuple(layer.keys.shape) for layer in cache.layers}
    kinds = {type(layer).__name__ for layer in cache.layers}
    if kinds != {"DynamicLayer"} or len(shapes) != 1:
        raise StillhouseError(
            f"the export needs full attention of one shape in every layer, this model has "
            f"{', '.join(sorted(kinds))} of {len(shapes)} shapes. Export another model."
        )
    _, heads, _, width = shapes.pop()
    return Past(len(cache.layers), heads, width)


def sample_past(model: Any, rows: int, tokens: int) -> Any:
    """The cache that the model fills for made-up tokens."""
    import torch
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(torch.zeros((rows, tokens), dtype=torch.int64), past_key_values=cache)
    return cache


def write_decoder(model: Any, path: Path) -> Past:
    """Write the graph of a float32 model on the CPU; returns the shape of its past.

    Raises:
        StillhouseError: the model is too large for one file, or of a kind that cannot be exported.
    """
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    if size > LARGEST_BYTES:
        raise StillhouseError(
            f"the model has {size / 1e9:.1f} GB of float32 weights, a graph file takes 2. Export "
            f"a smaller one."
        )
    import onnx_ir

    past = describe_past(model)
    program = _trace(model)
    kept: list[int | str] = ["rows", past.heads, "past", past.width]
    grown: list[int | str] = ["rows", past.heads, "past + tokens", past.width]
    inputs: Shapes = {name: ["rows", "tokens"] for name in ("input_ids", "position_ids")}
    inputs |= {"attention_mask": ["rows", "past + tokens"], **dict.fromkeys(past.inputs, kept)}
    outputs: Shapes = {"logits": ["rows", 1, model.config.vocab_size]}
    outputs |= dict.fromkeys(past.outputs, grown)
    _name(program.graph.inputs, {name: inputs[name] for name in [*TRACED, *past.inputs]})
    _name(program.graph.outputs, outputs)
    onnx_ir.save(program, str(path))
    return past


def _trace(model: Any) -> Any:
    """The program of one step, as onnx_ir's model."""
    import torch
    from transformers.exporters.configs import OnnxConfig
    from transformers.exporters.exporter_onnx import OnnxExporter

    exporter: Any = OnnxExporter  # it has no types

    rows, tokens, past = SAMPLE["rows"], SAMPLE["tokens"], SAMPLE["past"]
    inputs = {
        "input_ids": torch.zeros((rows, tokens), dtype=torch.int64),
        "attention_mask": torch.ones((rows, past + tokens), dtype=torch.int64),
        "position_ids": torch.arange(past, past + tokens).repeat(rows, 1),
        "past_key_values": sample_past(model, rows, past),
        "use_cache": True,
        "logits_to_keep": 1,
    }
    free = torch.export.Dim.DYNAMIC
    layers = len(inputs["past_key_values"].layers)
    shapes: dict[str, Any] = {name: {0: free, 1: free} for name in TRACED}
    shapes |= {"past_key_values": [{0: free, 2: free}] * (2 * layers), "logits_to_keep": None}
    config = OnnxConfig(opset_version=OPSET, dynamic_shapes=shapes)
    with _quietly(), torch.no_grad():
        return exporter().export(model, inputs, config).program


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what the exporters say of themselves: every graph is compared with its model."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "transformers.exporters")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _name(values: Any, shapes: Shapes) -> None:
    """Plain names in place of the exporter's, for tensors and lengths."""
    import onnx_ir

    assert len(values) == len(shapes), f"{[value.name for value in values]} for {list(shapes)}"
    for value, (name, shape) in zip(values, shapes.items(), strict=True):
        value.name, value.shape = name, onnx_ir.Shape(shape)
