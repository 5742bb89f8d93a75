"""What a template would have hit in the ordinary traffic that the archive holds.

Axis letters: N events of the archive, D dimensions.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from stillwatch.serving.archive import PromptArchive, reading, searching
from stillwatch.serving.archive.columns import Rows
from stillwatch.serving.archive.results import ANY
from stillwatch.serving.desk.records import Replay

MOST_SHARE = 0.0001
"""Of the ordinary prompts that a template may hit."""
MOST_TEXTS = 16_384
"""Near texts that are counted: more are far above any share that is let through."""
EXAMPLES = 5
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Known:
    """Accounts by what was decided on them."""

    confirmed: Collection[str]
    rejected: Collection[str]


def replay(
    archive: PromptArchive, vector: np.ndarray, known: Known, similarity: float, days: float,
    least: int, now: float,
) -> Replay:  # fmt: skip
    """Hits of a template's unit vector float32 (D,) among the prompts of the last `days`.

    Ordinary is an account that did not stand flagged after its last event, or whose flag was
    rejected, and that is not confirmed. A text counts by the vector of all of it: a prompt of many
    windows of which one alone is near is not found here. StoreError.
    """
    # The archive has no public way to count what it finds.
    live, database = archive._live, archive._database
    scope = searching.scope_of(live, database, ANY)
    with database.reading() as session:
        confirmed = np.array(list(reading.account_ids(session, known.confirmed).values()), np.int64)
        rejected = np.array(list(reading.account_ids(session, known.rejected).values()), np.int64)
    rows = scope.rows
    suspect = np.union1d(np.setdiff1d(_flagged_last(rows), rejected), confirmed)
    mask = (rows.time >= now - days * DAY_S) & ~np.isin(rows.account, suspect)
    scope = searching.Scope(rows, mask, scope.last_text)
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
    return Replay(
        similarity=similarity, days=days, prompts=int(mask.sum()),
        accounts=len(np.unique(rows.account[mask])), hit_prompts=int(hit.sum()),
        hit_accounts=len(np.unique(rows.account[hit])), most=MOST_SHARE, least=least, time=now,
        examples=examples,
    )  # fmt: skip


def _flagged_last(rows: Rows) -> np.ndarray:
    """Ids of the accounts that stood flagged after their last event, int64."""
    accounts, first = np.unique(rows.account[::-1], return_index=True)
    found: np.ndarray = accounts[rows.flagged[::-1][first]]
    return found.astype(np.int64)
