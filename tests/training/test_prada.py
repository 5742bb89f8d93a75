"""PRADA's distances by hand, and accounts whose distances are and are not normal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import shapiro

from stillwatch.training.benchmark.prada import (
    nearest_distances,
    prada_scores,
    without_outliers,
)
from tests.training.test_mmd import Account, accounts_of, unit


def arc(*degrees: float) -> np.ndarray:
    """Unit vectors (T, 2) at these angles."""
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def chord(degrees: float) -> float:
    return float(2 * np.sin(np.deg2rad(degrees) / 2))


def test_distances_are_to_the_nearest_that_was_kept() -> None:
    """By hand: distances of 60° and 60° bring the threshold to the chord of 11.2°, so that the
    one at 125° is not kept, and the next one's nearest is that at 120°."""
    found = nearest_distances(arc(0, 60, 120, 125, 131, 0))
    wanted = [chord(60), chord(60), chord(5), chord(11), 0]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_the_threshold_never_falls() -> None:
    """The kept distance of 12° would bring it from 11.2° to 5.7°, and keep the one at 140°."""
    found = nearest_distances(arc(0, 60, 120, 132, 140, 149))
    wanted = [chord(60), chord(60), chord(12), chord(8), chord(17)]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_a_query_is_never_compared_with_later_ones() -> None:
    angles = np.random.default_rng(1).uniform(0, 180, 40)
    whole = nearest_distances(arc(*angles))
    np.testing.assert_allclose(nearest_distances(arc(*angles[:15])), whole[:14], atol=1e-7)


def test_repeats_are_at_no_distance() -> None:
    own = unit(np.random.default_rng(2).normal(size=(1, 384)))
    np.testing.assert_allclose(nearest_distances(np.repeat(own, 4, axis=0)), 0, atol=1e-6)


def test_outliers_are_beyond_three_standard_deviations() -> None:
    calm = np.tile([0.9, 1.1], 30)
    np.testing.assert_array_equal(without_outliers(np.append(calm, 5.0)), calm)
    np.testing.assert_array_equal(without_outliers(np.append(calm, 1.2)), np.append(calm, 1.2))


def test_the_score_is_one_minus_the_test_statistic() -> None:
    rng = np.random.default_rng(3)
    own = unit(rng.normal(size=(60, 32)))
    (streams,), table = accounts_of([Account(own)])
    wanted = 1 - shapiro(without_outliers(nearest_distances(own))).statistic
    assert wanted > 0.005
    np.testing.assert_allclose(prada_scores(streams, table), [wanted], atol=1e-6)


def test_small_changes_of_few_seeds_are_more_suspicious_than_natural_queries() -> None:
    """What PRADA was made for: new seeds far apart, then tiny steps from them."""
    rng = np.random.default_rng(4)
    natural = [Account(unit(rng.normal(size=(150, 32)))) for _ in range(6)]
    synthetic = []
    for _ in range(6):
        seeds = np.tile(rng.normal(size=(50, 32)), (3, 1))
        seeds[50:] += 0.01 * rng.normal(size=(100, 32))
        synthetic.append(Account(unit(seeds)))
    (streams,), table = accounts_of([*synthetic, *natural])
    found = prada_scores(streams, table)
    assert found[:6].min() > 2 * found[6:].max()


def test_enough_distances_must_be_left_without_outliers() -> None:
    rng = np.random.default_rng(8)
    own = np.ones((22, 8)) + 0.02 * rng.normal(size=(22, 8))
    own[-1] *= -1
    (streams,), table = accounts_of([Account(unit(own))])
    assert len(without_outliers(nearest_distances(unit(own)))) == 20
    assert prada_scores(streams, table, least=20)[0] > 0
    assert prada_scores(streams, table, least=21)[0] == 0


def test_what_cannot_be_tested_scores_nothing() -> None:
    rng = np.random.default_rng(5)
    many = unit(rng.normal(size=(40, 8)))
    (streams,), table = accounts_of(
        [Account(many[:1]), Account(many[:20]), Account(np.repeat(many[:1], 40, axis=0)),
         Account(many[:21]), Account(many)]
    )  # fmt: skip
    found = prada_scores(streams, table, least=20)
    assert found[:3].tolist() == [0, 0, 0]
    assert (found[3:] > 0).all()
    assert prada_scores(streams, table, least=40).tolist() == [0] * 5


def test_only_the_last_events_are_read() -> None:
    rng = np.random.default_rng(6)
    own = unit(rng.normal(size=(90, 8)))
    (streams,), table = accounts_of([Account(own), Account(own[-50:])])
    found = prada_scores(streams, table, most=50)
    assert found[0] == found[1]
    assert prada_scores(streams, table)[0] != found[0]


def test_frames_count_too() -> None:
    rng = np.random.default_rng(7)
    (streams,), table = accounts_of([Account(unit(rng.normal(size=(40, 8))))])
    framed = replace(streams, frame_id=np.zeros(40, dtype=np.int32))
    assert prada_scores(framed, table)[0] != prada_scores(streams, table)[0]


def test_the_test_needs_three_distances() -> None:
    (streams,), table = accounts_of([Account(np.eye(4))])
    with pytest.raises(ValueError, match="least must be 3"):
        prada_scores(streams, table, least=2)
