"""What the baseline's process does with a batch; a fault of one item is in its answer."""

import logging
import time
from collections.abc import Sequence
from typing import Any

from serving._items import Answer, Choice, Item
from serving._metrics import Metrics
from serving.completion import Completion, Request
from serving.errors import StillhouseError
from serving.predictor import Predictor

logger = logging.getLogger(__name__)
FAULT = "the baseline failed on this request; the fault is ours"


def answer_items(predictor: Predictor, items: Sequence[Item]) -> list[Answer]:
    """Answers in the order of `items`; what is too long is not looked at."""
    longest = predictor.contract.limits["max_prompt_chars"]
    fitting = [item for item in items if _characters(item) <= longest]
    answers = iter(_answer_batch(predictor, fitting) if fitting else [])
    message = f"prompt and context may have {longest:,} characters. Shorten them."
    return [
        next(answers)
        if _characters(item) <= longest
        else Answer(id=item.id, refusal="prompt_too_long", message=message)
        for item in items
    ]


def answer_request(predictor: Predictor, request: Request) -> dict[str, Any]:
    """The native answer to one request.

    Raises:
        StillhouseError: it is too long, or a record that cannot be parsed.
    """
    limit = predictor.contract.limits["max_prompt_chars"]
    if len(request.prompt) + len(request.context or "") > limit:
        raise StillhouseError(
            f"prompt and context are longer than {limit:,} characters. Shorten them."
        )
    completion = predictor.answer([request])[0]
    return {"text": completion.text, "confidence": completion.confidence}


def _answer_batch(predictor: Predictor, items: Sequence[Item]) -> list[Answer]:
    """The batch at once, and where it fails each alone."""
    started = time.perf_counter()
    try:
        made = predictor.answer([_request(item) for item in items])
    except Exception as error:
        if len(items) == 1:
            return [_refusal(items[0], error)]
        return [answer for item in items for answer in _answer_batch(predictor, [item])]
    seconds = time.perf_counter() - started
    pairs = zip(items, made, strict=True)
    return [_answer(item, found, seconds, len(items)) for item, found in pairs]


def tell_batch(metrics: Metrics, answers: Sequence[Answer]) -> None:
    """Tell the figures of one batch; words are no tokens, so those are not counted."""
    seconds = sum(answer.compute_s / max(answer.batch_rows, 1) for answer in answers)
    metrics.observe_items("baseline", len(answers))
    metrics.observe_batch(
        "baseline", rows=len(answers), real_tokens=0, padded_tokens=0, seconds=seconds
    )


def _characters(item: Item) -> int:
    return len(item.prompt) + len(item.context or "")


def _request(item: Item) -> Request:
    return Request(item.prompt, item.slots, item.context)


def _refusal(item: Item, error: Exception) -> Answer:
    if isinstance(error, StillhouseError):
        return Answer(id=item.id, refusal="invalid_request", message=str(error))
    logger.error("request %s failed: %s", item.id, type(error).__name__)
    return Answer(id=item.id, refusal="internal", message=FAULT)


def _answer(item: Item, found: Completion, seconds: float, rows: int) -> Answer:
    choice = Choice(
        text=found.text,
        finish_reason=found.finish_reason,
        completion_tokens=found.completion_tokens,
        confidence=found.confidence,
    )
    return Answer(
        id=item.id,
        choices=[choice],
        prompt_tokens=found.prompt_tokens,
        compute_s=seconds,
        batch_rows=rows,
    )
