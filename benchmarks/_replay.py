"""A replayed trace: which prompts are asked how often, and which a cache still has. Pure."""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def zipf_trace(prompts: int, requests: int, exponent: float, seed: int) -> NDArray[np.int64]:
    """So many requests; the prompt of rank r is asked in proportion to 1 / r ** exponent.

    Ranks are dealt out at random. Returns the number of each request's prompt, shape [requests].
    """
    random = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, prompts + 1) ** exponent
    ranks = random.choice(prompts, size=requests, p=weights / weights.sum())
    return random.permutation(prompts)[ranks]


def misses(
    trace: Sequence[int], entries: int, lifetime_s: float, requests_per_s: float
) -> NDArray[np.bool_]:
    """Which requests an exact cache does not have, shape [requests].

    The one used longest ago goes where there are more than `entries`, and each `lifetime_s` after
    it was stored. Requests come evenly, at `requests_per_s`.
    """
    stored: OrderedDict[int, float] = OrderedDict()
    missed = np.zeros(len(trace), dtype=np.bool_)
    for number, prompt in enumerate(trace):
        now = number / requests_per_s
        if prompt in stored and now - stored[prompt] < lifetime_s:
            stored.move_to_end(prompt)
            continue
        missed[number] = True
        stored.pop(prompt, None)
        stored[prompt] = now
        if len(stored) > entries:
            stored.popitem(last=False)
    return missed
