"""Where the names of points go, so that none lies on another. Pure.

Greedy, from the top: each name takes the nearest free place beside its point. Widths are those of a
phone, where points lie closest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

NARROW_PX = 280.0
"""Width of a plot on a phone."""
LETTER_PX, LINE_PX, GAP_PX, DOT_PX = 6.6, 14.0, 9.0, 7.0
SHIFTS_PX = (0, -13, 13, -26, 26, -39, 39, -52, 52, -65, 65, -78, 78)
Box = tuple[float, float, float, float]
"""left, top, right, bottom [px]"""


@dataclass(frozen=True)
class Placed:
    """Where a name begins, counted from its point [px]."""

    dx: float
    dy: float
    anchor: Literal["start", "end"]

    @property
    def far(self) -> bool:
        """Whether a line must say whose name it is."""
        return abs(self.dy) > LINE_PX


def place_labels(
    names: Sequence[str],
    spots: Sequence[tuple[float, float]],
    spans: Sequence[Sequence[float]],
    height_px: float,
) -> list[Placed]:
    """A place for each name.

    Args:
        spots: of the points, from the left [per cent] and from the top [px].
        spans: upper and lower end of each point's whisker [px from the top], or nothing.
    """
    taken = [_dot(left, top) for left, top in spots]
    taken += [
        _whisker(left, span) for (left, _), span in zip(spots, spans, strict=True) if len(span) == 2
    ]
    placed: dict[int, Placed] = {}
    for number in sorted(range(len(names)), key=lambda n: (spots[n][1], spots[n][0])):
        choices = list(_choices(spots[number], names[number], height_px))
        free = (one for one, box in choices if not any(_overlap(box, other) for other in taken))
        chosen = next(free, choices[0][0])
        placed[number] = chosen
        taken.append(_box(spots[number], names[number], chosen))
    return [placed[number] for number in range(len(names))]


def _choices(
    spot: tuple[float, float], name: str, height_px: float
) -> Iterator[tuple[Placed, Box]]:
    """Places that are within the plot, the nearest first."""
    fits = []
    for dy in SHIFTS_PX:
        for dx, anchor in ((GAP_PX, "start"), (-GAP_PX, "end")):
            one = Placed(dx, float(dy), anchor)  # type: ignore[arg-type]
            box = _box(spot, name, one)
            if box[0] >= 0 and box[2] <= NARROW_PX and 0 <= spot[1] + dy <= height_px:
                fits.append((one, box))
    yield from fits or [(Placed(GAP_PX, 0.0, "start"), _box(spot, name, Placed(0, 0, "start")))]


def _box(spot: tuple[float, float], name: str, placed: Placed) -> Box:
    x, y = spot[0] / 100 * NARROW_PX + placed.dx, spot[1] + placed.dy
    width = LETTER_PX * len(name)
    left = x if placed.anchor == "start" else x - width
    return left, y - LINE_PX / 2, left + width, y + LINE_PX / 2


def _dot(left: float, top: float) -> Box:
    x = left / 100 * NARROW_PX
    return x - DOT_PX, top - DOT_PX, x + DOT_PX, top + DOT_PX


def _whisker(left: float, span: Sequence[float]) -> Box:
    x = left / 100 * NARROW_PX
    return x - 2, span[0], x + 2, span[1]


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
