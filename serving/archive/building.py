"""Trains an index of all vectors of the tables, and measures how well it finds.

Axis letters: N vectors, D dimensions, Q queries.
"""

from __future__ import annotations

import threading

import faiss
import numpy as np

from stillwatch.serving.archive import reading
from stillwatch.serving.archive.database import Database
from stillwatch.serving.archive.vectors import POINTS_PER_CENTROID, Trained, list_count, train

RECALL = 0.97
"""Share of the nearest ten that a search has to find; more lists are read until it does."""
NEAREST = 10
QUERIES = 128
BLOCK = 8192
RUN = 64
"""Vectors that are taken for training in one run of numbers."""
FIRST_PROBES = 8


class Cancelled(Exception):  # noqa: N818 - no error: what was built is not wanted any more
    """The build was given up."""


def candidates(k: int) -> int:
    """How many rough neighbours are compared again to find the nearest `k`. The more are wanted,
    the fewer of those that the rough similarities misplace are far from their place: among a
    million, three times 400 hold all of the nearest 400."""
    return max(min(10 * k, 400 + 2 * k), 100)


def build(
    database: Database, dimensions: int, cancelled: threading.Event, threads: int = 1
) -> Trained:
    """An index of all vectors that there are now. Takes a minute or so for a million; Cancelled
    soon after `cancelled` is set."""
    faiss.omp_set_num_threads(threads)
    with database.reading() as session:
        count, last = reading.vector_counts(session)
        _, removal = reading.removal_span(session)
    lists = list_count(count)
    rng = np.random.default_rng(count)
    index = train(_sample(database, lists, count, last, dimensions, rng), lists)
    trained = Trained(index, FIRST_PROBES, 0.0, count, last, removal)
    queries, own = _queries(database, last, dimensions, rng)
    exact = _Exact(queries, own)
    seq = 0
    while seq < last:
        if cancelled.is_set():
            raise Cancelled
        # A short session each: one for all would hold up what removes and what tidies.
        with database.reading() as session:
            found = reading.vectors_after(session, seq, BLOCK)
        if not len(found.seq):
            break
        kept = found.seq <= last
        trained.add(found.texts[kept], found.vectors[kept])
        exact.see(found.texts[kept], found.vectors[kept])
        seq = int(found.seq[-1])
    _tune(trained, database, exact, cancelled)
    return trained


class _Exact:
    """The nearest ten of each query among all that was seen, itself left out."""

    def __init__(self, queries: np.ndarray, own: np.ndarray) -> None:
        self.queries = queries
        self.own = own
        self.ids = np.full((len(queries), NEAREST), -1, np.int64)
        self._similarity = np.full((len(queries), NEAREST), -np.inf, np.float32)

    def see(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        similarity = self.queries @ vectors.T
        similarity[ids[None, :] == self.own[:, None]] = -np.inf
        both = np.concatenate([self._similarity, similarity], axis=1)
        every = np.concatenate(
            [self.ids, np.broadcast_to(ids, (len(self.queries), len(ids)))], axis=1
        )
        best = np.argpartition(-both, NEAREST - 1, axis=1)[:, :NEAREST]
        self._similarity = np.take_along_axis(both, best, axis=1)
        self.ids = np.take_along_axis(every, best, axis=1)


def _tune(trained: Trained, database: Database, exact: _Exact, cancelled: threading.Event) -> None:
    """Read more lists until the nearest are found."""
    while True:
        trained.recall = _recall(trained, database, exact)
        if cancelled.is_set():
            raise Cancelled
        if trained.recall >= RECALL or trained.probes >= trained.index.nlist:
            return
        trained.probes = min(trained.probes * 2, trained.index.nlist)


def _recall(trained: Trained, database: Database, exact: _Exact) -> float:
    found = wanted = 0
    for query, own, nearest in zip(exact.queries, exact.own, exact.ids, strict=True):
        ids, _ = trained.search(query, candidates(NEAREST) + 1, None)
        with database.reading() as session:
            compared = reading.vectors_of(session, ids[ids != own].tolist())
        if len(compared.texts):
            best = np.argsort(-(compared.vectors @ query), kind="stable")[:NEAREST]
            found += len(np.intersect1d(compared.texts[best], nearest[nearest >= 0]))
        wanted += int((nearest >= 0).sum())
    return found / wanted if wanted else 1.0


def _sample(
    database: Database, lists: int, count: int, last: int, dimensions: int,
    rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """Vectors to train on, float32 (N, D): runs from all over the tables."""
    wanted = min(lists * POINTS_PER_CENTROID, count)
    if wanted == count:
        runs, length = np.zeros(1, np.int64), count
    else:
        runs = np.sort(rng.choice(max(last // RUN, 1), min(wanted // RUN + 1, last // RUN or 1),
                                  replace=False)) * RUN  # fmt: skip
        length = RUN
    parts = []
    for start in runs:
        with database.reading() as session:
            parts.append(reading.vectors_after(session, int(start), length).vectors)
    filled = [part for part in parts if len(part)]
    return np.concatenate(filled) if filled else np.empty((0, dimensions), np.float32)


def _queries(
    database: Database, last: int, dimensions: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors float32 (Q, D) from all over the tables, and their texts' ids int64 (Q,)."""
    vectors, own = [], []
    for start in rng.integers(0, max(last, 1), QUERIES):
        with database.reading() as session:
            found = reading.vectors_after(session, int(start), 1)
        if len(found.seq):
            vectors.append(found.vectors[0])
            own.append(int(found.texts[0]))
    stacked = np.stack(vectors) if vectors else np.empty((0, dimensions), np.float32)
    return stacked, np.array(own, np.int64)
