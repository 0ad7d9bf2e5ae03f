"""What is done about what a guard finds, per group of kinds and direction."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, cast, get_args

from serving.errors import StillhouseError

Action = Literal["block", "mask", "flag", "off"]
Direction = Literal["in", "out"]
Group = Literal["personal", "blocked"]

STRENGTH: Mapping[Action, int] = {"off": 0, "flag": 1, "mask": 2, "block": 3}
_PLACES = [".".join(place) for place in product(get_args(Group), get_args(Direction))]


@dataclass(frozen=True)
class GuardPolicy:
    """An action for each group and direction; a check that cannot run refuses under `block`."""

    personal_in: Action = "flag"
    """A prompt with personal data may not leave for a remote model: see `Guarded.personal`."""
    personal_out: Action = "flag"
    blocked_in: Action = "off"
    blocked_out: Action = "off"

    def action(self, group: Group, direction: Direction) -> Action:
        """What is done about this group in this direction."""
        found: Action = getattr(self, f"{group}_{direction}")
        return found

    def groups(self, direction: Direction) -> tuple[Group, ...]:
        """What is looked for in this direction."""
        return tuple(g for g in get_args(Group) if self.action(g, direction) != "off")

    @classmethod
    def from_text(cls, text: str) -> "GuardPolicy":
        """Read `personal.out=mask,blocked.in=block`; places that are not named keep their action.

        Raises:
            StillhouseError: places or actions that there are none of, or a place named twice; all
                of them in one line.
        """
        found: dict[str, str] = {}
        problems: list[str] = []
        for entry in (part.strip() for part in text.split(",")):
            place, equals, action = (part.strip() for part in entry.partition("="))
            if not entry:
                continue
            if not equals or place not in _PLACES:
                problems.append(f"{entry!r} must be PLACE=ACTION with {' | '.join(_PLACES)}")
            elif action not in get_args(Action):
                problems.append(f"{place} must be {' | '.join(get_args(Action))}, not {action!r}")
            elif place in found:
                problems.append(f"{place} is there twice")
            else:
                found[place] = action
        if problems:
            raise StillhouseError(f"wrong guard policy: {'; '.join(problems)}. Correct it.")
        return cls(**cast(Any, {place.replace(".", "_"): found[place] for place in found}))
