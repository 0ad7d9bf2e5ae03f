"""What a guard says about texts: findings, whether every check ran, and what was done."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from serving._guard.policy import STRENGTH, Action, Direction, Group, GuardPolicy

State = Literal["clean", "found", "not_run"]
Reason = Literal["too_long", "list_unreadable", "fault"]


class Finding(NamedTuple):
    """Where a rule matched: text[start:end] of the text called `where`. Never the text itself."""

    rule: str
    """personal/email, presidio/UkNinoRecognizer, blocked/12 (line of the list)."""
    kind: str
    """email, iban … or blocked."""
    start: int
    end: int
    where: str = "text"
    """Which text of a request: prompt, context, slots.3, decoding.0."""

    @property
    def group(self) -> Group:
        """Whose policy it falls under."""
        return "blocked" if self.kind == "blocked" else "personal"


class Scanned(NamedTuple):
    """What one group's checks found in one text; `reason` says why one of them did not run."""

    findings: tuple[Finding, ...] = ()
    reason: Reason | None = None


@dataclass(frozen=True)
class Guarded:
    """A text after the checks. `str()` and logs hold no text of it unless `text` is asked for."""

    text: str = field(repr=False)
    """Masked where the policy says so; empty where it says `block`."""
    findings: tuple[Finding, ...]
    action: Action
    """The strongest action that was taken; off: nothing was found, or nothing looked for."""
    states: Mapping[Group, State]
    """Of each group; not_run too where the policy does not look for it."""
    reasons: tuple[Reason, ...] = ()
    """Why checks that were asked for did not run."""

    @property
    def state(self) -> State:
        """Of all checks that the policy asks for together: not_run before found before clean.

        Where it asks for none, nothing was looked for: not_run.
        """
        if self.reasons or all(state == "not_run" for state in self.states.values()):
            return "not_run"
        return "found" if self.findings else "clean"

    @property
    def personal(self) -> bool | None:
        """Whether there is personal data; None: not known, so treat it as there."""
        state = self.states["personal"]
        return None if state == "not_run" else state == "found"

    @property
    def kinds(self) -> tuple[str, ...]:
        """What was found, each kind once."""
        return tuple(sorted({finding.kind for finding in self.findings}))

    def message(self) -> str:
        """Why it was refused, for the one who asked; holds no text."""
        if self.reasons:
            return "a check that this service requires could not run, so the text is refused."
        return f"the text holds what this service does not pass on: {', '.join(self.kinds)}."


def judge(
    text: str, scans: Mapping[Group, Scanned], policy: GuardPolicy, direction: Direction
) -> Guarded:
    """Apply a policy to what the checks say about `text`."""
    findings = tuple(finding for scan in scans.values() for finding in scan.findings)
    taken: Action = "off"
    for group, scan in scans.items():
        action = policy.action(group, direction)
        if scan.reason and action == "mask":
            action = "flag" if not scan.findings else "mask"
        if (scan.findings or scan.reason) and STRENGTH[action] > STRENGTH[taken]:
            taken = action
    return Guarded(
        "" if taken == "block" else mask(text, _masked(findings, policy, direction)),
        findings,
        taken,
        {group: _state(scans.get(group)) for group in ("personal", "blocked")},
        tuple(scan.reason for scan in scans.values() if scan.reason),
    )


def _state(scan: Scanned | None) -> State:
    if scan is None or scan.reason:
        return "not_run"
    return "found" if scan.findings else "clean"


def _masked(
    findings: Iterable[Finding], policy: GuardPolicy, direction: Direction
) -> list[Finding]:
    return [one for one in findings if policy.action(one.group, direction) == "mask"]


def mask(text: str, findings: Iterable[Finding]) -> str:
    """`text` with each finding replaced by its kind, as in "[email]"; overlapping ones as one."""
    parts: list[str] = []
    position = 0
    for finding in sorted(findings, key=lambda one: (one.start, -one.end)):
        if finding.start >= position:
            parts += [text[position : finding.start], f"[{finding.kind}]"]
        position = max(position, finding.end)
    return "".join([*parts, text[position:]])
