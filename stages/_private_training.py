"""DP-SGD: the gradient of a step of which no one training prompt decides much.

A step draws every unit (a prompt with all its references) by itself with the same probability,
clips each drawn unit's gradient to one length and adds Gaussian noise to their sum (Abadi et al.
2016, arXiv:1607.00133); whatever an optimizer makes of that gives nothing more away. Gradients per
row and clipping are opacus'; a unit's rows become one gradient before the clip.

The noise is not opacus': torch's generator takes 32 bits of a seed on a CPU, so few that all can be
tried. Draws and noise come from SHAKE-256 under a secret key, a stream of its own for every step,
so a killed run goes on with the noise it would have had.

Imports torch and opacus (seconds); stages import it when they run.
"""

import hashlib
import json
import secrets
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleHooks
from opacus.optimizers import DPOptimizer
from torch import Tensor, distributed
from torch.nn import functional

from serving.errors import StillhouseError
from stages import _io
from stages._losses import IGNORED
from stages._params import DifferentialPrivacy
from stages._private_plan import PrivacyPlan, Unit
from stages._sequences import TrainingSequence, collate

KEY = "noise_key.json"
VALUES = 64_000_000  # of gradients per row held at once: 256 MB


def find_key(folder: Path, settings: DifferentialPrivacy, seed: int) -> bytes:
    """The key of a run's draws and noise: a killed run's own, else a new one of 256 bits.

    It goes with `folder`, the run's scratch. With a noise_seed it follows from that and `seed`.
    """
    if settings.noise_seed is not None:
        return hashlib.sha256(f"{settings.noise_seed} {seed}".encode()).digest()
    path = folder / KEY
    if not path.is_file():
        with _io.writing(path, mode=0o600) as stream:  # who reads it can undo the noise
            json.dump({"key": secrets.token_hex(32)}, stream)
    return bytes.fromhex(_io.read_json(path)["key"])


def uniforms(key: bytes, stream: str, count: int) -> NDArray[np.float64]:
    """[count] independent numbers between 0 and 1, both excluded, of 52 bits each."""
    found = hashlib.shake_256(key + stream.encode()).digest(8 * count)
    whole = (np.frombuffer(found, "<u8") >> np.uint64(12)).astype(np.float64)
    return (whole + 0.5) * 2.0**-52


def normals(key: bytes, stream: str, like: Tensor) -> Tensor:
    """Independent standard normal numbers in the shape of `like`, float64 on its device."""
    values = torch.from_numpy(uniforms(key, stream, like.numel()))
    found: Tensor = torch.special.ndtri(values).view(like.shape)
    return found.to(like.device)


