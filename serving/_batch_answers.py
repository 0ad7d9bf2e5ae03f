"""The answers of one micro-batch, in which a fault of one item stays its own."""

import logging
import traceback
from collections.abc import Sequence

from serving._answering import TokenPredictor
from serving._items import Answer
from serving._jobs import Job, refuse
from serving._scheduler_counts import BatchObservation
from serving.completion import Completion
from serving.errors import StillhouseError

logger = logging.getLogger(__name__)
Made = list[Completion] | Answer
"""What came of one item: its completions, or a refusal."""


def answer_batch(jobs: Sequence[Job]) -> list[Made]:
    """Answer jobs of one setting; where the batch fails, each alone."""
    if len(jobs) > 1:
        try:
            return [*_compute(jobs)]
        except Exception as error:
            logger.warning("a micro-batch of %d failed: %s", len(jobs), _where(error))
    return [_answer_alone(job) for job in jobs]


def refuse_fault(job: Job, error: Exception) -> Answer:
    """The refusal that `error` comes to; what is not a person's mistake is ours, and logged."""
    if isinstance(error, StillhouseError):
        return refuse(job, "invalid_request", str(error))
    logger.error("request %s failed: %s", job.item.id, _where(error))
    return refuse(job, "internal", "the model failed on this request; the fault is ours")


def encode_alone(job: Job, predictor: TokenPredictor) -> int | Answer:
    """Length of a job's prompt [tokens], or its refusal."""
    try:
        return len(predictor.encode([job.request])[0])
    except StillhouseError as error:
        return refuse(job, "prompt_too_long", str(error))
    except Exception as error:
        return refuse_fault(job, error)


def observe_batch(
    jobs: Sequence[Job], made: Sequence[Made], started: float, seconds: float
) -> BatchObservation:
    """What a micro-batch came to; items that failed count as rows and not as tokens."""
    done = [(job, found) for job, found in zip(jobs, made, strict=True) if isinstance(found, list)]
    prompts = [found[0].prompt_tokens for _, found in done]
    tokens = [sum(completion.completion_tokens for completion in found) for _, found in done]
    gone = [job.gone for job, _ in done]
    return BatchObservation(
        rows=len(jobs),
        real_tokens=sum(prompts) + sum(tokens),
        padded_tokens=len(prompts) * max(prompts, default=0) + sum(tokens),
        made_tokens=sum(tokens),
        seconds=seconds,
        queue_s=tuple(started - job.arrived for job in jobs),
        cancelled=0,
        expired=0,
        wasted_tokens=sum(count for count, left in zip(tokens, gone, strict=True) if left),
        left=sum(gone),
    )


def _compute(jobs: Sequence[Job]) -> list[list[Completion]]:
    predictor, count = jobs[0].chosen, jobs[0].item.answers
    requests = [job.request for job in jobs]
    if count > 1:
        return predictor.answer_many(requests, count)
    return [[completion] for completion in predictor.answer(requests)]


def _answer_alone(job: Job) -> Made:
    length = encode_alone(job, job.chosen)
    if isinstance(length, Answer):
        return length
    try:
        return _compute([job])[0]
    except Exception as error:
        return refuse_fault(job, error)


def _where(error: Exception) -> str:
    """Kind and place of an error; its message might quote a prompt, so it is not told."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {last.filename}:{last.lineno}"
