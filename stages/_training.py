"""The training loop of teacher and student: one file, no callbacks, on Accelerate.

Steps decide everything, never the clock: the order of batches is a function of seed and step, the
learning rate of the step, so the same inputs, seed and thread count give the same weights, and a
run that was killed ends with the weights of an undisturbed one. Under a launcher every process
takes its share of each batch's rows; the loss is divided by the tokens of all of them.
"""

import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from serving.errors import StillhouseError
from stages import _checkpoint, _resuming, _sharding
from stages._attention import keep_attention_in_float32
from stages._learner import PLAIN, Learner, check_head, head_of
from stages._losses import Objective
from stages._optimizers import (
    learning_rate,
    limit_threads,
    make_accelerator,
    make_optimizers,
    validation_steps,
)
from stages._params import Training
from stages._processes import add_up, any_process, meet, share, stop_asked
from stages._progress import report_progress
from stages._replicas import make_replicas
from stages._run import log_step
from stages._sequences import TrainingSequence, collate, iterate_plan, split_shares
from stages._sweep import DivergedError, try_rates

if TYPE_CHECKING:
    from stages._private_plan import PrivacyPlan

__all__ = ["PLAIN", "Learner", "Trained", "head_of", "train"]
LOG_EVERY = 10  # steps between points of the curve
Make = Callable[[], Any]
Validate = Callable[[Any], dict[str, float]]
"""Takes a model, returns metrics; `selection` among them is the one to be highest, `loss_nats`
[per token] the one that decides a sweep."""


@dataclass
class Trained:
    """A trained model, with the weights of its best validation, and how it got there."""

    model: Any
    """None on all processes but the main one if the weights were in parts."""
    best_step: int
    curve: list[dict[str, float]] = field(default_factory=list)
    """A row per logged step or validation; units in the names."""
    tokens: int = 0
    """Answer tokens that were learned from, those of the sweep not included."""
    seconds: float = 0.0
    """Time in training steps, those of killed runs included, those of the sweep not."""
    learning_rate: float = 0.0
    sweep: dict[str, float] = field(default_factory=dict)
    """Validation loss [nats per token] by learning rate; one that diverged is not in it."""


def train(
    make: Make,
    sequences: Sequence[TrainingSequence],
    settings: Training,
    *,
    validate: Validate,
    vocabulary: int,
    seed: int,
    scratch: Path,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    objective: Objective = PLAIN,
    label: str = "train",
    privacy: "PrivacyPlan | None" = None,
) -> Trained:
    """Train what `make` makes, at the best of its learning rates; returns the best checkpoint.

    With several learning rates each one first trains a model for `sweep_share` of the steps, and
    the lowest validation loss decides. With `privacy` the gradients are clipped and noisy, and
    batches are drawn as it says.

    Raises:
        StillhouseError: no sequences, some without the teacher that the objective needs, a loss
            that is no number, or privacy where it does not hold.
    """
    if not sequences:
        raise StillhouseError(f"{label}: there is nothing to learn from (0 sequences).")
    without = sum(sequence.distribution is None for sequence in sequences)
    if objective.alpha > 0 and without:
        raise StillhouseError(
            f"{label}: {without} of {len(sequences)} sequences have no teacher's probabilities, "
            f"which alpha {objective.alpha:g} needs. Label with top_k above 0, or set alpha to 0."
        )
    if privacy and len(settings.learning_rates) > 1:
        raise StillhouseError(
            f"{label}: with privacy one learning rate is expected, found "
            f"{len(settings.learning_rates)}. Set privacy.learning_rate."
        )
    what = (make, sequences, settings, validate, vocabulary, seed, device, objective, privacy)
    run = partial(_Run, *what)
    best, sweep = settings.learning_rates[0], {}
    if len(settings.learning_rates) > 1:
        sweep = try_rates(lambda *at: run(*at)().curve, settings, scratch, label)
        best = min(sweep, key=lambda rate: sweep[rate])
    trained = run(best, settings.steps, settings.validations, scratch / "train", label)()
    trained.sweep = {str(rate): loss for rate, loss in sweep.items()}
    return trained


