"""Thresholds: an exact binomial bound, refused where there are too few accounts to promise it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from stillwatch.data.errors import InputError
from stillwatch.model.thresholds import (
    LEAVE_MARGIN,
    accounts_needed,
    allowed_above,
    leave_threshold,
    site_threshold,
)


@pytest.mark.parametrize("max_fpr", [0.001, 0.003, 0.01, 0.05, 0.3])
@pytest.mark.parametrize("accounts", [0, 1, 9, 58, 59, 93, 298, 299, 994, 3000, 50_000])
def test_the_bound_is_the_exact_binomial_one(accounts: int, max_fpr: float) -> None:
    counts = np.arange(accounts + 1)
    allowed = np.flatnonzero(binom.cdf(counts, accounts, max_fpr) <= 0.05)
    expected = int(allowed[-1]) if len(allowed) else -1
    assert allowed_above(accounts, max_fpr) == expected


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_fewest_accounts_are_those_that_allow_none_above(confidence: float) -> None:
    for max_fpr in (0.001, 0.003, 0.01, 0.05, 0.3):
        needed = accounts_needed(max_fpr, confidence)
        assert allowed_above(needed, max_fpr, confidence) == 0
        assert allowed_above(needed - 1, max_fpr, confidence) == -1
    assert accounts_needed(0.01) == 299


def test_too_few_accounts_are_refused_with_both_numbers() -> None:
    with pytest.raises(InputError) as caught:
        site_threshold(np.full(998, 0.1), 0.003, 0.96)
    assert str(caught.value) == (
        "calibration to a false-positive rate of 0.003 must see at least 1072 ordinary accounts, "
        "however: the log holds 998; add traffic or ask for a higher rate"
    )


def test_the_threshold_is_the_lowest_that_holds() -> None:
    peaks = np.random.default_rng(0).permutation(np.linspace(0.001, 0.9, 2000)).astype(np.float32)
    found = site_threshold(peaks, 0.01)
    allowed = allowed_above(2000, 0.01)
    assert 0 < allowed < 20
    assert (peaks >= found.enter).sum() == found.above == allowed
    # Any lower one would flag an account more than the bound allows.
    assert np.sort(peaks)[::-1][allowed] == pytest.approx(found.enter, abs=1e-6)
    assert (found.accounts, found.max_fpr, found.confidence) == (2000, 0.01, 0.95)
    assert found.leave < found.enter


@pytest.mark.parametrize("peak", [0.0, 1e-9, 0.5, 1 - 1e-9, 1.0])
def test_equal_peaks_stay_below(peak: float) -> None:
    found = site_threshold(np.full(400, peak, dtype=np.float32), 0.01)
    assert 0 < found.leave < found.enter < 1
    if peak <= 0.5:
        assert found.above == 0


def test_the_promise_holds() -> None:
    """Over many draws of 400 accounts, the rate promised is exceeded in about one of twenty."""
    rng = np.random.default_rng(1)
    broken = 0
    for _ in range(2000):
        found = site_threshold(rng.random(400), 0.01)
        broken += 1 - found.enter > 0.01
    assert 0.01 < broken / 2000 <= 0.06


def test_leaving_is_a_margin_below_entering() -> None:
    for enter in (1e-6, 0.01, 0.5, 0.93, 1 - 1e-6):
        leave = leave_threshold(enter)
        assert 0 < leave < enter
        odds = [np.log(value / (1 - value)) for value in (enter, leave)]
        assert odds[0] - odds[1] == pytest.approx(LEAVE_MARGIN)
    for enter in (0.0, 1e-9, 1 - 1e-9, 1.0):
        assert 0 < leave_threshold(enter) < 1
    assert leave_threshold(1e-9) < 1e-9
    assert leave_threshold(0.5) == pytest.approx(1 / (1 + np.e))
