"""Fits the heads that read one text, and the benign reference bank. Convex fits: no seed matters
but that of the choice of examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np
from scipy import sparse
from scipy.optimize import minimize

from stillwatch.model.heads import (
    ANY_INTENT,
    ORDINARY_CLASSES,
    PLACES,
    IntentHeads,
    projection_matrix,
)
from stillwatch.model.lexical import BUCKETS, ngram_chunks
from stillwatch.training.framed import FramedStreams
from stillwatch.training.vectors import VectorTable

BANK_PER_ORIGIN = 40


@dataclass(frozen=True)
class Examples:
    """Distinct (text, class) pairs of one place: text_id int64 (N,), target float32 (N, C),
    weight float32 (N,) that gives each origin a like say."""

    text_id: np.ndarray
    target: np.ndarray
    weight: np.ndarray


class NgramTable:
    """N-grams of all texts of a run, counted once, stretch by stretch as `ngram_chunks` does."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._chunks = [ngram_chunks(text) for text in texts]

    def chunks(self, text_id: int) -> list[np.ndarray]:
        """What `ngram_chunks` gives for the text."""
        return self._chunks[text_id]

    def rows(self, text_ids: np.ndarray) -> sparse.csr_array:
        """The texts' whole bags, sparse float32 (N, BUCKETS), each row scaled to unit length."""
        bags = [
            own[0] if len(own) == 1 else np.unique(np.concatenate(own))
            for own in (self._chunks[i] for i in text_ids)
        ]
        counts = np.array([len(bag) for bag in bags])
        starts = np.concatenate([[0], np.cumsum(counts)])
        columns = np.concatenate(bags).astype(np.int32)
        values = np.repeat(1 / np.sqrt(np.maximum(counts, 1)), counts).astype(np.float32)
        return sparse.csr_array((values, columns, starts), shape=(len(text_ids), BUCKETS))


def collect_examples(
    sets: list[FramedStreams],
    place: int,
    classes: tuple[str, ...],
    most: int,
    rng: np.random.Generator,
) -> Examples:
    """What stands at a place in these streams, with the class of the events it stood in.

    A frame or slot of a diluted stream's attack prompts has their intent, its cover the class of
    ordinary text. A slot within a frame is left out: an attack asks about what products ask about,
    so the slot head learns from whole prompts alone. Every origin has the same weight, so that
    what few large sources are about counts no more than what a small one is about.
    """
    column = {name: position for position, name in enumerate(classes)}
    seen: dict[tuple[int, str], str] = {}
    for streams in sets:
        ids = streams.frame_id if PLACES[place] == "frame" else streams.slot_id
        kept = ids >= 0 if PLACES[place] == "frame" else streams.frame_id < 0
        for text_id, label, origin in zip(
            ids[kept], streams.labels[kept], streams.origins[kept], strict=True
        ):
            seen.setdefault((int(text_id), str(label)), str(origin))
    pairs = list(seen)
    if len(pairs) > most:
        pairs = [pairs[int(p)] for p in rng.choice(len(pairs), most, replace=False)]
    origins = [f"{seen[pair]}:{pair[1]}" for pair in pairs]
    counts: dict[str, int] = {}
    for origin in origins:
        counts[origin] = counts.get(origin, 0) + 1
    target = np.zeros((len(pairs), len(classes)), dtype=np.float32)
    for row, (_, label) in enumerate(pairs):
        target[row, column[label]] = 1
        target[row, column[ANY_INTENT]] = label not in ORDINARY_CLASSES
    weight = np.array([1 / counts[origin] for origin in origins], dtype=np.float32)
    return Examples(
        np.array([text_id for text_id, _ in pairs], dtype=np.int64), target, weight / weight.mean()
    )


def fit_heads(
    examples: tuple[Examples, Examples],
    vectors: VectorTable,
    ngrams: NgramTable,
    dense_penalty: float = 3e-4,
    lexical_penalty: float = 1e-4,
) -> IntentHeads:
    """One-against-rest logistic regressions for each place, on vectors and on n-grams."""
    dense, lexical = [], []
    for own in examples:
        dense.append(_logistic(vectors.means[own.text_id], own.target, own.weight, dense_penalty))
        lexical.append(_logistic(ngrams.rows(own.text_id), own.target, own.weight, lexical_penalty))
    return IntentHeads(
        np.stack([w for w, _ in dense]),
        np.stack([b for _, b in dense]),
        np.stack([w for w, _ in lexical]).astype(np.float16),
        np.stack([b for _, b in lexical]),
        projection_matrix(vectors.means.shape[1]),
    )


def _logistic(
    inputs: np.ndarray | sparse.csr_array, target: np.ndarray, weight: np.ndarray, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (D, C) and biases (C,) by L-BFGS on the cross-entropy with a quadratic penalty.

    Each class is balanced against the rest, so that a logit of 0 is even odds whatever its
    frequency.
    """
    rows, width, classes = len(target), inputs.shape[1], target.shape[1]
    weighted = target * weight[:, None]
    positive = np.maximum(weighted.sum(axis=0), 1.0)
    negative = np.maximum(((1 - target) * weight[:, None]).sum(axis=0), 1.0)
    balance = np.where(target > 0, 0.5 / positive, 0.5 / negative) * weight[:, None]
    transposed = inputs.T if isinstance(inputs, np.ndarray) else inputs.T.tocsr()

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = flat.reshape(width + 1, classes)
        matrix, bias = parameters[:-1].astype(np.float32), parameters[-1].astype(np.float32)
        logits = inputs @ matrix + bias
        value = float((balance * (np.logaddexp(0, logits) - target * logits)).sum())
        value += penalty * float((matrix**2).sum())
        likely = 1 / (1 + np.exp(-np.clip(logits, -60, 60)))
        slope = (balance * (likely - target)).astype(np.float32)
        gradient = np.empty_like(parameters)
        gradient[:-1] = transposed @ slope + 2 * penalty * matrix
        gradient[-1] = slope.sum(axis=0)
        return value, gradient.ravel()

    assert rows
    start = np.zeros((width + 1) * classes)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 60}).x
    parameters = found.reshape(width + 1, classes).astype(np.float32)
    return parameters[:-1], parameters[-1]


def benign_bank(
    sets: list[FramedStreams], vectors: VectorTable, seed: int = 0
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Centres of each ordinary origin's texts: unit vectors float32 (M, D) and their origins.

    Centres keep the bank small. The texts are those of public corpora; an origin with few of them
    may give one text's own vector.
    """
    by_origin: dict[str, set[int]] = {}
    for streams in sets:
        ordinary = np.repeat(~streams.is_attack, streams.lengths)
        for ids in (streams.slot_id, streams.frame_id):
            for text_id, origin in zip(ids[ordinary], streams.origins[ordinary], strict=True):
                if text_id >= 0:
                    by_origin.setdefault(str(origin), set()).add(int(text_id))
    centres, origins = [], []
    for origin in sorted(by_origin):
        points = vectors.means[sorted(by_origin[origin])]
        wanted = min(BANK_PER_ORIGIN, max(1, len(points) // 4))
        if wanted == 1:
            found = points.mean(axis=0, keepdims=True)
        else:
            kmeans = faiss.Kmeans(
                points.shape[1], wanted, niter=12, seed=seed, spherical=True,
                min_points_per_centroid=1, max_points_per_centroid=256,
            )  # fmt: skip
            kmeans.train(points)
            found = kmeans.centroids
        found = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-6)
        centres.append(found.astype(np.float32))
        origins += [origin] * len(found)
    return np.concatenate(centres), tuple(origins)
