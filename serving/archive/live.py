"""What of the tables is held in memory to search by, and how it keeps up with them.

Other processes may write the tables too: each reads what came after what it has, by the numbers
that the tables give out, and forgets what `removals` names.

Axis letters: D dimensions, K found.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stillwatch.serving.archive import reading
from stillwatch.serving.archive.building import candidates
from stillwatch.serving.archive.columns import Columns, Rows
from stillwatch.serving.archive.database import Database
from stillwatch.serving.archive.vectors import Allowed, Trained, VectorIndex, nearest

BLOCK = 20_000
"""Rows that are read at a time."""


@dataclass(slots=True)
class _Read:
    """Numbers of the rows that were read last."""

    event: int = 0
    seq: int = 0
    removal: int = 0


class Live:
    """The events' columns and the texts' vectors. One thread calls `load`, `refresh` and `adopt`,
    any may search."""

    def __init__(self, database: Database, dimensions: int) -> None:
        self._database = database
        self._columns = Columns()
        self.index = VectorIndex(dimensions)
        self._read = _Read()
        self.last_text = 0
        """No text has a larger id."""
        self.removed = False
        """Whether rows went of which the index file and backups of this process were not freed
        yet. Whoever frees them says so here."""
        self.lost = False
        """Whether there were enough vectors for a trained index when they were loaded, and none
        was there: it was lost, or never finished."""
        self.unindexed = 0
        """Vectors up to this number are in no index: they are compared in the tables."""

    @property
    def rows(self) -> Rows:
        return self._columns.rows()

    @property
    def seq(self) -> int:
        """The number of the vector that was read last."""
        return self._read.seq

    def load(self, trained: Trained | None, most_buffered: int) -> bool:
        """Read everything. Without a trained index, of more than `most_buffered` vectors none are
        read: they are compared in the tables until `adopt`. False if `trained` cannot be brought
        up to date and was not taken."""
        with self._database.reading() as session:
            count, last = reading.vector_counts(session)
            first_removal, last_removal = reading.removal_span(session)
            if trained is not None and (
                trained.seq > last
                or trained.removal > last_removal
                or (
                    trained.removal < last_removal
                    and (not first_removal or first_removal > trained.removal + 1)
                )
            ):
                return False
        self.lost = trained is None and count >= most_buffered
        if trained is not None:
            self.index.adopt(trained)
            self._read = _Read(0, trained.seq, trained.removal)
        elif count > most_buffered:
            self.unindexed = last
            self._read = _Read(0, last, last_removal)
        else:
            # What is gone is not read: only what goes from now on is asked for.
            self._read = _Read(0, 0, last_removal)
        self.refresh()
        return True

    def refresh(self) -> None:
        """Take over what was written and removed since."""
        while self._refresh_block():
            pass
        self._remove()

    def nearest(
        self, vector: np.ndarray, k: int, allowed: Allowed | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The `k` texts nearest to a unit vector float32 (D,): ids int64 (K,) and cosines float32
        (K,), nearest first."""
        rough, _ = self.index.search(vector, candidates(k), allowed)
        with self._database.reading() as session:
            compared = reading.vectors_of(session, rough.tolist())
        ids, similarity = compared.texts, _cosines(compared, vector)
        if self.unindexed:
            other_ids, other = self._scan(vector, k, allowed)
            ids = np.concatenate([ids, other_ids])
            similarity = np.concatenate([similarity, other])
        order = np.argsort(-similarity, kind="stable")[:k]
        return ids[order], similarity[order]

    def adopt(self, trained: Trained) -> None:
        """Take over an index that was built meanwhile, and add to it what came since."""
        seq, until = trained.seq, self._read.seq
        while seq < until:
            with self._database.reading() as session:
                found = reading.vectors_after(session, seq, BLOCK)
            if not len(found.seq):
                break
            kept = found.seq <= until
            if kept.any():
                trained.add(found.texts[kept], found.vectors[kept])
            seq = int(found.seq[-1])
        trained.seq = until
        self.index.adopt(trained)
        self.unindexed = 0
        if trained.removal < self._read.removal:
            # It may have been trained on vectors that are gone, though it holds them no more.
            self._read.removal = trained.removal
            self._remove()
            self.index.recentre()

    def _refresh_block(self) -> bool:
        with self._database.reading() as session:
            events = reading.events_after(session, self._read.event, BLOCK)
            found = reading.vectors_after(session, self._read.seq, BLOCK)
        last = max((max(row[4], row[5]) for row in events), default=0)
        # First of all: whoever has the rows may rely on it.
        self.last_text = max(self.last_text, int(last), int(found.texts.max(initial=0)))
        self._columns.append(events)
        if events:
            self._read.event = int(events[-1][0])
        if len(found.seq):
            self.index.add(found.texts, found.vectors)
            self._read.seq = int(found.seq[-1])
            if self.index.trained is not None and not self.index.buffered:
                self.index.trained.seq = self._read.seq
        return bool(events) or len(found.seq) > 0

    def _remove(self) -> None:
        with self._database.reading() as session:
            removals = reading.removals_after(session, self._read.removal)
        if removals:
            self._columns.remove(np.concatenate([removal.events for removal in removals]))
            self.index.remove(np.concatenate([removal.texts for removal in removals]))
            self._read.removal = removals[-1].id
            self.removed = True
        if self.index.trained is not None:
            self.index.trained.removal = self._read.removal

    def _scan(
        self, vector: np.ndarray, k: int, allowed: Allowed | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `nearest`, in no order, of the vectors that are in no index: seconds for a
        million."""
        ids, similarity = np.empty(0, np.int64), np.empty(0, np.float32)
        with self._database.reading() as session:
            for block in reading.all_vectors(session, self.unindexed, BLOCK):
                texts, vectors = block.texts, block.vectors
                if allowed is not None:
                    kept = allowed.has(texts)
                    texts, vectors = texts[kept], vectors[kept]
                found = nearest(texts, vectors, vector, k)
                ids = np.concatenate([ids, found[0]])
                similarity = np.concatenate([similarity, found[1]])
        return ids, similarity


def _cosines(compared: reading.Vectors, vector: np.ndarray) -> np.ndarray:
    if not len(compared.texts):
        return np.empty(0, np.float32)
    return np.clip(compared.vectors @ vector, -1.0, 1.0).astype(np.float32)