@dataclass
class _Run:
    """One model trained at one learning rate."""

    make: Make
    sequences: Sequence[TrainingSequence]
    settings: Training
    validate: Validate
    vocabulary: int
    seed: int
    device: str
    objective: Objective
    privacy: "PrivacyPlan | None"
    learning_rate: float
    steps: int
    validations: int
    scratch: Path
    label: str

    def __call__(self) -> Trained:
        self.accelerator = make_accelerator(self.device, self.settings.precision)
        bf16 = self.accelerator.mixed_precision == "bf16"
        if bf16:
            keep_attention_in_float32()
        self.model = self.make()
        limit_threads(self.model, self.accelerator.device)
        check_head(self.model)
        self.model.train()
        learner = Learner(self.model, self.objective, self.vocabulary)
        place, tokens = self.accelerator.device, self.settings.batch_tokens
        self.replicas = None if self.privacy else make_replicas(learner, place, tokens)
        self.learner = self._spread(learner)
        self.private = self._make_private()
        each = self.replicas.pool.map if self.replicas else map
        self.optimizers = make_optimizers(self.model, self.settings, bf16, each)
        self.state = Trained(None, 0, learning_rate=self.learning_rate)
        self.sums = torch.zeros(3)  # CE, KD, tokens since the last point of the curve
        self._loop(self._resume())
        for helper in filter(None, (self.private, self.replicas)):
            helper.close()
        if self.state.best_step != self.steps:
            _resuming.take_best(self.scratch, self.state.best_step, self.model)
        self.state.model = self._whole_model()
        if self.state.model is not None:
            self.state.model.eval()
        return self.state

    def _spread(self, learner: Learner) -> Any:
        """The learner on its device, one copy per process or one part."""
        if not _sharding.wants_shards():
            return self.accelerator.prepare(learner)
        _sharding.shard(learner, self.model, self.accelerator.device, self.settings)
        return learner

    def _make_private(self) -> Any:
        """What makes the gradients where there is privacy, else None."""
        if self.privacy is None:
            return None
        from stages._private_training import PrivateGradient, find_key

        key, parts = find_key(self.scratch, self.privacy.settings, self.seed), self.settings
        given = (self.model, self.sequences, self.privacy, key, parts.micro_batch_tokens)
        return PrivateGradient(*given, self.vocabulary)

    def _loop(self, start: int) -> None:
        settings, lengths = self.settings, [len(sequence) for sequence in self.sequences]
        device = self.accelerator.device
        marks = validation_steps(self.steps, self.validations)
        plan = iterate_plan(lengths, settings.batch_tokens, self.seed, start)
        progress = report_progress(self.label, self.steps - start)
        clock = saved_at = time.monotonic()
        with stop_asked() as stop:
            for step in range(start + 1, self.steps + 1):
                self.sums += self._step(plan, lengths, step)
                if step % LOG_EVERY == 0 or step in marks:
                    self._log(step)
                self.state.seconds += time.monotonic() - clock
                if step in marks:
                    self._validate(step)
                late = time.monotonic() - saved_at > settings.checkpoint_every_s
                if step in marks or any_process(late or stop.asked, device):
                    self._save(step)
                    saved_at = time.monotonic()
                    if any_process(stop.asked, device):
                        sys.exit(128 + signal.SIGTERM)
                progress(step - start)
                clock = time.monotonic()

    def _step(self, plan: Iterator[list[int]], lengths: list[int], step: int) -> Tensor:
        """One optimizer step; [3]: CE, KD, tokens of all processes."""
        own = self.accelerator.process_index
        torch.manual_seed(((self.seed * 1_000_003 + step) * 4099 + own) % 2**63)  # of dropout
        sums = self.private(step) if self.private else self._gradient(next(plan), lengths)
        self.norm = nn.utils.clip_grad_norm_(self.learner.parameters(), self.settings.clip_norm)
        rate = learning_rate(step, self.steps, self.learning_rate, self.settings.warmup_share)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
        sums = add_up(sums).cpu()
        self.state.tokens += int(sums[2])
        return sums

    def _gradient(self, indices: list[int], lengths: list[int]) -> Tensor:
        """Backward of this process's share of the rows; [3]: its CE, KD, tokens."""
        tokens = sum(len(self.sequences[i].answer) for i in indices)
        backward = partial(self._backward, tokens)
        micro = self.settings.micro_batch_tokens
        if self.replicas:
            shares = split_shares(indices, lengths, micro, len(self.replicas))
            return self.replicas.run(backward, shares)
        shares = split_shares(indices, lengths, micro, self.accelerator.num_processes)
        return backward(self.learner, shares[self.accelerator.process_index])

    def _backward(self, tokens: int, learner: Any, parts: list[list[int]]) -> Tensor:
        """Gradients of `parts` of a step of `tokens`, left in `learner`; [3]: CE, KD, tokens."""
        device, count = self.accelerator.device, self.accelerator.num_processes
        sums = torch.zeros(3, device=device)
        for number, part in enumerate(parts):
            batch = collate([self.sequences[i] for i in part], tokens).to(device)
            with self.accelerator.autocast(), meet(learner, last=number + 1 == len(parts)):
                loss, found = learner(batch, count)
                loss.backward()
            sums += found.float()
        return sums

    def _log(self, step: int) -> None:
        ce, kd, tokens = self.sums.tolist()
        row = {"train_nats": ce / max(tokens, 1.0)}
        if self.objective.alpha > 0:
            row["kl_nats"] = kd / max(tokens, 1.0)
        self._note(step, {**row, "gradient_norm": _sharding.whole(self.norm).item()})
        self.sums.zero_()

    def _note(self, step: int, row: dict[str, float]) -> None:
        for name, value in row.items():
            if not math.isfinite(value):
                raise DivergedError(
                    f"{self.label}: {name} is {value} at step {step}. Lower learning_rates (now "
                    f"{self.learning_rate:g}) or set precision: fp32."
                )
        self.state.curve.append({"step": step, **row})
        if _checkpoint.is_main():
            log_step({self.label.replace(" ", "_"): row}, step)

    def _validate(self, step: int) -> None:
        whole, found = self._whole_model(), {}
        if _checkpoint.is_main():
            found = self.validate(whole.eval())
            whole.train()
        before = [row["selection"] for row in self.state.curve if "selection" in row]
        found = share(found)
        self._note(step, found)
        if not before or found["selection"] > max(before):
            self.state.best_step = step
            _resuming.save_best(self.scratch, step, self.model)

    def _whole_model(self) -> Any:
        """The model that can generate by itself; of weights in parts a copy on the main process."""
        if not _sharding.is_sharded(self.model):
            return self.model
        return _sharding.gather(self.model, self.make, self.accelerator.device)

    def _save(self, step: int) -> None:
        facts = {name: getattr(self.state, name) for name in KEPT} | {"sums": self.sums.tolist()}
        tensors = _resuming.changing_tensors(self.model, self.optimizers)
        _resuming.save_step(self.scratch, step, tensors, facts)

    def _resume(self) -> int:
        """Take up what a killed run with these inputs left; returns its step."""
        tensors = _resuming.changing_tensors(self.model, self.optimizers)
        facts = _resuming.load_step(self.scratch, tensors)
        if facts is None:
            return 0
        vars(self.state).update({name: facts[name] for name in KEPT})
        self.sums = torch.tensor(facts["sums"])
        if _checkpoint.is_main():
            sys.stderr.write(f"{self.label}: goes on from step {facts['step']} of {self.steps}\n")
        return int(facts["step"])


KEPT = ("best_step", "tokens", "seconds", "curve")  # of Trained, from run to run
