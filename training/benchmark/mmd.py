"""Baseline: does the distribution of an account's prompts differ from ordinary traffic's?

Maximum mean discrepancy between windows of an account's vectors and a reference sample of
ordinary vectors, after arXiv 2606.05725, with the unbiased estimate of Gretton et al. (2012).
The paper tests windows of pooled traffic and needs no attacks; here the windows are of one
account, so they are shorter, and `fit` may choose the kernel and the windows by known attacks,
which gives the method its best case.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Self

import numpy as np

from stillwatch.training.benchmark.event_vectors import distinct_events, event_vectors
from stillwatch.training.framed import FramedStreams
from stillwatch.training.metrics import recall_at
from stillwatch.training.vectors import VectorTable

FACTORS = (1.0, 0.25, 0.5, 2.0, 4.0)
"""Bandwidths that `fit` tries, in medians of the reference's distances."""
WINDOWS = (32, 16, 64)
POOLINGS = ("max", "mean")
RATE = 0.01
"""Rate of false positives on training streams at which `fit` compares."""
_CHUNK = 8192


class MmdTest:
    """Scores an account by its windows' discrepancy from a reference sample.

    Args:
        reference: unit vectors float32 (R, D) of ordinary prompts, two or more.
        window: events in a window. An account with fewer is one window.
        stride: events from one window's start to the next one's; half a window if left out.
            The last window always ends at the last event.
        factor: the Gaussian kernel's bandwidth, in medians of the reference's distances.
        pooling: the largest ("max") or the mean ("mean") statistic of the windows is the score.
    """

    def __init__(
        self,
        reference: np.ndarray,
        window: int = 32,
        stride: int | None = None,
        factor: float = 1.0,
        pooling: str = "max",
    ) -> None:
        if len(reference) < 2:
            raise ValueError(
                f"reference must have two rows or more, however: {len(reference)}; draw more"
            )
        if window < 2 or (stride is not None and stride < 1):
            raise ValueError(
                f"window must be 2 or more and stride 1 or more, however: {window} and {stride}; "
                "give larger ones"
            )
        if pooling not in POOLINGS:
            raise ValueError(f"pooling must be max or mean, however: {pooling}; choose one")
        self.reference = np.asarray(reference, dtype=np.float32)
        self.window, self.stride, self.factor, self.pooling = window, stride, factor, pooling
        squares = _squared_distances(self.reference, self.reference)
        self.median = float(np.sqrt(np.median(squares[np.triu_indices(len(squares), 1)])))
        if self.median < 1e-3:
            raise ValueError(
                f"reference must hold different rows, however: the median distance is "
                f"{self.median:.1g}; draw distinct prompts"
            )
        self._squares = squares
        self.training_recall = float("nan")
        """Recall at RATE of what `fit` chose."""

    def fit(
        self, sets: Sequence[FramedStreams], vectors: VectorTable, attacking: np.ndarray
    ) -> Self:
        """Choose factor, window and pooling by recall at RATE on training streams.

        attacking: bool (S,), of the streams of all sets one after the other. Of equals the first
        tried stays.
        """
        found = np.concatenate([self._statistics(s, vectors, FACTORS, WINDOWS) for s in sets])
        if len(found) != len(attacking):
            raise ValueError(
                f"attacking must have one value a stream, however: {len(attacking)} for "
                f"{len(found)}; pass those of all sets"
            )
        choices = list(product(*(range(len(of)) for of in (FACTORS, WINDOWS, POOLINGS))))
        recalls = [
            recall_at(found[attacking, f, w, p], found[~attacking, f, w, p], RATE)
            for f, w, p in choices
        ]
        best = int(np.argmax(recalls))
        factor, window, pooling = choices[best]
        self.factor, self.window = FACTORS[factor], WINDOWS[window]
        self.pooling = POOLINGS[pooling]
        self.training_recall = recalls[best]
        return self

    def score(self, streams: FramedStreams, vectors: VectorTable) -> np.ndarray:
        """float64 (S,), higher is more suspicious; 0 where a stream has fewer than two events."""
        found = self._statistics(streams, vectors, (self.factor,), (self.window,))
        return found[:, 0, 0, POOLINGS.index(self.pooling)]

    def _statistics(
        self,
        streams: FramedStreams,
        vectors: VectorTable,
        factors: Sequence[float],
        windows: Sequence[int],
    ) -> np.ndarray:
        """float64 (S, factors, windows, POOLINGS): largest and mean of the windows' unbiased
        squared discrepancies."""
        scales = [-0.5 / (factor * self.median) ** 2 for factor in factors]
        size = len(self.reference)
        within_reference = np.array(
            [
                (kernel.sum(dtype=np.float64) - np.trace(kernel)) / (size * (size - 1))
                for kernel in (np.exp(self._squares * np.float32(scale)) for scale in scales)
            ]
        )
        rows, places = distinct_events(streams)
        to_reference = self._mean_kernels(streams, vectors, rows, scales)
        found = np.zeros((len(streams), len(factors), len(windows), len(POOLINGS)))
        for number, (start, stop) in enumerate(
            zip(streams.offsets[:-1], streams.offsets[1:], strict=True)
        ):
            if stop - start < 2:
                continue
            own = event_vectors(streams, vectors, slice(start, stop))
            across = to_reference[:, places[start:stop]]
            for w, window in enumerate(windows):
                index = _windows(len(own), window, self.stride)
                statistic = _within(own[index], scales) + within_reference[:, None]
                statistic -= 2 * across[:, index].mean(axis=2)
                found[number, :, w, 0] = statistic.max(axis=1)
                found[number, :, w, 1] = statistic.mean(axis=1)
        return found

    def _mean_kernels(
        self,
        streams: FramedStreams,
        vectors: VectorTable,
        rows: np.ndarray,
        scales: Sequence[float],
    ) -> np.ndarray:
        """float64 (scales, rows): mean kernel of each of these events with the reference."""
        found = np.empty((len(scales), len(rows)))
        for start in range(0, len(rows), _CHUNK):
            part = event_vectors(streams, vectors, rows[start : start + _CHUNK])
            squares = _squared_distances(part, self.reference)
            for number, scale in enumerate(scales):
                kernel = np.exp(squares * np.float32(scale))
                found[number, start : start + len(part)] = kernel.mean(axis=1)
        return found


def _squared_distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """float32 (…, L, R) of float32 (…, L, D) and (…, R, D)."""
    products = left @ right.swapaxes(-1, -2)
    products *= -2
    products += (left**2).sum(axis=-1)[..., :, None]
    products += (right**2).sum(axis=-1)[..., None, :]
    return np.maximum(products, 0, out=products)


def _windows(events: int, window: int, stride: int | None) -> np.ndarray:
    """Positions int64 (K, min(window, events)) of the events in each of K windows."""
    window = min(window, events)
    step = max(window // 2, 1) if stride is None else stride
    starts = np.append(np.arange(0, events - window, step), events - window)
    return starts[:, None] + np.arange(window)


def _within(own: np.ndarray, scales: Sequence[float]) -> np.ndarray:
    """float64 (scales, K): mean kernel of different events of K windows float32 (K, window, D)."""
    squares = _squared_distances(own, own)
    window = own.shape[1]
    found = np.empty((len(scales), len(own)))
    for number, scale in enumerate(scales):
        kernel = np.exp(squares * np.float32(scale))
        total = kernel.sum(axis=(1, 2), dtype=np.float64) - np.trace(kernel, axis1=1, axis2=2)
        found[number] = total / (window * (window - 1))
    return found
