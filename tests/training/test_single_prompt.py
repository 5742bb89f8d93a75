"""The prompt classifier: what it is fitted on, how an account's score comes of its prompts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stillwatch.training.benchmark.single_prompt import POOLINGS, SinglePrompt, draw_events
from tests.training.test_mmd import Account, accounts_of, unit

D = 16


def account(
    rng: np.random.Generator, events: int, attack: int, stray: int = 0, origin: str = "made"
) -> Account:
    """`attack` prompts along the first axis, among ordinary ones; `stray` ordinary prompts lie
    further along it than any attack."""
    own = rng.normal(size=(events, D))
    own[:, 0] = 0
    own[:attack, 0] = 5
    own[attack : attack + stray, 0] = 50
    marks = np.arange(events) < attack
    order = rng.permutation(events)
    return Account(unit(own)[order], marks[order], origin)


def population(
    rng: np.random.Generator, each: int, attack: int, stray: int, events: int = 60
) -> list[Account]:
    attacks = [account(rng, events, attack) for _ in range(each)]
    return [*attacks, *(account(rng, events, 0, stray) for _ in range(each))]


def test_attacking_accounts_are_told_from_ordinary_ones() -> None:
    rng = np.random.default_rng(1)
    sets, table = accounts_of(*(population(rng, 12, 6, 0) for _ in range(3)))
    baseline = SinglePrompt().fit(sets[:2], table, seed=0)
    found = baseline.score(sets[2], table)
    assert found.shape == (24,)
    assert found[:12].min() > found[12:].max()
    assert baseline.training_recall == 1


@pytest.mark.parametrize(
    ("attack", "stray", "wanted"),
    [
        # One attack prompt among ordinary ones: only the maximum sees it.
        (1, 0, "maximum"),
        # Two stray prompts an ordinary account: the third largest is not fooled.
        (4, 2, "third largest"),
    ],
)
@pytest.mark.parametrize("separate", [True, False])
def test_the_pooling_that_finds_most_is_chosen(
    attack: int, stray: int, wanted: str, separate: bool
) -> None:
    rng = np.random.default_rng(2)
    groups = [population(rng, 20, attack, stray, events=100) for _ in range(2)]
    sets, table = accounts_of(*(groups if separate else [groups[0] + groups[1]]))
    baseline = SinglePrompt().fit(sets, table, seed=0)
    assert baseline.pooling == wanted
    assert baseline.training_recall > 0.9


def test_scores_are_pooled_by_account() -> None:
    prompts = np.random.default_rng(3).permutation(np.arange(40.0))
    assert POOLINGS["maximum"](prompts) == 39
    assert POOLINGS["third largest"](prompts) == 37
    assert POOLINGS["mean of top tenth"](prompts) == 37.5
    assert POOLINGS["third largest"](np.array([2.0, 1.0])) == 1
    assert POOLINGS["mean of top tenth"](np.arange(11.0)) == 9.5
    assert POOLINGS["mean of top tenth"](np.array([3.0])) == 3


def test_the_score_is_the_log_odds_of_its_prompts() -> None:
    rng = np.random.default_rng(4)
    sets, table = accounts_of(*(population(rng, 12, 1, 0) for _ in range(2)))
    baseline = SinglePrompt().fit(sets, table, seed=0)
    assert baseline.pooling == "maximum"
    assert baseline._classifier is not None
    odds = baseline._classifier.decision_function(table.means)
    start = len(sets[0].attack)
    wanted = [odds[start + 60 * row : start + 60 * (row + 1)].max() for row in range(24)]
    np.testing.assert_allclose(baseline.score(sets[1], table), wanted, rtol=1e-5)


def test_repeated_texts_keep_their_own_scores() -> None:
    rng = np.random.default_rng(5)
    sets, table = accounts_of(population(rng, 12, 3, 0))
    baseline = SinglePrompt().fit(sets, table, seed=0)
    (streams,) = sets
    ids = rng.integers(0, len(streams.slot_id), len(streams.slot_id)).astype(np.int32)
    repeated = replace(streams, slot_id=ids)
    (apart,), apart_table = accounts_of(
        [Account(table.means[own]) for own in np.split(ids, streams.offsets[1:-1])]
    )
    np.testing.assert_allclose(
        baseline.score(repeated, table), baseline.score(apart, apart_table), rtol=1e-5
    )


def test_every_origin_weighs_alike_and_both_kinds_do() -> None:
    rng = np.random.default_rng(6)
    origins = np.array(["large"] * 5000 + ["small"] * 50 + ["rare"] * 10 + ["mixed"] * 400)
    attack = np.isin(origins, ["small", "large"])
    attack[-100:] = True
    order = rng.permutation(len(origins))
    origins, attack = origins[order], attack[order]
    rows, weights = draw_events(attack, origins, 600, rng)
    assert len(rows) == len(set(rows.tolist())) == 600
    taken = {
        (name, mark): int(((origins[rows] == name) & (attack[rows] == mark)).sum())
        for name in ("large", "small", "rare", "mixed")
        for mark in (False, True)
    }
    assert taken["small", True] == 50
    assert taken["rare", False] == 10
    assert taken["mixed", True] == 100
    assert abs(taken["large", True] - taken["mixed", False]) <= 1
    total = {
        key: weights[(origins[rows] == key[0]) & (attack[rows] == key[1])].sum()
        for key, count in taken.items()
        if count
    }
    # Three origins of attack prompts, two of others, each half of the whole.
    for (_, mark), weight in total.items():
        assert weight == pytest.approx(600 / 2 / (3 if mark else 2))


def test_the_classifier_weighs_both_kinds_alike() -> None:
    """An intercept without penalty makes the weighted mean probability that of the marks."""
    rng = np.random.default_rng(12)
    sets, table = accounts_of(population(rng, 12, 3, 0))
    baseline = SinglePrompt().fit(sets, table, seed=0)
    assert baseline._classifier is not None
    found = baseline._classifier.predict_proba(table.means)[:, 1]
    attack = sets[0].attack
    assert (found[attack].mean() + found[~attack].mean()) / 2 == pytest.approx(0.5, abs=0.005)


def test_no_more_events_than_there_are_and_none_twice() -> None:
    attack = np.arange(30) % 2 == 0
    rows, weights = draw_events(attack, np.full(30, "one"), 500, np.random.default_rng(7))
    assert rows.tolist() == list(range(30))
    assert weights.mean() == pytest.approx(1)


def test_the_draw_is_by_chance_within_an_origin_and_by_the_seed() -> None:
    attack, origins = np.arange(1000) % 2 == 0, np.full(1000, "one")
    first = draw_events(attack, origins, 100, np.random.default_rng(8))[0]
    again = draw_events(attack, origins, 100, np.random.default_rng(8))[0]
    other = draw_events(attack, origins, 100, np.random.default_rng(9))[0]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert 350 < first.mean() < 650


def test_a_set_is_judged_by_a_classifier_of_the_others() -> None:
    """Each set's attacks lie along an axis of their own: the others' classifier finds none."""
    rng = np.random.default_rng(10)
    groups = []
    for axis in range(2):
        own = population(rng, 30, 10, 0)
        groups.append([replace(a, vectors=np.roll(a.vectors, axis, axis=1)) for a in own])
    sets, table = accounts_of(*groups)
    baseline = SinglePrompt().fit(sets, table, seed=0)
    assert baseline.training_recall < 0.2
    for streams in sets:
        found = baseline.score(streams, table)
        assert found[:30].min() > found[30:].max(), "the final classifier knows all sets"


def test_what_cannot_be_fitted_is_refused() -> None:
    rng = np.random.default_rng(11)
    sets, table = accounts_of([account(rng, 20, 0) for _ in range(4)])
    with pytest.raises(ValueError, match="sets must hold attacking and ordinary streams"):
        SinglePrompt().fit(sets, table, seed=0)
    with pytest.raises(ValueError, match="must be fitted"):
        SinglePrompt().score(sets[0], table)
