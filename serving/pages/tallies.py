"""What the pages count over the whole archive: accounts, templates, drift.

Read off the columns that the archive holds in memory, once for each state of it.

Axis letters: N events, A accounts.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from stillwatch.serving.archive import PromptArchive, reading
from stillwatch.serving.archive.columns import Rows
from stillwatch.serving.desk.site_templates import SIMILARITY


@dataclass(frozen=True, slots=True)
class Accounts:
    """A accounts, by the archive's number of each, ascending: arrays (A,). Risk and flag are
    those after the latest event."""

    number: np.ndarray
    events: np.ndarray
    first: np.ndarray
    last: np.ndarray
    risk: np.ndarray
    flagged: np.ndarray


class TemplateTally(NamedTuple):
    """Prompts near to a template, of how many accounts, and those of accounts that a reviewer has
    rejected: false hits."""

    hits: int
    accounts: int
    false_hits: int
    last: float | None


class Tallies:
    """Counts over one archive. Safe to share between threads."""

    def __init__(self, archive: PromptArchive) -> None:
        self._archive = archive
        self._lock = threading.Lock()
        self._known: tuple[Rows | None, Accounts | None] = (None, None)

    @property
    def rows(self) -> Rows:
        """The columns of the events as they are now."""
        return self._archive._live.rows

    def accounts(self) -> Accounts:
        """Every account of the archive."""
        with self._lock:
            rows = self.rows
            known, found = self._known
            if known is not rows or found is None:
                found = _accounts(rows)
                self._known = (rows, found)
            return found

    def names_of(self, numbers: Iterable[int]) -> dict[int, str]:
        """Account ids by their numbers."""
        with self._archive._database.reading() as session:
            return reading.account_names(session, list(numbers))

    def numbers_of(self, account_ids: Iterable[str]) -> dict[str, int]:
        """Numbers of those accounts that the archive knows."""
        with self._archive._database.reading() as session:
            return reading.account_ids(session, list(account_ids))

    def flagged(self) -> list[str]:
        """Accounts that stood flagged after their latest archived event, the riskiest first."""
        found = self.accounts()
        places = np.flatnonzero(found.flagged)
        order = places[np.argsort(-found.risk[places], kind="stable")]
        numbers = found.number[order].tolist()
        names = self.names_of(numbers)
        return [names[number] for number in numbers if number in names]

    def times_of(self, account_ids: Collection[str]) -> dict[str, tuple[float, float, int]]:
        """First and last event's time and the number of events, of each account that is there."""
        found = self.accounts()
        times = {}
        for account_id, number in self.numbers_of(account_ids).items():
            place = int(np.searchsorted(found.number, number))
            if place < len(found.number) and found.number[place] == number:
                times[account_id] = (
                    float(found.first[place]), float(found.last[place]), int(found.events[place])
                )  # fmt: skip
        return times

    def templates(self, rejected: Collection[str]) -> dict[str, TemplateTally]:
        """By template id."""
        rows = self.rows
        with self._archive._database.reading() as session:
            names = reading.names(session)
        false_accounts = np.array(list(self.numbers_of(rejected).values()), dtype=np.int64)
        near = np.flatnonzero((rows.template > 0) & (rows.similarity >= SIMILARITY))
        template, account = rows.template[near], rows.account[near]
        is_false = np.isin(account, false_accounts)
        time = rows.time[near]
        found = {}
        for number in np.unique(template).tolist():
            own = template == number
            found[names.get(number, "")] = TemplateTally(
                int(own.sum()), len(np.unique(account[own])), int(is_false[own].sum()),
                float(time[own].max()),
            )  # fmt: skip
        return found

    def languages(self) -> dict[int, str]:
        """Names of the archive by number: languages, intents and others."""
        with self._archive._database.reading() as session:
            return reading.names(session)


def _accounts(rows: Rows) -> Accounts:
    if not rows.count:
        none = np.zeros(0)
        return Accounts(none.astype(np.int64), none.astype(np.int64), none, none, none,
                        none.astype(bool))  # fmt: skip
    order = np.lexsort((rows.id, rows.time, rows.account))
    account = rows.account[order]
    starts = np.flatnonzero(np.concatenate([[True], account[1:] != account[:-1]]))
    ends = np.concatenate([starts[1:], [len(account)]]) - 1
    first, last = order[starts], order[ends]
    # The verdict is the one of the event that was scored last, whatever its own time says.
    scored = np.maximum.reduceat(rows.id[order], starts)
    place = np.searchsorted(rows.id, scored) if _ascending(rows.id) else _places(rows.id, scored)
    return Accounts(
        account[starts].astype(np.int64), ends - starts + 1, rows.time[first], rows.time[last],
        rows.risk[place], rows.flagged[place],
    )  # fmt: skip


def _ascending(ids: np.ndarray) -> bool:
    return bool((ids[1:] > ids[:-1]).all())


def _places(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    order = np.argsort(ids)
    return order[np.searchsorted(ids[order], wanted)]
