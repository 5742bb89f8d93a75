"""The model: what decides, how far traffic has moved from what it was set for, what is labelled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from stillwatch.model import drift
from stillwatch.serving.archive.columns import Rows
from stillwatch.serving.desk import Decision
from stillwatch.serving.pages.guard import POLICY, ReadSession
from stillwatch.serving.pages.site import Site

DAY_S = 86_400.0
WEEK_S = 7 * DAY_S
LEAST_EVENTS = 100
"""Of either sample: fewer tell nothing."""
SAMPLED = 20_000
"""Prompts of either time whose values are compared, evenly spread over it: what they tell is
within a hundredth of what all would."""
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; sandbox"
)


@dataclass(frozen=True, slots=True)
class Window:
    """Events of a time, seconds since the epoch, and how many they are."""

    start: float
    end: float
    events: int
    accounts: int


@dataclass(frozen=True, slots=True)
class Measure:
    """One thing that may have moved: index, distance (numbers alone), means or shares of both."""

    name: str
    what: str
    psi: float
    ks: drift.KS | None
    before: float | None
    now: float | None

    @property
    def level(self) -> str:
        if self.psi >= drift.LARGE:
            return "large"
        return "moderate" if self.psi >= drift.MODERATE else "small"


@dataclass(frozen=True, slots=True)
class Drift:
    """`whole` is whether the reference is a full week; `reason` says why nothing is measured."""

    reference: Window | None
    current: Window | None
    whole: bool
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
    """How far the last seven days are from the earliest full week, or from what stands for it."""
    rows = site.archive.rows
    if rows.count < 2 * LEAST_EVENTS:
        return Drift(None, None, False, (), f"There must be {2 * LEAST_EVENTS} events for this, "
                     f"however: the archive has {rows.count:,}.")  # fmt: skip
    first, last = float(rows.time.min()), float(rows.time.max())
    # A full week begins and ends at midnight, UTC.
    start = np.ceil(first / DAY_S) * DAY_S
    whole = last - start >= 2 * WEEK_S
    if whole:
        split, begin = start + WEEK_S, last - WEEK_S
        reference = (rows.time >= start) & (rows.time < split)
    else:
        split = begin = float(np.median(rows.time))
        reference = rows.time < split
    current = rows.time >= begin
    before, now = _window(rows, reference), _window(rows, current)
    if min(before.events, now.events) < LEAST_EVENTS:
        return Drift(before, now, whole, (), f"Either time must have {LEAST_EVENTS} events for "
                     "this, however: one has fewer.")  # fmt: skip
    return Drift(before, now, whole, _measures(site, rows, reference, current))


def _measures(site: Site, rows: Rows, reference: np.ndarray, current: np.ndarray) -> list[Measure]:
    found = []
    samples = [_spread(np.flatnonzero(mask)) for mask in (reference, current)]
    for name, what, values in (
        ("Risk", "of the account after each prompt", rows.risk),
        ("Contribution", "of each prompt to its likeliest intent", rows.contribution),
        ("Template similarity", "of each prompt to its nearest template", rows.similarity),
        ("Hour", "of the day, UTC", rows.time),
    ):
        before, now = (values[own] for own in samples)
        means: tuple[float | None, float | None] = (float(before.mean()), float(now.mean()))
        if name == "Hour":
            before, now = before % DAY_S / 3600, now % DAY_S / 3600
            means = (None, None)
        found.append(Measure(name, what, drift.psi(before, now), drift.ks(before, now), *means))
    counts = [own[own > 0] for own in (np.bincount(rows.account[m]) for m in (reference, current))]
    found.append(
        Measure(
            "Prompts an account", "in its time", drift.psi(counts[0], counts[1]),
            drift.ks(counts[0], counts[1]),
            float(counts[0].mean()), float(counts[1].mean()),
        )
    )  # fmt: skip
    names = site.archive.names()
    for name, what, column in (
        ("Language", "as guessed", rows.language), ("Intent", "likeliest of each prompt",
                                                    rows.intent),
    ):  # fmt: skip
        index = drift.category_psi(*(_named(column[own], names) for own in samples))
        found.append(Measure(name, what, index, None, None, None))
    framed = [rows.frame[own] > 0 for own in samples]
    shares = [Counter({"framed": int(part.sum()), "free": int((~part).sum())}) for part in framed]
    found.append(
        Measure(
            "Shared frames", "share of prompts under one", drift.category_psi(*shares), None,
            float(framed[0].mean()), float(framed[1].mean()),
        )
    )  # fmt: skip
    return found


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


def _window(rows: Rows, mask: np.ndarray) -> Window:
    times = rows.time[mask]
    if not len(times):
        return Window(0.0, 0.0, 0, 0)
    accounts = int(np.count_nonzero(np.bincount(rows.account[mask])))
    return Window(float(times.min()), float(times.max()), len(times), accounts)


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
