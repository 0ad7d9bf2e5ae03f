"""Traditional model, students and LLM side by side: needs, quality, monthly cost. Pure.

Quality, speed, memory and storage come from the reports. Money is arithmetic on stated prices:

- a replica serves R requests a second, as measured at the batch size that is fastest;
- replicas(rate) = max(1, ceil(rate / (R * utilisation)));
- self-hosted: replicas * price per hour * 730 hours + maintenance, on demand and on spot machines;
- an API: rate * seconds of a month * (tokens in * price in + tokens out * price out) + its
  maintenance, with tokens estimated from characters, since its tokenizer is not ours.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from stages._params.select import Prices

HOURS_PER_MONTH = 730.0  # 365 days * 24 hours / 12
SECONDS_PER_MONTH = HOURS_PER_MONTH * 3600.0
API = "LLM behind an API"

Report = Mapping[str, Any]
Row = dict[str, Any]


def best_requests_per_s(benchmark: Report) -> float | None:
    """Requests that one replica finishes per second at the batch size that is fastest."""
    rates = benchmark.get("requests_per_s") or {}
    return max((float(rate) for rate in rates.values()), default=None)


def replicas(rate: float, throughput: float, utilisation: float) -> int:
    """Replicas for `rate` requests/s, each filled to `utilisation` of its throughput; at least one.

    A quotient within a billionth of a whole number counts as that number, so that rounding of
    floats buys no machine.
    """
    return max(1, math.ceil(rate / (throughput * utilisation) - 1e-9))


def hosted_usd_per_month(count: int, usd_per_hour: float, maintenance: float) -> float:
    """What so many replicas cost, with people's time [USD/month]."""
    return count * usd_per_hour * HOURS_PER_MONTH + maintenance


def api_usd_per_request(tokens_in: float, tokens_out: float, prices: Prices) -> float:
    """Price of one request to an API [USD]."""
    paid = tokens_in * prices.api_input_usd_per_million_tokens
    return (paid + tokens_out * prices.api_output_usd_per_million_tokens) / 1e6


def api_usd_per_month(rate: float, usd_per_request: float, maintenance: float) -> float:
    """What an API costs at `rate` requests/s all month, with people's time [USD/month]."""
    return rate * SECONDS_PER_MONTH * usd_per_request + maintenance


def break_even_requests_per_s(
    throughput: float, usd_per_hour: float, usd_per_request: float, prices: Prices
) -> float | None:
    """Rate from which machines on demand are cheaper than the API [requests/s].

    With n replicas, each filled to c requests/s, that is the least rate of ((n - 1) c, n c] at
    which the API's bill reaches theirs. None where it never does: then a full replica costs more
    than its requests would cost there.
    """
    full = throughput * prices.utilisation
    machine = usd_per_hour * HOURS_PER_MONTH
    bill = usd_per_request * SECONDS_PER_MONTH  # per request/s
    upkeep = max(prices.maintenance_usd_per_month - prices.api_maintenance_usd_per_month, 0.0)
    if bill * full <= machine:
        return None
    count = max(1, math.ceil(upkeep / (bill * full - machine) - 1e-9))
    return max((count - 1) * full, (count * machine + upkeep) / bill)


def describe(name: str, role: str, evaluation: Report | None, benchmark: Report) -> Row:
    """One model's measured figures, units in the names; None for what was not measured."""
    scores, model = evaluation or {}, (evaluation or {}).get("model", {})
    throughput = best_requests_per_s(benchmark)
    latency = benchmark.get("latency_ms") or {}
    return {
        "name": name,
        "role": role,
        "device": benchmark.get("device"),
        "threads": benchmark.get("threads"),
        "engine": model.get("engine"),
        "scheme": model.get("scheme"),
        "parameters": model.get("parameters"),
        "disk_mb": benchmark.get("disk_mb", model.get("size_mb")),
        "peak_memory_mb": benchmark.get("peak_memory_mb"),
        "latency_p50_ms": latency.get("p50"),
        "latency_p95_ms": latency.get("p95"),
        "requests_per_s": throughput,
        "machine_s_per_1k_requests": 1000.0 / throughput if throughput else None,
        "hourly_price_usd": benchmark.get("hourly_price_usd"),
        "cost_per_1k_requests_usd": benchmark.get("cost_per_1k_requests_usd"),
        "bleu": scores.get("bleu", {}).get("score"),
        "slot_error_rate": scores.get("slot_error_rate", {}).get("score"),
    }


