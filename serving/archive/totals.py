"""What is known of every account of an archive, kept up as events come.

Axis letters: N events, A accounts by their number in the archive.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from stillwatch.serving.archive.columns import Rows

_FIELDS = (
    ("events", np.int64, 0), ("first", np.float64, np.inf), ("last", np.float64, -np.inf),
    ("risk", np.float32, 0), ("flagged", np.bool_, False),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Totals:
    """Accounts as arrays (A,), an account's number in the archive its place; never changed.

    `events` is 0 where there is no such account. `first` and `last` are the times of its first and
    last event, seconds since the epoch; `risk` and `flagged` are those after the event that was
    scored last, whatever its own time says.
    """

    events: np.ndarray
    first: np.ndarray
    last: np.ndarray
    risk: np.ndarray
    flagged: np.ndarray

    @property
    def accounts(self) -> int:
        """How many accounts have events."""
        return int(np.count_nonzero(self.events))

    def riskiest_flagged(self, most: int) -> np.ndarray:
        """Numbers int64 of accounts that stand flagged, the riskiest first, `most` of them."""
        places = np.flatnonzero(self.flagged)
        return places[np.argsort(-self.risk[places], kind="stable")[:most]]


class TotalsKeeper:
    """Totals of growing columns. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: Rows | None = None
        self._totals = _nobody(0)

    def of(self, rows: Rows) -> Totals:
        """Those of `rows`: what came since the last call is added, and all counted anew if some
        went."""
        with self._lock:
            known = self._rows
            if known is None or known.removals != rows.removals:
                self._totals, counted = _nobody(0), 0
            elif rows.count < known.count:
                # Another thread has asked for later ones: these are as true as when it asked.
                return self._totals
            else:
                counted = known.count
            if counted < rows.count:
                self._totals = _added(self._totals, rows, counted)
            self._rows = rows
            return self._totals


def _nobody(size: int) -> Totals:
    return Totals(*(np.full(size, empty, kind) for _, kind, empty in _FIELDS))


def _added(old: Totals, rows: Rows, start: int) -> Totals:
    """Totals with the events from position `start` on."""
    account, time = rows.account[start:], rows.time[start:]
    found = _nobody(max(len(old.events), int(account.max()) + 1))
    for name, _, _ in _FIELDS:
        getattr(found, name)[: len(old.events)] = getattr(old, name)
    found.events[:] += np.bincount(account, minlength=len(found.events))
    np.minimum.at(found.first, account, time)
    np.maximum.at(found.last, account, time)
    # Of several values for one place the last one stays, and events come in the order of scoring.
    found.risk[account] = rows.risk[start:]
    found.flagged[account] = rows.flagged[start:]
    return found
