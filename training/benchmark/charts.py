"""Line charts as inline SVG that needs no script, no font and no outside file.

Each series has its own colour, dash pattern and marker, so that none depends on colour alone.
Colours come from `STYLE`, which the page has to hold; the text of the chart is escaped here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

from markupsafe import Markup

_WIDTH, _LEFT, _RIGHT, _TOP, _PLOT = 400.0, 50.0, 22.0, 10.0, 220.0
_BELOW, _ROW = 54.0, 19.0
_COLOURS = 6
_DASHES = ("", "7 4", "2 3", "9 3 2 3", "13 4")
_MARKERS = (
    "M-1 0A1 1 0 1 0 1 0A1 1 0 1 0 -1 0Z",
    "M-.9 -.9H.9V.9H-.9Z",
    "M0 -1.15L1.1 .85H-1.1Z",
    "M0 -1.3L1.1 0L0 1.3L-1.1 0Z",
    "M0 1.15L1.1 -.85H-1.1Z",
    "M-.35 -1.1H.35V-.35H1.1V.35H.35V1.1H-.35V.35H-1.1V-.35H-.35Z",
)
_MOST_POINTS, _MARKED_POINTS, _TOLD_POINTS = 160, 12, 6
_LONGEST_NAME = 46

STYLE = """
.chart{--s0:#0b5cad;--s1:#c2410c;--s2:#00795c;--s3:#a3317b;--s4:#7a5c00;--s5:#56606b}
@media screen and (prefers-color-scheme:dark){
.chart{--s0:#6cb6ff;--s1:#ff9a5c;--s2:#3fd0a4;--s3:#f49ad0;--s4:#e3c04a;--s5:#a9b4c0}}
.chart{display:block;width:100%;max-width:32rem;height:auto}
.chart text{font-size:12px;fill:currentColor}
.chart .grid{stroke:currentColor;stroke-opacity:.18}
.chart .edge{stroke:currentColor;stroke-opacity:.6;fill:none}
.chart .guide{stroke:currentColor;stroke-opacity:.75;stroke-dasharray:1 4;stroke-linecap:round;
fill:none;stroke-width:1.6}
.chart .line{fill:none;stroke-width:1.8;stroke-linejoin:round}
.chart .first{stroke-width:2.8}
""" + "".join(
    f".chart .c{n} .line{{stroke:var(--s{n})}}.chart .c{n} .mark{{fill:var(--s{n})}}"
    for n in range(_COLOURS)
)


@dataclass(frozen=True)
class Axis:
    """An axis from its first to its last tick; a tick is a value and what is written at it."""

    label: str
    ticks: Sequence[tuple[float, str]]

    @property
    def low(self) -> float:
        return self.ticks[0][0]

    @property
    def high(self) -> float:
        return self.ticks[-1][0]

    def position(self, value: float) -> float:
        """Where a value lies: 0 at the first tick, 1 at the last, held between them."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    def told(self, value: float) -> str:
        """The value in words: its tick's, or a percentage."""
        return next((text for at, text in self.ticks if at == value), f"{value:.1%}")


_PERCENTAGES = tuple((n / 5, f"{n * 20}%") for n in range(6))


@dataclass(frozen=True)
class Series:
    """One line: points in the order they are joined. A None or NaN leaves a gap.

    `radii`, one a point, sets the size of its marker in units of the chart (400 wide).
    """

    name: str
    points: Sequence[tuple[float | None, float | None]]
    radii: Sequence[float] = field(default=())

    def measured(self) -> list[tuple[int, float, float]]:
        """Index, x and y of the points that have both."""
        return [
            (n, float(x), float(y))
            for n, (x, y) in enumerate(self.points)
            if x is not None and y is not None and isfinite(x) and isfinite(y)
        ]


def share_chart(
    ident: str, title: str, means: Mapping[str, Sequence[float | None]], columns: Sequence[str]
) -> Markup:
    """Recall by method at each share of attack prompts; `columns` names the shares."""
    ticks = [(float(n), text) for n, text in enumerate(columns)]
    if len(ticks) == 1:
        ticks.append((1.0, ""))
    x = Axis("attack prompts among the account's prompts", ticks)
    y = Axis("recall, mean of intents", _PERCENTAGES)
    series = [
        Series(name, [(float(n), v) for n, v in enumerate(own)]) for name, own in means.items()
    ]
    return line_chart(ident, title, series, x, y)


def precision_chart(
    ident: str,
    title: str,
    curves: Mapping[str, Sequence[tuple[float | None, float | None]]],
    prevalence: float | None,
) -> Markup | None:
    """Points of recall and precision by method; None if no point was measured."""
    series = [one for name, own in curves.items() if (one := Series(name, own)).measured()]
    if not series:
        return None
    chance = None
    if prevalence is not None:
        chance = Series("flagged by chance", [(0.0, prevalence), (1.0, prevalence)])
    x, y = Axis("recall", _PERCENTAGES), Axis("precision", _PERCENTAGES)
    return line_chart(ident, title, series, x, y, chance)


def reliability_chart(
    ident: str, title: str, bins: Sequence[tuple[float | None, float | None, float | None]]
) -> Markup | None:
    """Bins of mean risk, share that attacks and accounts; None if no bin has all three.

    A bin's marker grows with the digits of its accounts: bins differ by orders of magnitude.
    """
    full = [(risk, share, count) for risk, share, count in bins if count]
    points = [(risk, share) for risk, share, _ in full]
    radii = [1.8 + 1.2 * len(f"{count:.0f}") for _, _, count in full]
    series = Series("Stillwatch, a marker a bin", points, radii)
    if not series.measured():
        return None
    diagonal = Series("perfectly calibrated", [(0.0, 0.0), (1.0, 1.0)])
    x = Axis("mean risk of the bin", _PERCENTAGES)
    y = Axis("accounts of the bin that attack", _PERCENTAGES)
    return line_chart(ident, title, [series], x, y, diagonal)


def line_chart(
    ident: str, title: str, series: Sequence[Series], x: Axis, y: Axis, guide: Series | None = None
) -> Markup:
    """The chart with its legend below; `ident` is unique in the page.

    `guide` is drawn as a dotted line without markers: what the others are compared with.
    """
    drawn = [*([guide] if guide else []), *series]
    names = [one.name for one in drawn]
    columns = 1 if any(len(name) > 20 for name in names) else 2
    rows = -(-len(names) // columns)
    height = _TOP + _PLOT + _BELOW + rows * _ROW + 4
    description = " ".join(_told(one, x, y) for one in series) or "No series was measured."
    parts = [
        Markup(
            '<svg class="chart" role="img" viewBox="0 0 {:g} {:g}" '
            'aria-labelledby="{}-title {}-desc"><title id="{}-title">{}</title>'
            '<desc id="{}-desc">{}</desc>'
        ).format(_WIDTH, height, ident, ident, ident, title, ident, description),
        *_axes(x, y),
    ]
    if guide:
        parts.append(Markup('<path class="guide" d="{}"/>').format(_path(guide, x, y)))
    for number, one in reversed(list(enumerate(series))):
        parts.append(_line(one, number, x, y))
    top = _TOP + _PLOT + _BELOW
    for place, one in enumerate(drawn):
        at_x = _LEFT + (place % columns) * (_WIDTH - _LEFT) / columns
        shape = None if one is guide else place - (1 if guide else 0)
        parts.append(_legend(one.name, shape, at_x, top + (place // columns) * _ROW))
    parts.append(Markup("</svg>"))
    return Markup("").join(parts)


def _axes(x: Axis, y: Axis) -> Iterator[Markup]:
    bottom, right = _TOP + _PLOT, _WIDTH - _RIGHT
    for value, text in y.ticks:
        at = bottom - _PLOT * y.position(value)
        yield Markup(
            '<path class="grid" d="M{:g} {:.1f}H{:g}"/>'
            '<text x="{:g}" y="{:.1f}" text-anchor="end">{}</text>'
        ).format(_LEFT, at, right, _LEFT - 6, at + 4, text)
    for value, text in x.ticks:
        at = _x(value, x)
        yield Markup(
            '<path class="edge" d="M{:.1f} {:g}v4"/>'
            '<text x="{:.1f}" y="{:g}" text-anchor="middle">{}</text>'
        ).format(at, bottom, at, bottom + 17, text)
    yield Markup('<path class="edge" d="M{:g} {:g}V{:g}H{:g}"/>').format(_LEFT, _TOP, bottom, right)
    middle = _TOP + _PLOT / 2
    yield Markup(
        '<text x="{:g}" y="{:g}" text-anchor="middle">{}</text>'
        '<text x="12" y="{:g}" text-anchor="middle" transform="rotate(-90 12 {:g})">{}</text>'
    ).format((_LEFT + right) / 2, bottom + 35, x.label, middle, middle, y.label)


def _line(one: Series, number: int, x: Axis, y: Axis) -> Markup:
    parts = [
        Markup('<path class="line{}" stroke-dasharray="{}" d="{}"/>').format(
            " first" if number == 0 else "", _dash(number), _path(one, x, y)
        )
    ]
    points = one.measured()
    # Along a dense curve a marker now and then, not where the next series has its own.
    step = 1 if len(points) <= _MARKED_POINTS else len(points) // 6
    for index, at_x, at_y in points[(number * 5) % step :: step]:
        radius = one.radii[index] if one.radii else 4.0
        parts.append(_marker(number, _x(at_x, x), _y(at_y, y), radius))
    return Markup('<g class="c{}">{}</g>').format(number % _COLOURS, Markup("").join(parts))


def _legend(name: str, number: int | None, at_x: float, at_y: float) -> Markup:
    if number is None:
        sample = Markup('<path class="guide" d="M{:g} {:g}h30"/>').format(at_x, at_y)
    else:
        sample = Markup(
            '<g class="c{}"><path class="line{}" stroke-dasharray="{}" d="M{:g} {:g}h30"/>{}</g>'
        ).format(
            number % _COLOURS,
            " first" if number == 0 else "",
            _dash(number),
            at_x,
            at_y,
            _marker(number, at_x + 15, at_y, 4.0),
        )
    shown = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
    return sample + Markup('<text x="{:g}" y="{:g}">{}</text>').format(at_x + 36, at_y + 4, shown)


def _marker(number: int, at_x: float, at_y: float, radius: float) -> Markup:
    return Markup(
        '<path class="mark" transform="translate({:.1f} {:.1f})scale({:.2g})" d="{}"/>'
    ).format(at_x, at_y, radius, _MARKERS[number % len(_MARKERS)])


def _dash(number: int) -> str:
    return _DASHES[number % len(_DASHES)] or "none"


def _path(one: Series, x: Axis, y: Axis) -> str:
    points = one.measured()
    step = max(1, -(-len(points) // _MOST_POINTS))
    kept = points[::step]
    if points and kept[-1] != points[-1]:
        kept.append(points[-1])
    parts = []
    before = None
    for index, at_x, at_y in kept:
        joined = before is not None and (step > 1 or index == before + 1)
        parts.append(f"{'L' if joined else 'M'}{_x(at_x, x):.1f} {_y(at_y, y):.1f}")
        before = index
    return "".join(parts)


def _told(one: Series, x: Axis, y: Axis) -> str:
    """A series as a sentence: some of its points, from the first to the last."""
    points = one.measured()
    if not points:
        return f"{one.name}: not measured."
    count = min(len(points), _TOLD_POINTS)
    chosen = [points[round(n * (len(points) - 1) / max(count - 1, 1))] for n in range(count)]
    told = "; ".join(f"{y.told(at_y)} at {x.told(at_x)}" for _, at_x, at_y in chosen)
    return f"{one.name}: {told}."


def _x(value: float, axis: Axis) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * axis.position(value)


def _y(value: float, axis: Axis) -> float:
    return _TOP + _PLOT * (1 - axis.position(value))
