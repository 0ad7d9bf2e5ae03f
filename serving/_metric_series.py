"""The table of what is measured: names, kinds, labels and their values, all bounded.

docs/operating.md explains each one; a test compares it with this table.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from serving._items import Refusal

Outcome = Literal["answered", "refused", "failed", "left"]
"""2xx and 3xx; 4xx and 503; other 5xx; the caller went away before the answer was whole."""
Model = Literal["student", "baseline"]
Cancelled = Literal["waiting", "computing"]

ROUTES = (
    "/generate",
    "/cascade",
    "/baseline",
    "/compare",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/models",
    "/v1/models/{model}",
    "/invocations",
    "/predict",
    "/score",
)
OTHER = "other"
"""The route of any path that is none of these."""

MODELS = {"model": get_args(Model)}
BY_ROUTE = {"route": (*ROUTES, OTHER)}
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
POWERS = tuple(float(2**power) for power in range(11))
DOLLARS = tuple(float(f"1e-{power}") for power in range(9, 1, -1))


class Series(NamedTuple):
    """One metric as it is declared."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: Mapping[str, Sequence[str]] = {}
    """Values of each label, all known beforehand; none where they are known at the start only."""
    buckets: Sequence[float] = SECONDS
    merge: Literal["livesum", "livemax"] = "livesum"
    """What gauges of several processes come to; those of a process that ended do not count."""


SERIES = (
    Series(
        "requests_total",
        "counter",
        "Requests that ended, also those whose caller left.",
        BY_ROUTE | {"outcome": get_args(Outcome)},
    ),
    Series("refusals_total", "counter", "Refused requests.", {"reason": get_args(Refusal)}),
    Series("request_seconds", "histogram", "From the first byte in to the last out.", BY_ROUTE),
    Series("requests_under_way", "gauge", "Requests that have begun and not ended."),
    Series("streams_alive", "gauge", "Streams that have begun and not ended."),
    Series("queue_items", "gauge", "Items that wait for a micro-batch.", MODELS),
    Series("queue_tokens", "gauge", "Tokens that wait, with room for answers.", MODELS),
    Series("queue_seconds", "histogram", "From arrival to the micro-batch.", MODELS),
    Series("compute_seconds", "histogram", "Of one micro-batch.", MODELS),
    Series("first_token_seconds", "histogram", "From arrival to a stream's first token.", MODELS),
    Series("token_gap_seconds", "histogram", "Between two tokens of a stream.", MODELS),
    Series("batch_items", "histogram", "Items that BentoML hands over at once.", MODELS, POWERS),
    Series("micro_batch_rows", "histogram", "Items in one micro-batch.", MODELS, POWERS),
    Series("padded_share", "histogram", "Padding in a micro-batch's tokens.", MODELS, SHARES),
    Series("prompt_tokens_total", "counter", "Tokens of answered prompts.", MODELS),
    Series("completion_tokens_total", "counter", "Tokens of answers.", MODELS),
    Series("padding_tokens_total", "counter", "Tokens computed as padding.", MODELS),
    Series(
        "cancelled_total",
        "counter",
        "Items whose caller left.",
        MODELS | {"stage": get_args(Cancelled)},
    ),
    Series("expired_total", "counter", "Items whose deadline passed while they waited.", MODELS),
    Series("wasted_tokens_total", "counter", "Tokens computed for callers who left.", MODELS),
    Series("cost_usd_total", "counter", "Compute seconds at the stated price.", MODELS),
    Series("request_cost_usd", "histogram", "A request's share of them.", MODELS, DOLLARS),
    Series("usd_per_hour", "gauge", "The stated price of the machine.", merge="livemax"),
    Series("token_budget", "gauge", "Most tokens of a micro-batch.", MODELS, merge="livemax"),
    Series("largest_batch_rows", "gauge", "Most items of one.", MODELS, merge="livemax"),
    Series(
        "model_info",
        "gauge",
        "1 for each loaded model.",
        {"model": (), "engine": (), "digest": ()},
        merge="livemax",
    ),
)
SCRAPED = (
    Series(
        "memory_bytes", "gauge", "Memory now.", {"part": (), "kind": ("resident", "proportional")}
    ),
    Series("gpu_memory_bytes", "gauge", "Memory now.", {"device": (), "kind": ("used", "total")}),
)
"""Read when /metrics is asked, by the process that answers, of the whole tree."""


def route_of(path: str) -> str:
    """The template of a path, or "other": never the path itself, of which there is no end."""
    if path in ROUTES:
        return path
    head, _, model = path.removeprefix("/v1/").partition("/")
    return "/v1/models/{model}" if path.startswith("/v1/") and head == "models" and model else OTHER
