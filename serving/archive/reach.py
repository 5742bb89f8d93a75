"""How much of the archive's traffic a vector is near to.

Axis letters: N events, D dimensions, A accounts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stillwatch.serving.archive import searching
from stillwatch.serving.archive.database import Database
from stillwatch.serving.archive.live import Live

MOST_TEXTS = 16_384
"""Near texts that are counted."""
EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Reach:
    """Events and accounts that were looked at, and those of them that were near enough;
    `examples` are (account id, event id) of some, the nearest first."""

    events: int
    accounts: int
    hit_events: int
    hit_accounts: int
    examples: tuple[tuple[str, str], ...]


def reach(
    live: Live, database: Database, vector: np.ndarray, similarity: float, since: float,
    without: np.ndarray,
) -> Reach:  # fmt: skip
    """Events since a time with a text near to a unit vector float32 (D,), those of accounts
    `without` int64 (A,) left out. A text counts by the vector of all of it."""
    rows = live.rows
    mask = (rows.time >= since) & ~np.isin(rows.account, without)
    scope = searching.Scope(rows, mask, live.last_text)
    ids, near = np.empty(0, np.int64), np.empty(0, np.float32)
    if not scope.empty:
        allowed, wanted = scope.allowed(), 256
        while True:
            ids, near = live.nearest(vector, wanted, allowed)
            if wanted >= MOST_TEXTS or len(ids) < wanted or near[-1] < similarity:
                break
            wanted *= 4
    kept = near >= similarity
    ids, near = ids[kept], near[kept]
    hit = mask & (np.isin(rows.slot, ids) | np.isin(rows.frame, ids))
    examples: tuple[tuple[str, str], ...] = ()
    if len(ids):
        groups = searching.holding(scope, ids[:EXAMPLES], near[:EXAMPLES], [])
        hits = searching.to_hits(scope, database, groups, EXAMPLES, 1)
        examples = tuple((found.event.account_id, found.event.event_id) for found in hits)
    return Reach(
        int(mask.sum()), _accounts(rows.account[mask]), int(hit.sum()),
        _accounts(rows.account[hit]), examples,
    )  # fmt: skip


def _accounts(numbers: np.ndarray) -> int:
    return int(np.count_nonzero(np.bincount(numbers)))
