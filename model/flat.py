"""A flat FAISS index of unit vectors: built, searched, written and read back.

The inner product of unit vectors is their cosine. What is read back is checked before and after
FAISS parses it: a vector that is not of unit norm would take every top place.

Axis letters: N vectors of the index, M queries, D dimensions of the encoder.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np

from stillwatch.data.errors import BundleError

NORM_TOLERANCE = 1e-3
FEW = 256
"""Queries up to which a search is left to one thread."""
# The limit that FAISS reads under is one for the whole process.
_faiss_limit = threading.Lock()


def build(vectors: np.ndarray, count: int, counted: str) -> faiss.IndexFlatIP:
    """An index of unit vectors float32 (N, D), one for each of the `count` things that `counted`
    names; ValueError if they are not."""
    if vectors.ndim != 2 or vectors.dtype != np.float32 or len(vectors) != count or not count:
        raise ValueError(
            f"vectors must be float32, one row for each of the {count} {counted} and at least "
            f"one, however: {vectors.dtype} {vectors.shape}; encode the {counted} anew"
        )
    fault = _vector_fault(vectors)
    if fault:
        raise ValueError(f"vectors must be finite and of unit norm, however: {fault}; divide each "
                         "by its norm")  # fmt: skip
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors))
    return index


def _vector_fault(vectors: np.ndarray) -> str | None:
    """What is wrong with the first vector that is not finite and of unit norm."""
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    # Written so that NaN counts as a fault.
    faulty = np.flatnonzero(~(np.abs(norms - 1) <= NORM_TOLERANCE))
    return f"vector {faulty[0]} has norm {norms[faulty[0]]:.6g}" if len(faulty) else None


def search(index: faiss.IndexFlatIP, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 (M, D) -> similarity float32 (M, k) and position int64 (M, k), nearest first;
    ValueError if k is above N or a value is not finite."""
    if vectors.ndim != 2 or vectors.dtype != np.float32 or vectors.shape[1] != index.d:
        raise ValueError(
            f"vectors must be float32 (M, {index.d}), however: {vectors.dtype} {vectors.shape}; "
            "encode with the encoder of the index"
        )
    if not 1 <= k <= index.ntotal:
        raise ValueError(
            f"k must be from 1 to {index.ntotal}, the vectors of the index, however: {k}; "
            "ask for fewer"
        )
    if not np.isfinite(vectors).all():
        raise ValueError("vectors must be finite, however: NaN or infinity; check the encoder")
    if not len(vectors):
        return np.empty((0, k), dtype=np.float32), np.empty((0, k), dtype=np.int64)
    with threads_for(vectors):
        similarity, position = index.search(np.ascontiguousarray(vectors), k)
    return similarity, position


@contextmanager
def threads_for(queries: np.ndarray) -> Iterator[None]:
    """FAISS on the calling thread alone for few queries. Its team of threads waits for the slowest
    of them: on busy cores tens of milliseconds, for a search that takes one. The number of threads
    is the calling thread's own."""
    before = faiss.omp_get_max_threads()
    if len(queries) <= FEW:
        faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def stored_vectors(index: faiss.IndexFlatIP) -> np.ndarray:
    """The index's vectors, float32 (N, D)."""
    return np.asarray(index.reconstruct_n(0, index.ntotal)).reshape(index.ntotal, index.d)


def to_bytes(index: faiss.IndexFlatIP) -> bytes:
    """The index in FAISS's file format."""
    return bytes(faiss.serialize_index(index))


def from_bytes(content: bytes, name: str, count: int, dimensions: int) -> faiss.IndexFlatIP:
    """Read a flat inner-product index of `count` unit vectors; BundleError names the file and
    both values."""

    def refuse(rule: str, found: object) -> BundleError:
        return BundleError(
            f"{name} must {rule}, however: {found}; take the bundle from its source again"
        )

    # The first four bytes name the kind of index; no other kind's parser is ever entered.
    empty = to_bytes(faiss.IndexFlatIP(dimensions))
    if content[:4] != empty[:4]:
        raise refuse(f"be a flat inner-product index ({empty[:4]!r})", f"{content[:4]!r}")
    largest = len(empty) + 4 * count * dimensions
    if len(content) > largest:
        raise refuse(
            f"be at most {largest} bytes, for {count} vectors of {dimensions} dimensions",
            f"{len(content)} bytes",
        )
    try:
        index = _deserialise(content)
    # FAISS throws RuntimeError; a length in the file that no memory holds ends in MemoryError.
    except (RuntimeError, MemoryError, AssertionError) as error:
        raise refuse(f"be an index of {count} vectors", f"{type(error).__name__}") from None
    if type(index) is not faiss.IndexFlatIP:
        raise refuse("be an IndexFlatIP", type(index).__name__)
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise refuse(
            f"have the inner product as metric ({faiss.METRIC_INNER_PRODUCT})",
            f"metric {index.metric_type}",
        )
    if index.d != dimensions:
        raise refuse(f"have {dimensions} dimensions", index.d)
    if index.ntotal != count:
        raise refuse(f"hold {count} vectors", index.ntotal)
    if index.codes.size() != 4 * count * dimensions:
        raise refuse(f"hold {4 * count * dimensions} bytes of vectors", index.codes.size())
    fault = _vector_fault(stored_vectors(index))
    if fault:
        raise refuse("hold finite vectors of unit norm", fault)
    return index


def _deserialise(content: bytes) -> Any:
    with _faiss_limit:
        before = faiss.get_deserialization_vector_byte_limit()
        faiss.set_deserialization_vector_byte_limit(len(content))
        try:
            return faiss.deserialize_index(np.frombuffer(content, dtype=np.uint8))
        finally:
            faiss.set_deserialization_vector_byte_limit(before)
