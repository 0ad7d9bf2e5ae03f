"""On-policy distillation: the student answers, the teacher says at every token what it would have.

The divergence between both is what the student learns (GKD, Agarwal et al. 2024, arXiv:2306.13649).
Generation, loss and training loop are TRL's DistillationTrainer. Ours is what it leaves open:
prompts as finished token ids, dropout, one random stream per step, a state that survives a kill.

The teacher answers nothing here, so its tokenizer must be the student's. Imports torch,
transformers and trl (seconds); stages import it when they run.
"""

import copy
import math
import random
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
)
from trl import (  # type: ignore[attr-defined]  # its lazy imports hide their types
    DistillationConfig,
    DistillationTrainer,
)

from serving._prompts import true_size
from serving.errors import StillhouseError
from stages._on_policy_models import (
    as_found,
    check_lengths,
    check_tokenizers,
    check_vocabularies,
    end_tokens,
    true_positions,
    with_rows,
    without_dropout,
)
from stages._on_policy_state import Progress, fingerprint

SAVE_EVERY_S = 60.0
_STREAM = 1_000_003  # seeds this far apart share no step's random stream, below a million steps


@dataclass(frozen=True)
class OnPolicy:
    """What a run is made of. ValueError where a number is out of its range."""

    steps: int
    """Optimizer steps."""
    prompts_per_step: int
    """Prompts of a step; each gets one answer."""
    learning_rate: float
    """AdamW's peak; it rises over `warmup_steps`, then falls in a line towards 0."""
    beta: float
    """Generalised JSD: 0 forward KL(teacher || student), 1 reverse KL, the mixture between.

    The loss's scale jumps at both ends (stages/_divergences.py), so compare learning rates apart.
    """
    max_new_tokens: int
    """Longest answer [tokens], end token included."""
    sampling_temperature: float = 1.0
    """Divides the student's logits when it answers; 1 is on-policy in the strict sense."""
    loss_temperature: float = 1.0
    """Divides both sides' logits in the loss, which is not multiplied by its square."""
    warmup_steps: int = 0
    passes_per_step: int = 1
    """Cuts a step's answers into as many passes to save memory; the loss's divisor stays whole."""
    bf16: bool = False
    """Autocast to bfloat16; weights stay as they are."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every number and name all that are wrong."""
        wrong = [
            f"{name}: expected {expected}, found {getattr(self, name)}"
            for name, expected, accepts in _RANGES
            if not accepts(getattr(self, name))
        ]
        if not wrong and self.prompts_per_step % self.passes_per_step:
            wrong = [f"passes_per_step {self.passes_per_step} does not divide prompts_per_step"]
        if wrong:
            raise ValueError("; ".join(wrong))


_RANGES: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    *(
        (name, "a whole number from 1", lambda value: value >= 1)
        for name in ("steps", "prompts_per_step", "max_new_tokens", "passes_per_step")
    ),
    ("warmup_steps", "a whole number from 0", lambda value: value >= 0),
    *(
        (name, "a number above 0", lambda value: 0.0 < value < math.inf)
        for name in ("learning_rate", "sampling_temperature", "loss_temperature")
    ),
    ("beta", "0 to 1", lambda value: 0.0 <= value <= 1.0),
)


def distill_on_policy(
    student: Any,
    teacher: Any,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[Sequence[int]],
    settings: OnPolicy,
    scratch: Path,
    *,
    teacher_tokenizer: PreTrainedTokenizerFast,
    device: torch.device,
    report: Callable[[int, dict[str, float]], None],
    save_every_s: float = SAVE_EVERY_S,
) -> None:
    """Train `student` in place; the teacher stays as it is.

    Killed at any time and called again with the same arguments, it goes on from `scratch` and ends
    with the weights of an undisturbed run (same device, same number of threads). A state of other
    arguments is not used. The process's random generators are seeded anew on the way.

    Args:
        student: a causal decoder, tuned on the task before.
        teacher: a causal decoder with the same tokenizer; its padding rows are not used.
        prompts: token ids of whole rendered prompts, as `PromptEncoder.encode` gives them.
        scratch: folder for the state, removed at the end unless something else is in it.
        teacher_tokenizer: compared with the student's.
        report: called once per step, counted from 1, those before a kill included.
        save_every_s: least time between two writes of the state [s].

    Raises:
        StillhouseError: the two do not fit each other or the prompts; or the loss is not finite.
    """
    rows = check_vocabularies(student, teacher, tokenizer)
    check_tokenizers(tokenizer, teacher_tokenizer)
    tokens = true_size(tokenizer)
    check_lengths(prompts, settings.max_new_tokens, tokens, student=student, teacher=teacher)
    student.to(device)
    optimizer = torch.optim.AdamW(
        [weight for weight in student.parameters() if weight.requires_grad],
        lr=settings.learning_rate,
        weight_decay=0.0,
    )
    mark = fingerprint(student, teacher, prompts, (settings, device.type))
    progress = Progress.read(scratch, mark, student, optimizer, save_every_s)
    for step, metrics in enumerate(progress.history, start=1):
        report(step, metrics)
    done, padding = progress.step, range(tokens, rows)
    if done < settings.steps:
        _train(
            student,
            with_rows(teacher, rows),
            args=_arguments(settings, done, scratch, padding, device),
            train_dataset=_examples(prompts, settings, done),
            processing_class=copy.deepcopy(tokenizer),  # theirs gets a padding token
            callbacks=[_Steps(settings, progress, report)],
            optimizers=(optimizer, _schedule(optimizer, settings, done)),
        )
    progress.remove()


