"""Triton's model repository: a folder for each model, with config.pbtxt and version 1.

Names, types and lengths of a graph's inputs and outputs are read from the graph itself. Rows are
Triton's batch and stand in no `dims`; -1 is any length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stages._export.shipped.retrieve import ROWS

DELAY_US = 2000
"""How long a request waits for others to be answered with [microseconds]."""
KINDS = {1: "TYPE_FP32", 6: "TYPE_INT32", 7: "TYPE_INT64", 8: "TYPE_STRING"}
"""Triton's names of ONNX's types (onnx.TensorProto.DataType)."""


@dataclass(frozen=True)
class Tensor:
    """An input or an output."""

    name: str
    kind: str
    dims: tuple[int, ...]
    optional: bool = False

    def __str__(self) -> str:
        """As config.pbtxt has it."""
        dims = ", ".join(map(str, self.dims))
        extra = "\n    optional: true" if self.optional else ""
        return (
            f'  {{\n    name: "{self.name}"\n    data_type: {self.kind}\n'
            f"    dims: [ {dims} ]{extra}\n  }}"
        )


def write_config(
    folder: Path,
    backend: Literal["onnxruntime", "python"],
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    delay_us: int,
) -> None:
    """Write `folder`/config.pbtxt; the folder's name is the model's.

    Args:
        delay_us: how long Triton holds a request back so that others join it [microseconds].
    """
    text = f"""name: "{folder.name}"
backend: "{backend}"
max_batch_size: {ROWS}
input [
{_join(inputs)}
]
output [
{_join(outputs)}
]
instance_group [
  {{
    count: 1
    kind: KIND_CPU
  }}
]
dynamic_batching {{
  max_queue_delay_microseconds: {delay_us}
}}
"""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.pbtxt").write_text(text, encoding="utf-8")


def _join(tensors: Sequence[Tensor]) -> str:
    return ",\n".join(map(str, tensors))


def add_graph(repository: Path, name: str, graph: Path) -> None:
    """A model that Triton's ONNX Runtime backend runs; the file is linked, not copied."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").hardlink_to(graph)
    inputs, outputs = read_tensors(graph)
    write_config(repository / name, "onnxruntime", inputs, outputs, delay_us=0)


def read_tensors(graph: Path) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and outputs of a graph, without their rows."""
    import onnx

    found = onnx.load(graph, load_external_data=False).graph
    return [_tensor(value) for value in found.input], [_tensor(value) for value in found.output]


def _tensor(value: Any) -> Tensor:
    kind = value.type.tensor_type
    dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim]
    return Tensor(value.name, KINDS[kind.elem_type], tuple(dims[1:]))
