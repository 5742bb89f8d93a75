"""Baseline: a classifier of single prompts; an account is what its most suspicious ones are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
from sklearn.linear_model import LogisticRegression

from stillwatch.training.benchmark.event_vectors import distinct_events, event_vectors
from stillwatch.training.framed import FramedStreams
from stillwatch.training.metrics import recall_at
from stillwatch.training.vectors import VectorTable

MOST_EVENTS = 30_000
"""Events on which a classifier is fitted."""
RATE = 0.01
"""Rate of false positives on training streams at which `fit` compares."""
_CHUNK = 8192

POOLINGS: dict[str, Callable[[np.ndarray], float]] = {
    "maximum": lambda prompts: float(prompts.max()),
    "third largest": lambda prompts: float(np.sort(prompts)[-min(3, len(prompts))]),
    "mean of top tenth": lambda prompts: float(np.sort(prompts)[-len(prompts) // 10 :].mean()),
}
"""What makes an account's score of its prompts' scores (T,)."""


class SinglePrompt:
    """Logistic regression on an event's vector: attack prompt or not."""

    def __init__(self, most_events: int = MOST_EVENTS) -> None:
        self.most_events = most_events
        self.pooling = ""
        self.training_recall = float("nan")
        """Mean recall at RATE over the sets of what `fit` chose."""
        self._classifier: LogisticRegression | None = None

    def fit(self, sets: Sequence[FramedStreams], vectors: VectorTable, seed: int) -> Self:
        """Fit the classifier on events of all sets, after choosing the pooling.

        For the choice each set (of other sources than the rest) is scored by a classifier of the
        others, since a classifier's scores of prompts that it has seen say little of new ones;
        with one set only there is no such choice but on itself. Of equals the first stays.
        """
        recalls: dict[str, list[float]] = {name: [] for name in POOLINGS}
        for number, held_out in enumerate(sets):
            attacking = held_out.is_attack
            if not attacking.any() or attacking.all():
                continue
            others = [s for n, s in enumerate(sets) if n != number] or [held_out]
            prompts = _prompt_scores(
                _fit_classifier(others, vectors, seed, self.most_events), held_out, vectors
            )
            for name in POOLINGS:
                scores = _pool(prompts, held_out, name)
                recalls[name].append(recall_at(scores[attacking], scores[~attacking], RATE))
        if not all(recalls.values()):
            raise ValueError(
                "sets must hold attacking and ordinary streams, however: none has both; add some"
            )
        means = {name: float(np.mean(own)) for name, own in recalls.items()}
        self.pooling = max(means, key=lambda name: means[name])
        self.training_recall = means[self.pooling]
        self._classifier = _fit_classifier(sets, vectors, seed, self.most_events)
        return self

    def score(self, streams: FramedStreams, vectors: VectorTable) -> np.ndarray:
        """float64 (S,), higher is more suspicious; every stream has an event or more."""
        if self._classifier is None:
            raise ValueError("the classifier must be fitted, however: it is not; call fit first")
        return _pool(_prompt_scores(self._classifier, streams, vectors), streams, self.pooling)


def draw_events(
    attack: np.ndarray, origins: np.ndarray, most: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows int64 (N,), at most `most`, of events with these marks bool and origins, and their
    weights float64 (N,), mean 1.

    Attack prompts and others weigh alike in all, and in each of the two every origin; an origin
    of fewer events than its part gives all it has, and the rest goes to the larger ones.
    """
    inverse = np.unique(origins, return_inverse=True)[1]
    groups, counts = np.unique(inverse * 2 + attack, return_inverse=True, return_counts=True)[1:]
    taken = _shares(counts, most)
    order = rng.permutation(len(groups))
    order = order[np.argsort(groups[order], kind="stable")]
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = np.sort(order[rank < taken[groups[order]]])
    weights = 1 / taken[groups[rows]]
    for mark in (False, True):
        own = attack[rows] == mark
        weights[own] /= weights[own].sum()
    return rows, weights / weights.mean()


def _shares(counts: np.ndarray, most: int) -> np.ndarray:
    """How many each group gives, int64 like `counts`: as even as can be, `most` in all."""
    taken = np.zeros(len(counts), dtype=np.int64)
    left = most
    for done, group in enumerate(np.argsort(counts, kind="stable")):
        taken[group] = min(counts[group], left // (len(counts) - done))
        left -= int(taken[group])
    return taken


def _fit_classifier(
    sets: Sequence[FramedStreams], vectors: VectorTable, seed: int, most: int
) -> LogisticRegression:
    attack = np.concatenate([s.attack for s in sets])
    if not attack.any() or attack.all():
        raise ValueError(
            "events must be attack prompts and others, however: all are of one kind; add sets"
        )
    rng = np.random.default_rng([seed, 53])
    rows, weights = draw_events(attack, np.concatenate([s.origins for s in sets]), most, rng)
    ends = np.cumsum([0, *(len(s.attack) for s in sets)])
    own = np.concatenate(
        [
            event_vectors(s, vectors, rows[(rows >= start) & (rows < stop)] - start)
            for s, start, stop in zip(sets, ends[:-1], ends[1:], strict=True)
        ]
    )
    classifier = LogisticRegression(max_iter=1000)
    classifier.fit(own, attack[rows], sample_weight=weights)
    return classifier


def _prompt_scores(
    classifier: LogisticRegression, streams: FramedStreams, vectors: VectorTable
) -> np.ndarray:
    """Log odds of each event (N,) that it is an attack prompt."""
    rows, places = distinct_events(streams)
    scores = np.empty(len(rows))
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        scores[start : start + _CHUNK] = classifier.decision_function(
            event_vectors(streams, vectors, part)
        )
    return scores[places]


def _pool(prompts: np.ndarray, streams: FramedStreams, pooling: str) -> np.ndarray:
    """float64 (S,) of the events' scores (N,)."""
    return np.array([POOLINGS[pooling](own) for own in np.split(prompts, streams.offsets[1:-1])])
