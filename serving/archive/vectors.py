"""The vectors of texts in memory: a trained FAISS index, and a small exact one for what is new.

The trained index is an inverted file (IVF): vectors stand in lists by their nearest centroid, 4
bits a dimension, and a search reads the lists of the nearest centroids only. Its similarities are
rough: callers take more than they need and compare those again with the vectors of the tables.

Axis letters: N vectors, D dimensions, K found.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

from stillwatch.model import flat

# FAISS's own type hints do not know what its Python layer adds.
_faiss: Any = faiss
FLUSH_VECTORS = 1024
"""New vectors that wait for their place in the trained index, at most."""
POINTS_PER_CENTROID = 40
"""FAISS warns of fewer than 39; more take longer and find hardly more."""
QUANTISER = faiss.ScalarQuantizer.QT_4bit
"""Half the memory of 8 bits; recall is the same once candidates are compared again."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """Which texts may be found: `marks` bool by text id, and how many are marked."""

    marks: np.ndarray
    count: int

    @classmethod
    def of(cls, texts: np.ndarray, last: int) -> Allowed:
        """Those of `texts`, ids up to `last`; 0 stands for no text."""
        marks = np.zeros(last + 1, dtype=bool)
        marks[texts] = True
        marks[0] = False
        return cls(marks, int(np.count_nonzero(marks)))

    def has(self, ids: np.ndarray) -> np.ndarray:
        return self.marks[np.minimum(ids, len(self.marks) - 1)] & (ids < len(self.marks))


@dataclass(slots=True)
class Trained:
    """A trained index of text ids with what is known of it. `seq` is the number of the last
    vector that went into it when it was built or saved, `removal` that of the last removal;
    `probes` lists are read in a search; `built` is the number of vectors it was trained for."""

    index: faiss.IndexIVFScalarQuantizer
    probes: int
    recall: float
    built: int
    seq: int = 0
    removal: int = 0

    def add(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """Add vectors float32 (N, D) under their text ids int64 (N,)."""
        self.place(ids, vectors, self.assign(vectors))

    def assign(self, vectors: np.ndarray) -> np.ndarray:
        """The list of each vector, int64 (N,): what takes time in adding, and changes nothing."""
        with flat.threads_for(vectors):
            return np.ascontiguousarray(self.index.quantizer.search(vectors, 1)[1][:, 0])

    def place(self, ids: np.ndarray, vectors: np.ndarray, lists: np.ndarray) -> None:
        """Add vectors to the lists that `assign` gave."""
        ids, vectors = np.ascontiguousarray(ids), np.ascontiguousarray(vectors)
        pointers = [faiss.swig_ptr(array) for array in (vectors, ids, lists)]
        self.index.add_core(len(ids), *pointers)

    def remove(self, ids: np.ndarray) -> np.ndarray:
        """Forget these texts; the lists that held one."""
        before = self._sizes()
        self.index.remove_ids(faiss.IDSelectorBatch(ids))
        return np.flatnonzero(self._sizes() != before)

    def centres(self, lists: np.ndarray) -> np.ndarray:
        """Centroids float32 (lists, D) of what the lists hold now. That of a short list is all but
        a copy of its vectors: it must not outlive them. An empty list gets any direction."""
        rng = np.random.default_rng(len(lists))
        found = rng.standard_normal((len(lists), self.index.d)).astype(np.float32)
        for place, number in enumerate(lists.tolist()):
            count = self._lists.list_size(number)
            if count:
                codes = faiss.rev_swig_ptr(
                    self._lists.get_codes(number), count * self.index.code_size
                )
                vectors = self.index.sq.decode(codes.reshape(count, -1).copy())
                found[place] = vectors.mean(axis=0)
        found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)
        return found

    def move(self, lists: np.ndarray, centres: np.ndarray) -> None:
        """Give lists other centroids. What they hold stays: codes do not depend on them."""
        flat = _faiss.downcast_index(self.index.quantizer)
        size = self.index.nlist * self.index.d
        centroids = faiss.rev_swig_ptr(flat.get_xb(), size).reshape(-1, self.index.d)
        centroids[lists] = centres

    @property
    def _lists(self) -> Any:
        return self.index.invlists

    def _sizes(self) -> np.ndarray:
        size = self._lists.list_size
        return np.array([size(number) for number in range(self.index.nlist)])

    def search(
        self, vector: np.ndarray, k: int, allowed: Allowed | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Text ids int64 and rough similarities float32 (K,), K at most `k`, nearest first."""
        probes, selector = self.probes, None
        if allowed is not None:
            # Of fewer texts, as many are met only in more lists; the others cost next to nothing.
            share = max(allowed.count, 1) / max(self.index.ntotal, 1)
            probes = min(math.ceil(probes / min(share, 1.0)), self.index.nlist)
            bits = np.packbits(allowed.marks, bitorder="little")
            selector = _faiss.IDSelectorBitmap(bits)
        parameters = _faiss.SearchParametersIVF(sel=selector, nprobe=probes)
        query = vector[None, :]
        with flat.threads_for(query):
            similarity, ids = self.index.search(query, k, params=parameters)
        found = ids[0] >= 0
        return ids[0][found], similarity[0][found]


