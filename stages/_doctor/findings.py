"""What was looked at: right, worth knowing, or in the way; and what to do about it."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "problem"]
MARKS: dict[State, str] = {"ok": "ok", "note": "note", "problem": "PROBLEM"}


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's."""

    state: State
    what: str
    found: str
    step: str = ""
    """What to change; empty where nothing has to be."""


def ok(what: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding("ok", what, found)


def note(what: str, found: str, step: str = "") -> Finding:
    """Worth knowing; the pipeline runs all the same."""
    return Finding("note", what, found, step)


def problem(what: str, found: str, step: str) -> Finding:
    """The pipeline would fail."""
    return Finding("problem", what, found, step)


def enough(what: str, needed_mb: float, available_mb: float, step: str) -> Finding:
    """Whether there is as much as is needed; short of a tenth more it is a note."""
    told = f"needs about {needed_mb:,.0f} MB, {available_mb:,.0f} MB are free"
    if available_mb < needed_mb:
        return problem(what, told, step)
    if available_mb < 1.1 * needed_mb:
        return note(what, told, step)
    return ok(what, told)


def describe(finding: Finding) -> list[str]:
    """Lines for a person."""
    lines = [f"{MARKS[finding.state]:<8}{finding.what}: {finding.found}"]
    return [*lines, f"{'':<8}→ {finding.step}"] if finding.step else lines
