"""Embeddings in 8 bits, by row: half of a small model is its embedding, and bitsandbytes leaves it.

Each row of a [V, D] table has one scale, its largest magnitude / 127, and D signed bytes: symmetric
absmax, as LLM.int8() has it for the rows of a linear layer (Dettmers et al. 2022,
arXiv:2208.07339). A head that is tied to the embedding reads the same bytes. In a model folder they
are plain tensors, `<module>.codes` [V, D] int8 and `<module>.scales` [V], among the other weights.
Imports torch and safetensors.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

LARGEST = 127  # of a signed byte; -128 is left out, so that the range is symmetric


def quantize_rows(
    weight: Tensor, dtype: torch.dtype, largest: int = LARGEST
) -> tuple[Tensor, Tensor]:
    """[V, D] -> codes [V, D] int8 and scales [V] in `dtype`, of which codes * scales is near it.

    Codes are rounded to the scales as they are kept, so a coarse `dtype` adds no error of its own;
    `largest` is the magnitude that a row's largest number gets.
    """
    values = weight.detach().float()
    scales = (values.abs().amax(dim=1) / largest).to(dtype)
    steps = scales.float().masked_fill(scales == 0, 1.0)  # a row of zeros has codes of zero
    codes = (values / steps[:, None]).round().clamp(-largest, largest).to(torch.int8)
    return codes, scales


class Int8Embedding(nn.Module):
    """In place of an `nn.Embedding` [V, D]; answers in the dtype of its scales."""

    codes: Tensor
    scales: Tensor

    def __init__(self, codes: Tensor, scales: Tensor) -> None:
        """Hold codes [V, D] int8 and scales [V]."""
        super().__init__()
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)

    @classmethod
    def of(cls, weight: Tensor, dtype: torch.dtype) -> "Int8Embedding":
        """Quantize a table."""
        return cls(*quantize_rows(weight, dtype))

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids [...] -> rows [..., D]."""
        return self.codes[ids] * self.scales[ids][..., None]

    def table(self) -> Tensor:
        """All rows [V, D] as numbers; made anew each time, never kept."""
        return self.codes * self.scales[:, None]


class Int8TiedHead(nn.Module):
    """A language-model head that multiplies by its embedding's rows; it has no weights of its own.

    The rows are scaled before the product: in float16 a sum over codes up to 127 would overflow.
    """

    def __init__(self, embedding: Int8Embedding, bias: Tensor | None = None) -> None:
        """Read `embedding`, which belongs to another part of the model."""
        super().__init__()
        self._embedding = (embedding,)  # in a tuple, so that its buffers are not listed twice
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., D] -> logits [..., V]."""
        return functional.linear(hidden, self._embedding[0].table().to(hidden.dtype), self.bias)


def embeddings_of(model: Any) -> dict[str, nn.Embedding]:
    """The model's embeddings of the plain kind by name; one that scales its rows is another."""
    return {name: part for name, part in model.named_modules() if type(part) is nn.Embedding}


def tied_head(model: Any) -> str | None:
    """Name of the head that shares the embedding's weight, where there is one."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    weight = getattr(head, "weight", None)
    if weight is None or weight is not getattr(embedding, "weight", None):
        return None
    names: list[str] = [name for name, part in model.named_modules() if part is head]
    return names[0]


def replace_embeddings(model: Any, made: dict[str, Int8Embedding]) -> None:
    """Put `made` in the places of the model's embeddings and tie the head anew where it was tied.

    The model is only good for answering afterwards: nothing can tie or resize its embeddings.
    """
    head, shared = tied_head(model), model.get_input_embeddings()
    for name, part in list(embeddings_of(model).items()):
        model.set_submodule(name, made[name])
        if head is not None and part is shared:
            bias = getattr(model.get_submodule(head), "bias", None)
            model.set_submodule(head, Int8TiedHead(made[name], bias))


def quantize_embeddings(model: Any, dtype: torch.dtype) -> list[str]:
    """Quantize every plain embedding and the head tied to one; returns the embeddings' names."""
    made = {n: Int8Embedding.of(part.weight, dtype) for n, part in embeddings_of(model).items()}
    replace_embeddings(model, made)
    return list(made)


def absent_weights(model: Any) -> set[str]:
    """Weights that a folder with quantized embeddings does not hold, of a model loaded from it."""
    names = set(embeddings_of(model)) | ({head} if (head := tied_head(model)) else set())
    return {f"{name}.weight" for name in names}


def load_embeddings(model: Any, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
    """Put the folder's quantized embeddings in place of the model's own.

    Raises:
        ValueError: the folder has none of an embedding's tensors, or in another shape or type.
    """
    stored = _read_tensors(folder)
    made = {}
    for name, part in embeddings_of(model).items():
        codes, scales = stored.get(f"{name}.codes"), stored.get(f"{name}.scales")
        if codes is None or scales is None:
            raise ValueError(f"{name} has no codes and scales")
        expected = (part.weight.shape, part.weight.shape[:1], torch.int8)
        if (codes.shape, scales.shape, codes.dtype) != expected:
            raise ValueError(f"{name} has codes {tuple(codes.shape)} of type {codes.dtype}")
        made[name] = Int8Embedding(codes.to(device), scales.to(device, dtype))
    replace_embeddings(model, made)


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as tensors:
            names = [n for n in tensors.keys() if n.endswith((".codes", ".scales"))]  # noqa: SIM118
            found |= {name: tensors.get_tensor(name) for name in names}
    return found
