"""Prefill and decode of the transformers engine, with each kind of attention and of cache.

Runs in the worker's process, after everything else: other kinds take other memory. The loop is the
engine's own (serving/_generation.py), with no token that ends an answer, so that all rows stay.
"""

import time
from collections.abc import Sequence
from typing import Any

import torch

from serving import _generation as generation
from serving._cache import cache_bytes, new_cache
from serving._decoding import CacheKind, Decoding
from serving.completion import Request
from serving.errors import StillhouseError

STEPS = 16  # tokens that are decoded after the prompt's own
ENGINE_ATTENTION = "sdpa"  # as serving/_transformers_model.py loads it
Timed = dict[str, Any]


def time_kinds(predictor: Any, requests: Sequence[Request], job: dict[str, Any]) -> dict[str, Any]:
    """`attention` and `caches`: by kind its samples [s], or why this device does not have it.

    The kinds take turns within one time budget each for attention and caches; the first lap warms
    up.
    """
    prompts = predictor.encode(requests)
    model, tokens = predictor.model, min(predictor.decoding.max_new_tokens, STEPS + 1)
    attention: dict[str, Timed] = {k: _try_attention(model, k, prompts) for k in job["attention"]}
    caches: dict[str, Timed] = {k: _try_cache(model, k, prompts) for k in job["caches"]}
    for group, of_attention in ((attention, True), (caches, False)):
        able = [kind for kind, found in group.items() if "unavailable" not in found]
        end, laps = time.perf_counter() + job["seconds"] / 2, 0
        while able and (laps < 2 or time.perf_counter() < end):
            for kind in able:
                model.set_attn_implementation(kind if of_attention else ENGINE_ATTENTION)
                how = Decoding(tokens, cache="dynamic" if of_attention else _cache(kind))
                _add(group[kind], _time_steps(model, how, prompts), laps > 0)
            laps += 1
    model.set_attn_implementation(ENGINE_ATTENTION)
    return {"attention": attention, "caches": caches}


def _cache(kind: str) -> CacheKind:
    return Decoding.from_dict({"max_new_tokens": 1, "cache": kind}).cache


def _try_attention(model: Any, kind: str, prompts: Sequence[list[int]]) -> Timed:
    """Only a pass shows all that a kind cannot do: flash attention refuses float32 there."""
    try:
        model.set_attn_implementation(kind)
        _time_steps(model, Decoding(2), prompts)
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        return {"unavailable": _first_line(error)}
    finally:
        model.set_attn_implementation(ENGINE_ATTENTION)
    return {"prefill_s": [], "decode_s": []}


@torch.inference_mode()
def _try_cache(model: Any, kind: str, prompts: Sequence[list[int]]) -> Timed:
    """With the bytes that the batch's prompts take, each as long as the longest [MB]."""
    longest = max(prompts, key=len)
    try:
        cache = new_cache(model.config, _cache(kind), len(longest) + STEPS + 1)
    except StillhouseError as error:
        return {"unavailable": _first_line(error)}
    ids = torch.tensor([longest] * len(prompts), device=model.device)
    model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return {"prefill_s": [], "decode_s": [], "cache_mb": cache_bytes(cache) / 1e6}


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _time_steps(model: Any, how: Decoding, prompts: Sequence[list[int]]) -> list[float]:
    """Seconds of the prompt's pass and of each token after it; a step waits for the device."""
    seconds, started = [], time.perf_counter()
    for _ in generation.steps(model, frozenset(), how, prompts, None):
        seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
    return seconds


def _add(found: Timed, seconds: Sequence[float], counts: bool) -> None:
    if counts:
        found["prefill_s"].append(seconds[0])
        found["decode_s"] += seconds[1:]
