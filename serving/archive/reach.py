"""How much of the archive's traffic a vector is near to.

Axis letters: N events, D dimensions, A accounts, K texts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stillwatch.serving.archive import searching
from stillwatch.serving.archive.database import Database
from stillwatch.serving.archive.live import Live
from stillwatch.serving.archive.rows import VECTOR
from stillwatch.serving.archive.vectors import Allowed

BLOCK = 2_000
"""Vectors that are compared at a time: they stay in the processor's cache."""
EXAMPLES = 5
_VECTORS = "SELECT seq, text, vector FROM vectors WHERE seq > ? ORDER BY seq LIMIT ?"


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
    `without` int64 (A,) left out. A text counts by the vector of all of it. Every one is counted,
    however many there are."""
    rows = live.rows
    mask = (rows.time >= since) & ~np.isin(rows.account, without)
    scope = searching.Scope(rows, mask, live.last_text)
    ids, near = np.empty(0, np.int64), np.empty(0, np.float32)
    allowed = scope.allowed()
    if allowed is not None and allowed.count:
        ids, near = _near(database, vector, similarity, allowed)
    found = Allowed.of(ids, live.last_text)
    hit = mask & (found.has(rows.slot) | found.has(rows.frame))
    examples: tuple[tuple[str, str], ...] = ()
    if len(ids):
        groups = searching.holding(scope, ids[:EXAMPLES], near[:EXAMPLES], [])
        hits = searching.to_hits(scope, database, groups, EXAMPLES, 1)
        examples = tuple((found.event.account_id, found.event.event_id) for found in hits)
    return Reach(
        int(mask.sum()), _accounts(rows.account[mask]), int(hit.sum()),
        _accounts(rows.account[hit]), examples,
    )  # fmt: skip


def _near(
    database: Database, vector: np.ndarray, similarity: float, allowed: Allowed
) -> tuple[np.ndarray, np.ndarray]:
    """Every allowed text that is near enough, int64 (K,), nearest first, and its cosine.

    All vectors of the tables are compared, for an index finds the nearest texts, not all that are
    near. Of a million of 384 dimensions it takes two seconds of one core.
    """
    ids, cosines, last = [np.empty(0, np.int64)], [np.empty(0, np.float32)], 0
    while True:
        # A transaction each: a long one would have an erasure wait to rewrite the files.
        with database.reading() as session:
            rows = session.rows(_VECTORS, (last, BLOCK))
        if not rows:
            break
        last = int(rows[-1][0])
        texts = np.fromiter((row[1] for row in rows), np.int64, len(rows))
        kept = allowed.has(texts)
        if not kept.any():
            continue
        stored = b"".join(row[2] for row, wanted in zip(rows, kept.tolist(), strict=True) if wanted)
        vectors = np.frombuffer(stored, VECTOR).reshape(-1, len(vector)).astype(np.float32)
        cosine = (vectors @ vector) / np.sqrt(np.einsum("kd,kd->k", vectors, vectors))
        near = cosine >= similarity
        ids.append(texts[kept][near])
        cosines.append(cosine[near])
    every, cosine = np.concatenate(ids), np.concatenate(cosines)
    order = np.argsort(-cosine, kind="stable")
    return every[order], cosine[order]


def _accounts(numbers: np.ndarray) -> int:
    return int(np.count_nonzero(np.bincount(numbers)))
