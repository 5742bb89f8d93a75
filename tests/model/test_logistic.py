from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from stillwatch.model.logistic import Problem, balanced


@pytest.mark.parametrize("started", [False, True])
def test_columns_that_no_row_has_change_nothing(started: bool) -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(60, 9)).astype(np.float32)
    rows[:, [2, 5, 8]] = 0
    target = (rows[:, :2] + rng.normal(size=(60, 2)) > 0).astype(np.float64)
    weight = balanced(target, np.ones(60))
    start, tilt = None, None
    if started:
        # What a start or a tilt has there counts: only 2 and 8 are out of it.
        start, tilt = np.zeros((10, 2)), np.zeros((10, 2))
        start[5], tilt[5] = 1.0, 0.02
    dense = Problem(rows, target, weight, 0.01).minimise(start, tilt)
    found = Problem(sparse.csr_array(rows), target, weight, 0.01).minimise(start, tilt)
    np.testing.assert_allclose(found, dense, atol=2e-3)
    assert not found[[2, 8]].any()
    assert found[5].tolist() == pytest.approx([1.0, 1.0] if started else [0, 0], abs=2e-3)
    assert np.abs(np.diag(found[:2])).min() > 0.5
