"""The discrepancy test against a sum written out in full, and what it finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pytest

from stillwatch.model.features import SCALARS
from stillwatch.training.benchmark.event_vectors import distinct_events, event_vectors
from stillwatch.training.benchmark.mmd import FACTORS, POOLINGS, RATE, WINDOWS, MmdTest
from stillwatch.training.framed import FramedStreams
from stillwatch.training.metrics import recall_at
from stillwatch.training.vectors import VectorTable


@dataclass(frozen=True)
class Account:
    """A stream to be made: its prompts' vectors (T, D), marks (T,) and origins."""

    vectors: np.ndarray
    attack: np.ndarray | None = None
    origin: str = "made"


def unit(rows: np.ndarray) -> np.ndarray:
    found: np.ndarray = (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)
    return found


def table_of(means: np.ndarray) -> VectorTable:
    count = len(means)
    return VectorTable(
        means.astype(np.float16), np.arange(count), np.ones(count, dtype=np.int64), means
    )


def accounts_of(*sets: Sequence[Account]) -> tuple[list[FramedStreams], VectorTable]:
    """Sets of streams without frames, and the one table of their vectors: a row an event."""
    made, rows = [], 0
    for accounts in sets:
        lengths = [len(account.vectors) for account in accounts]
        marks = [
            np.zeros(len(a.vectors), dtype=bool) if a.attack is None else a.attack for a in accounts
        ]
        total = sum(lengths)
        made.append(
            FramedStreams(
                ("person",) * len(accounts), ("en",) * len(accounts),
                tuple(("cot_harvesting",) if own.any() else () for own in marks),
                np.array([own.mean() for own in marks]),
                np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
                np.full(total, -1, dtype=np.int32),
                np.arange(rows, rows + total, dtype=np.int32),
                np.zeros(total, dtype=np.uint32), np.arange(total, dtype=np.float64),
                np.zeros((total, len(SCALARS)), dtype=np.float32), np.concatenate(marks),
                np.full(total, "person"), np.repeat([a.origin for a in accounts], lengths),
            )
        )  # fmt: skip
        rows += total
    vectors = np.concatenate([a.vectors for accounts in sets for a in accounts])
    return made, table_of(vectors.astype(np.float32))


def slow_statistic(own: np.ndarray, reference: np.ndarray, bandwidth: float) -> float:
    """The unbiased estimate as Gretton et al. write it, term by term."""

    def kernel(left: np.ndarray, right: np.ndarray) -> float:
        distance = np.sum((left.astype(np.float64) - right.astype(np.float64)) ** 2)
        return float(np.exp(-distance / (2 * bandwidth**2)))

    def within(rows: np.ndarray) -> float:
        pairs = [(i, j) for i in range(len(rows)) for j in range(len(rows)) if i != j]
        return sum(kernel(rows[i], rows[j]) for i, j in pairs) / len(pairs)

    across = np.mean([[kernel(left, right) for right in reference] for left in own])
    return within(own) + within(reference) - 2 * float(across)


def test_an_event_is_the_mean_of_frame_and_slot() -> None:
    (streams,), table = accounts_of([Account(np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]))])
    streams = replace(streams, frame_id=np.array([-1, 0, 1], dtype=np.int32))
    root = 0.5**0.5
    wanted = [[1, 0, 0], [root, root, 0], [0, root, root]]
    found = event_vectors(streams, table)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    np.testing.assert_allclose(event_vectors(streams, table, np.array([2])), wanted[2:], atol=1e-6)
    np.testing.assert_array_equal(table.means, np.eye(3, dtype=np.float32))


def test_frame_and_slot_that_cancel_out_leave_zeros() -> None:
    (streams,), table = accounts_of([Account(np.array([[1.0, 0], [-1, 0]]))])
    streams = replace(streams, frame_id=np.array([-1, 0], dtype=np.int32))
    np.testing.assert_array_equal(event_vectors(streams, table), [[1, 0], [0, 0]])


def test_events_are_distinct_by_frame_and_slot_together() -> None:
    (streams,), _ = accounts_of([Account(np.eye(6))])
    streams = replace(
        streams,
        frame_id=np.array([-1, 0, 0, 1, -1, 0], dtype=np.int32),
        slot_id=np.array([1, 1, 2, 1, 1, 1], dtype=np.int32),
    )
    rows, places = distinct_events(streams)
    assert len(rows) == 4
    assert sorted(rows.tolist()) == [0, 1, 2, 3]
    assert rows[places].tolist() == [0, 1, 2, 3, 0, 1]


