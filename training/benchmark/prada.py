"""Baseline: PRADA (Juuti et al. 2019, arXiv 1805.02628), made for the theft of classifiers.

Each query's distance to the nearest earlier one is held to be normally distributed in honest
use. The paper keeps one set of earlier queries for each class that the model predicts; a
language model predicts none, so an account has one set.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import shapiro

from stillwatch.training.benchmark.event_vectors import event_vectors
from stillwatch.training.framed import FramedStreams
from stillwatch.training.vectors import VectorTable

_OUTLIER_DEVIATIONS = 3.0
_SAME = 1e-4
"""Distances that differ by less are the same: of their distribution nothing can be said."""


def prada_scores(
    streams: FramedStreams, vectors: VectorTable, least: int = 20, most: int = 300
) -> np.ndarray:
    """1 - W of the Shapiro-Wilk test, float64 (S,): 0 is normal, higher is more suspicious.

    Only the last `most` events of a stream are read, since the cost grows with their square. A
    stream with fewer than `least` distances, outliers removed, or with equal ones scores 0: the
    paper's detector, too, waits until there are enough.
    """
    if least < 3:
        raise ValueError(f"least must be 3 or more, however: {least}; the test needs them")
    scores = np.zeros(len(streams))
    for number, (start, stop) in enumerate(
        zip(streams.offsets[:-1], streams.offsets[1:], strict=True)
    ):
        if stop - start <= least:
            continue
        own = event_vectors(streams, vectors, slice(max(start, stop - most), stop))
        distances = without_outliers(nearest_distances(own))
        if len(distances) >= least and np.ptp(distances) > _SAME:
            scores[number] = 1 - shapiro(distances).statistic
    return scores


def nearest_distances(own: np.ndarray) -> np.ndarray:
    """float64 (T - 1,): of each vector of (T, D) but the first, the distance to the nearest kept
    earlier one.

    As in the paper a vector is kept only if it is further from those kept than a threshold, which
    is the largest value so far of mean minus standard deviation of such distances.
    """
    exact = own.astype(np.float64)
    norms = (exact**2).sum(axis=1)
    squares = norms[:, None] + norms - 2 * exact @ exact.T
    between = np.sqrt(np.maximum(squares, 0))
    nearest = between[0].copy()
    found = np.empty(len(own) - 1)
    # The first vector counts with a distance of 0, as in the authors' code.
    kept, total, total_squares, threshold = 1, 0.0, 0.0, 0.0
    for row in range(1, len(own)):
        distance = found[row - 1] = nearest[row]
        if distance > threshold:
            kept, total, total_squares = kept + 1, total + distance, total_squares + distance**2
            mean = total / kept
            threshold = max(threshold, mean - max(total_squares / kept - mean**2, 0.0) ** 0.5)
            np.minimum(nearest, between[row], out=nearest)
    return found


def without_outliers(distances: np.ndarray) -> np.ndarray:
    """Those within three standard deviations of their mean."""
    far = np.abs(distances - distances.mean()) > _OUTLIER_DEVIATIONS * distances.std()
    return distances[~far]
