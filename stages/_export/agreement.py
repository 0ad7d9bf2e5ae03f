"""Whether an exported student answers as the model that it was made from, token by token.

Both are asked one prompt at a time: sums of a batch are rounded otherwise and may flip a tie. Where
answers part, the two likeliest tokens must have been as near as the logits differ anyway.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.completion import Request
from serving.errors import StillhouseError
from stages._export.shipped.generate import Step, Student, Tensors
from stages._progress import report_progress

LOGITS_TOLERANCE = 1e-3
"""Most that a logit may differ: a probability then differs by 0.1 % of itself. Rounding in float32
in another order makes 1e-6 to 1e-4 of it; another weight, mask or position makes far more."""
SHOWN = 5  # ids in a message

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Asked:
    """A prompt with its name in messages."""

    id: str
    request: Request


class Recording:
    """Runs steps and keeps their logits, [vocabulary] each; for one row at a time."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self.logits: list[Logits] = []

    def __call__(self, feeds: Tensors) -> Mapping[str, NDArray[Any]]:
        """The outputs of one step."""
        outputs = self._step(feeds)
        self.logits.append(outputs["logits"][0, -1])
        return outputs


def compare_student(
    folder: Path, step: Step, predictor: Any, asked: Sequence[Asked]
) -> dict[str, Any]:
    """How the exported student does beside the predictor of its original, on the CPU in float32.

    Args:
        predictor: of engine transformers, decoding greedily.

    Raises:
        StillhouseError: answers or logits differ by more than rounding explains.
    """
    recording = Recording(step)
    student = Student(folder, recording)
    prompts = predictor.encode([one.request for one in asked])
    difference = 0.0
    different: list[str] = []
    ties: list[str] = []
    progress = report_progress("compare answers", len(asked))
    for done, (one, prompt) in enumerate(zip(asked, prompts, strict=True), start=1):
        recording.logits.clear()
        if student.encode(one.request.prompt, one.request.context) != prompt:
            raise StillhouseError(f"{one.id} is encoded otherwise by the export. Report this.")
        ((tokens, _),) = student.tokens([prompt])
        wanted, _ = predictor.decode([prompt], [one.request], 1)[0][0]
        logits = original_logits(predictor.model, prompt, tokens)
        gaps = np.abs(logits - np.stack(recording.logits)).max(axis=1)
        difference = float(np.maximum(difference, gaps.max()))  # a NaN stays one
        if tokens != wanted:
            (ties if _is_tie(logits, tokens, wanted) else different).append(one.id)
        progress(done)
    _refuse(difference, different)
    return {
        "prompts": len(asked),
        "identical": len(asked) - len(ties),
        "ties": ties,
        "logits_max_abs_difference": difference,
        "logits_tolerance": LOGITS_TOLERANCE,
    }


def original_logits(model: Any, prompt: Sequence[int], tokens: Sequence[int]) -> Logits:
    """Logits [tokens, vocabulary] from which each token of an answer was chosen."""
    import torch

    with torch.inference_mode():
        output = model(torch.tensor([[*prompt, *tokens[:-1]]]), logits_to_keep=len(tokens))
    found: Logits = output.logits[0].float().numpy()
    return found


def _is_tie(logits: Logits, tokens: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether the two tokens at which answers part are equally likely but for rounding."""
    pairs = zip(tokens, wanted, strict=False)
    place = next((n for n, (one, other) in enumerate(pairs) if one != other), None)
    if place is None:  # one goes on where the other ends: no rounding does that
        return False
    gap = abs(logits[place, tokens[place]] - logits[place, wanted[place]])
    return bool(gap <= 2 * LOGITS_TOLERANCE)


def _refuse(difference: float, different: Sequence[str]) -> None:
    if different or not difference <= LOGITS_TOLERANCE:  # a NaN is refused, too
        shown = ", ".join(different[:SHOWN])
        raise StillhouseError(
            f"the exported student is another model: logits differ by up to {difference:.2g}, at "
            f"most {LOGITS_TOLERANCE}; {len(different)} answers differ ({shown or 'none'}). "
            f"Nothing was written. Try another version of torch, onnx or onnxscript."
        )


def agreement_in_batches(
    folder: Path, step: Step, asked: Sequence[Asked], rows: int
) -> dict[str, int]:
    """How many answers stay the same when prompts are answered `rows` at a time."""
    student = Student(folder, step)
    prompts = [student.encode(one.request.prompt, one.request.context) for one in asked]
    alone = [student.tokens([prompt])[0][0] for prompt in prompts]
    parts = [prompts[at : at + rows] for at in range(0, len(prompts), rows)]
    together = [tokens for part in parts for tokens, _ in student.tokens(part)]
    same = sum(one == other for one, other in zip(alone, together, strict=True))
    return {"rows": rows, "prompts": len(asked), "identical": same}
