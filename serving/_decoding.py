"""Decoding settings, and how requests are cut into batches: the same for every engine.

Settings travel in a contract as plain data and are checked whole when a model is loaded, so that
a mistyped key stops a release and not a request.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from serving.errors import StillhouseError

Method = Literal["greedy", "beam", "sample"]
CacheKind = Literal["dynamic", "static", "quantized"]


@dataclass(frozen=True)
class Decoding:
    """How an answer is made from next-token probabilities."""

    max_new_tokens: int
    """Longest answer [tokens], the end token included."""
    method: Method = "greedy"
    """greedy: likeliest token; beam: beam search; sample: drawn at random."""
    beams: int = 1
    """Beams kept by `beam` (at least 2 there, 1 elsewhere)."""
    length_penalty: float = 1.0
    """Exponent of the length that divides a beam's log-probability (larger: longer answers)."""
    temperature: float = 1.0
    """Divides the logits of `sample`."""
    top_p: float = 1.0
    """`sample` draws from the likeliest tokens that together reach this probability."""
    seed: int = 0
    """Of `sample`; the same seed and request give the same answer, whatever else is asked."""
    batch_tokens: int = 8192
    """Most tokens of a micro-batch: rows x (longest prompt + longest answer)."""
    answers: int = 1
    """Answers that compete for each request; the fewest faults win (serving/_faults.py). Under
    `greedy`, with a slot schema, only for a request whose greedy answer has faults: that and the
    best beams of as many."""
    cache: CacheKind = "dynamic"
    """How the `transformers` engine keeps past keys and values: growing, reserved whole, or as
    8-bit integers, which take about a quarter of float32's bytes and may change an answer."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Decoding":
        """Read settings as a contract holds them.

        Raises:
            StillhouseError: unknown keys, wrong types or values out of range; all in one line.
        """
        known = {item.name for item in fields(cls)}
        problems = [f"{name!r} is unknown" for name in data if name not in known]
        if "max_new_tokens" not in data:
            problems.append("max_new_tokens is missing")
        for name, (expected, accepts) in _RANGES.items():
            if name in data and not accepts(data[name]):
                problems.append(f"{name} must be {expected}, not {data[name]!r}")
        problems = problems or _contradictions(data)
        if problems:
            raise StillhouseError(
                f"wrong decoding settings: {'; '.join(problems)}. "
                f"Known: {', '.join(sorted(known))}; correct them where the model was made."
            )
        return cls(**data)


def _whole(least: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and value >= least


def _real(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


_RANGES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "max_new_tokens": ("a whole number from 1", _whole(1)),
    "method": (f"one of {', '.join(get_args(Method))}", lambda value: value in get_args(Method)),
    "beams": ("a whole number from 1", _whole(1)),
    "length_penalty": ("a number", _real),
    "temperature": ("a number above 0", lambda value: _real(value) and value > 0),
    "top_p": ("a number above 0, at most 1", lambda value: _real(value) and 0 < value <= 1),
    "seed": ("a whole number from 0", _whole(0)),
    "batch_tokens": ("a whole number from 1", _whole(1)),
    "answers": ("a whole number from 1", _whole(1)),
    "cache": (f"one of {', '.join(get_args(CacheKind))}", lambda v: v in get_args(CacheKind)),
}


def _contradictions(data: Mapping[str, Any]) -> list[str]:
    method, beams, answers = (data.get(k, d) for k, d in _DEFAULTS)
    problems = []
    if (method == "beam") != (beams > 1):
        problems.append(f"method {method} does not go with beams {beams}")
    if method == "beam" and answers > beams > 1:
        problems.append(f"{beams} beams have no {answers} answers")
    return problems


_DEFAULTS = (("method", "greedy"), ("beams", 1), ("answers", 1))


def cut_batches(lengths: Sequence[int], budget: int, extra: int) -> list[list[int]]:
    """Cut requests into batches of similar length that cost at most `budget` tokens each.

    Args:
        lengths: prompt lengths [tokens].
        budget: most tokens of a batch, padding and room for the answers included.
        extra: tokens that every row may grow by.

    Returns:
        Indices into `lengths`, every one once, shortest first, equals in their order; in each
        batch (longest + extra) * rows <= budget, unless a single row alone is above it.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        # sorted: the row that comes is the longest of its batch
        fits = batches and (lengths[index] + extra) * (len(batches[-1]) + 1) <= budget
        if fits:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def retry_settings(decoding: Mapping[str, Any]) -> dict[str, Any] | None:
    """Settings of the second attempt at what greedy gets wrong; None where there is none."""
    answers = decoding.get("answers", 1)
    if decoding.get("method", "greedy") != "greedy" or answers == 1:
        return None
    return {**decoding, "method": "beam", "beams": answers}
