"""Planted drift: incidents as they might come later, each scenario at a stated share.

- services: a product line that training never had (names and their endings are new).
- units: metrics in units that training never had (microseconds, MiB/s, requests per minute, ...).
- long_records: more slots than any other record has.
- style: reports in other registers (tickets, chat), prompts with their slots in another order.

All four are drawn with the machinery of the data set itself, so that nothing else differs.
"""

from dataclasses import dataclass, replace
from typing import Final, Literal

from serving.errors import StillhouseError
from stages._incidents.choice import names
from stages._incidents.records import MOST_SLOTS, SLOTS, Draw, ProductLine
from stages._incidents.world import NEW_UNIT_METRICS

Scenario = Literal["services", "units", "long_records", "style"]
SCENARIOS: Final[tuple[Scenario, ...]] = ("services", "units", "long_records", "style")

FLEET: Final = ProductLine(
    domains=names(
        "rover|drone|charger|turbine|meter|thermostat|conveyor|robot-arm|forklift|satellite|buoy|"
        "beacon|firmware|telematics|geofence|battery|inverter|irrigation|elevator|gripper"
    ),
    suffixes=names("controller|bridge|agent|twin|hub"),
    kinds=("api", "worker", "edge"),
)


@dataclass(frozen=True)
class Drift:
    """One planted drift.

    Attributes:
        scenario: what changes.
        share: share of the rows that change, 0..1.

    Raises:
        StillhouseError: the scenario is unknown or the share is outside 0..1.
    """

    scenario: Scenario
    share: float

    def __post_init__(self) -> None:
        if self.scenario not in SCENARIOS:
            raise StillhouseError(
                f"drift scenario {self.scenario!r} does not exist. "
                f"Choose one of {', '.join(SCENARIOS)}."
            )
        if not 0.0 <= self.share <= 1.0:
            raise StillhouseError(
                f"drift share is {self.share}, expected 0 to 1. Give the share of changed rows."
            )

    def changes(self, number: int) -> bool:
        """Whether row `number` (from 0) is changed; changed rows are spread evenly."""
        return int((number + 1) * self.share + 1e-9) > int(number * self.share + 1e-9)


def drifted_draw(how: Draw, scenario: Scenario) -> Draw:
    """How the records of a scenario are drawn; style changes no record."""
    match scenario:
        case "services":
            return replace(how, line=FLEET)
        case "units":
            needs = frozenset({"metric", "value"})
            return replace(how, metrics=NEW_UNIT_METRICS, needs=needs)
        case "long_records":
            return replace(how, least=MOST_SLOTS + 1, most=len(SLOTS))
        case "style":
            return how
