"""How much of a model folder is really in low precision: counted in its files, not believed.

A safetensors header names every tensor with type and shape. Packed 4-bit weights have a
`quant_state` beside them that knows their true shape, LLM.int8() weights an `SCB`, our embeddings
`scales`; what has none of these is not quantized, whatever a configuration says.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.errors import StillhouseError

STATE = ".quant_state.bitsandbytes__"
SIXTEEN_BITS = frozenset({"F16", "BF16"})
# Beside a packed weight, by how its name ends: scales, tables and their description.
BESIDE = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")


@dataclass(frozen=True)
class Tensor:
    """One tensor of a folder, by its header."""

    kind: str
    """Type in safetensors' words: F32, I8 …"""
    shape: tuple[int, ...]
    size: int
    """[bytes]"""
    state: dict[str, Any] | None = None
    """Of a quant_state: what it says."""


@dataclass(frozen=True)
class Coverage:
    """What is in low precision and what is not."""

    parameters: int
    """Numbers of the model [count], scales not among them."""
    low: int
    """Those in low precision [count]."""
    low_bytes: int
    """What these take [bytes], without their scales."""
    tensor_bytes: int
    """What all tensors take [bytes]."""
    skipped: dict[str, int]
    """Parameters that are not in low precision [count], by the name of their module."""

    @property
    def share(self) -> float:
        """Share of the parameters in low precision."""
        return self.low / self.parameters

    def to_dict(self) -> dict[str, Any]:
        """For reports: shares of parameters and bytes, and what was left."""
        return {
            "parameters": self.share,
            "bytes": self.low_bytes / self.tensor_bytes,
            "parameters_total": self.parameters,
            "skipped": sorted(self.skipped),
        }


def measure_coverage(folder: Path, scheme: str) -> Coverage:
    """Count a transformers folder's tensors; 16-bit types count as low for bf16 and fp16 alone."""
    tensors = read_headers(folder)
    wide = SIXTEEN_BITS if scheme in ("bf16", "fp16") else frozenset()
    low, low_bytes = 0, 0
    skipped: dict[str, int] = {}
    for name, tensor in tensors.items():
        if _is_beside(name, tensors):
            continue
        packed = _true_count(name, tensors)
        if packed is not None or tensor.kind in wide:
            low += math.prod(tensor.shape) if packed is None else packed
            low_bytes += tensor.size
        else:
            module = name.removesuffix(".weight")
            skipped[module] = skipped.get(module, 0) + math.prod(tensor.shape)
    if not low + sum(skipped.values()):
        raise StillhouseError(f"{folder} has no weights to count. Make it again.")
    total = sum(tensor.size for tensor in tensors.values())
    return Coverage(low + sum(skipped.values()), low, low_bytes, total, skipped)


def require_coverage(share: float, least: float, skipped: dict[str, int], name: str) -> None:
    """Refuse a variant of which too little is quantized.

    Raises:
        StillhouseError: `share` is below `least`; names what was left, the largest first.
    """
    if share >= least:
        return
    largest = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))[:3]
    left = ", ".join(f"{module} ({count:,})" for module, count in largest)
    raise StillhouseError(
        f"variant {name} has {share:.1%} of its parameters in low precision, "
        f"quantize.min_coverage asks for {least:.1%}; left as they are: {left or 'unknown'}. "
        f"Choose another scheme (or embeddings: int8, where they were kept), or lower it."
    )


def weight_bytes(folder: Path) -> int:
    """Size of a folder's weight files as they lie on disk [bytes]."""
    files = [*folder.rglob("*.safetensors"), *folder.glob("model.bin")]
    return sum(path.stat().st_size for path in files)


def float32_bytes(folder: Path) -> int:
    """Size of an unquantized folder's numbers in float32, whatever they are stored in [bytes].

    Against this a variant's size is stated, so that a student in 16 bits flatters nobody.
    """
    return 4 * sum(math.prod(tensor.shape) for tensor in read_headers(folder).values())


def read_headers(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the folder's safetensors files, by name."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            for name, entry in header.items():
                start, end = entry["data_offsets"]
                state = None
                if STATE in name:
                    stream.seek(8 + length + start)
                    state = json.loads(stream.read(end - start))
                shape = tuple(entry["shape"])
                found[name] = Tensor(entry["dtype"], shape, end - start, state)
    return found


def _true_count(name: str, tensors: dict[str, Tensor]) -> int | None:
    """Numbers in a quantized tensor; None for one that is not."""
    module, _, last = name.rpartition(".")
    for kind in ("nf4", "fp4"):
        if (state := tensors.get(f"{name}{STATE}{kind}")) and state.state:
            return math.prod(map(int, state.state["shape"]))
    partner = {"weight": "SCB", "codes": "scales"}.get(last)
    if tensors[name].kind == "I8" and f"{module}.{partner}" in tensors:
        return math.prod(tensors[name].shape)
    return None


def _is_beside(name: str, tensors: dict[str, Tensor]) -> bool:
    module, _, last = name.rpartition(".")
    if STATE in name or name.endswith(BESIDE):
        return name.partition(".weight.")[0] + ".weight" in tensors
    if last in ("SCB", "weight_format"):
        return f"{module}.weight" in tensors
    return last == "scales" and f"{module}.codes" in tensors
