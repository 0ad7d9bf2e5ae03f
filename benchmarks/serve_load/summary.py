"""The run as a table, and the figures that have a target beside it."""

from collections.abc import Mapping
from typing import Any

from benchmarks.serve_load.peers import OURS, SAME_DTYPE

# Ours over each at the most clients, at least.
TARGETS = {
    "one_at_a_time": 10.0,
    "serve": 10.0,
    "serve_batching": 2.5,
    "plain_batching": 1.3,
    "offline": 0.8,
}


def summarise(results: Mapping[str, Any]) -> str:
    """Lines for a person."""
    return "\n".join(
        [
            *_commands(results),
            "",
            *_table(results["throughput"]),
            "",
            *_agreement(results["agreement"]),
            "",
            *_ratios(results["throughput"]),
            "",
            *_service(results),
        ]
    )


def _commands(results: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}: {server['what']}\n    {server['command']}"
        for name, server in results["servers"].items()
    ]


def _table(throughput: Mapping[str, Any]) -> list[str]:
    """Tokens/s by client count; median over rounds; latency at the most clients."""
    counts = list(throughput)
    head = "".join(f"{f'{n} clients':>14}" for n in counts)
    lines = [f"{'tokens/s':20}{head}{'p50 ms':>12}{'p99 ms':>10}{'not 200':>9}"]
    last = throughput[counts[-1]]
    for name in last["tokens_per_s"]:
        rates = "".join(f"{throughput[n]['tokens_per_s'][name]:14,.0f}" for n in counts)
        lines.append(f"{name:20}{rates}{_latency(last['rounds'][name])}")
    return lines


def _latency(turns: list[Mapping[str, Any]]) -> str:
    """Of the worst round; nothing of the offline limit."""
    waits = [turn["latency_ms"] for turn in turns if turn.get("latency_ms")]
    if not waits:
        return ""
    bad = sum(n for turn in turns for result, n in turn["results"].items() if result != "200")
    p50, p99 = (max(wait[name] for wait in waits) for name in ("p50", "p99"))
    return f"{p50:12,.0f}{p99:10,.0f}{bad:9}"


def _agreement(agreement: Mapping[str, Any]) -> list[str]:
    """Whether all do the same work."""
    return [
        f"{name}: {found['tokens_per_answer']:.1f} tokens per answer, same answers as "
        + ", ".join(f"{other} {share:.2f}" for other, share in found["same_as"].items())
        for name, found in agreement.items()
    ]


def _ratios(throughput: Mapping[str, Any]) -> list[str]:
    clients, last = list(throughput.items())[-1]
    lines = []
    for name, ratios in last["ratios"].items():
        for other, found in ratios.items():
            if other.startswith(OURS):
                continue
            ratio = "{ratio:.2f} [{low:.2f}, {high:.2f}]".format(**found)
            target = f", at least {TARGETS[other]}" if name == OURS and other in TARGETS else ""
            lines.append(f"{clients} clients: {name} is {ratio} of {other}{target}")
    return lines


def _service(results: Mapping[str, Any]) -> list[str]:
    peak, calm, over = results["peak"], results["latency"], results["overload"]
    waits = calm["latency_ms"]
    held = "{ratio:.2f} [{low:.2f}, {high:.2f}]".format(**over["throughput_to_peak"])
    lines = [
        f"peak: {peak['tokens_per_s']:,.0f} tokens/s, {peak['answers_per_s']:.1f} answers/s "
        f"with {peak['clients']} clients",
        f"at {calm['rate_per_s']:.1f} requests/s: p50 {waits['p50']:.0f} ms, p95 "
        f"{waits['p95']:.0f} ms, p99 {waits['p99']:.0f} ms, p99/p50 {calm['p99_to_p50']:.2f}, at "
        f"most 3; {calm['results']}"
        if waits
        else f"at {calm['rate_per_s']:.1f} requests/s: no answers; {calm['results']}",
        f"at {over['rate_per_s']:.1f} requests/s: {over['requests']} requests {over['results']}, "
        f"{over['unanswered_in_time']} without a reply in {over['deadline_s']:g} s, "
        f"{over['late_answers']} late answers; {held} of the peak, at least 0.9; sent late by at "
        f"most {max(turn['sent_late_ms']['max'] for turn in over['rounds']['overload']):.0f} ms",
    ]
    return [*lines, *_costs(results)]


def _costs(results: Mapping[str, Any]) -> list[str]:
    """Start, memory, size, and what the generator can do."""
    lines = []
    for name, found in results["streams"]["servers"].items():
        if waits := found["first_text_ms"]:
            lines.append(
                f"{name}: first text after {waits['p50']:.0f} ms (p99 {waits['p99']:.0f}) with "
                f"{results['streams']['clients']} clients"
            )
    if start := results.get("start"):
        lines.append(
            f"start to ready: {start['ready_s'][OURS]:.1f} s, of that "
            f"{start['apart_from_framework_s']:.1f} s apart from the framework, under 5"
        )
    for name in (OURS, SAME_DTYPE):
        if memory := results["memory"].get(name):
            engine = memory["engine_resident_mb"]
            lines.append(
                f"{name}: {memory['tree_proportional_mb']:.0f} MB proportional, under 600; the "
                f"process that computes {engine or 0:.0f} MB resident, under 160"
            )
    if size := results.get("bento_mb"):
        lines.append(f"Bento: {size:.1f} MB, under 60")
    own = results["generator"]
    lines.append(f"the load generator itself: {own['requests_per_s']:,.0f} requests/s")
    return lines
