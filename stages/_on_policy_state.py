"""What on-policy distillation needs to go on after a kill: one safetensors file, replaced whole.

Weights, AdamW's moments and the steps reported so far; nothing is pickled. Random state is not in
it, because every step draws from a stream of its own.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from stages._checkpoint import must_hold

NAME = "on_policy.safetensors"


@dataclass
class Progress:
    """Steps done, and the file that remembers them."""

    path: Path
    mark: str
    """Fingerprint of what the run is made of; a file with another one is not read."""
    student: Any
    optimizer: torch.optim.Optimizer
    every_s: float
    history: list[dict[str, float]] = field(default_factory=list)
    """Metrics of each step done, the first one first."""
    saved_at: float = field(default_factory=time.monotonic)

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.history)

    @classmethod
    def read(
        cls,
        folder: Path,
        mark: str,
        student: Any,
        optimizer: torch.optim.Optimizer,
        every_s: float,
    ) -> "Progress":
        """Put weights and moments of `folder`'s state in place; without one, start at step 0."""
        progress = cls(folder / NAME, mark, student, optimizer, every_s)
        try:
            with safe_open(progress.path, framework="pt") as file:
                notes = file.metadata()
                if notes["mark"] == mark:
                    progress._restore({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
                    progress.history = json.loads(notes["history"])
        except (FileNotFoundError, SafetensorError):
            pass  # none, or one cut off by a power failure
        return progress

    def advance(self, metrics: dict[str, float], *, last: bool) -> None:
        """Count one step, and write the state if it is the last one or time to.

        Raises:
            StillhouseError: the disk does not take the state; the one before it is untouched.
        """
        self.history.append(metrics)
        if last or time.monotonic() - self.saved_at >= self.every_s:
            self._write()
            self.saved_at = time.monotonic()

    def remove(self) -> None:
        """Delete the state, and its folder if it is empty then."""
        self.path.unlink(missing_ok=True)
        folder = self.path.parent
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()

    def _write(self) -> None:
        tensors = {f"weight.{name}": value for name, value in self.student.named_parameters()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"moment.{number}.{name}": value for name, value in moments.items()}
        temporary = self.path.with_name(f".{NAME}")
        plain = {name: value.detach().contiguous() for name, value in tensors.items()}
        notes = {"mark": self.mark, "history": json.dumps(self.history)}
        with must_hold(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                save_file(plain, temporary, metadata=notes)
                temporary.replace(self.path)
            finally:
                temporary.unlink(missing_ok=True)

    @torch.no_grad()
    def _restore(self, tensors: dict[str, torch.Tensor]) -> None:
        weights = dict(self.student.named_parameters())
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            kind, name = key.split(".", 1)
            if kind == "weight":
                weights[name].copy_(value)
            else:
                number, moment = name.split(".")
                moments.setdefault(int(number), {})[moment] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})


def fingerprint(
    student: Any, teacher: Any, prompts: Sequence[Sequence[int]], arguments: object
) -> str:
    """Hexadecimal SHA-256 of both models' weights, the prompts and the other arguments' repr."""
    digest = hashlib.sha256(repr(([list(prompt) for prompt in prompts], arguments)).encode())
    for model in (student, teacher):
        for name, weight in model.named_parameters():
            flat = weight.detach().cpu().contiguous().reshape(-1)
            digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
