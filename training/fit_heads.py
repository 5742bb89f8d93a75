"""Fits the heads that read one text, and the benign reference bank. Convex fits: no seed matters
but that of the choice of examples."""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
import torch
from torch.nn import functional

from stillwatch.model.heads import PLACES, IntentHeads, projection_matrix
from stillwatch.model.lexical import BUCKETS, ngram_chunks
from stillwatch.training.framed import FramedStreams
from stillwatch.training.vectors import VectorTable

BANK_PER_ORIGIN = 24


@dataclass(frozen=True)
class Examples:
    """Distinct (text, class) pairs of one place: text_id int64 (N,), target float32 (N, C),
    weight float32 (N,) that gives each origin a like say."""

    text_id: np.ndarray
    target: np.ndarray
    weight: np.ndarray


class NgramTable:
    """Bags of n-grams of all texts of a run, computed once: flat bucket ids with offsets."""

    def __init__(self, texts: list[str]) -> None:
        bags = [np.unique(np.concatenate(ngram_chunks(text))) for text in texts]
        self.offsets = np.concatenate([[0], np.cumsum([len(bag) for bag in bags])]).astype(np.int64)
        self.ids = np.concatenate(bags).astype(np.int32)

    def rows(self, text_ids: np.ndarray) -> torch.Tensor:
        """Sparse CSR (N, BUCKETS), each row scaled to unit length."""
        counts = self.offsets[text_ids + 1] - self.offsets[text_ids]
        crow = np.concatenate([[0], np.cumsum(counts)])
        columns = np.concatenate(
            [self.ids[self.offsets[i] : self.offsets[i + 1]] for i in text_ids]
        )
        values = np.repeat(1 / np.sqrt(np.maximum(counts, 1)), counts).astype(np.float32)
        return torch.sparse_csr_tensor(
            torch.from_numpy(crow), torch.from_numpy(columns.astype(np.int64)),
            torch.from_numpy(values), size=(len(text_ids), BUCKETS),
        )  # fmt: skip


def collect_examples(
    sets: list[FramedStreams],
    place: int,
    classes: tuple[str, ...],
    most: int,
    rng: np.random.Generator,
) -> Examples:
    """What stands at a place in these streams, with the class of the events it stood in.

    A frame or slot of a diluted stream's attack prompts has their intent, its cover the class of
    ordinary text. An origin's weight is the square root of its number of texts.
    """
    column = {name: position for position, name in enumerate(classes)}
    seen: dict[tuple[int, str], str] = {}
    for streams in sets:
        ids = streams.frame_id if PLACES[place] == "frame" else streams.slot_id
        for text_id, label, origin in zip(ids, streams.labels, streams.origins, strict=True):
            if text_id >= 0:
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
    weight = np.array([counts[origin] ** -0.5 for origin in origins], dtype=np.float32)
    return Examples(
        np.array([text_id for text_id, _ in pairs], dtype=np.int64), target, weight / weight.mean()
    )


def fit_heads(
    examples: tuple[Examples, Examples],
    vectors: VectorTable,
    ngrams: NgramTable,
    dense_penalty: float = 3e-4,
    lexical_penalty: float = 1e-3,
) -> IntentHeads:
    """One-against-rest logistic regressions for each place, on vectors and on n-grams."""
    dense, lexical = [], []
    for own in examples:
        inputs = torch.from_numpy(vectors.means[own.text_id])
        target, weight = torch.from_numpy(own.target), torch.from_numpy(own.weight)
        dense.append(_logistic(inputs, target, weight, dense_penalty))
        lexical.append(_logistic(ngrams.rows(own.text_id), target, weight, lexical_penalty))
    return IntentHeads(
        np.stack([w for w, _ in dense]),
        np.stack([b for _, b in dense]),
        np.stack([w for w, _ in lexical]).astype(np.float16),
        np.stack([b for _, b in lexical]),
        projection_matrix(vectors.means.shape[1]),
    )


def _logistic(
    inputs: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """L-BFGS on the weighted cross-entropy with a quadratic penalty. Each class is balanced
    against the rest, so that a logit of 0 is even odds whatever its frequency."""
    positive = (target * weight[:, None]).sum(0)
    negative = ((1 - target) * weight[:, None]).sum(0)
    balance = torch.where(
        target > 0, 0.5 / positive.clamp(min=1.0), 0.5 / negative.clamp(min=1.0)
    ) * weight[:, None]
    matrix = torch.zeros(inputs.shape[1], target.shape[1], requires_grad=True)
    bias = torch.zeros(target.shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [matrix, bias], max_iter=60, history_size=8, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        logits = inputs @ matrix + bias
        loss = (functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
                * balance).sum() + penalty * matrix.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return matrix.detach().numpy(), bias.detach().numpy()


def benign_bank(
    sets: list[FramedStreams], vectors: VectorTable, seed: int = 0
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Centres of each ordinary origin's texts: unit vectors float32 (M, D) and their origins.

    Centres, not prompts: no single prompt can be read back from the bank.
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
        wanted = min(BANK_PER_ORIGIN, max(1, len(points) // 40))
        if wanted == 1:
            found = points.mean(axis=0, keepdims=True)
        else:
            kmeans = faiss.Kmeans(points.shape[1], wanted, niter=12, seed=seed, spherical=True,
                                  min_points_per_centroid=1, max_points_per_centroid=256)
            kmeans.train(points)
            found = kmeans.centroids
        found = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-6)
        centres.append(found.astype(np.float32))
        origins += [origin] * len(found)
    return np.concatenate(centres), tuple(origins)
