"""Search results as a map: their vectors in two dimensions.

Axis letters: N results, D dimensions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Projection(NamedTuple):
    """Places float64 (N, 2) in [0, 1], and the share of all variance that each axis tells."""

    places: np.ndarray
    variance: tuple[float, float]


def project(vectors: np.ndarray) -> Projection:
    """The two principal components of vectors float32 (N, D); signs are fixed, so that the same
    results give the same map."""
    count = len(vectors)
    if count < 2:
        return Projection(np.full((count, 2), 0.5), (0.0, 0.0))
    centred = vectors.astype(np.float64) - vectors.mean(axis=0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2]
    flip = np.sign(axes[np.arange(len(axes)), np.argmax(np.abs(axes), axis=1)])
    places = centred @ (axes * np.where(flip == 0, 1, flip)[:, None]).T
    if places.shape[1] < 2:
        places = np.pad(places, ((0, 0), (0, 2 - places.shape[1])))
    low, high = places.min(axis=0), places.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    scaled = np.where(high > low, (places - low) / span, 0.5)
    total = float((sizes**2).sum())
    shares = [float(size**2) / total if total else 0.0 for size in sizes[:2]]
    return Projection(scaled, (shares[0], shares[1] if len(shares) > 1 else 0.0))
