"""How far one sample is from another, beside known values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from stillwatch.model.drift import category_psi, ks, psi

RNG = np.random.default_rng(3)
BEFORE = RNG.normal(size=2000)


@pytest.mark.parametrize(("shift", "low", "high"), [(0.0, 0, 0.02), (0.5, 0.2, 0.4), (2, 2, 9)])
def test_the_index_grows_with_the_shift(shift: float, low: float, high: float) -> None:
    assert low <= psi(BEFORE, RNG.normal(shift, 1, 2000)) <= high


def test_the_index_is_what_its_formula_says() -> None:
    before, now = {"a": 50, "b": 50}, {"a": 75, "b": 25}
    wanted = 0.25 * math.log(1.5) - 0.25 * math.log(0.5)
    assert category_psi(before, now) == pytest.approx(wanted)
    numbers = np.array([0.0] * 50 + [1.0] * 50), np.array([0.0] * 75 + [1.0] * 25)
    assert psi(*numbers) == pytest.approx(wanted)
    assert psi(BEFORE, BEFORE) == 0


def test_a_new_category_counts_and_stays_finite() -> None:
    assert 1 < category_psi({"a": 100}, {"a": 50, "b": 50}) < 10


@pytest.mark.parametrize(("count", "shift"), [(50, 0.0), (300, 0.1), (900, 0.3), (40, 3.0)])
def test_the_distance_is_that_of_scipy(count: int, shift: float) -> None:
    now = np.round(RNG.normal(shift, 1, count), 1)
    wanted = stats.ks_2samp(BEFORE, now, method="asymp").statistic
    assert ks(BEFORE, now) == pytest.approx(wanted)


@pytest.mark.parametrize("sample", [np.array([]), np.array([1.0, np.nan]), np.array([np.inf])])
def test_what_is_no_sample_is_refused(sample: np.ndarray) -> None:
    for one, other in ((sample, BEFORE), (BEFORE, sample)):
        with pytest.raises(ValueError, match="finite"):
            psi(one, other)
        with pytest.raises(ValueError, match="finite"):
            ks(one, other)
    with pytest.raises(ValueError, match="empty"):
        category_psi({}, {"a": 1})