def train(sample: np.ndarray, lists: int) -> faiss.IndexIVFScalarQuantizer:
    """An empty index of `lists` lists, trained on unit vectors float32 (N, D)."""
    dimensions = sample.shape[1]
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(dimensions), dimensions, lists, QUANTISER, faiss.METRIC_INNER_PRODUCT,
        # Codes of what is left over from the centroid would be no better once candidates are
        # compared again, and no centroid could be moved.
        False,
    )  # fmt: skip
    index.cp.spherical = True
    index.cp.max_points_per_centroid = POINTS_PER_CENTROID
    # A small archive has fewer points; FAISS would warn on standard error.
    index.cp.min_points_per_centroid = 1
    index.train(sample)
    return index


def list_count(vectors: int) -> int:
    """Lists for a number of vectors: the power of two next to four times its root, but no more
    than there are points to place their centroids by."""
    wanted = 2 ** round(math.log2(4 * math.sqrt(max(vectors, 1))))
    return max(min(wanted, vectors // POINTS_PER_CENTROID), 1)


class _Buffer:
    """Vectors that are compared one by one. Grows at its end; views of it stay as they are."""

    def __init__(self, dimensions: int) -> None:
        self._ids = np.empty(FLUSH_VECTORS, np.int64)
        self._vectors = np.empty((FLUSH_VECTORS, dimensions), np.float32)
        self.count = 0

    def view(self) -> tuple[np.ndarray, np.ndarray]:
        return self._ids[: self.count], self._vectors[: self.count]

    def append(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        count, needed = self.count, self.count + len(ids)
        if needed > len(self._ids):
            room = max(needed, len(self._ids) * 2)
            grown = np.empty(room, np.int64), np.empty((room, vectors.shape[1]), np.float32)
            grown[0][:count], grown[1][:count] = self.view()
            self._ids, self._vectors = grown
        self._ids[count:needed], self._vectors[count:needed] = ids, vectors
        self.count = needed

    def keep(self, kept: np.ndarray) -> None:
        ids, vectors = self.view()
        self._ids, self._vectors = ids[kept], vectors[kept]
        self.count = len(self._ids)


class VectorIndex:
    """Texts by the similarity of their vectors. One thread changes it, any may search it."""

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        # FAISS allows no change during a search.
        self._lock = threading.Lock()
        self._trained: Trained | None = None
        self._buffer = _Buffer(dimensions)

    @property
    def trained(self) -> Trained | None:
        return self._trained

    @property
    def buffered(self) -> int:
        """Vectors that are not in the trained index."""
        return self._buffer.count

    def __len__(self) -> int:
        with self._lock:
            return self._buffer.count + (self._trained.index.ntotal if self._trained else 0)

    def search(
        self, vector: np.ndarray, k: int, allowed: Allowed | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The texts nearest to a unit vector float32 (D,): ids int64 (K,) and similarities
        float32 (K,), rough ones, K at most `k`, in no order."""
        with self._lock:
            ids, vectors = self._buffer.view()
            rough = self._trained.search(vector, k, allowed) if self._trained else None
        if allowed is not None:
            kept = allowed.has(ids)
            ids, vectors = ids[kept], vectors[kept]
        found, similarity = nearest(ids, vectors, vector, k)
        if rough is None:
            return found, similarity
        return np.concatenate([found, rough[0]]), np.concatenate([similarity, rough[1]])

    def add(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """Make unit vectors float32 (N, D) findable under their text ids int64 (N,)."""
        with self._lock:
            self._buffer.append(ids, vectors)
        if self._trained is None or self._buffer.count < FLUSH_VECTORS:
            return
        ids, vectors = self._buffer.view()
        lists = self._trained.assign(vectors)
        with self._lock:
            self._trained.place(ids, vectors, lists)
            self._buffer = _Buffer(self.dimensions)

    def remove(self, ids: np.ndarray) -> None:
        """Forget these texts."""
        touched = np.empty(0, np.int64)
        with self._lock:
            if self._trained is not None:
                touched = self._trained.remove(ids)
            self._buffer.keep(~np.isin(self._buffer.view()[0], ids))
        self.recentre(touched)

    def recentre(self, lists: np.ndarray | None = None) -> None:
        """Make centroids anew from what lists hold, all of them if `lists` is None."""
        trained = self._trained
        if trained is None:
            return
        if lists is None:
            lists = np.arange(trained.index.nlist)
        # Beside searches: nothing else changes the index meanwhile.
        centres = trained.centres(lists)
        with self._lock:
            trained.move(lists, centres)

    def adopt(self, trained: Trained) -> None:
        """Take over a trained index that holds everything, in the place of all that is here."""
        with self._lock:
            self._trained = trained
            self._buffer = _Buffer(self.dimensions)


def nearest(
    ids: np.ndarray, vectors: np.ndarray, vector: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` of `ids` whose vectors float32 (N, D) are nearest to `vector`, in no order, and
    their similarities."""
    similarity = vectors @ vector
    if len(ids) > k:
        best = np.argpartition(-similarity, k - 1)[:k]
        return ids[best], similarity[best]
    return ids, similarity