def with_costs(row: Row, prices: Prices, usd_per_request: float) -> Row:
    """The row with what it costs at each rate, and from which rate it undercuts the API."""
    throughput, price = row["requests_per_s"], row["hourly_price_usd"]
    if not throughput or price is None:
        return {**row, "usd_per_month": None, "break_even_requests_per_s": None}
    upkeep = prices.maintenance_usd_per_month
    months = {}
    for rate in prices.requests_per_s:
        count = replicas(rate, throughput, prices.utilisation)
        months[f"{rate:g}"] = {
            "replicas": count,
            "on_demand": hosted_usd_per_month(count, price, upkeep),
            "spot": hosted_usd_per_month(count, price * prices.spot_share, upkeep),
        }
    cheaper = break_even_requests_per_s(throughput, price, usd_per_request, prices)
    return {**row, "usd_per_month": months, "break_even_requests_per_s": cheaper}


def describe_api(
    prompts: Sequence[str], outputs: Sequence[str], source: str, prices: Prices
) -> Row:
    """What an API would be asked and paid for: the same prompts, answers as long as `source`'s."""
    characters = [sum(map(len, texts)) / max(len(texts), 1) for texts in (prompts, outputs)]
    tokens_in = characters[0] / prices.characters_per_token + prices.api_instruction_tokens
    tokens_out = characters[1] / prices.characters_per_token
    price = api_usd_per_request(tokens_in, tokens_out, prices)
    upkeep = prices.api_maintenance_usd_per_month
    return {
        "name": API,
        "tokens_in": tokens_in,
        "tokens_out": tokens_out,
        "answers_as_long_as": source,
        "cost_per_1k_requests_usd": 1000.0 * price,
        "usd_per_month": {
            f"{rate:g}": api_usd_per_month(rate, price, upkeep) for rate in prices.requests_per_s
        },
    }


def as_markdown(rows: Sequence[Row], api: Row, prices: Prices) -> str:
    """Two tables, what each model needs and what it costs a month, then the assumptions."""
    needs = [
        [row["name"], row["role"], _device(row), _number(row["parameters"], ",.0f")]
        + [_number(row[key], ",.1f") for key in ("disk_mb", "peak_memory_mb")]
        + [_number(row[key], ".3g") for key in ("latency_p50_ms", "latency_p95_ms")]
        + [_number(row[key], ".3g") for key in ("requests_per_s", "machine_s_per_1k_requests")]
        + [_number(row["bleu"], ".1f"), _number(row["slot_error_rate"], ".2%")]
        for row in rows
    ]
    head = ["model", "role", "device", "parameters", "disk MB", "memory MB", "p50 ms", "p95 ms"]
    head += ["requests/s", "machine s per 1,000", "BLEU", "slot errors"]
    rates = [f"{rate:g}" for rate in prices.requests_per_s]
    costs = [
        [row["name"], _device(row)]
        + [_month((row["usd_per_month"] or {}).get(rate)) for rate in rates]
        + [_number(row["break_even_requests_per_s"], ".3g")]
        for row in rows
    ]
    costs.append([API, ""] + [_number(api["usd_per_month"][rate], ",.0f") for rate in rates] + [""])
    cost_head = [
        "model",
        "device",
        *(f"{rate}/s" for rate in rates),
        "cheaper than the API from /s",
    ]
    parts = [
        "# Traditional model, students and LLM",
        "Measured: quality on the test split, speed at batch 1 and at the fastest batch size.",
        _table(head, needs),
        "## USD per month at a steady rate: on demand / spot (replicas)",
        _table(cost_head, costs),
        _assumptions(rows, api, prices),
    ]
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _device(row: Row) -> str:
    threads = row["threads"]
    return f"{row['device']}, {threads} threads" if threads else str(row["device"] or "–")


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _month(cost: Report | None) -> str:
    if cost is None:
        return "–"
    return f"{cost['on_demand']:,.0f} / {cost['spot']:,.0f} ({cost['replicas']:,})"


def _assumptions(rows: Sequence[Row], api: Row, prices: Prices) -> str:
    hours = sorted({(r["device"], r["hourly_price_usd"]) for r in rows if r["hourly_price_usd"]})
    machines = ", ".join(f"{device} {price:g}" for device, price in hours)
    paid_in, paid_out = (
        prices.api_input_usd_per_million_tokens,
        prices.api_output_usd_per_million_tokens,
    )
    return (
        f"Assumed, not measured (benchmark.hourly_price_usd, select.prices): machines on demand "
        f"{machines or '–'} USD an hour, spot {prices.spot_share:.0%} of that; maintenance "
        f"{prices.maintenance_usd_per_month:g} USD a month, with an API "
        f"{prices.api_maintenance_usd_per_month:g}; replicas filled to {prices.utilisation:.0%}; "
        f"API {paid_in:g} and {paid_out:g} USD per million tokens in and out, "
        f"{api['tokens_in']:.0f} in and {api['tokens_out']:.0f} out per request (answers as long "
        f"as those of {api['answers_as_long_as']}, {prices.characters_per_token:g} characters "
        f"per token, {prices.api_instruction_tokens} tokens of instructions); "
        f"{HOURS_PER_MONTH:g} hours a month."
    )
