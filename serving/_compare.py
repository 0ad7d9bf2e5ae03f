"""Both answers side by side: the student's and the baseline's, with time and cost of each.

They are asked at the same time, so the slower one is all that a caller waits for. A model that
refuses or fails does not take the other's answer with it: its refusal stands in its place.
"""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

from serving._items import Answer, Refusal, ServiceError
from serving._text_similarity import SIGNATURE, similarity

SECONDS_PER_HOUR = 3600.0


async def compare(
    student: Awaitable[Answer], baseline: Awaitable[Answer], usd_per_hour: float
) -> dict[str, Any]:
    """What both answer, and how alike it is (None where one of them did not answer).

    Raises:
        ServiceError: neither answered; the student's reason is told.
    """
    sides = await asyncio.gather(_timed(student), _timed(baseline))
    answers = [answer for answer, _ in sides]
    if all(answer.refusal for answer in answers):
        raise refusal_of(answers[0])
    texts = [answer.choices[0].text for answer in answers if not answer.refusal]
    told = [_side(answer, seconds, usd_per_hour) for answer, seconds in sides]
    return {
        "student": told[0],
        "baseline": told[1],
        "similarity": similarity(texts[0], texts[1]) if len(texts) == 2 else None,
        "similarity_signature": SIGNATURE,
    }


def cost_usd(answer: Answer, usd_per_hour: float) -> float:
    """Price of an answer's part of its micro-batch's time [USD]."""
    share_s = answer.compute_s / max(answer.batch_rows, 1)
    return share_s * usd_per_hour / SECONDS_PER_HOUR


def refusal_of(answer: Answer) -> ServiceError:
    """The error that an answer without choices stands for."""
    message = answer.message or "there is no answer"
    return ServiceError(answer.refusal or "internal", message)


async def _timed(asked: Awaitable[Answer]) -> tuple[Answer, float]:
    """An answer, a refusal that was raised as one as well, and the time it took [s]."""
    began = time.perf_counter()
    try:
        answer = await asked
    except ServiceError as error:
        reason: Refusal = error.refusal
        answer = Answer(id="", refusal=reason, message=error.message)
    return answer, time.perf_counter() - began


def _side(answer: Answer, seconds: float, usd_per_hour: float) -> dict[str, Any]:
    if answer.refusal:
        error = {"code": answer.refusal, "message": answer.message}
        return {"text": None, "error": error, "latency_ms": 1000 * seconds}
    choice = answer.choices[0]
    return {
        "text": choice.text,
        "confidence": choice.confidence,
        "finish_reason": choice.finish_reason,
        "completion_tokens": choice.completion_tokens,
        "latency_ms": 1000 * seconds,
        "queue_ms": 1000 * answer.queue_s,
        "compute_ms": 1000 * answer.compute_s,
        "batch_rows": answer.batch_rows,
        "cost_usd": cost_usd(answer, usd_per_hour),
    }
