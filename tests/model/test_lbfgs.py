from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize as scipy_minimize

from stillwatch.model.lbfgs import MEMORY, minimise
from stillwatch.model.logistic import Problem, balanced


def _problem() -> Problem:
    rng = np.random.default_rng(3)
    # Columns of very different size: steepest descent would need thousands of steps.
    rows = (rng.normal(size=(200, 30)) * np.logspace(0, 1.5, 30)).astype(np.float32)
    target = (rows[:, :2] / rows[:, :2].std(axis=0) + rng.normal(size=(200, 2)) > 0).astype(float)
    return Problem(rows, target, balanced(target, np.ones(200)), 1e-3)


def test_goes_where_scipy_goes() -> None:
    problem = _problem()

    def flat(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = problem.loss(parameters.reshape(problem.shape))
        return value, gradient.ravel()

    start = np.zeros(problem.shape, dtype=np.float32).ravel()
    found = minimise(flat, start, 200)
    best = scipy_minimize(flat, start, jac=True, method="L-BFGS-B", options={"maxiter": 2000})
    assert flat(found)[0] == pytest.approx(best.fun, rel=1e-3)
    assert flat(found)[0] < 0.9 * flat(start)[0]
    assert found.dtype == np.float32


def test_uses_its_memory() -> None:
    """A quadratic of as many dimensions as it remembers is done in little more steps than that."""
    scale = np.logspace(0, 3, MEMORY).astype(np.float32)

    def bowl(point: np.ndarray) -> tuple[float, np.ndarray]:
        return float(scale @ (point - 1) ** 2), 2 * scale * (point - 1)

    found = minimise(bowl, np.zeros(MEMORY, dtype=np.float32), 5 * MEMORY)
    np.testing.assert_allclose(found, 1, atol=1e-2)


def test_stops_where_it_starts_if_nothing_is_lower() -> None:
    calls = []

    def bowl(point: np.ndarray) -> tuple[float, np.ndarray]:
        calls.append(1)
        return float(point @ point), 2 * point

    assert minimise(bowl, np.zeros(4, dtype=np.float32), 50).tolist() == [0, 0, 0, 0]
    assert len(calls) == 1


def test_a_step_that_rises_is_cut() -> None:
    """Far out this function is nearly linear, so that the first model of it overshoots."""
    values = []

    def valley(point: np.ndarray) -> tuple[float, np.ndarray]:
        value = float(np.sqrt(1 + 400 * point @ point))
        values.append(value)
        return value, 400 * point / np.float32(value)

    found = minimise(valley, np.array([30.0, -20.0], dtype=np.float32), 60)
    assert np.abs(found).max() < 1e-2
    assert max(values) > 2 * values[0]