def _train(student: Any, teacher: Any, **given: Any) -> None:
    """Run TRL's trainer, and leave no trace of it on the models but the student's weights."""
    ends = end_tokens(student) | {given["processing_class"].eos_token_id}
    with ExitStack() as stack:
        for model in (student, teacher):
            stack.enter_context(as_found(model))
            stack.enter_context(true_positions(model))
        stack.enter_context(without_dropout(student))
        clean: Any = GenerationConfig  # what TRL does not set, it takes from the student's own
        student.generation_config = clean(eos_token_id=sorted(ends))
        trainer = _Trainer(model=student, teacher_model=teacher, **given)
        trainer.remove_callback(PrinterCallback)
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`")  # TRL asks by old name
        trainer.train()


class _Trainer(DistillationTrainer):
    """Prompts come as token ids: no template, no special token and no cut on the way."""

    def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, Any]:
        return prompts, None, {}

    def _send_telemetry(self) -> None:
        """Nothing leaves the machine, whatever the environment says."""


class _Steps(TrainerCallback):
    """Before a step its random stream, after it the state and the report."""

    def __init__(
        self,
        settings: OnPolicy,
        progress: Progress,
        report: Callable[[int, dict[str, float]], None],
    ) -> None:
        self.settings, self.progress, self.report = settings, progress, report

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """A step's draws depend on seed and step alone, so there is no generator to store."""
        torch.manual_seed(self.settings.seed * _STREAM + self.progress.step)

    def on_log(self, *_: Any, **found: Any) -> None:
        """Called after the optimizer's step, and once more at the end with a summary."""
        logs: dict[str, float] = found["logs"]
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise StillhouseError(
                f"on-policy step {self.progress.step + 1}: the loss is {logs['loss']}. "
                f"Lower learning_rate ({self.settings.learning_rate})."
            )
        metrics = {name: float(logs[theirs]) for name, theirs in _METRICS.items()}
        self.progress.advance(metrics, last=self.progress.step + 1 == self.settings.steps)
        self.report(self.progress.step, metrics)


_METRICS = {
    "loss": "loss",  # nats per answer token, at the loss temperature
    "student_entropy_nats": "entropy",
    "answer_tokens": "completions/mean_length",  # of one answer
    "cut_share": "completions/clipped_ratio",  # answers that reached max_new_tokens
    "gradient_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "step_s": "step_time",
}


def _arguments(
    settings: OnPolicy,
    done: int,
    scratch: Path,
    padding: range,
    device: torch.device,
) -> DistillationConfig:
    return DistillationConfig(
        output_dir=str(scratch),
        max_steps=settings.steps - done,
        per_device_train_batch_size=settings.prompts_per_step // settings.passes_per_step,
        gradient_accumulation_steps=settings.passes_per_step,
        max_grad_norm=1.0,
        beta=settings.beta,
        max_completion_length=settings.max_new_tokens,
        temperature=settings.loss_temperature,
        # Their temperature serves sampling too; what stands here has the last word there.
        generation_kwargs={
            "temperature": settings.sampling_temperature,
            "suppress_tokens": list(padding) or None,
        },
        shuffle_dataset=False,
        seed=settings.seed,
        bf16=settings.bf16,
        use_cpu=device.type == "cpu",
        use_cache=True,  # of keys and values; False would also be written into the student's config
        activation_checkpointing=False,
        dataloader_pin_memory=device.type != "cpu",
        save_strategy="no",  # their checkpoints hold pickles, and are not written in one piece
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
    )


def _examples(
    prompts: Sequence[Sequence[int]], settings: OnPolicy, done: int
) -> list[dict[str, list[int]]]:
    """The prompts of all steps still to do, in order: whole shuffled passes over all of them."""
    wanted = settings.steps * settings.prompts_per_step
    shuffle, order = random.Random(settings.seed), list[int]()  # noqa: S311
    while len(order) < wanted:
        order += shuffle.sample(range(len(prompts)), len(prompts))
    left = order[done * settings.prompts_per_step : wanted]
    return [{"prompt": list(prompts[number])} for number in left]


def _schedule(
    optimizer: torch.optim.Optimizer, settings: OnPolicy, done: int
) -> torch.optim.lr_scheduler.LambdaLR:
    def factor(step: int) -> float:
        step, warmup = step + done, settings.warmup_steps
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return (settings.steps - step) / max(settings.steps - warmup, 1)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
