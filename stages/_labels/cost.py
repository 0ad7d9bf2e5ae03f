"""What labels of an endpoint will cost, before anything is asked.

The server's tokenizer is not at hand. Until answers are there, a token is taken for four characters
of text (a rule of thumb for English), a prompt for what the sampled ones are on average, an answer
for what training references are. Once some are paid for, the bill itself tells the averages,
repeats included. The upper figure holds for every tokenizer that works on bytes, as none makes more
tokens than text has bytes, and for answers that are all as long as they may be.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from serving._endpoint_account import Usage
from serving.endpoint_settings import EndpointSettings, estimate_cost

SAMPLE = 200  # prompts and references that are measured
CHARACTERS_PER_TOKEN = 4
FRAME_TOKENS = 32  # that a server's chat template writes around a prompt
ENOUGH = 20  # paid answers whose averages are better than a rule of thumb


@dataclass(frozen=True)
class Estimate:
    """What is expected; `usd_at_most` is for the longest answers."""

    prompts: int
    prompt_tokens: int
    completion_tokens: int
    usd: float
    usd_at_most: float
    basis: str
    """How it was estimated."""


def estimate_labels(
    prompts: Sequence[str],
    count: int,
    references: Sequence[str],
    answers: int,
    max_new_tokens: int,
    settings: EndpointSettings,
    paid: tuple[int, Usage],
) -> Estimate:
    """The cost of `answers` answers to each of `count` prompts.

    Args:
        prompts: a sample of them, as they are sent; some, unless `count` is 0.
        references: texts as long as answers are expected to be; without any, answers are expected
            to be as long as they may.
        paid: prompts that were answered before in the same way, and their bill.
    """
    size, frame = max(len(prompts), 1), FRAME_TOKENS if settings.api == "chat" else 0
    per_prompt = sum(map(len, prompts)) / CHARACTERS_PER_TOKEN / size + frame
    characters = sum(map(len, references)) / max(len(references), 1)
    expected = characters / CHARACTERS_PER_TOKEN if references else max_new_tokens
    per_answer = answers * min(expected + 1, max_new_tokens)
    basis = f"{CHARACTERS_PER_TOKEN} characters a token, answers as long as training references"
    number, bill = paid
    if number >= ENOUGH:
        per_prompt, per_answer = bill.prompt_tokens / number, bill.completion_tokens / number
        basis = f"the average of {number} answered prompts"
    tokens = math.ceil(count * per_prompt), math.ceil(count * per_answer)
    longest = sum(len(text.encode(errors="replace")) for text in prompts) / size + frame
    at_most = math.ceil(count * answers * longest), count * answers * max_new_tokens
    return Estimate(
        prompts=count,
        prompt_tokens=tokens[0],
        completion_tokens=tokens[1],
        usd=estimate_cost(*tokens, settings),
        usd_at_most=max(estimate_cost(*at_most, settings), estimate_cost(*tokens, settings)),
        basis=basis,
    )
