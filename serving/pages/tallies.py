"""What the pages count over the whole archive: accounts and templates.

Axis letters: N events, T templates.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

import numpy as np

from stillwatch.serving.archive import PromptArchive
from stillwatch.serving.desk.site_templates import SIMILARITY


class TemplateTally(NamedTuple):
    """Prompts near to a template, of how many accounts, and those of accounts that a reviewer has
    rejected: false hits."""

    hits: int
    accounts: int
    false_hits: int
    last: float | None


class Flagged(NamedTuple):
    """Accounts that stand flagged, the riskiest first, and how many there are in all."""

    names: list[str]
    total: int


class Standing(NamedTuple):
    """How an account stood after its latest archived event."""

    risk: float
    flagged: bool


class Tallies:
    """Counts over one archive. Safe to share between threads."""

    def __init__(self, archive: PromptArchive) -> None:
        self._archive = archive

    def flagged(self, most: int) -> Flagged:
        """Accounts that stood flagged after their latest archived event, `most` of them."""
        totals = self._archive.totals()
        numbers = totals.riskiest_flagged(most).tolist()
        names = self._archive.account_names(numbers)
        # One that is erased meanwhile has no name any more.
        found = [names[number] for number in numbers if number in names]
        return Flagged(found, int(np.count_nonzero(totals.flagged)))

    def flagged_among(self, account_ids: Iterable[str]) -> frozenset[str]:
        """Those of some accounts that stood flagged after their latest archived event."""
        totals = self._archive.totals()
        return frozenset(
            name
            for name, number in self._archive.account_numbers(account_ids).items()
            if number < len(totals.flagged) and totals.flagged[number]
        )

    def standings(self, numbers: Iterable[int]) -> dict[int, Standing]:
        """How some accounts, by number, stood after their latest event."""
        totals = self._archive.totals()
        return {
            number: Standing(float(totals.risk[number]), bool(totals.flagged[number]))
            for number in numbers
            if number < len(totals.events) and totals.events[number]
        }

    def events_of(self, account_ids: Collection[str]) -> dict[str, int]:
        """The number of archived events of each account that is there."""
        return {name: times[2] for name, times in self.times_of(account_ids).items()}

    def times_of(self, account_ids: Collection[str]) -> dict[str, tuple[float, float, int]]:
        """First and last event's time and the number of events, of each account that is there."""
        totals = self._archive.totals()
        return {
            name: (float(totals.first[number]), float(totals.last[number]),
                   int(totals.events[number]))
            for name, number in self._archive.account_numbers(account_ids).items()
            if number < len(totals.events) and totals.events[number]
        }  # fmt: skip

    def templates(self, rejected: Collection[str]) -> dict[str, TemplateTally]:
        """By template id."""
        rows, names = self._archive.rows, self._archive.names()
        false_accounts = np.fromiter(self._archive.account_numbers(rejected).values(), np.int64)
        near = np.flatnonzero((rows.similarity >= SIMILARITY) & (rows.template > 0))
        template, account = rows.template[near], rows.account[near].astype(np.int64)
        if not len(near):
            return {}
        size = int(template.max()) + 1
        hits = np.bincount(template, minlength=size)
        false_hits = np.bincount(template[np.isin(account, false_accounts)], minlength=size)
        last = np.full(size, -np.inf)
        np.maximum.at(last, template, rows.time[near])
        pairs = np.unique(account * size + template)
        accounts = np.bincount(pairs % size, minlength=size)
        return {
            names.get(number, ""): TemplateTally(
                int(hits[number]), int(accounts[number]), int(false_hits[number]),
                float(last[number]),
            )
            for number in np.flatnonzero(hits).tolist()
        }  # fmt: skip
