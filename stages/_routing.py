"""A cascade on the calibration split: what each rung accepts, how often it is wrong, what it costs.

The second rung sees what the first was not sure of, so that it is calibrated on exactly that, and
the rungs share delta evenly. Pure: answers and prices in, figures out.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from serving._cascade.route import Place, Price, RungName, Score
from serving._cascade.scoring import checked_score
from serving.errors import StillhouseError
from stages._calibrating import Choice, Wrong, choose_threshold, fewest_answers, interval
from stages._detection import auroc
from stages._wrong_answers import Example, Likeness

CONFIDENCE = 0.95  # of the intervals that are told, not of what is promised


@dataclass(frozen=True)
class Candidate:
    """A model's answers to the calibration prompts, in their order, and what they cost."""

    name: RungName
    sha256: str
    place: Place
    answers: Sequence[Example]
    wrong: Wrong
    score: Score | None
    """None: accepts whatever it answers."""
    price: Price
    seconds: float | None
    """Of the machine, for one answer at the fastest batch size; None where nobody measured it."""
    slot_errors: Wrong
    """Whether each says other than its record."""
    suspect: Wrong
    """The same as the service sees it, by the schema of the contract."""
    likeness: Likeness | None
    """To the nearest reference; None of data that has none."""

    def scores(self, score: Score) -> NDArray[np.float64]:
        """How sure it is of each answer, shape [answers].

        Raises:
            StillhouseError: an answer has no such score.
        """
        if not self._holds(score):
            held = [name for name in get_args(Score) if self._holds(name)]
            raise StillhouseError(
                f"route.rungs.{self.name}.score is {score}, which not every answer has (all have: "
                f"{', '.join(held) or 'none'}). Set it to one that they have, or the rung to null."
            )
        if score == "checked":
            pairs = zip(self.answers, self.suspect, strict=True)
            found: list[Any] = [_checked(one, bool(suspect)) for one, suspect in pairs]
        else:
            found = [answer[score] for answer in self.answers]
        return np.array(found, dtype=np.float64)

    def costs(self) -> NDArray[np.float64] | None:
        """Price of each answer, shape [answers] [USD]; None where it is not known."""
        if self.seconds is None and self.price.usd_per_hour:
            return None
        return np.array(
            [
                self.price.cost(
                    self.seconds or 0.0, answer["prompt_tokens"], answer["completion_tokens"]
                )
                for answer in self.answers
            ]
        )

    def _holds(self, score: Score) -> bool:
        if score == "checked":
            return all(_checked(answer, False) is not None for answer in self.answers)
        return all(answer.get(score) is not None for answer in self.answers)


def _checked(answer: Example, is_suspect: bool) -> float | None:
    own = answer.get("min_logprob"), answer.get("confidence")
    return checked_score(*own, is_suspect=is_suspect)


@dataclass(frozen=True)
class Tried:
    """One rung, calibrated: who is asked, who is answered, why it may be left out."""

    candidate: Candidate
    asked: NDArray[np.bool_]
    accepted: NDArray[np.bool_]
    choice: Choice | None
    """None of the last rung, which needs no threshold."""
    reason: str | None
    """Why it accepts nothing; None where it does."""


def calibrate(candidates: Sequence[Candidate], alpha: float, delta: float) -> list[Tried]:
    """Every rung's threshold, in the order in which they are asked.

    Args:
        delta: probability that any threshold promises too much; each has an even share.
    """
    left = np.ones(len(candidates[0].answers), dtype=np.bool_)
    share = delta / max(sum(one.score is not None for one in candidates), 1)
    tried = []
    for one in candidates:
        found = _calibrate_one(one, left, alpha, share)
        tried.append(found)
        left = left & ~found.accepted
    return tried


def _calibrate_one(one: Candidate, asked: NDArray[np.bool_], alpha: float, delta: float) -> Tried:
    if one.score is None:
        return Tried(one, asked, asked, None, None)
    scores = one.scores(one.score)
    choice = choose_threshold(scores[asked], one.wrong[asked], alpha, delta)
    if choice.step is None:
        return Tried(
            one, asked, np.zeros_like(asked), choice, _explain(choice, asked, alpha, delta)
        )
    return Tried(one, asked, asked & (scores >= choice.step.threshold), choice, None)


