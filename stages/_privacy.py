"""Personal data in the rows that prepare reads: counted by kind, or replaced where it stands."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

from serving import personal_data
from stages._sources import Rejection, Row

# A prompt comes with each of its references, and values of slots come again and again.
_find = lru_cache(maxsize=10_000)(personal_data.find)


@dataclass
class PersonalData:
    """Counts personal data per kind and field, and replaces it where asked to."""

    policy: Literal["report", "scrub", "off"]
    kinds: Counter[str] = field(default_factory=Counter)
    rows_with: int = 0
    rows_not_fully_scanned: int = 0

    def look(self, row: Row) -> Row:
        """Scan one row; under "scrub" the row comes back without what was found."""
        if self.policy == "off":
            return row
        texts = [row.prompt, row.reference, row.context or "", *_strings([row.slots, row.meta])]
        scans = [_find(text) for text in texts]
        found = [span.kind for scan in scans for span in scan.spans]
        self.kinds.update(found)
        self.rows_with += bool(found)
        self.rows_not_fully_scanned += not all(scan.complete for scan in scans)
        return _scrubbed(row) if found and self.policy == "scrub" else row

    def clean(self, rejection: Rejection) -> Rejection:
        """Under "scrub" the detail goes: it was cut, and half a number looks like nothing."""
        if self.policy != "scrub":
            return rejection
        return replace(rejection, detail="withheld (prepare.personal_data: scrub)")

    def report(self) -> dict[str, Any]:
        """What was found, never the text itself; "not run" where nothing was looked at."""
        if self.policy == "off":
            return {"status": "not run"}
        return {
            "status": "scrubbed" if self.policy == "scrub" else "reported",
            "rows_with_personal_data": self.rows_with,
            "rows_not_fully_scanned": self.rows_not_fully_scanned,
            "found": dict(sorted(self.kinds.items())),
        }


def _scrubbed(row: Row) -> Row:
    scrub = personal_data.scrub
    return replace(
        row,
        prompt=scrub(row.prompt),
        reference=scrub(row.reference),
        context=scrub(row.context) if row.context else row.context,
        slots=_mapped(row.slots, scrub),
        meta=_mapped(row.meta, scrub),
    )


def _strings(value: Any) -> Iterator[str]:
    """Every text inside nested lists and mappings, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _strings([*value.keys(), *value.values()])
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """The same structure with every text changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): _mapped(item, change) for key, item in value.items()}
    return [_mapped(item, change) for item in value] if isinstance(value, list) else value
