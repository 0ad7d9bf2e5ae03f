"""What repeats come to: shares of alarms with their intervals, by cell and detector. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks._drift_draws import Cell
from benchmarks._shares import share

Line = Mapping[str, Any]
"""One verdict: cell, repeat, detector ("ours" or "evidently") and what it found."""


def summarise(lines: Iterable[Line], cells: Sequence[Cell], alpha: float) -> dict[str, Any]:
    """By cell: how often each detector raised an alarm, and which of its tests."""
    by_cell: dict[str, dict[str, list[Line]]] = {}
    for line in lines:
        of = by_cell.setdefault(line["cell"], {}).setdefault(line["detector"], [])
        of.append(line["found"])
    told: dict[str, Any] = {}
    for cell in cells:
        found = by_cell.get(cell.name, {})
        if not found:
            continue
        one: dict[str, Any] = {"rows": cell.rows, "changed": cell.share}
        if ours := found.get("ours"):
            one["ours"] = summarise_ours(ours, alpha)
        if theirs := found.get("evidently"):
            one["evidently"] = summarise_evidently(theirs)
        told[cell.name] = one
    return told


def summarise_ours(found: Sequence[Line], alpha: float) -> dict[str, Any]:
    """The verdict, each test's alarms, and how often its own p-value was below alpha."""
    alarms = Counter(name for one in found for name in one["alarms"])
    low = Counter(name for one in found for name, p in one["p_values"].items() if p < alpha)
    made = Counter(name for one in found for name in one["p_values"])
    return {
        "verdict_drift": share(sum(one["outcome"] == "drift" for one in found), len(found)),
        "too_few_rows": sum(one["outcome"] == "too_few_rows" for one in found),
        "tests": {
            name: {"made": made[name], "alarms": alarms[name], "p_below_alpha": low[name]}
            for name in sorted(made)
        },
        "cpu_s": round(sum(one["seconds"] for one in found) / len(found), 3),
    }


def summarise_evidently(found: Sequence[Line]) -> dict[str, Any]:
    """The preset's verdict, its text column, any column at all, each column, each method."""
    columns = Counter(name for one in found for name, drifts in one["columns"].items() if drifts)
    named = [one for one in found if one["embeddings"]]
    methods = list(dict.fromkeys(name for one in named for name in one["embeddings"]))
    return {
        "dataset": share(sum(one["dataset"] for one in found), len(found)),
        "any_column": share(sum(any(one["columns"].values()) for one in found), len(found)),
        "prompt": share(sum(one["columns"]["prompt"] for one in found), len(found)),
        "columns": dict(sorted(columns.items())),
        "embeddings": {
            name: share(sum(one["embeddings"][name] for one in named), len(named))
            for name in methods
        },
        "cpu_s": round(sum(one["seconds"] for one in found) / len(found), 3),
    }


def table(cells: Mapping[str, Any]) -> list[str]:
    """Alarms in percent with their intervals, a line per cell."""
    lines = [
        f"{'window':16}{'rows':>6}  {'ours':22}{'evidently: dataset':22}{'prompt':22}any column"
    ]
    for name, one in cells.items():
        shown = [_shown(one.get("ours", {}).get("verdict_drift"))]
        theirs = one.get("evidently", {})
        shown += [_shown(theirs.get(what)) for what in ("dataset", "prompt", "any_column")]
        lines.append(f"{name:16}{one['rows']:>6}  " + "".join(f"{cell:22}" for cell in shown))
    return [line.rstrip() for line in lines]


def _shown(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    percent = [100 * found[name] for name in ("share", "low", "high")]
    return f"{percent[0]:.1f} [{percent[1]:.1f}, {percent[2]:.1f}]"
