from __future__ import annotations

import numpy as np
import pytest

from stillwatch.training.boosting import Boosting, boost

SIGNS = np.array([1, 1, -1])


def made(seed: int, count: int = 800) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose first two features tell together what neither tells alone."""
    rng = np.random.default_rng(seed)
    rows = rng.uniform(0, 1, (count, 3))
    target = ((rows[:, 0] > 0.5) & (rows[:, 1] > 0.5)).astype(np.float64)
    noise = rng.random(count) < 0.05
    return rows, np.where(noise, 1 - target, target)


def test_it_learns_what_two_features_tell_together() -> None:
    rows, target = made(1)
    trees, offset = boost(rows, target, np.ones(len(rows)), SIGNS, Boosting(rounds=60))
    others, truth = made(2)
    right = (trees.total(others) + offset > 0) == (truth > 0.5)
    assert right.mean() > 0.9


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_no_feature_goes_the_wrong_way(depth: int) -> None:
    rng = np.random.default_rng(3)
    rows = rng.uniform(0, 1, (400, 3))
    # Nothing but chance to learn, and a feature that would go the other way.
    target = (rows[:, 2] + rng.normal(0, 0.3, 400) > 0.5).astype(np.float64)
    trees, _ = boost(rows, target, np.ones(400), SIGNS, Boosting(rounds=40, depth=depth))
    grid = rng.uniform(0, 1, (200, 3))
    for feature, sign in enumerate(SIGNS):
        higher = grid.copy()
        higher[:, feature] += 0.3
        assert ((trees.total(higher) - trees.total(grid)) * sign >= -1e-12).all()
    assert boost(rows, target, np.ones(400), -SIGNS, Boosting(rounds=40))[0].total(grid).std() > 0.5


def test_weights_count() -> None:
    rows, target = made(4)
    heavy = np.where(target > 0, 5.0, 0.2)
    even, offset = boost(rows, target, np.ones(len(rows)), SIGNS, Boosting(rounds=20))
    tilted, other = boost(rows, target, heavy, SIGNS, Boosting(rounds=20))
    assert (tilted.total(rows) + other).mean() > (even.total(rows) + offset).mean() + 1


def test_nothing_to_split_gives_the_share() -> None:
    rows, target = np.zeros((100, 3)), np.repeat([0.0, 1.0], [80, 20])
    trees, offset = boost(rows, target, np.ones(100), SIGNS, Boosting(rounds=5))
    assert (trees.total(rows) + offset) == pytest.approx(np.log(0.25), abs=1e-6)


def test_a_leaf_holds_enough_rows() -> None:
    rows, target = made(5, 100)
    trees, _ = boost(rows, target, np.ones(100), SIGNS, Boosting(rounds=3, least=60))
    assert trees.total(rows).std() == pytest.approx(0, abs=1e-12)
