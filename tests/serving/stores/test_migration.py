"""What becomes of an account's state when another bundle takes over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stillwatch.data.events import Event
from stillwatch.model.bundle import Bundle
from stillwatch.serving import state
from stillwatch.serving.scorer import SETTLING_EVENTS, Scorer
from stillwatch.serving.stores.base import StateStore
from stillwatch.serving.stores.memory import MemoryStore
from tests.serving.stores.conftest import Opener
from tests.support import make_events, tiny_bundle, tiny_scorer

EVENTS = [event for event in make_events(accounts=3, each=30) if event.account_id == "a1"]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Of other weights."""
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "other", seed=1)


def record_of(scorer: Scorer, account: str = "a1") -> np.void:
    (held,) = scorer.store.read([account], []).held
    assert held is not None
    detector = scorer.detector
    record, _ = state.from_bytes(held.value, detector.state_id, detector.record_dtype)
    assert record is not None
    return record


def settle(scorer: Scorer, count: int, start: int = 0) -> list[bool]:
    """Whether the account stays flagged over `count` more events."""
    events = [
        Event(f"s{number}", "a1", 1.8e9 + number, f"request {number} of a quiet day")
        for number in range(start, start + count)
    ]
    return [verdict.flagged for verdict in scorer.update(events)]


def test_a_replay_is_as_if_the_new_bundle_had_read_the_events(
    opener: Opener, bundle: Bundle, other: Bundle
) -> None:
    store = opener(kept=64)
    old = tiny_scorer(bundle, store)
    old.update(EVENTS[:20])
    new = tiny_scorer(other, store)
    assert new.detector.state_id != old.detector.state_id
    found = new.update(EVENTS[20:21])[0]
    assert new.replayed == 1
    fresh = tiny_scorer(other)
    fresh.update(EVENTS[:20])
    expected = fresh.update(EVENTS[20:21])[0]
    assert found.risk == expected.risk
    assert found.intents == expected.intents
    assert record_of(new).tobytes() == record_of(fresh).tobytes()
    # Migrated once.
    assert new.update(EVENTS[21:22])[0].risk == fresh.update(EVENTS[21:22])[0].risk
    assert new.replayed == 1


def test_what_is_kept_no_longer_is_not_read(opener: Opener, bundle: Bundle, other: Bundle) -> None:
    store = opener(kept=8)
    tiny_scorer(bundle, store).update(EVENTS[:20])
    new, fresh = tiny_scorer(other, store), tiny_scorer(other)
    new.update(EVENTS[20:21])
    fresh.update(EVENTS[12:20])
    fresh.update(EVENTS[20:21])
    assert record_of(new).tobytes() == record_of(fresh).tobytes()


def test_counts_and_peak_are_carried(opener: Opener, bundle: Bundle, other: Bundle) -> None:
    store = opener(kept=4)
    before = tiny_scorer(bundle, store).update(EVENTS[:20])[-1]
    new = tiny_scorer(other, store)
    after = new.update(EVENTS[20:22])[-1]
    assert after.events == 22
    assert after.peak_risk >= before.peak_risk
    assert after.flagged_after == before.flagged_after
    # Nothing of the old bundle's replay is counted twice.
    assert new.update(EVENTS[:20])[-1].events == 22


def test_the_verdict_names_the_bundle_that_judged(
    opener: Opener, bundle: Bundle, other: Bundle
) -> None:
    store = opener(kept=8)
    before = tiny_scorer(bundle, store).update(EVENTS[:20])[-1]
    new = tiny_scorer(other, store)
    assert before.bundle == bundle.id != other.id
    # Until the new one has read an event, whether it is asked or gets duplicates.
    assert new.verdict("a1") == before
    assert new.update(EVENTS[3:6]) == [before] * 3
    assert new.replayed == 0
    after = new.update(EVENTS[20:21])[0]
    assert after.bundle == new.verdict("a1").bundle == other.id
    assert after.threshold == new.threshold


@pytest.fixture
def flagging(tmp_path: Path) -> Bundle:
    """Flags whoever comes."""
    return tiny_bundle(tmp_path / "flagging", enter=0.001, leave=0.0005)


@pytest.fixture
def mild(tmp_path: Path) -> Bundle:
    """Flags nobody, and has other weights."""
    return tiny_bundle(tmp_path / "mild", enter=0.9999999, leave=0.9999998, seed=1)


def test_a_flag_is_held_until_enough_was_read(
    opener: Opener, flagging: Bundle, mild: Bundle
) -> None:
    store = opener(kept=0)
    before = tiny_scorer(flagging, store).update(EVENTS[:5])[-1]
    assert (before.flagged, before.flagged_after) == (True, 1)
    new = tiny_scorer(mild, store)
    assert settle(new, SETTLING_EVENTS + 2) == [True] * SETTLING_EVENTS + [False] * 2
    # What was flagged once stays known.
    assert new.verdict("a1").flagged_after == 1


def test_a_replay_shortens_how_long_a_flag_is_held(
    opener: Opener, flagging: Bundle, mild: Bundle
) -> None:
    store = opener(kept=64)
    tiny_scorer(flagging, store).update(EVENTS[:20])
    held = SETTLING_EVENTS - 20
    assert settle(tiny_scorer(mild, store), held + 1) == [True] * held + [False]


def test_where_enough_is_kept_a_flag_goes_at_once(flagging: Bundle, mild: Bundle) -> None:
    store: StateStore = MemoryStore(kept=SETTLING_EVENTS)
    first = tiny_scorer(flagging, store)
    assert all(settle(first, SETTLING_EVENTS + 5))
    assert settle(tiny_scorer(mild, store), 1, start=100) == [False]


def test_an_account_without_a_flag_gets_none_held(
    opener: Opener, mild: Bundle, bundle: Bundle
) -> None:
    store = opener(kept=0)
    tiny_scorer(mild, store).update(EVENTS[:5])
    new = tiny_scorer(bundle, store)
    found = new.update(EVENTS[5:6])[0]
    assert found.flagged == (found.risk >= new.threshold)
