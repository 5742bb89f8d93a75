"""How far traffic has moved from a reference: two statistics of two samples.

Axis letters: N values of the reference, M values now, C categories.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

BINS = 10
MODERATE, LARGE = 0.1, 0.25
"""Customary limits of the population stability index."""
_LEAST_SHARE = 1e-4
"""Stands for an empty bin, whose logarithm would be infinite."""


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


def ks(reference: np.ndarray, current: np.ndarray) -> float:
    """Kolmogorov-Smirnov distance of (N,) and (M,): the largest between their distribution
    functions, in [0, 1]. ValueError as for `psi`."""
    first, second = np.sort(_checked(reference)), np.sort(_checked(current))
    every = np.concatenate([first, second])
    shares = [np.searchsorted(own, every, side="right") / len(own) for own in (first, second)]
    return float(np.abs(shares[0] - shares[1]).max())


def _index(reference: np.ndarray, current: np.ndarray) -> float:
    before = np.maximum(reference / reference.sum(), _LEAST_SHARE)
    now = np.maximum(current / current.sum(), _LEAST_SHARE)
    return float(((now - before) * np.log(now / before)).sum())


def _checked(values: np.ndarray) -> np.ndarray:
    checked = np.asarray(values, dtype=np.float64).ravel()
    if not len(checked) or not np.isfinite(checked).all():
        raise ValueError("a sample must have finite values, however: it has none or others")
    return checked
