"""Answer synthetic prompts of every batch size before the first caller does.

The first calls of an engine are its slowest, and the scheduler knows nothing yet: its estimate of
a wait is fitted on what it has seen (serving/_scheduler_counts.py). Serial callers alone would show
it batches of one, from which nobody can tell what a batch of many costs. So sizes 1, 2, 4 … up to
the largest are run here, of short and of long prompts, and readiness waits for that.
"""

from collections.abc import Iterator
from typing import Any

from serving._answering import TokenPredictor
from serving._items import Item
from serving._scheduler import Scheduler
from serving.completion import Request
from serving.errors import StillhouseError

WORD = "warm "
LONG_TOKENS = 256  # enough to tell long from short; a start must not take long
ANSWER_TOKENS = 16
PATIENCE_S = 120.0  # for one batch, on the slowest machine


def warm_up(scheduler: Scheduler, patience_s: float = PATIENCE_S) -> list[int]:
    """Run all sizes, each twice; the sizes, in items.

    Blocks. Nobody else may hand in items before it is done, or they mix with its own.

    Args:
        patience_s: longest wait for one batch.

    Raises:
        StillhouseError: the model refused a prompt or took too long, so it is not ready.
    """
    sizes = []
    for prompt, tokens in _prompts(scheduler.predictor):
        for size in _sizes(scheduler, tokens):
            _run(scheduler, prompt, tokens, size, patience_s)
            sizes.append(size)
    return sizes


def _run(scheduler: Scheduler, prompt: str, tokens: int, size: int, patience_s: float) -> None:
    item = Item(
        id="warm-up",
        tenant="warm-up",
        prompt=prompt,
        decoding=_decoding(scheduler.predictor),
        prompt_tokens=tokens,
    )
    futures = scheduler.submit_many([item] * size)
    for future in futures:
        try:
            answer = future.result(patience_s)
        except TimeoutError:
            raise StillhouseError(
                f"{size} prompts of {tokens} tokens were expected to be answered within "
                f"{patience_s:.0f} s at start, and were not. Use a smaller model or more threads."
            ) from None
        if answer.refusal:
            raise StillhouseError(
                f"{size} prompts of {tokens} tokens were expected to be answered at start, found "
                f"refusal {answer.refusal} ({answer.message}). Correct the model or the limits."
            )


def _decoding(predictor: TokenPredictor) -> dict[str, Any]:
    """Short answers, none of them asked again: nonsense would be found at fault every time."""
    settings = {"max_new_tokens": min(ANSWER_TOKENS, predictor.decoding.max_new_tokens)}
    return settings | ({"answers": 1} if predictor.decoding.method == "greedy" else {})


def _sizes(scheduler: Scheduler, tokens: int) -> Iterator[int]:
    """1, 2, 4 … and the most items that a micro-batch of such prompts can have."""
    limits, decoding = scheduler.limits, scheduler.predictor.decoding
    room = _decoding(scheduler.predictor)["max_new_tokens"]
    rows = max(decoding.beams, decoding.answers if decoding.method == "sample" else 1)
    fitting = limits.batch_tokens // (tokens + room)
    most = max(1, min(limits.max_rows, fitting, limits.max_waiting) // rows)
    size = 1
    while size < most:
        yield size
        size *= 2
    yield most


def _prompts(predictor: TokenPredictor) -> list[tuple[str, int]]:
    """A short prompt and a long one, with their lengths [tokens]."""
    each = max(1, _raw_length(predictor, 9) - _raw_length(predictor, 8))
    longest = min(LONG_TOKENS, predictor.longest_prompt)
    words = max(1, 1 + (longest - _raw_length(predictor, 1)) // each)
    while words > 1 and _raw_length(predictor, words) > longest:
        words -= 1
    prompts = [WORD * count for count in (1, words)]
    return [(prompt, len(predictor.encode([Request(prompt)])[0])) for prompt in prompts]


def _raw_length(predictor: TokenPredictor, words: int) -> int:
    """Tokens of so many words in the template, without examples."""
    return len(predictor.prompts.encode(Request(WORD * words)))
