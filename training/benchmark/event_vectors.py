"""One vector for each event, as the baselines of whole accounts see it."""

from __future__ import annotations

import numpy as np

from stillwatch.training.framed import FramedStreams
from stillwatch.training.vectors import VectorTable


def event_vectors(
    streams: FramedStreams, vectors: VectorTable, rows: np.ndarray | slice | None = None
) -> np.ndarray:
    """Unit vectors float32 (N, D) of all events, or of those at `rows`: the mean of the frame's
    and the slot's vector, made unit length again; the slot's alone where there is no frame.

    Opposite vectors of frame and slot cancel out and leave zeros.
    """
    chosen = slice(None) if rows is None else rows
    slots, frames = streams.slot_id[chosen], streams.frame_id[chosen]
    own = vectors.means[slots]
    framed = frames >= 0
    own[framed] = (own[framed] + vectors.means[frames[framed]]) / 2
    own /= np.maximum(np.linalg.norm(own, axis=1, keepdims=True), 1e-6)
    return own


def distinct_events(streams: FramedStreams) -> tuple[np.ndarray, np.ndarray]:
    """One row int64 (U,) for each distinct pair of frame and slot, and for each event, int64
    (N,), the place of its pair among them: what depends on the vector alone is computed once."""
    frames = streams.frame_id.astype(np.int64) + 1
    pairs = frames * (int(streams.slot_id.max(initial=0)) + 1) + streams.slot_id
    _, rows, places = np.unique(pairs, return_index=True, return_inverse=True)
    return rows, places.reshape(-1)
