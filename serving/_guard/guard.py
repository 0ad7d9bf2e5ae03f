"""The guard of the service's requests and answers.

One text at a time: a match that is spread over two fields of a request is seen in neither. No
exception of a check reaches the caller; it becomes "not_run".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from serving import personal_data
from serving._guard.findings import Finding, Guarded, Reason, Scanned, judge
from serving._guard.phrases import BlockedList
from serving._guard.policy import STRENGTH, Action, Direction, Group, GuardPolicy
from serving._guard.presidio import MAX_CHARS as PRESIDIO_MAX_CHARS
from serving._guard.presidio import PresidioCheck
from serving._guard.streaming import MaskingStream
from serving._items import Item
from serving.errors import StillhouseError

MAX_CHARS = 200_000
Observe = Callable[[Direction, Guarded], None]


@dataclass(frozen=True)
class GuardedItem:
    """A request after the checks, masked where the policy says so, and what they say."""

    item: Item
    verdict: Guarded
    """Of all its texts together; its own text is empty."""


class Guard:
    """Looks for personal data and blocked phrases, and applies the policy."""

    def __init__(
        self,
        policy: GuardPolicy,
        blocked: BlockedList | None = None,
        presidio: PresidioCheck | None = None,
        max_chars: int = MAX_CHARS,
        observe: Observe = lambda _direction, _guarded: None,
    ) -> None:
        """Take what the policy needs.

        Args:
            policy: what is done about what is found.
            blocked: phrases; needed where the policy looks for them, and nowhere else.
            presidio: a second opinion on personal data.
            max_chars: longest text that is looked at [characters].
            observe: told of every verdict, such as for the metrics; of an item one verdict.

        Raises:
            StillhouseError: a list without a policy for it, or a policy without its list.
        """
        wanted = any(policy.action("blocked", side) != "off" for side in ("in", "out"))
        if wanted and blocked is None:
            raise StillhouseError("the guard's policy names blocked content, but there is no list.")
        if blocked is not None and not wanted:
            raise StillhouseError(
                f"the guard has a list, {blocked.path}, but its policy for blocked content is off. "
                f"Set blocked.in or blocked.out."
            )
        self.policy, self.blocked = policy, blocked
        self._presidio, self._max_chars, self._observe = presidio, max_chars, observe

    def check_in(self, text: str) -> Guarded:
        """One text on its way to a model."""
        return self._told("in", judge(text, self.scan(text, "in"), self.policy, "in"))

    def check_out(self, text: str) -> Guarded:
        """One whole answer."""
        return self._told("out", judge(text, self.scan(text, "out"), self.policy, "out"))

    def check_item(self, item: Item) -> GuardedItem:
        """All texts of a request: prompt, context, slots and their names, texts of its decoding."""
        seen: list[Guarded] = []

        def checked(text: str, where: str) -> str:
            guarded = judge(text, self.scan(text, "in", where), self.policy, "in")
            seen.append(guarded)
            return guarded.text

        changed: dict[str, Any] = {"prompt": checked(item.prompt, "prompt")}
        if item.context is not None:
            changed["context"] = checked(item.context, "context")
        changed["slots"] = _each(item.slots, checked, "slots") if item.slots is not None else None
        changed["decoding"] = _each(item.decoding, checked, "decoding")
        verdict = self._told("in", _together(seen))
        if verdict.action == "mask":
            # The length that the sender counted is that of another text now.
            item = item.model_copy(update=changed | {"prompt_tokens": None})
        return GuardedItem(item, verdict)

    def stream_out(self) -> MaskingStream:
        """Checks one answer that comes in pieces; at its end call `note_stream`."""
        return MaskingStream(self.scan_out, self.open_from, self.policy, self._max_chars)

    def note_stream(self, stream: MaskingStream) -> Guarded:
        """The verdict of a stream that has ended, which `observe` is told, too."""
        return self._told("out", stream.guarded())

    def scan_out(self, text: str) -> Mapping[Group, Scanned]:
        """What the checks say about part of an answer."""
        return self.scan(text, "out")

    def open_from(self, text: str) -> int | None:
        """From where on `text` may be the beginning of a blocked phrase; None: not known."""
        if self._presidio is not None and "personal" in self.policy.groups("out"):
            return None
        if self.blocked is None or "blocked" not in self.policy.groups("out"):
            return len(text)
        return self.blocked.open_from(text)

    def scan(self, text: str, direction: Direction, where: str = "text") -> dict[Group, Scanned]:
        """What the checks that the policy asks for say, before anything is done about it."""
        found: dict[Group, Scanned] = {}
        for group in self.policy.groups(direction):
            if len(text) > self._max_chars:
                found[group] = Scanned(reason="too_long")
                continue
            look = self._personal if group == "personal" else self._blocked
            try:
                found[group] = look(text, where)
            except Exception:  # whatever it is, the check did not run; its text may hold the prompt
                found[group] = Scanned(reason="fault")
        return found

    def _personal(self, text: str, where: str) -> Scanned:
        scan = personal_data.find(text, max_chars=self._max_chars)
        found = [
            Finding(f"personal/{span.kind}", span.kind, span.start, span.end, where)
            for span in scan.spans
        ]
        reason: Reason | None = None if scan.complete else "too_long"
        if self._presidio is not None and len(text) > PRESIDIO_MAX_CHARS:
            reason = "too_long"
        elif self._presidio is not None:
            try:
                found += [one._replace(where=where) for one in self._presidio.find(text)]
            except Exception:  # what our own rules found stays found
                reason = "fault"
        return Scanned(tuple(found), reason)

    def _blocked(self, text: str, where: str) -> Scanned:
        hits = self.blocked.find(text) if self.blocked is not None else None
        if hits is None:
            return Scanned(reason="list_unreadable")
        return Scanned(
            tuple(Finding(f"blocked/{h.line}", "blocked", h.start, h.end, where) for h in hits)
        )

    def _told(self, direction: Direction, guarded: Guarded) -> Guarded:
        self._observe(direction, guarded)
        return guarded


def _each(values: Mapping[str, Any], check: Callable[[str, str], str], where: str) -> Any:
    """`values` with every text in it checked, names included; numbers and the like as they are."""
    result: dict[str, Any] = {}
    for index, (name, value) in enumerate(values.items()):
        checked_name = check(name, f"{where}.{index}.name")
        while checked_name in result:
            checked_name += "_"  # two names that are masked alike stay two
        result[checked_name] = _value(value, check, f"{where}.{index}")
    return result


def _value(value: Any, check: Callable[[str, str], str], where: str) -> Any:
    if isinstance(value, str):
        return check(value, where)
    if isinstance(value, list | tuple):
        return [_value(one, check, where) for one in value]
    return _each(value, check, where) if isinstance(value, dict) else value


def _together(seen: list[Guarded]) -> Guarded:
    """One verdict on several texts: the strongest action, the worst state of each group."""
    action: Action = max((one.action for one in seen), key=lambda action: STRENGTH[action])
    states = {
        group: max((one.states[group] for one in seen), key=("clean", "found", "not_run").index)
        for group in seen[0].states
    }
    findings = tuple(finding for one in seen for finding in one.findings)
    reasons = tuple(dict.fromkeys(reason for one in seen for reason in one.reasons))
    return Guarded("", findings, action, states, reasons)
