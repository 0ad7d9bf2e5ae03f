"""Charts as inline SVG: points with whiskers, lines, rows of intervals. Pure: data in, markup out.

Widths are per cent, heights and letters pixels, so that one drawing fits a phone and a desk and its
text never shrinks. Colours are classes of the style sheet (`c0` to `c7`), light and dark alike. The
whole drawing has a title and a description, and every mark its own title, which a pointer shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from stages._report.labels import Placed, place_labels
from stages._report.scales import Axis
from stages._report.telling import short, tick

PLOT_PX = 240
ROW_PX = 26
TICK_CHARS_PX = 7.0
FEW = 12
"""Points of a curve that are shown each."""


@dataclass(frozen=True)
class Point:
    """One model in a plane; `low` and `high` bound its y."""

    name: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    colour: int = 0
    front: bool = False
    """Whether no other point is better in both."""


@dataclass(frozen=True)
class Line:
    """One curve."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    dashed: bool = False


@dataclass(frozen=True)
class Bar:
    """One row of a chart of intervals."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    told: str
    """The value in words."""
    colour: int = 0
    strong: bool = False


def scatter(
    name: str, title: str, description: str, points: Sequence[Point], x: Axis, y: Axis
) -> Markup:
    """Points with whiskers and names; those of the front joined by a stepped line."""
    front = _steps([p for p in points if p.front], x, y)
    spots = [(100 * x.share(p.x), _down(y, p.y)) for p in points]
    spans = [tuple(_down(y, v) for v in (p.high, p.low) if v is not None) for p in points]
    labels = place_labels([p.name for p in points], spots, spans, PLOT_PX)
    marks = Markup("").join(
        _spot(point, spot, span, label)
        for point, spot, span, label in zip(points, spots, spans, labels, strict=True)
    )
    return _figure(name, title, description, x, y, front + marks)


def lines(
    name: str, title: str, description: str, curves: Sequence[Line], x: Axis, y: Axis
) -> Markup:
    """Curves with a legend."""
    paths = Markup("").join(_path(curve, x, y) for curve in curves)
    inner = Markup(
        '<svg viewBox="0 0 100 {0}" preserveAspectRatio="none" width="100%" height="{0}"'
        ' overflow="visible">{1}</svg>'
    ).format(PLOT_PX, paths)
    dots = Markup("").join(_dots(curve, x, y) for curve in curves if len(curve.points) <= FEW)
    return _figure(name, title, description, x, y, inner + dots, _legend(curves))


def intervals(name: str, description: str, rows: Sequence[Bar], axis: Axis) -> Markup:
    """A row per value with its interval over a common axis, and a line where zero is."""
    drawn = Markup("").join(_row(row, axis) for row in rows)
    marks = Markup("").join(
        Markup('<text x="{:.2f}%" y="14" text-anchor="middle">{}</text>').format(
            100 * axis.share(value), tick(value)
        )
        for value in axis.ticks
    )
    foot = Markup(
        '<div class="row foot"><span></span><div class="strip"><svg width="100%" height="18"'
        ' aria-hidden="true" overflow="visible">{}</svg></div><span class="soft small">{}</span>'
        "</div>"
    ).format(marks, axis.label)
    return Markup('<div class="intervals" role="img" aria-label="{}" id="{}">{}{}</div>').format(
        description, name, drawn, foot
    )


def _figure(
    name: str,
    title: str,
    description: str,
    x: Axis,
    y: Axis,
    marks: Markup,
    legend: Markup | None = None,
) -> Markup:
    """Frame, grid, ticks and labels around the marks."""
    margin = 14 + TICK_CHARS_PX * max((len(tick(value)) for value in y.ticks), default=1)
    return Markup(
        '<figure><figcaption><b>{title}</b> <span class="soft">{y}</span></figcaption>'
        '<div class="plot" style="margin-left:{margin:.0f}px">'
        '<svg role="img" aria-labelledby="{name}-t {name}-d" width="100%" height="{height}"'
        ' overflow="visible"><title id="{name}-t">{title}</title><desc id="{name}-d">{description}'
        '</desc>{grid}{marks}</svg></div><p class="axis soft">{x}</p>{legend}</figure>'
    ).format(
        title=title,
        y=y.label,
        margin=margin,
        name=name,
        height=PLOT_PX,
        description=description,
        grid=_grid(x, y),
        marks=marks,
        x=x.label,
        legend=legend or "",
    )


def _grid(x: Axis, y: Axis) -> Markup:
    """Lines across at every label of y, and the labels of both axes."""
    across = Markup("").join(
        Markup(
            '<line class="grid" x1="0" x2="100%" y1="{0:.1f}" y2="{0:.1f}"/>'
            '<text x="0" dx="-8" y="{0:.1f}" dy=".34em" text-anchor="end">{1}</text>'
        ).format(_down(y, value), tick(value))
        for value in y.ticks
    )
    below = Markup("").join(
        Markup(
            '<line class="tick" x1="{0:.2f}%" x2="{0:.2f}%" y1="{1}" y2="{2}"/>'
            '<text x="{0:.2f}%" y="{3}" text-anchor="middle">{4}</text>'
        ).format(100 * x.share(value), PLOT_PX, PLOT_PX + 4, PLOT_PX + 18, tick(value))
        for value in x.ticks
    )
    return across + below


def _spot(point: Point, spot: tuple[float, float], span: Sequence[float], label: Placed) -> Markup:
    """A point, its whisker and its name; inside, pixels are counted from the point."""
    left, top = spot
    whisker = Markup("")
    if len(span) == 2:
        ends = [edge - top for edge in span]
        whisker = Markup(
            '<path class="whisker" d="M0 {0:.1f}V{1:.1f}M-3.5 {0:.1f}h7M-3.5 {1:.1f}h7"/>'
        ).format(*ends)
    leader = Markup("")
    if label.far:
        leader = Markup('<path class="leader" d="M0 0L{:.1f} {:.1f}"/>').format(label.dx, label.dy)
    return Markup(
        '<svg class="c{colour}{front}" x="{left:.2f}%" y="{top:.1f}" overflow="visible">'
        '<title>{told}</title>{leader}{whisker}<circle r="{radius}"/>'
        '<text x="{dx:.1f}" y="{dy:.1f}" dy=".34em" text-anchor="{anchor}">{name}</text></svg>'
    ).format(
        colour=point.colour % 8,
        front=" front" if point.front else "",
        left=left,
        top=top,
        told=f"{point.name}: {short(point.x)}, {short(point.y)}{_bounds(point.low, point.high)}",
        leader=leader,
        whisker=whisker,
        radius=6 if point.front else 4.5,
        dx=label.dx,
        dy=label.dy,
        anchor=label.anchor,
        name=point.name,
    )


def _bounds(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{short(low)}, {short(high)}]"


def _steps(front: Sequence[Point], x: Axis, y: Axis) -> Markup:
    """The stepped line along the points of the front, from left to right."""
    ordered = sorted(front, key=lambda point: point.x)
    if len(ordered) < 2:
        return Markup("")
    spots = [(100 * x.share(point.x), _down(y, point.y)) for point in ordered]
    path = f"M{spots[0][0]:.2f} {spots[0][1]:.1f}" + "".join(
        f"H{left:.2f}V{top:.1f}" for left, top in spots[1:]
    )
    return Markup(
        '<svg viewBox="0 0 100 {0}" preserveAspectRatio="none" width="100%" height="{0}">'
        '<path class="frontier" d="{1}"/></svg>'
    ).format(PLOT_PX, path)


def _path(curve: Line, x: Axis, y: Axis) -> Markup:
    spots = [(100 * x.share(a), _down(y, b)) for a, b in curve.points]
    drawn = " ".join(f"{left:.2f},{top:.1f}" for left, top in spots)
    return Markup('<polyline class="curve c{}{}" points="{}"><title>{}</title></polyline>').format(
        curve.colour % 8, " dashed" if curve.dashed else "", drawn, curve.name
    )


def _dots(curve: Line, x: Axis, y: Axis) -> Markup:
    """Every point of a curve that has few, with its value."""
    spots = Markup("").join(
        Markup('<circle cx="{:.2f}%" cy="{:.1f}" r="3.2"><title>{}</title></circle>').format(
            100 * x.share(a), _down(y, b), f"{curve.name}: {short(b)} at {short(a)}"
        )
        for a, b in curve.points
    )
    return Markup('<g class="c{}">{}</g>').format(curve.colour % 8, spots)


def _legend(curves: Sequence[Line]) -> Markup:
    items = Markup("").join(
        Markup(
            '<li><svg width="20" height="8" aria-hidden="true"><line class="curve c{}{}" x1="1"'
            ' x2="19" y1="4" y2="4"/></svg>{}</li>'
        ).format(curve.colour % 8, " dashed" if curve.dashed else "", curve.name)
        for curve in curves
    )
    return Markup('<ul class="legend">{}</ul>').format(items)


def _row(row: Bar, axis: Axis) -> Markup:
    """Name, strip, words; a value without an interval is a point alone."""
    drawn = _strip(row, axis) if row.value is not None else Markup("")
    grid = Markup("").join(
        Markup('<line class="{}" x1="{:.2f}%" x2="{:.2f}%" y1="0" y2="{}"/>').format(
            "zero" if value == 0 else "grid", *[100 * axis.share(value)] * 2, ROW_PX
        )
        for value in axis.ticks
    )
    return Markup(
        '<div class="row{}"><span class="who">{}</span><div class="strip"><svg width="100%"'
        ' height="{}" aria-hidden="true" overflow="visible">{}{}</svg></div>'
        '<span class="told">{}</span></div>'
    ).format(" strong" if row.strong else "", row.name, ROW_PX, grid, drawn, row.told)


def _strip(row: Bar, axis: Axis) -> Markup:
    middle, at = ROW_PX / 2, 100 * axis.share(row.value or 0.0)
    span = Markup("")
    if row.low is not None and row.high is not None:
        ends = [100 * axis.share(edge) for edge in (row.low, row.high)]
        span = Markup('<line class="span" x1="{:.2f}%" x2="{:.2f}%" y1="{}" y2="{}"/>').format(
            *ends, middle, middle
        )
    return Markup('<g class="c{}">{}<circle cx="{:.2f}%" cy="{}" r="5"/></g>').format(
        row.colour % 8, span, at, middle
    )


def _down(axis: Axis, value: float) -> float:
    """Pixels from the top."""
    return PLOT_PX * (1.0 - axis.share(value))