@pytest.mark.parametrize(("pooling", "pool"), [("max", np.max), ("mean", np.mean)])
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_the_statistic_is_the_unbiased_estimate(
    pooling: str, pool: np.ufunc, factor: float
) -> None:
    rng = np.random.default_rng(3)
    reference = unit(rng.normal(size=(9, 5)))
    own = unit(rng.normal(size=(11, 5)) + 0.4)
    (streams,), table = accounts_of([Account(own[:3]), Account(own)])
    test = MmdTest(reference, window=4, stride=3, factor=factor, pooling=pooling)
    pairs = reference[:, None] - reference
    distances = np.linalg.norm(pairs, axis=2)[np.triu_indices(len(reference), 1)]
    bandwidth = factor * float(np.median(distances))
    # The last window ends at the last event; a short account is one window.
    windows = [own[start : start + 4] for start in (0, 3, 6, 7)]
    wanted = [
        slow_statistic(own[:3], reference, bandwidth),
        pool([slow_statistic(window, reference, bandwidth) for window in windows]),
    ]
    np.testing.assert_allclose(test.score(streams, table), wanted, atol=1e-5)


def test_a_stream_of_one_event_scores_nothing_and_harms_no_other() -> None:
    rng = np.random.default_rng(4)
    reference, own = unit(rng.normal(size=(20, 6))), unit(rng.normal(size=(40, 6)) + 1)
    (streams,), table = accounts_of([Account(own[:1]), Account(own)])
    (alone,), alone_table = accounts_of([Account(own)])
    found = MmdTest(reference).score(streams, table)
    assert found[0] == 0
    np.testing.assert_allclose(found[1:], MmdTest(reference).score(alone, alone_table), atol=1e-6)


def test_shared_texts_are_looked_up_for_the_stream_that_has_them() -> None:
    """The kernel with the reference is computed once a text: streams must not be mixed up."""
    rng = np.random.default_rng(5)
    reference = unit(rng.normal(size=(20, 6)))
    own = unit(rng.normal(size=(30, 6)) + np.linspace(0, 2, 30)[:, None])
    order = rng.permutation(np.repeat(np.arange(30), 3))
    (streams,), _ = accounts_of([Account(own[order[:50]]), Account(own[order[50:]])])
    shared = replace(streams, slot_id=order.astype(np.int32))
    (apart,), apart_table = accounts_of([Account(own[order[:50]]), Account(own[order[50:]])])
    test = MmdTest(reference, window=8)
    np.testing.assert_allclose(
        test.score(shared, table_of(own)), test.score(apart, apart_table), atol=1e-6
    )


def made_accounts(
    rng: np.random.Generator, attacks: int, ordinary: int, shift: float, burst: int
) -> list[Account]:
    """Attackers who differ a little throughout, ordinary accounts with one burst of another
    distribution each, otherwise of the reference's. Dimensions: 12."""
    accounts = []
    for number in range(attacks + ordinary):
        own = rng.normal(size=(200, 12))
        if number < attacks:
            own[:, 0] += shift
        else:
            own[60 : 60 + burst] = rng.normal(size=(burst, 12)) * 0.2 + rng.normal(size=12) * 2
        accounts.append(Account(unit(own), np.full(200, number < attacks)))
    return accounts


def test_attackers_who_differ_throughout_score_higher() -> None:
    rng = np.random.default_rng(6)
    (streams,), table = accounts_of(made_accounts(rng, 12, 12, shift=1.5, burst=0))
    found = MmdTest(unit(rng.normal(size=(150, 12)))).score(streams, table)
    assert found[:12].min() > found[12:].max()


def test_fit_finds_the_best_of_all_choices() -> None:
    """Short bursts in ordinary accounts: the largest of small windows is a bad choice."""
    rng = np.random.default_rng(8)
    accounts = made_accounts(rng, 40, 40, shift=0.6, burst=3)
    sets, table = accounts_of(accounts[:55], accounts[55:])
    attacking = np.concatenate([s.is_attack for s in sets])
    reference = unit(rng.normal(size=(60, 12)))

    def recall(test: MmdTest) -> float:
        found = np.concatenate([test.score(s, table) for s in sets])
        return recall_at(found[attacking], found[~attacking], RATE)

    recalls = {
        choice: recall(MmdTest(reference, choice[0], None, choice[1], choice[2]))
        for choice in product(WINDOWS, FACTORS, POOLINGS)
    }
    test = MmdTest(reference, factor=0.25)
    assert test.fit(sets, table, attacking) is test
    best = max(recalls.values())
    assert best < 1
    assert recalls[64, 0.25, "mean"] < best, "the factor that stood there must be a bad one"
    assert recalls[test.window, test.factor, test.pooling] == best
    assert recall(test) == test.training_recall == best
    assert (test.window, test.pooling) == (64, "mean")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"reference": np.eye(3)[:1]}, "reference must have two rows"),
        ({"reference": np.ones((4, 3))}, "reference must hold different rows"),
        ({"window": 1}, "window must be 2"),
        ({"stride": 0}, "stride 1 or more"),
        ({"pooling": "median"}, f"pooling must be {POOLINGS[0]}"),
    ],
)
def test_what_makes_no_test_is_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MmdTest(**{"reference": np.eye(3), **arguments})  # type: ignore[arg-type]


def test_marks_must_be_as_many_as_the_streams() -> None:
    (streams,), table = accounts_of([Account(np.eye(4)), Account(np.eye(4))])
    with pytest.raises(ValueError, match="attacking must have one value a stream"):
        MmdTest(np.eye(4)).fit([streams], table, np.array([True]))