def _explain(choice: Choice, asked: NDArray[np.bool_], alpha: float, delta: float) -> str:
    """Why no threshold keeps the bound, with what came nearest."""
    prompts = int(asked.sum())
    if not choice.steps:
        needed = fewest_answers(alpha, delta) if 0.0 < alpha < 1.0 else 1
        return (
            f"{prompts} calibration prompts reach it, and it takes {needed} without any error to "
            f"show a rate of at most {alpha:.2%}"
        )
    best = min(choice.steps, key=lambda step: step.bound)
    return (
        f"its surest {best.accepted} of {prompts} answers have {best.errors} errors, which shows "
        f"a rate of at most {best.bound:.2%}, not {alpha:.2%}"
    )


def describe_rung(tried: Tried) -> dict[str, Any]:
    """What a rung's calibration found, for the report."""
    one, step = tried.candidate, tried.choice.step if tried.choice else None
    asked, accepted = int(tried.asked.sum()), int(tried.accepted.sum())
    errors = int(one.wrong[tried.accepted].sum())
    low, high = interval(errors, accepted, CONFIDENCE)
    costs = one.costs()
    return {
        "rung": one.name,
        "place": one.place,
        "model_sha256": one.sha256,
        "score": one.score,
        "score_auroc": _score_auroc(tried),
        "threshold": step.threshold if step else None,
        "bound": step.bound if step else None,
        "level": tried.choice.level if tried.choice else None,
        "left_out": tried.reason,
        "asked": asked,
        "accepted": accepted,
        "asked_share": asked / len(tried.asked),
        "accepted_share": accepted / len(tried.asked),
        "errors": errors,
        "error_rate": {"score": errors / accepted if accepted else None, "low": low, "high": high},
        "error_rate_of_all": float(one.wrong.mean()),
        "seconds_per_answer": one.seconds,
        "price": asdict(one.price),
        "cost_per_1k_answers_usd": None if costs is None else 1000.0 * float(costs.mean()),
    }


def _score_auroc(tried: Tried) -> float | None:
    """How well the score tells wrong answers from right ones among those that are asked."""
    one = tried.candidate
    wrong, right = one.wrong & tried.asked, ~one.wrong & tried.asked
    if one.score is None or not wrong.any() or not right.any():
        return None
    scores = one.scores(one.score)
    return auroc(-scores[wrong], -scores[right])


def expect(tried: Sequence[Tried], teacher: Candidate) -> dict[str, Any]:
    """Cost and error of the whole cascade on these prompts, against sending all to the teacher.

    Rungs that accept nothing are left out of the cascade, and are not paid for.
    """
    used = [one for one in tried if one.reason is None]
    prompts = len(teacher.answers)
    answered = sum(int(one.accepted.sum()) for one in used)
    errors = sum(int(one.candidate.wrong[one.accepted].sum()) for one in used)
    low, high = interval(errors, answered, CONFIDENCE)
    known = [(one, one.candidate.costs()) for one in used]
    parts = [None if costs is None else float(costs[one.asked].sum()) for one, costs in known]
    paid = [part for part in parts if part is not None]
    everything = teacher.costs()
    cost = 1000.0 * sum(paid) / prompts if len(paid) == len(parts) else None
    all_teacher = None if everything is None else 1000.0 * float(everything.mean())
    return {
        "prompts": prompts,
        "answered_share": answered / prompts,
        "error_rate": {"score": errors / answered if answered else None, "low": low, "high": high},
        "teacher_error_rate": float(teacher.wrong.mean()),
        "cost_per_1k_requests_usd": cost,
        "all_teacher_cost_per_1k_requests_usd": all_teacher,
        "saved_share": 1.0 - cost / all_teacher if cost is not None and all_teacher else None,
    }
