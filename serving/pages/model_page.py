"""The model: what decides, how far traffic has moved from what it was set for, what is labelled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from stillwatch.model import drift
from stillwatch.model.traffic import Columns, Traffic, quantiles
from stillwatch.serving.archive.columns import Rows
from stillwatch.serving.desk import Decision
from stillwatch.serving.pages.guard import POLICY, ReadSession
from stillwatch.serving.pages.site import Site

DAY_S = 86_400.0
WEEK_S = 7 * DAY_S
LEAST_EVENTS = 100
"""Of either sample: fewer tell nothing."""
Origin = Literal["calibration", "week", "half"]
NUMBERS = {
    "risk": ("Risk", "of the account after each prompt"),
    "contribution": ("Contribution", "of each prompt to its likeliest intent"),
    "similarity": ("Template similarity", "of each prompt to its nearest template"),
    "hour": ("Hour", "of the day, UTC"),
    "prompts": ("Prompts an account", "in its time"),
}
COUNTS = {
    "language": ("Language", "as guessed"),
    "intent": ("Intent", "likeliest of each prompt"),
    "framed": ("Shared frames", "share of prompts under one"),
}
SAMPLED = 20_000
"""Prompts of either time whose values are compared, evenly spread over it: what they tell is
within a hundredth of what all would."""
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; sandbox"
)


@dataclass(frozen=True, slots=True)
class Measure:
    """One thing that may have moved: index, Kolmogorov-Smirnov distance (numbers alone), means or
    shares of both."""

    name: str
    what: str
    psi: float
    ks: float | None
    before: float | None
    now: float | None

    @property
    def level(self) -> str:
        if self.psi >= drift.LARGE:
            return "large"
        return "moderate" if self.psi >= drift.MODERATE else "small"


@dataclass(frozen=True, slots=True)
class Drift:
    """`origin` is what stands for the traffic before: of the calibration, of the archive's
    earliest full week, or of its first half; `reason` says why nothing is measured."""

    reference: Traffic | None
    current: Traffic | None
    origin: Origin
    measures: Sequence[Measure]
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Labels:
    """Decisions that count, by what they are; what retraining would use of each kind: accounts
    and their archived events."""

    confirmed: int
    by_intent: Mapping[str, int]
    rejected: int
    pending: int
    needs_more: int
    attacking_events: int
    ordinary_events: int
    gone: int


def add(routes: APIRouter, site: Site) -> None:
    """`/desk/model` and the report of its evaluation."""

    @routes.get("/desk/model")
    async def model(session: ReadSession) -> Response:
        def build() -> Response:
            detector = site.detector
            bundle = detector.bundle if detector else None
            card = bundle.content.get("README.md", b"") if bundle else b""
            return site.page(
                "model.html.j2", session, title="Model",
                bundle_id=site.service.scorer.bundle_id,
                manifest=bundle.manifest if bundle else None,
                templates=len(detector.templates) if detector else 0,
                card=card.decode("utf-8", "replace"), drift=measure(site),
                labels=_labels(site), status=site.archive.status(), head=site.desk.head(),
                report=site.workplace.report is not None, sampled=SAMPLED,
            )  # fmt: skip

        return await run_in_threadpool(build)

    @routes.get("/desk/model/report")
    async def report(session: ReadSession) -> Response:
        path = site.workplace.report
        if path is None or not path.is_file():
            raise KeyError("report")
        content = await run_in_threadpool(path.read_bytes)
        # It is a page of its own making: it may style itself, and do nothing else.
        return Response(
            content, media_type="text/html", headers={"Content-Security-Policy": REPORT_POLICY}
        )

    assert "unsafe" not in POLICY


def measure(site: Site) -> Drift:
    """How far the last seven days are from the traffic of the bundle's calibration or, of a bundle
    that was not calibrated, from what stands for it: the archive's earliest full week, or its
    first half."""
    detector, rows = site.detector, site.archive.rows
    calibrated = detector.bundle.traffic if detector else None
    least = LEAST_EVENTS if calibrated else 2 * LEAST_EVENTS
    if rows.count < least:
        return Drift(calibrated, None, "calibration" if calibrated else "half", (),
                     f"There must be {least} events for this, however: the archive has "
                     f"{rows.count:,}.")  # fmt: skip
    first, last = float(rows.time.min()), float(rows.time.max())
    names = site.archive.names()
    week = rows.time >= last - WEEK_S
    if calibrated:
        return _compared(calibrated, _traffic(rows, week, names), "calibration")
    # A full week begins and ends at midnight, UTC.
    start = np.ceil(first / DAY_S) * DAY_S
    if last - start >= 2 * WEEK_S:
        before = (rows.time >= start) & (rows.time < start + WEEK_S)
        return _compared(_traffic(rows, before, names), _traffic(rows, week, names), "week")
    early = rows.time < np.median(rows.time)
    return _compared(_traffic(rows, early, names), _traffic(rows, ~early, names), "half")


def _compared(before: Traffic | None, now: Traffic | None, origin: Origin) -> Drift:
    if before is None or now is None or min(before.events, now.events) < LEAST_EVENTS:
        return Drift(before, now, origin, (), f"Either time must have {LEAST_EVENTS} events for "
                     "this, however: one has fewer.")  # fmt: skip
    found = []
    for name, (title, what) in NUMBERS.items():
        samples = np.array(before.numbers[name]), np.array(now.numbers[name])
        # The mean of hours tells nothing: 23 and 1 are near each other.
        means = (None, None) if name == "hour" else (before.means[name], now.means[name])
        found.append(Measure(title, what, drift.psi(*samples), drift.ks(*samples), *means))
    for name, (title, what) in COUNTS.items():
        counts = before.counts[name], now.counts[name]
        shares: tuple[float | None, float | None] = (None, None)
        if name == "framed":
            shares = before.framed_share, now.framed_share
        found.append(Measure(title, what, drift.category_psi(*counts), None, *shares))
    return Drift(before, now, origin, found)


def _traffic(rows: Rows, mask: np.ndarray, names: Mapping[int, str]) -> Traffic | None:
    """Of these events; values of at most SAMPLED of them. None without events."""
    if not mask.any():
        return None
    own = _spread(np.flatnonzero(mask))
    columns = Columns(
        rows.risk[own], rows.contribution[own], rows.similarity[own], rows.time[own],
        rows.frame[own] > 0, rows.account[own],
        _named(rows.language[own], names), _named(rows.intent[own], names),
    )  # fmt: skip
    sampled = Traffic.of(columns)
    times, each = rows.time[mask], np.bincount(rows.account[mask])
    each = each[each > 0]
    # How many there are is told of all.
    return sampled.model_copy(
        update={
            "start": float(times.min()), "end": float(times.max()), "events": len(times),
            "accounts": len(each),
            "numbers": {**sampled.numbers, "prompts": quantiles(each)},
            "means": {**sampled.means, "prompts": float(each.mean())},
        }
    )  # fmt: skip


def _spread(positions: np.ndarray) -> np.ndarray:
    """At most SAMPLED of some positions (N,), evenly spread over them."""
    if len(positions) <= SAMPLED:
        return positions
    return positions[np.linspace(0, len(positions) - 1, SAMPLED).astype(np.int64)]


def _named(numbers: np.ndarray, names: Mapping[int, str]) -> Counter[str]:
    """How often each name is there, by its number in the archive."""
    values, counts = np.unique(numbers, return_counts=True)
    found: Counter[str] = Counter()
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        found[names.get(value, "none")] += count
    return found


def _labels(site: Site) -> Labels:
    present: dict[str, Decision] = site.desk.all_present()
    counting = {name: one for name, one in present.items() if one.state == "counts"}
    confirmed = {name: one for name, one in counting.items() if one.verdict == "confirm"}
    rejected = {name: one for name, one in counting.items() if one.verdict == "reject"}
    held: dict[str, Any] = site.tallies.times_of([*confirmed, *rejected])
    return Labels(
        confirmed=len(confirmed),
        by_intent=Counter(intent for one in confirmed.values() for intent in one.intents),
        rejected=len(rejected),
        pending=sum(one.state == "pending" for one in present.values()),
        needs_more=sum(one.verdict == "needs_more" for one in counting.values()),
        attacking_events=sum(held[name][2] for name in confirmed if name in held),
        ordinary_events=sum(held[name][2] for name in rejected if name in held),
        gone=sum(name not in held for name in (*confirmed, *rejected)),
    )
