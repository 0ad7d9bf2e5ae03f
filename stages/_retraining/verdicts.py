"""What drift said of a window, and what select said of the models that learned from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

from serving.errors import StillhouseError
from stages import _io
from stages._watching import Ending, Verdict

DECISION = Path("reports/select/decision.json")
FACTS = ("rows", "first", "last")  # of the window that drift looked at
ID_CHARACTERS = 10  # of the content's hash, in a window's name


class Ended(NamedTuple):
    """How a retraining ended, and why."""

    ending: Ending
    reason: str


def window_name(info: Mapping[str, Any]) -> str:
    """A window's name for good: its id, with the content's hash where the id has none (planted)."""
    content = str(info["content_sha256"])[:ID_CHARACTERS]
    name = str(info["id"])
    return name if name.endswith(content) else f"{name}-{content}"


def read_verdict(path: Path, info: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    """The line of history.jsonl that says what drift found in a window, but for its time.

    Args:
        path: reports/drift/drift.json.
        info: the window's window.json.
        summary: of its rows (stages/_windows/reading.py); the report holds the one it looked at.

    Raises:
        StillhouseError: the report is of another window, or no report.
    """
    report = _io.read_json(path)
    found, verdict = report.get("window") or {}, report.get("verdict")
    if verdict not in get_args(Verdict):
        raise StillhouseError(
            f"{path} has the verdict {verdict!r}, expected one of {', '.join(get_args(Verdict))}. "
            f'Run "dvc repro drift".'
        )
    if [found.get(name) for name in FACTS] != [info.get(name) for name in FACTS]:
        raise StillhouseError(
            f"{path} is of {found.get('rows')} rows until {found.get('last')}, the window "
            f"{info['id']} has {info['rows']} until {info['last']}. Name it in drift.window and "
            f'run "dvc repro drift".'
        )
    if other := [name for name in summary if found.get(name, summary[name]) != summary[name]]:
        raise StillhouseError(
            f"{path} is of other rows of the same times than the window {info['id']} has now: "
            f'they differ in {", ".join(other)}. Run "dvc repro drift".'
        )
    return {
        "window": window_name(info),
        "first": info["first"],
        "last": info["last"],
        "rows": info["rows"],
        "verdict": verdict,
        "kinds": report.get("verdicts") or {},
        "top_features": list(report.get("top_features") or []),
        "drift_sha256": _io.sha256_file(path),
    }


def read_ending(root: Path, code: int) -> Ended:
    """How a pipeline that ended with `code` left the decision, which was removed before it ran."""
    if not (root / DECISION).is_file():
        return Ended("failed", f"the pipeline ended with {code} before select")
    decision = _io.read_json(root / DECISION)
    reason = str(decision.get("reason", ""))
    if (decision.get("winners") or {}).get("cpu") is None:
        return Ended("refused", reason)
    if code != 0:
        return Ended("failed", f"the pipeline ended with {code} after select")
    compared = (decision.get("incumbent") or {}).get("cpu") or {}
    promoted = compared.get("verdict") == "replace"
    return Ended("promoted" if promoted else "refused", reason)
