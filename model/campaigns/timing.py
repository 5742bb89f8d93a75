"""Timing as evidence: accounts that begin together, follow one another, or move to a model at once.

None of it makes a campaign by itself, since customers do all three; it is named beside what does.
Times are seconds; a clock that is off moves its account alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stillwatch.model.campaigns.index import EventTable

HANDOVER_S = 3600.0
MIN_HANDOVERS = 0.5
"""Share of the accounts that begin within HANDOVER_S of another's end."""
CHANCE = 3.0
"""Times as many handovers as accounts that know nothing of each other would show."""
TOGETHER = 0.1
"""Middle half of the accounts begin within this share of the time of the middle half of all events.
"""
PIVOT_S = 86_400.0
MIN_PIVOT = 0.3


@dataclass(frozen=True)
class TimingLink:
    """`accounts` int64; `detail` holds figures alone."""

    kind: str
    accounts: np.ndarray
    detail: str


def timing_links(table: EventTable, events: np.ndarray, models: list[str]) -> list[TimingLink]:
    """What the times of some events, int64, of a community say."""
    account, time = table.account[events], table.time[events]
    accounts, first, last = _lifetimes(account, time)
    if len(accounts) < 3:
        return []
    found = [*_together(table, accounts, first), *_handover(accounts, first, last)]
    return [*found, *_pivot(table, events, accounts, models)]


def _lifetimes(account: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    accounts, place = np.unique(account, return_inverse=True)
    first, last = np.full(len(accounts), np.inf), np.full(len(accounts), -np.inf)
    np.minimum.at(first, place, time)
    np.maximum.at(last, place, time)
    return accounts, first, last


def _together(table: EventTable, accounts: np.ndarray, first: np.ndarray) -> list[TimingLink]:
    low, high = np.quantile(first, [0.25, 0.75])
    if high - low > TOGETHER * table.middle_half:
        return []
    hours = (high - low) / 3600
    together = accounts[(first >= low) & (first <= high)]
    if len(together) < 3:
        return []
    return [TimingLink("timing", together, f"half of the accounts began within {hours:.1f} hours")]


def _handover(accounts: np.ndarray, first: np.ndarray, last: np.ndarray) -> list[TimingLink]:
    """Accounts that begin soon after another has ended for good: replacements after a block."""
    ended = np.sort(last)
    place = np.searchsorted(ended, first, side="right") - 1
    gap = np.where(place >= 0, first - ended[place], np.inf)
    follows = (gap >= 0) & (gap <= HANDOVER_S)
    span = max(float(last.max() - first.min()), 1.0)
    expected = 1 - np.exp(-len(accounts) * HANDOVER_S / span)
    share = float(follows.mean())
    if share < MIN_HANDOVERS or share < CHANCE * expected:
        return []
    detail = f"{int(follows.sum())} accounts began within an hour of another's last request"
    return [TimingLink("handover", accounts[follows], detail)]


def _pivot(
    table: EventTable, events: np.ndarray, accounts: np.ndarray, models: list[str]
) -> list[TimingLink]:
    """Accounts that move to a model within a day of its first use by anyone."""
    found = []
    used = np.unique(table.model[events])
    for model in used[used >= 0]:
        release = table.released[model]
        # A model that is there from the beginning was not released while it was watched.
        if release < table.began + PIVOT_S:
            continue
        own = events[table.model[events] == model]
        others = events[(table.model[events] != model) & (table.time[events] < release)]
        early = np.unique(table.account[own[table.time[own] <= release + PIVOT_S]])
        moved = np.intersect1d(early, table.account[others])
        if len(moved) >= max(3, MIN_PIVOT * len(accounts)):
            detail = f"{len(moved)} accounts moved to {models[model]} within a day of its first use"
            found.append(TimingLink("pivot", moved, detail))
    return found
