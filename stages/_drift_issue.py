"""What the issue on drift says, as Markdown: `make drift-issue`.

Reads   reports/drift/drift.json, reports/watch/outcome.json
Writes  scratch/drift/issue.md
Run     python3 -m stages._drift_issue

An issue is read by more people than live records are: it holds verdicts and figures, and no word of
a prompt or an answer. Only the standard library is imported.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from serving.errors import StillhouseError
from stages import _io

DRIFT = Path("reports/drift/drift.json")
OUTCOME = Path("reports/watch/outcome.json")
ISSUE = Path("scratch/drift/issue.md")
MAX_ALARMS = 20
NEXT = {
    "retrain": "`train` retrains on this window where the brakes still allow it.",
    "no_new_labels": "Give references of some of its rows: `gold.jsonl` (docs/windows.md).",
    "cooling_down": "The last retraining is too young; the next look decides anew.",
    "over_budget": "This week's retrainings are used up; the next look decides anew.",
    "wait": "One look more: too few of the last windows are in drift.",
    "nothing": "Nothing is to be done. Close this issue if it is settled.",
}


def render(drift: Mapping[str, Any], outcome: Mapping[str, Any]) -> str:
    """The issue: what was decided and why, the verdicts, the tests that raised an alarm."""
    window, kind = drift.get("window") or {}, str(outcome["kind"])
    lines = [
        f"**{kind}**: {outcome['reason']}",
        "",
        f"Window {outcome['window']}: {window.get('rows', '?')} rows, {window.get('first', '?')} "
        f"to {window.get('last', '?')}. Verdict: **{drift['verdict']}**",
        "",
    ]
    lines += [f"- {name}: {said}" for name, said in drift.get("verdicts", {}).items()]
    lines += ["", *_alarms(drift), "", NEXT.get(kind, "")]
    if until := outcome.get("until"):
        lines.append(f"Not before {until}.")
    return "\n".join(lines).rstrip() + "\n"


def _alarms(drift: Mapping[str, Any]) -> Iterator[str]:
    found = [test for test in drift.get("detectors", []) if test.get("alarm")]
    if not found:
        yield "No test raised an alarm."
        return
    yield "| test | effect | matters from | p, corrected |"
    yield "|---|---|---|---|"
    for test in sorted(found, key=lambda test: -test["effect"])[:MAX_ALARMS]:
        figures = (test["effect"], test["threshold"], test["p_adjusted"])
        yield f"| {test['name']} | {' | '.join(f'{figure:.3g}' for figure in figures)} |"
    if found[MAX_ALARMS:]:
        yield f"\n{len(found) - MAX_ALARMS} more are in reports/drift."


def main() -> None:
    """Render what the last `make watch` has said."""
    argparse.ArgumentParser(
        prog="python -m stages._drift_issue",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    try:
        _io.write_text(ISSUE, render(_io.read_json(DRIFT), _io.read_json(OUTCOME)))
    except StillhouseError as error:
        sys.exit(f"error: drift-issue: {error}")
    sys.stdout.write(f"{ISSUE}\n")


if __name__ == "__main__":
    main()
