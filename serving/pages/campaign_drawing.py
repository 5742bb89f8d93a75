"""A campaign drawn: its accounts around what ties them, and when each of them was at work.

Everything is placed here, in units of the drawing; the pages only write it down. The same campaign
gives the same drawing.

Axis letters: P placed things, M members, T their events.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from stillwatch.serving.campaigns.records import Tie

WIDTH, HEIGHT = 960.0, 460.0
MOST_EVIDENCE = 24
MOST_GROUPS = 40
MOST_DOTS = 300
DOT_GAP = 4.6
"""Between neighbouring accounts of a group."""
MARGIN = 26.0
ROUNDS = 120

MOST_LINES = 60
ROW = 11.0
LABEL = 150.0
DENSITY = 60.0
BINS = 200
QUANTILES = (0.005, 0.995)
"""Of the events' times, that the axis reaches from and to: one clock that is years off must not
press all others together."""


class Node(NamedTuple):
    """A piece of evidence: its number in the list of links, place and size."""

    number: int
    x: float
    y: float
    radius: float
    accounts: int


class Dot(NamedTuple):
    """An account."""

    x: float
    y: float
    excluded: bool


class Group(NamedTuple):
    """Accounts that the same evidence ties. `hidden` of them are not drawn."""

    x: float
    y: float
    radius: float
    dots: list[Dot]
    accounts: int
    hidden: int
    evidence: tuple[int, ...]


class Edge(NamedTuple):
    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True, slots=True)
class Graph:
    """`hidden` accounts and `hidden_evidence` pieces are not drawn, `loose` accounts of these
    because no evidence that is drawn ties them."""

    nodes: list[Node]
    groups: list[Group]
    edges: list[Edge]
    drawn: int
    hidden: int
    hidden_evidence: int
    loose: int
    height: float
    width: float = WIDTH


def graph(ties: Sequence[Tie], accounts: Mapping[int, str], excluded: Set[str]) -> Graph:
    """The accounts of a campaign, by place, around the largest of its links."""
    order = sorted(range(len(ties)), key=lambda n: (-len(ties[n].places), n))
    shown = sorted(order[:MOST_EVIDENCE])
    held: dict[int, list[int]] = {}
    for number in shown:
        for place in ties[number].places:
            if place in accounts:
                held.setdefault(place, []).append(number)
    by_evidence: dict[tuple[int, ...], list[int]] = {}
    for place, own_numbers in held.items():
        by_evidence.setdefault(tuple(own_numbers), []).append(place)
    groups = sorted(by_evidence.items(), key=lambda item: (-len(item[1]), item[0]))[:MOST_GROUPS]
    total = sum(len(own) for _, own in groups)
    room = min(1.0, MOST_DOTS / total) if total else 1.0
    sizes = [max(1, math.floor(len(own) * room)) for _, own in groups]
    node_radius = [_radius(len(ties[number].places), len(accounts)) for number in shown]
    group_radius = [DOT_GAP * math.sqrt(size) + 4.0 for size in sizes]
    at = {number: place for place, number in enumerate(shown)}
    pairs = [
        (at[number], len(shown) + place)
        for place, (numbers, _) in enumerate(groups)
        for number in numbers
    ]
    where, height = _placed(len(shown), np.array([*node_radius, *group_radius]), pairs)
    nodes = [
        Node(number, *where[place], node_radius[place], len(ties[number].places))
        for place, number in enumerate(shown)
    ]
    made = []
    for place, (numbers, own) in enumerate(groups):
        x, y = where[len(shown) + place]
        dots = [
            Dot(x + dx, y + dy, accounts[member] in excluded)
            for member, (dx, dy) in zip(own, _sunflower(sizes[place]), strict=False)
        ]
        made.append(Group(x, y, group_radius[place], dots, len(own), len(own) - len(dots), numbers))
    edges = [Edge(*where[one], *where[other]) for one, other in pairs]
    drawn = sum(len(group.dots) for group in made)
    return Graph(
        nodes, made, edges, drawn, len(accounts) - drawn, len(ties) - len(shown),
        len(accounts) - len(held), height,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Line:
    """One account: its first and last event and every stretch of time with one, as x."""

    account: str
    y: float
    start: float
    stop: float
    path: str
    events: int
    excluded: bool


@dataclass(frozen=True, slots=True)
class TimelineDrawing:
    """`others` accounts have no line of their own: `density` is the outline of their events by
    time. `outside` events lie beyond the axis, whose marks are (x, seconds since the epoch)."""

    lines: list[Line]
    density: str
    others: int
    outside: int
    marks: list[tuple[float, float]]
    floor: float
    height: float
    width: float = WIDTH


def timeline(
    names: Sequence[str], owner: np.ndarray, time: np.ndarray, excluded: Set[str]
) -> TimelineDrawing | None:
    """M accounts by time: `owner` int64 (T,) is the position of each event's account in `names`,
    `time` float64 (T,) seconds. None without events."""
    if not len(time):
        return None
    low, high = (float(value) for value in np.quantile(time, QUANTILES))
    pad = max(0.02 * (high - low), 60.0)
    low, high = low - pad, high + pad
    inside = (time >= low) & (time <= high)
    outside = int(len(time) - inside.sum())
    owner, time = owner[inside], time[inside]
    cell = np.minimum(((time - low) / (high - low) * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(owner, minlength=len(names))
    busiest = np.argsort(-counts, kind="stable")[:MOST_LINES]
    busiest = busiest[counts[busiest] > 0]
    first = np.full(len(names), np.inf)
    np.minimum.at(first, owner, time)
    step = (WIDTH - LABEL) / BINS
    lines = []
    order = np.argsort(owner, kind="stable")
    bounds = np.searchsorted(owner[order], np.arange(len(names) + 1))
    for row, account in enumerate(busiest[np.argsort(first[busiest], kind="stable")].tolist()):
        cells = np.unique(cell[order[bounds[account] : bounds[account + 1]]])
        y = ROW * row + ROW / 2 + 2
        lines.append(
            Line(
                names[account], y, LABEL + step * float(cells[0]),
                LABEL + step * float(cells[-1] + 1), _ticks(cells, y, step), int(counts[account]),
                names[account] in excluded,
            )
        )  # fmt: skip
    drawn = np.zeros(len(names), dtype=bool)
    drawn[busiest] = True
    others = cell[~drawn[owner]]
    floor = ROW * len(lines) + 8 + (DENSITY if len(others) else 0.0)
    density = _outline(np.bincount(others, minlength=BINS), floor, step) if len(others) else ""
    marks = [
        (LABEL + (WIDTH - LABEL) * share, low + (high - low) * share)
        for share in (0.06, 0.28, 0.5, 0.72, 0.94)
    ]
    return TimelineDrawing(
        lines, density, int((counts[~drawn] > 0).sum()), outside, marks, floor, floor + 18
    )


def evidence_groups(shown: Graph) -> list[tuple[tuple[int, ...], int]]:
    """What the drawing says, for those who do not see it: numbers of links, and how many accounts
    exactly these tie."""
    found: Counter[tuple[int, ...]] = Counter()
    for group in shown.groups:
        found[group.evidence] += group.accounts
    return sorted(found.items(), key=lambda item: (-item[1], item[0]))


def _radius(accounts: int, total: int) -> float:
    return 9.0 + 15.0 * math.sqrt(accounts / max(total, 1))


def _sunflower(count: int) -> list[tuple[float, float]]:
    """Places around (0, 0), evenly packed (Vogel 1979)."""
    turn = math.pi * (3 - math.sqrt(5))
    return [
        (DOT_GAP * math.sqrt(n + 0.5) * math.cos(n * turn),
         DOT_GAP * math.sqrt(n + 0.5) * math.sin(n * turn))
        for n in range(count)
    ]  # fmt: skip


def _placed(
    evidence: int, radius: np.ndarray, pairs: Sequence[tuple[int, int]]
) -> tuple[list[tuple[float, float]], float]:
    """Places of P things of `radius` (P,), the first `evidence` of them evidence: what is tied
    draws near, nothing covers anything else. And the height that they need."""
    count = len(radius)
    if not count:
        return [], 0.0
    place = np.zeros((count, 2))
    angle = 2 * math.pi * np.arange(evidence) / max(evidence, 1)
    place[:evidence] = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (30.0 * evidence)
    tied: dict[int, list[int]] = {}
    for one, other in pairs:
        tied.setdefault(other, []).append(one)
    for group in range(evidence, count):
        turn = 2.4 * group
        centre = place[tied[group]].mean(axis=0)
        place[group] = centre + 60.0 * np.array([math.cos(turn), math.sin(turn)])
    left = np.array([one for one, _ in pairs], dtype=np.int64)
    right = np.array([other for _, other in pairs], dtype=np.int64)
    apart = radius[:, None] + radius[None, :] + 14.0
    for _ in range(ROUNDS):
        pull = np.zeros_like(place)
        span = place[right] - place[left]
        length = np.maximum(np.linalg.norm(span, axis=1, keepdims=True), 1e-6)
        wanted = (radius[left] + radius[right])[:, None] + 26.0
        move = 0.08 * (length - wanted) / length * span
        np.add.at(pull, left, move)
        np.add.at(pull, right, -move)
        gap = place[:, None] - place[None, :]
        distance = np.maximum(np.linalg.norm(gap, axis=2), 1e-6)
        push = np.clip(apart - distance, 0.0, None) / distance
        np.fill_diagonal(push, 0.0)
        # Wider than high, as the drawing is.
        place = place + pull + 0.5 * (push[:, :, None] * gap).sum(axis=1)
        place[:, 1] *= 0.997
    low = (place - radius[:, None]).min(axis=0)
    high = (place + radius[:, None]).max(axis=0)
    size = np.maximum(high - low, 1.0)
    scale = min(1.0, float(np.min((np.array([WIDTH, HEIGHT]) - 2 * MARGIN) / size)))
    height = min(HEIGHT, float(size[1]) * scale + 2 * MARGIN)
    fitted = (place - (low + high) / 2) * scale + np.array([WIDTH, height]) / 2
    return [(float(x), float(y)) for x, y in fitted], height


def _ticks(cells: np.ndarray, y: float, step: float) -> str:
    """Stretches of neighbouring cells as lines."""
    starts = np.flatnonzero(np.diff(cells, prepend=-9) > 1)
    stops = np.append(starts[1:], len(cells))
    return "".join(
        f"M{LABEL + step * cells[start]:.1f} {y:.1f}h{step * (stop - start):.1f}"
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
    )


def _outline(counts: np.ndarray, floor: float, step: float) -> str:
    high = (DENSITY - 8) / max(int(counts.max()), 1)
    path = [f"M{LABEL:.1f} {floor:.1f}"]
    for place, count in enumerate(counts.tolist()):
        x = LABEL + step * place
        path.append(f"L{x:.1f} {floor - high * count:.1f}h{step:.1f}")
    return "".join([*path, f"L{WIDTH:.1f} {floor:.1f}Z"])
