"""Metrics by numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from stillwatch.training.metrics import bootstrap, recall_at, threshold_at

ORDINARY = np.array([3.0, 1.0, 2.0, 9.0, 5.0, 4.0, 8.0, 6.0, 7.0, 0.0])


@pytest.mark.parametrize(
    ("rate", "threshold"), [(0.0, 9.0), (0.09, 9.0), (0.1, 8.0), (0.25, 7.0), (0.5, 4.0)]
)
def test_a_threshold_lets_at_most_the_rate_through(rate: float, threshold: float) -> None:
    assert threshold_at(ORDINARY, rate) == threshold
    assert (threshold < ORDINARY).mean() <= rate


def test_ties_let_fewer_through() -> None:
    ordinary = np.array([1.0, 5.0, 5.0, 5.0, 5.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    for rate in (0.1, 0.2, 0.3):
        assert threshold_at(ordinary, rate) == 5.0
        assert recall_at(np.array([5.0, 5.0, 6.0, 4.0]), ordinary, rate) == 0.25
    assert threshold_at(ordinary, 0.4) == 1.0
    assert recall_at(np.array([5.0, 5.0, 6.0, 1.0]), ordinary, 0.4) == 0.75
    assert recall_at(np.full(4, 2.0), np.full(100, 2.0), 0.5) == 0


def test_recall_by_hand() -> None:
    attacks = np.array([8.5, 9.5, 7.5, 0.5])
    assert recall_at(attacks, ORDINARY, 0.0) == 0.25
    assert recall_at(attacks, ORDINARY, 0.1) == 0.5
    assert recall_at(attacks, ORDINARY, 0.2) == 0.75
    assert np.isnan(recall_at(np.array([]), ORDINARY, 0.1))


def test_no_ordinary_accounts_have_no_threshold() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        threshold_at(np.array([]), 0.01)


def test_the_interval_holds_the_mean_and_shrinks_with_groups() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for count in (5, 80):
        groups = [f"source {number % count}" for number in range(800)]
        values = np.array([float(int(name.split()[1]) % 2) for name in groups])
        low, high = bootstrap(groups, values, rng)
        assert low <= values.mean() <= high
        widths.append(high - low)
    assert widths[1] < 0.4 * widths[0]


def test_the_interval_draws_whole_groups() -> None:
    rng = np.random.default_rng(0)
    groups = ["one"] * 400 + ["other"] * 400
    low, high = bootstrap(groups, np.array([0.0] * 400 + [1.0] * 400), rng)
    # Eight hundred independent values would give 0.47 to 0.53; there are two.
    assert (low, high) == (0.0, 1.0)
    alone = bootstrap(["one"] * 10, np.arange(10.0), rng)
    assert alone == (4.5, 4.5)


def test_large_groups_weigh_more() -> None:
    rng = np.random.default_rng(0)
    groups = ["large"] * 99 + ["small"]
    low, high = bootstrap(groups, np.array([0.0] * 99 + [1.0]), rng)
    assert (low, high) == (0.0, 1.0)
    found = [bootstrap(groups, np.array([0.0] * 99 + [1.0]), rng, rounds=1)[0] for _ in range(200)]
    assert {round(value, 2) for value in found} == {0.0, 0.01, 1.0}