class PrivateGradient:
    """Stands in for the backward pass of a training step: leaves a noisy gradient in `.grad`."""

    def __init__(
        self,
        model: Any,
        sequences: Sequence[TrainingSequence],
        plan: PrivacyPlan,
        key: bytes,
        micro_batch_tokens: int | None,
        vocabulary: int,
    ) -> None:
        """Hook onto `model`. Raises StillhouseError under several processes."""
        if distributed.is_initialized() and distributed.get_world_size() > 1:
            raise StillhouseError(
                f"privacy needs one process, found {distributed.get_world_size()}. Run the recipe "
                f"without a launcher: python -m stages.distill <recipe>"
            )
        self.model, self.sequences, self.plan, self.key = model, sequences, plan, key
        self.micro_batch_tokens, self.vocabulary = micro_batch_tokens, vocabulary
        self.weights: list[Any] = [w for w in model.parameters() if w.requires_grad]
        self.hooks = GradSampleHooks(model, loss_reduction="sum")
        carrier = torch.optim.SGD(self.weights, lr=0.0)  # only holds the weights
        self.clipper = DPOptimizer(
            carrier,
            noise_multiplier=0.0,  # the noise is ours
            max_grad_norm=plan.settings.clip_norm,
            expected_batch_size=None,
            loss_reduction="sum",
        )
        self.checked = False

    def __call__(self, step: int) -> Tensor:
        """The step's gradient, in float32; returns [3]: CE sum, 0, tokens of the drawn units.

        The loss of a unit is the mean over its answer tokens. A step that draws no unit has noise
        alone: that none was drawn must not show.

        Raises:
            StillhouseError: opacus cannot tell the rows' gradients apart in this model.
        """
        for weight in self.weights:
            weight.summed_grad = torch.zeros_like(weight)
        sums = torch.zeros(3, device=self.weights[0].device)
        for units in self._split(self.draw(step)):
            sums += self._add(units)
        deviation = self.plan.noise_multiplier * self.plan.settings.clip_norm
        for number, weight in enumerate(self.weights):
            noise = deviation * normals(self.key, f"noise {step} {number}", weight)
            weight.grad = ((weight.summed_grad + noise) / self.plan.expected_units).to(weight.dtype)
            weight.summed_grad = None
        return sums

    def close(self) -> None:
        """Take opacus' hooks and notes off the model."""
        self.hooks.cleanup()
        for weight in self.weights:
            del weight.summed_grad

    def draw(self, step: int) -> list[Unit]:
        """The step's units: each one with probability `sample_rate`, whatever the others do."""
        chances = uniforms(self.key, f"draw {step}", len(self.plan.units))
        rate = self.plan.sample_rate
        return [u for u, chance in zip(self.plan.units, chances, strict=True) if chance < rate]

    def _split(self, units: Sequence[Unit]) -> list[list[Unit]]:
        """Parts that fit into memory, of units of similar length."""
        longest = {id(u): max(len(self.sequences[index]) for index in u) for u in units}
        rows = max(1, VALUES // sum(weight.numel() for weight in self.weights))
        if self.micro_batch_tokens is not None and longest:
            rows = min(rows, max(1, self.micro_batch_tokens // max(longest.values())))
        return split_units(sorted(units, key=lambda u: longest[id(u)]), rows)

    def _add(self, units: Sequence[Unit]) -> Tensor:
        """Add the clipped gradients of some units to `summed_grad`."""
        device = self.weights[0].device
        batch = collate([self.sequences[i] for unit in units for i in unit], 1).to(device)
        sizes = torch.tensor([len(unit) for unit in units])
        owners = torch.arange(len(units)).repeat_interleave(sizes).to(device)
        labels = batch.labels[:, 1:]
        logits = self.model(input_ids=batch.ids, use_cache=False).logits
        nats = functional.cross_entropy(
            logits[:, :-1, : self.vocabulary].float().transpose(1, 2),
            labels,
            ignore_index=IGNORED,
            reduction="none",
        ).sum(dim=1)  # [rows]
        tokens = _pool((labels != IGNORED).sum(dim=1), owners, len(units))
        with warnings.catch_warnings():  # token ids have no gradients, which torch remarks on
            warnings.filterwarnings("ignore", "Full backward hook is firing")
            (nats / tokens[owners]).sum().backward()  # type: ignore[no-untyped-call]
        for weight in self.weights:
            self._check(weight, len(owners))
            weight.grad_sample = _pool(weight.grad_sample.float(), owners, len(units))
            weight.grad = None
        self.checked = True
        self.clipper.clip_and_accumulate()
        for weight in self.weights:
            weight.grad_sample = None
        return torch.stack([nats.detach().sum(), nats.new_zeros(()), tokens.sum().float()])

    def _check(self, weight: Any, rows: int) -> None:
        """Once, compare the sum of what opacus found with the gradient that torch found."""
        if self.checked:
            return
        found = weight.grad_sample
        same = found is not None and len(found) == rows
        if same and weight.grad is not None:
            scale = float(weight.grad.abs().max())
            same = torch.allclose(found.sum(0), weight.grad, rtol=0.0, atol=1e-3 * scale + 1e-9)
        if not same:
            raise StillhouseError(
                f"expected one gradient per row for every weight of {type(self.model).__name__}, "
                f"found none or others for one of shape {tuple(weight.shape)}: opacus does not "
                f"know a layer of it. Choose init: scratch, or leave privacy out."
            )


def split_units(units: Sequence[Unit], rows: int) -> list[list[Unit]]:
    """Parts of at most `rows` sequences each; a unit with more is a part of its own."""
    parts: list[list[Unit]] = []
    held = 0
    for unit in units:
        if not parts or held + len(unit) > rows:
            parts.append([])
            held = 0
        parts[-1].append(unit)
        held += len(unit)
    return parts


def _pool(values: Tensor, owners: Tensor, count: int) -> Tensor:
    """[rows, ...] -> [count, ...]: the sum of each owner's rows."""
    found = values.new_zeros(count, *values.shape[1:])
    return found.index_add_(0, owners, values)
