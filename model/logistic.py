"""One-against-rest logistic regression with a quadratic penalty, on dense or sparse rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from scipy import sparse

from stillwatch.model import lbfgs

Rows: TypeAlias = "np.ndarray | sparse.csr_array"


def balanced(target: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weight of each row in each class, float (N, C): each class counts as much as the rest of
    the rows, so that a logit of 0 is even odds whatever its frequency."""
    positive = np.maximum((target * weight[:, None]).sum(axis=0), 1.0)
    negative = np.maximum(((1 - target) * weight[:, None]).sum(axis=0), 1.0)
    return np.asarray(np.where(target > 0, 0.5 / positive, 0.5 / negative) * weight[:, None])


@dataclass(frozen=True)
class Problem:
    """Rows (N, D) with target and weight (N, C): the cross-entropy of sigmoid(rows @ W + b),
    plus penalty times the squares of W."""

    rows: Rows
    target: np.ndarray
    weight: np.ndarray
    penalty: float

    @property
    def shape(self) -> tuple[int, int]:
        """(D + 1, C): the bias is the last row."""
        return self.rows.shape[1] + 1, self.target.shape[1]

    def loss(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """Value and gradient at parameters (D + 1, C)."""
        parameters = parameters.astype(np.float32, copy=False)
        matrix, bias = parameters[:-1], parameters[-1]
        logits = self.rows @ matrix + bias
        value = float((self.weight * (np.logaddexp(0, logits) - self.target * logits)).sum())
        value += self.penalty * float((matrix**2).sum())
        likely = 1 / (1 + np.exp(-np.clip(logits, -60, 60)))
        slope = (self.weight * (likely - self.target)).astype(np.float32)
        gradient = np.empty_like(parameters)
        gradient[:-1] = self._transposed @ slope + 2 * self.penalty * matrix
        gradient[-1] = slope.sum(axis=0)
        return value, gradient

    @cached_property
    def _transposed(self) -> Rows:
        # A sparse transpose by columns is slow to multiply with.
        return self.rows.T if isinstance(self.rows, np.ndarray) else self.rows.T.tocsr()

    def _moving(self, start: np.ndarray | None, tilt: np.ndarray | None) -> np.ndarray:
        """bool (D + 1,): which parameters can differ from 0."""
        moving = np.ones(self.shape[0], dtype=bool)
        if not isinstance(self.rows, np.ndarray):
            moving[:-1] = self.rows.count_nonzero(axis=0) > 0
            for given in (start, tilt):
                if given is not None:
                    moving |= given.any(axis=1)
        return moving

    def minimise(
        self, start: np.ndarray | None = None, tilt: np.ndarray | None = None, steps: int = 100
    ) -> np.ndarray:
        """Parameters float32 (D + 1, C) by L-BFGS. `tilt` (D + 1, C) is taken off the gradient."""
        moving = self._moving(start, tilt)
        if not moving.all():
            # Columns that nothing moves stay at 0, and L-BFGS takes time for each that it keeps.
            part = Problem(self.rows[:, moving[:-1]], self.target, self.weight, self.penalty)
            found = np.zeros(self.shape, dtype=np.float32)
            found[moving] = part.minimise(
                None if start is None else start[moving],
                None if tilt is None else tilt[moving], steps,
            )  # fmt: skip
            return found

        def flat(parameters: np.ndarray) -> tuple[float, np.ndarray]:
            shaped = parameters.reshape(self.shape)
            value, gradient = self.loss(shaped)
            if tilt is not None:
                value -= float((tilt * shaped).sum())
                gradient -= tilt
            return value, gradient.ravel()

        begin = np.zeros(self.shape, dtype=np.float32) if start is None else start
        return lbfgs.minimise(flat, begin.ravel(), steps).reshape(self.shape)
