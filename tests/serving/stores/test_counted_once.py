"""Each event counts once, however often, in whatever batches and through whichever scorer."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from crash import Child
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillwatch.data.events import Event
from stillwatch.model.bundle import Bundle
from stillwatch.model.detector import Detector
from stillwatch.serving.scorer import Scorer, event_digest
from stillwatch.serving.stores import open_store
from stillwatch.serving.stores.base import ConflictError, StateStore, Write
from stillwatch.serving.stores.memory import MemoryStore
from tests.serving.stores.conftest import Opener
from tests.support import TinyEncoder, make_events, tiny_scorer

EVENTS = make_events(accounts=3, each=5)
TOLERANCE = 1e-5
RUNS = iter(range(10**9))
"""Names of accounts that no other example has used: a store outlives an example."""


def renamed(events: list[Event], run: int) -> list[Event]:
    fields = [(e.event_id, f"{run}/{e.account_id}", e.timestamp, e.prompt) for e in events]
    return [
        Event(*own, system=event.system) for own, event in zip(fields, events, strict=True)
    ]  # fmt: skip


def first_deliveries(events: list[Event]) -> list[Event]:
    first: dict[bytes, Event] = {}
    for event in events:
        first.setdefault(event_digest(event), event)
    return list(first.values())


deliveries = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.lists(st.integers(0, len(EVENTS) - 1), min_size=1, max_size=6),
    ),
    max_size=8,
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(deliveries=deliveries, rest=st.permutations(range(len(EVENTS))))
def test_any_delivery_counts_each_event_once(
    opener: Opener, detector: Detector, deliveries: list[tuple[int, list[int]]], rest: list[int]
) -> None:
    """Two scorers on one store; at the end every event has come at least once."""
    own = renamed(EVENTS, next(RUNS))
    scorers = [Scorer(detector, opener()), Scorer(detector, opener())]
    came: list[Event] = []
    for number, chosen in [*deliveries, (0, rest)]:
        batch = [own[position] for position in chosen]
        came += batch
        verdicts = scorers[number].update(batch)
        counts = Counter(event.account_id for event in first_deliveries(came))
        # The last event of each account in a batch gets its verdict as it stands then.
        last = {v.account_id: v.events for v in verdicts}
        assert last == {name: counts[name] for name in last}
    alone = Scorer(detector, MemoryStore())
    alone.ingest(first_deliveries(came))
    for expected in alone.verdicts():
        for scorer in scorers:
            found = scorer.verdict(expected.account_id)
            assert found.events == expected.events == 5
            assert found.risk == pytest.approx(expected.risk, abs=TOLERANCE)
            assert found.peak_risk == pytest.approx(expected.peak_risk, abs=TOLERANCE)
            assert found.truncated == expected.truncated
            assert {item.event_id for item in found.evidence} == {
                item.event_id for item in expected.evidence
            }


def test_an_event_seen_before_gets_the_present_verdict(store: StateStore, bundle: Bundle) -> None:
    scorer = tiny_scorer(bundle, store)
    events = make_events(accounts=2, each=10)
    scorer.update(events)
    before = {name: scorer.verdict(name) for name in ("a0", "a1")}
    held = store.read(["a0", "a1"], []).held
    again = scorer.update(events[:5])
    assert again == [before[event.account_id] for event in events[:5]]
    assert scorer.duplicates == 5
    # Nothing was written.
    assert store.read(["a0", "a1"], []).held == held
    # The same id in another account is another event.
    other = Event(events[0].event_id, "elsewhere", 1.7e9, "a prompt")
    assert scorer.update([other])[0].events == 1


def test_ids_that_only_a_replacement_would_make_equal_are_apart(bundle: Bundle) -> None:
    events = [Event(name, "a", 1.7e9, "a prompt") for name in ("?", "\ud800", "\ufffd", "\udfff")]
    assert tiny_scorer(bundle).update(events)[-1].events == 4
    assert len({event_digest(event) for event in events}) == 4


class Interrupted:
    """A store before whose writes something else happens."""

    def __init__(self, store: StateStore, happens: Callable[[], None]) -> None:
        self._store, self._happens = store, happens

    def write(self, writes: Sequence[Write]) -> None:
        self._happens()
        self._store.write(writes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_a_conflict_is_scored_anew(opener: Opener, bundle: Bundle) -> None:
    """Another scorer writes between reading and writing: both batches count."""
    events = make_events(accounts=2, each=10)
    other = tiny_scorer(bundle, opener())
    pending = [events[:6], events[3:12]]

    def interrupt() -> None:
        if pending:
            other.update(pending.pop(0))

    scorer = tiny_scorer(bundle, Interrupted(opener(), interrupt))
    verdicts = scorer.update(events[8:20])
    alone = tiny_scorer(bundle)
    alone.update(events)
    assert not pending
    assert verdicts[-1].events == 10
    for expected in alone.verdicts():
        found = scorer.verdict(expected.account_id)
        assert found.events == expected.events
        assert found.risk == pytest.approx(expected.risk, abs=TOLERANCE)


def test_endless_conflicts_are_told(
    store: StateStore, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def conflict(_: object) -> None:
        calls.append(1)
        raise ConflictError("another was faster")

    monkeypatch.setattr(store, "write", conflict)
    with pytest.raises(ConflictError):
        tiny_scorer(bundle, store).update(make_events(accounts=1, each=1))
    assert len(calls) == 8


def test_scorers_in_threads_lose_nothing(opener: Opener, bundle: Bundle) -> None:
    """Each delivers all events in an order of its own, in small batches, to the same accounts."""
    events = make_events(accounts=4, each=30)
    errors: list[BaseException] = []

    def deliver(seed: int, scorer: Scorer) -> None:
        try:
            own = events.copy()
            random.Random(seed).shuffle(own)
            while own:
                try:
                    scorer.update(own[:7])
                except ConflictError:
                    # Told after several tries; whoever delivers tries again.
                    continue
                del own[:7]
        except BaseException as error:
            errors.append(error)

    scorers = [Scorer(Detector(bundle, TinyEncoder()), opener()) for _ in range(3)]
    threads = [threading.Thread(target=deliver, args=pair) for pair in enumerate(scorers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert {verdict.account_id: verdict.events for verdict in scorers[0].verdicts()} == {
        f"a{number}": 30 for number in range(4)
    }
    digests = [event_digest(event) for event in events]
    assert len(scorers[0].store.read([], digests).seen) == len(events)


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_processes_share_a_store(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Two processes, both at work on overlapping batches of the same accounts at once."""
    url = f"sqlite:///{tmp_path / 'state.db'}" if kind == "sqlite" else None
    url = url or request.getfixturevalue("redis_url")
    events = make_events(accounts=3, each=40)
    with Child(url) as one, Child(url) as other:
        for child in (one, other):
            child.expect("ready")
        for start in range(0, len(events), 10):
            batches = ((one, events[start : start + 10]), (other, events[start : start + 15]))
            for child, batch in batches:
                child.send(batch)
            for child, batch in batches:
                while child.expect("done", "refused") == "refused":
                    child.send(batch)
    store = open_store(url)
    assert len(store.read([], [event_digest(event) for event in events]).seen) == len(events)
    assert list(store.accounts()) == ["a0", "a1", "a2"]
    kept = [event for name in store.accounts() for event in store.replay(name)]
    store.close()
    assert len(kept) == len(events)
