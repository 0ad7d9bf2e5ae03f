"""What the runs of the canary benchmark come to. Pure."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

VERDICTS = ("promote", "hold", "roll_back")
Found = dict[str, Any]


def summarise(runs: Sequence[Mapping[str, Any]]) -> Found:
    """By kind: verdicts, how often each metric was worse, and medians of what a verdict took."""
    told: Found = {}
    for kind in dict.fromkeys(run["kind"] for run in runs):
        own = [run for run in runs if run["kind"] == kind]
        metrics = sorted({metric for run in own for metric in run["worse"]})
        told[kind] = {
            "runs": len(own),
            **{verdict: sum(run["verdict"] == verdict for run in own) for verdict in VERDICTS},
            "worse": {metric: sum(metric in run["worse"] for run in own) for metric in metrics},
            "median_seconds": median(run["seconds"] for run in own),
            "median_requests": median(sum(run["requests"].values()) for run in own),
            "most_requests": max(sum(run["requests"].values()) for run in own),
        }
    return told


def table(results: Mapping[str, Any]) -> list[str]:
    """Lines for the person who ran it."""
    lines = [f"{'real services':16}{'runs':>6}{'promote':>9}{'hold':>6}{'roll back':>11}"]
    for kind, told in results.get("summary", {}).items():
        counts = f"{told['runs']:6}{told['promote']:9}{told['hold']:6}{told['roll_back']:11}"
        took = f"{told['median_requests']:.0f} requests, {told['median_seconds']:.0f} s"
        worse = ", ".join(f"{metric} {count}" for metric, count in told["worse"].items())
        lines.append(f"{kind:16}{counts}  median {took}{'; worse: ' if worse else ''}{worse}")
    for name, cases in results.get("simulated", {}).get("rules", {}).items():
        lines.append(f"simulated, {name}")
        for case, told in cases.items():
            shares = "  ".join(f"{verdict} {told[verdict]:.1%}" for verdict in VERDICTS)
            lines.append(f"  {case}: {shares}; median {told['median_requests']} requests")
    return lines
