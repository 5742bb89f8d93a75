"""The bound of the memory store: who makes room for whom."""

from __future__ import annotations

import pytest

from stillwatch.data.errors import StoreError
from stillwatch.serving.stores.base import ConflictError, Counted, Write
from stillwatch.serving.stores.memory import SUSPECT, MemoryStore
from tests.serving.stores.test_contract import digest


def put(store: MemoryStore, name: str, suspicion: float = 0.0) -> None:
    (held,) = store.read([name], []).held
    store.write([Write(name, held.version if held else 0, b"", suspicion, [])])


def test_new_accounts_never_push_out_suspects() -> None:
    store = MemoryStore(most=100)
    suspects = [f"suspect {number}" for number in range(30)]
    for number, name in enumerate(suspects):
        put(store, name, SUSPECT + number)
    for number in range(2000):
        put(store, f"passer-by {number}", 0.4)
        assert len(list(store.accounts())) <= 100
    assert set(suspects) <= set(store.accounts())
    assert store.forgotten == 2030 - len(list(store.accounts()))


def test_where_only_suspects_are_left_new_accounts_are_refused() -> None:
    store = MemoryStore(most=10)
    for number in range(9):
        put(store, f"suspect {number}", 1.5)
    put(store, "harmless")
    put(store, "suspect 9", 1.5)
    assert "harmless" not in set(store.accounts())
    for _ in range(3):
        with pytest.raises(StoreError, match=r"room for 1 new accounts.*suspect"):
            put(store, "one more")
    # Those that are there go on.
    put(store, "suspect 3", 1.0)
    # One that is cleared makes room again.
    put(store, "suspect 4", 0.1)
    put(store, "one more")
    assert set(store.accounts()) == {"one more", *(f"suspect {n}" for n in range(10) if n != 4)}


def test_a_batch_without_room_changes_nothing() -> None:
    store = MemoryStore(most=4)
    for number in range(3):
        put(store, f"suspect {number}", 1.0)
    batch = [Write(f"new {n}", 0, b"", 0.0, [Counted(digest(n), b"")]) for n in range(2)]
    with pytest.raises(StoreError):
        store.write([Write("suspect 0", 1, b"changed", 1.0, []), *batch])
    assert list(store.accounts()) == [f"suspect {number}" for number in range(3)]
    assert store.read(["suspect 0"], [digest(0), digest(1)]).held[0] == (1, b"")
    assert store.forgotten == 0


def test_the_longest_unseen_go_first_and_the_least_suspect_of_them() -> None:
    store = MemoryStore(most=6)
    for number in range(6):
        put(store, f"a{number}", 0.3 if number == 0 else 0.1)
    put(store, "a1", 0.1)
    # Of the two that were longest unseen, a0 and a2, it is a2.
    put(store, "new")
    assert list(store.accounts()) == ["a0", "a1", "a3", "a4", "a5", "new"]


def test_accounts_of_the_same_batch_do_not_make_room() -> None:
    store = MemoryStore(most=3)
    for name in "abc":
        put(store, name)
    store.write([Write("a", 1, b"", 0.0, []), Write("d", 0, b"", 0.0, [])])
    assert list(store.accounts()) == ["a", "c", "d"]


def test_only_so_many_events_are_known_again() -> None:
    store = MemoryStore(remembered=3)
    for number in range(5):
        store.write([Write("a", number, b"", 0.0, [Counted(digest(number), b"")])])
    digests = [digest(number) for number in range(5)]
    assert store.read([], digests).seen == set(digests[2:])
    with pytest.raises(ConflictError):
        store.write([Write("a", 5, b"", 0.0, [Counted(digest(4), b"")])])
    forgetful = MemoryStore(remembered=0)
    for version in range(2):
        forgetful.write([Write("a", version, b"", 0.0, [Counted(digest(1), b"")])])
    assert not forgetful.read([], digests).seen
