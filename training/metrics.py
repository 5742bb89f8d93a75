"""Recall at a false-positive rate, and intervals. Scores: higher is more suspicious."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def threshold_at(ordinary: np.ndarray, rate: float) -> float:
    """The smallest threshold at which at most `rate` of ordinary scores lie above it."""
    if not len(ordinary):
        raise ValueError("ordinary scores must not be empty, however: there are none")
    allowed = int(np.floor(rate * len(ordinary)))
    return float(np.sort(ordinary)[::-1][allowed])


def recall_at(attacks: np.ndarray, ordinary: np.ndarray, rate: float) -> float:
    """Share of attacks above the threshold that lets `rate` of ordinary accounts through."""
    if not len(attacks):
        return float("nan")
    return float((attacks > threshold_at(ordinary, rate)).mean())


def bootstrap(
    groups: Sequence[str], values: np.ndarray, rng: np.random.Generator, rounds: int = 1000
) -> tuple[float, float]:
    """95% interval of a mean by drawing whole groups (sources or families) with replacement."""
    names, inverse = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.bincount(inverse, weights=values, minlength=len(names))
    counts = np.bincount(inverse, minlength=len(names))
    drawn = rng.integers(0, len(names), (rounds, len(names)))
    means = sums[drawn].sum(axis=1) / np.maximum(counts[drawn].sum(axis=1), 1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))
