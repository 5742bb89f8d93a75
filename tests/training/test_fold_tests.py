"""What a fold is tested with: prompts that nothing calibrates or trains on, each account twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from stillwatch.data.corpora import read_corpora
from stillwatch.data.simulator.materials import Materials
from stillwatch.data.simulator.streams import SHARES
from stillwatch.training.benchmark.fold_tests import SETS, TestSet, compose_tests
from stillwatch.training.composition import all_materials
from stillwatch.training.framed import FramedStreams, TextTable
from stillwatch.training.settings import Composition, Settings

FOLDS, EACH = 3, 14
SETTINGS = Settings(
    composition=Composition(
        folds=FOLDS, test_attacks=1, test_ordinary=2 * EACH, test_longest=40, source_prompts=40
    )
)

Made = tuple[dict[int, TestSet], list[str]]


@pytest.fixture(scope="module")
def materials(corpora: Path) -> Materials:
    return all_materials(read_corpora(corpora), [])


def compose(materials: Materials, only: list[int] | None = None) -> Made:
    table = TextTable()
    return compose_tests(materials, SETTINGS, table, lambda text: None, 2, only), table.texts


@pytest.fixture(scope="module")
def made(materials: Materials) -> Made:
    return compose(materials)


def accounts(streams: FramedStreams, texts: list[str]) -> Iterable[tuple[str, ...]]:
    """What each account sent."""
    for start, end in zip(streams.offsets[:-1], streams.offsets[1:], strict=True):
        yield tuple(texts[i] for i in streams.slot_id[start:end])


def test_an_ordinary_account_is_tested_once_as_new_and_once_as_known(made: Made) -> None:
    tests, texts = made
    new, known = (
        Counter(own for test in tests.values() for own in accounts(getattr(test, name), texts))
        for name in ("ordinary_new", "ordinary_known")
    )
    assert new == known
    assert new.total() == FOLDS * 2 * EACH
    for test in tests.values():
        assert not {*accounts(test.ordinary_new, texts)} & {*accounts(test.ordinary_known, texts)}


def test_a_fold_alone_is_tested_as_amid_all(materials: Materials, made: Made) -> None:
    tests, texts = made
    alone, own_texts = compose(materials, [1])
    assert {*alone} == {1}
    for name in SETS:
        own, whole = getattr(alone[1], name), getattr(tests[1], name)
        assert [*accounts(own, own_texts)] == [*accounts(whole, texts)]
        assert np.array_equal(own.times, whole.times)
        assert (own.kinds, own.intents) == (whole.kinds, whole.intents)


def test_every_intent_attacks_at_every_share(made: Made) -> None:
    tests, _ = made
    for test in tests.values():
        for streams in (test.attacks_known, test.attacks_new):
            assert streams.is_attack.all()
            assert {*Counter(streams.intents).values()} == {len(SHARES)}
