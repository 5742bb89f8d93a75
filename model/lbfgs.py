"""Limited-memory BFGS (Nocedal and Wright 2006, algorithm 7.4) for smooth convex functions.

In single precision and without bounds: for a million weights SciPy's L-BFGS-B takes eight times as
long, most of it in bookkeeping for bounds that nobody set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

Function: TypeAlias = Callable[[np.ndarray], tuple[float, np.ndarray]]
"""Value and gradient float32 (N,) at a point float32 (N,)."""

MEMORY = 10
DECREASE = 1e-4
"""Share of the decrease that the slope promises which a step must give."""
TRIES = 20
FLAT_VALUE, FLAT_GRADIENT = 1e-8, 1e-6
"""Relative decrease of the value, and largest part of the gradient, below which it is done."""


def minimise(function: Function, start: np.ndarray, steps: int) -> np.ndarray:
    """The point float32 (N,) reached from `start` in at most `steps` steps."""
    point = start.astype(np.float32)
    value, gradient = function(point)
    history = _History(len(point))
    for _ in range(steps):
        if np.abs(gradient).max(initial=0.0) <= FLAT_GRADIENT:
            break
        direction = history.direction(gradient)
        found = _line_search(function, point, value, gradient, direction)
        if found is None:
            break
        new_point, new_value, new_gradient = found
        history.add(new_point - point, new_gradient - gradient)
        flat = value - new_value <= FLAT_VALUE * max(abs(value), abs(new_value))
        point, value, gradient = new_point, new_value, new_gradient
        if flat:
            break
    return point


def _line_search(
    function: Function, point: np.ndarray, value: float, gradient: np.ndarray, direction: np.ndarray
) -> tuple[np.ndarray, float, np.ndarray] | None:
    """Point, value and gradient after a step that decreases the value enough; None if there is
    none that single precision can tell."""
    slope = float(gradient @ direction)
    length = 1.0
    for _ in range(TRIES):
        reached = point + np.float32(length) * direction
        new_value, new_gradient = function(reached)
        if new_value <= value + DECREASE * length * slope:
            return reached, new_value, new_gradient
        # Where the parabola through what is known has its lowest point.
        excess = new_value - value - slope * length
        length *= min(max(-slope * length / (2 * excess), 0.1), 0.5)
    return None


class _History:
    """The last MEMORY steps and what they changed in the gradient, as rows that are written over:
    new arrays of this size cost more than the sums."""

    def __init__(self, size: int) -> None:
        self._steps = np.empty((MEMORY, size), dtype=np.float32)
        self._changes = np.empty((MEMORY, size), dtype=np.float32)
        self._curvature = [0.0] * MEMORY
        self._order: list[int] = []
        """Rows in use, the oldest first."""

    def add(self, step: np.ndarray, change: np.ndarray) -> None:
        curvature = float(step @ change)
        if curvature <= 1e-10 * float(change @ change):
            return
        row = self._order.pop(0) if len(self._order) == MEMORY else len(self._order)
        self._steps[row], self._changes[row], self._curvature[row] = step, change, curvature
        self._order.append(row)

    def direction(self, gradient: np.ndarray) -> np.ndarray:
        """Where the quasi-Newton model has its lowest point, float32 (N,)."""
        found = -gradient
        scratch = np.empty_like(found)
        if not self._order:
            return found / np.linalg.norm(gradient)
        weights = {}
        for row in reversed(self._order):
            weights[row] = float(self._steps[row] @ found) / self._curvature[row]
            found -= np.multiply(self._changes[row], np.float32(weights[row]), out=scratch)
        last = self._changes[self._order[-1]]
        found *= np.float32(self._curvature[self._order[-1]] / float(last @ last))
        for row in self._order:
            back = float(self._changes[row] @ found) / self._curvature[row]
            found += np.multiply(self._steps[row], np.float32(weights[row] - back), out=scratch)
        return found
