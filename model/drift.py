"""How far traffic has moved from a reference: two statistics of two samples.

Axis letters: N values of the reference, M values now, C categories.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

BINS = 10
MODERATE, LARGE = 0.1, 0.25
"""Customary limits of the population stability index."""
_LEAST_SHARE = 1e-4
"""Stands for an empty bin, whose logarithm would be infinite."""


class KS(NamedTuple):
    """The largest distance of two distribution functions, in [0, 1], and the probability of at
    least this distance if both samples were of one distribution (asymptotic, for values that are
    independent: events of one account are not, so it is a lower bound)."""

    distance: float
    p_value: float


def psi(reference: np.ndarray, current: np.ndarray, bins: int = BINS) -> float:
    """Population stability index of two samples (N,) and (M,), over bins that hold equal shares
    of the reference; 0 is no change. ValueError for an empty sample or one that is not finite."""
    reference, current = _checked(reference), _checked(current)
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    # A value that is frequent is an edge several times over.
    edges = np.unique(np.quantile(reference, inner, method="inverted_cdf"))
    counts = [
        np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)
        for values in (reference, current)
    ]
    return _index(counts[0], counts[1])


def category_psi(reference: Mapping[str, int], current: Mapping[str, int]) -> float:
    """Population stability index of counts by category. ValueError if a sample is empty."""
    names = sorted({*reference, *current})
    counts = [
        np.array([sample.get(name, 0) for name in names], dtype=np.int64)
        for sample in (reference, current)
    ]
    if not all(count.sum() > 0 for count in counts):
        raise ValueError("both samples must have values, however: one is empty")
    return _index(counts[0], counts[1])


def ks(reference: np.ndarray, current: np.ndarray) -> KS:
    """Two-sample Kolmogorov-Smirnov test of (N,) and (M,). ValueError as for `psi`."""
    first, second = np.sort(_checked(reference)), np.sort(_checked(current))
    every = np.concatenate([first, second])
    distance = float(
        np.abs(
            np.searchsorted(first, every, side="right") / len(first)
            - np.searchsorted(second, every, side="right") / len(second)
        ).max()
    )
    size = len(first) * len(second) / (len(first) + len(second))
    return KS(distance, _survival(distance * np.sqrt(size)))


def _index(reference: np.ndarray, current: np.ndarray) -> float:
    before = np.maximum(reference / reference.sum(), _LEAST_SHARE)
    now = np.maximum(current / current.sum(), _LEAST_SHARE)
    return float(((now - before) * np.log(now / before)).sum())


def _survival(scaled: float) -> float:
    """Kolmogorov's distribution, from above."""
    if scaled < 0.2:
        # The series below has not converged there, and the value is 1 to ten places.
        return 1.0
    steps = np.arange(1, 101)
    terms = 2 * (-1.0) ** (steps - 1) * np.exp(-2 * (steps * scaled) ** 2)
    return float(min(max(terms.sum(), 0.0), 1.0))


def _checked(values: np.ndarray) -> np.ndarray:
    checked = np.asarray(values, dtype=np.float64).ravel()
    if not len(checked) or not np.isfinite(checked).all():
        raise ValueError("a sample must have finite values, however: it has none or others")
    return checked
