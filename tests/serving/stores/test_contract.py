"""What every store does, whatever it keeps its states in."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillwatch.data.errors import ConfigError
from stillwatch.data.events import MAX_ID_BYTES
from stillwatch.serving.stores import base, open_store
from stillwatch.serving.stores.base import ConflictError, Counted, Held, StateStore, Write
from stillwatch.serving.stores.memory import MemoryStore
from tests.serving.stores.conftest import Opener

ODD_IDS = [
    "a", "A", " a", "a ", "é", "e\u0301", "\0", "a\0b", "\n", "%s", "'; DROP TABLE accounts; --",
    "a:b", "*", "{x}", "\u202e", "\ud800", "\udfff", "?", "\U0001f600" * (MAX_ID_BYTES // 4),
    "\0" * MAX_ID_BYTES, "Straße", "STRASSE", "-1", "1", "1.0",
]  # fmt: skip


def digest(name: object) -> bytes:
    return hashlib.blake2b(repr(name).encode(), digest_size=16).digest()


def counted(*names: object) -> list[Counted]:
    return [Counted(digest(name), repr(name).encode()) for name in names]


def write(account: str, version: int, value: bytes = b"state", *events: object) -> Write:
    return Write(account, version, value, 0.25, counted(*events))


def held(store: StateStore, account: str) -> Held | None:
    (found,) = store.read([account], []).held
    return found


def test_nothing_is_known_at_first(store: StateStore) -> None:
    found = store.read(["a", "b"], [digest(1)])
    assert found.held == [None, None]
    assert found.seen == frozenset()
    assert store.replay("a") == []
    assert list(store.accounts()) == []
    assert store.read([], []) == ([], frozenset())
    store.write([])


def test_what_is_written_is_read(opener: Opener) -> None:
    store, other = opener(), opener()
    value = bytes(range(256)) * 40
    store.write([write("a", 0, value, "e1", "e2"), write("b", 0, b"", "e3")])
    wanted = [digest(name) for name in ("e1", "e4", "e3")]
    for one in (store, other, opener()):
        found = one.read(["b", "nobody", "a"], wanted)
        assert found.held == [Held(1, b""), None, Held(1, value)]
        assert found.seen == {digest("e1"), digest("e3")}
    other.write([write("a", 1, b"next", "e5")])
    assert held(store, "a") == Held(2, b"next")


@pytest.mark.parametrize(
    "stale",
    [
        write("a", 0, b"lost", "new"),
        write("a", 2, b"lost", "new"),
        write("unknown", 1, b"lost", "new"),
        # An event of another account, and one of the account itself.
        write("c", 0, b"lost", "new", "e2"),
        write("a", 1, b"lost", "e1"),
    ],
)
def test_what_another_changed_is_not_overwritten(store: StateStore, stale: Write) -> None:
    store.write([write("a", 0, b"first", "e1"), write("b", 0, b"first", "e2")])
    with pytest.raises(ConflictError):
        store.write([write("b", 1, b"lost", "e3"), write("d", 0, b"lost", "e4"), stale])
    # None of it is there.
    digests = [digest(name) for name in ("e1", "e2", "e3", "e4", "new")]
    found = store.read(["a", "b", "c", "d", "unknown"], digests)
    assert found.held == [Held(1, b"first"), Held(1, b"first"), None, None, None]
    assert found.seen == {digest("e1"), digest("e2")}
    assert list(store.accounts()) == ["a", "b"]
    assert store.replay("b") == [b"'e2'"]
    # And nothing of it stands in the way.
    store.write([write("b", 1, b"second", "e3"), write("d", 0, b"first", "e4", "new")])
    assert held(store, "b") == Held(2, b"second")


def test_latest_events_are_kept_in_their_order(opener: Opener) -> None:
    store = opener(kept=5)
    store.write([write("a", 0, b"", *range(3)), write("b", 0, b"", "other")])
    assert store.replay("a") == [b"0", b"1", b"2"]
    store.write([write("a", 1, b"", 3, 4, 5)])
    assert store.replay("a") == [b"1", b"2", b"3", b"4", b"5"]
    store.write([write("a", 2, b"", *range(6, 40))])
    assert store.replay("a") == [b"35", b"36", b"37", b"38", b"39"]
    store.write([write("a", 3, b"")])
    assert store.replay("a") == [b"35", b"36", b"37", b"38", b"39"]
    assert store.replay("b") == [b"'other'"]


def test_none_may_be_kept(opener: Opener) -> None:
    store = opener(kept=0)
    store.write([write("a", 0, b"", 1, 2)])
    assert store.kept == 0
    assert store.replay("a") == []


@pytest.mark.parametrize("kept", [0, 2])
def test_fewer_may_be_kept_than_before(opener: Opener, kept: int) -> None:
    store = opener(kept=5)
    store.write([write("a", 0, b"", *range(5))])
    if isinstance(store, MemoryStore):
        pytest.skip("memory is not opened again")
    fewer = opener(kept=kept)
    assert len(fewer.replay("a")) == kept
    fewer.write([write("a", 1, b"", 5)])
    # Prompts that are not to be kept are gone, not only unread.
    expected = [b"4", b"5"][2 - kept :]
    assert fewer.replay("a") == store.replay("a") == expected


def test_accounts_come_in_the_order_of_their_first_events(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("sqlite", "redis"):
        monkeypatch.setattr(f"stillwatch.serving.stores.{module}._ASKED_AT_ONCE", 3)
    store.write([write(name, 0) for name in ("m", "c", "x")])
    store.write([write(name, 0) for name in ("a", "z", "k", "b")])
    store.write([write("c", 1), write("d", 0)])
    assert list(store.accounts()) == ["m", "c", "x", "a", "z", "k", "b", "d"]
    names = [*store.accounts(), "nobody"]
    known = [digest(number) for number in range(7)]
    store.write([write("e", 0, b"", *range(0, 7, 2))])
    found = store.read(names, known)
    assert [item.version if item else 0 for item in found.held] == [1, 2, 1, 1, 1, 1, 1, 1, 0]
    assert found.seen == {digest(number) for number in range(0, 7, 2)}


def test_odd_ids_are_kept_apart(store: StateStore) -> None:
    store.write([write(name, 0, repr(name).encode(), name) for name in ODD_IDS])
    found = store.read(ODD_IDS, [digest(name) for name in ODD_IDS])
    assert found.held == [Held(1, repr(name).encode()) for name in ODD_IDS]
    assert len(found.seen) == len(ODD_IDS)
    assert list(store.accounts()) == ODD_IDS
    assert [store.replay(name) for name in ODD_IDS] == [[repr(n).encode()] for n in ODD_IDS]


any_text = st.text(st.characters(categories=None), max_size=MAX_ID_BYTES // 4)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(any_text, unique=True, max_size=6), value=st.binary(max_size=300))
def test_any_id_is_written_and_read(opener: Opener, names: list[str], value: bytes) -> None:
    store = opener()
    before = [item.version if item else 0 for item in store.read(names, []).held]
    store.write([write(name, version, value) for name, version in zip(names, before, strict=True)])
    assert store.read(names, []).held == [Held(version + 1, value) for version in before]
    assert set(names) <= set(store.accounts())


def test_writers_at_once_lose_nothing(opener: Opener) -> None:
    """Threads with a store each read, add one and write, again where another was faster."""
    rounds, writers = 12, 4
    conflicts: Counter[int] = Counter()
    errors: list[BaseException] = []

    def add(number: int, store: StateStore) -> None:
        try:
            for turn in range(rounds):
                while True:
                    own = held(store, "shared") or Held(0, b"0")
                    value = b"%d" % (int(own.value) + 1)
                    try:
                        store.write([write("shared", own.version, value, (number, turn))])
                        break
                    except ConflictError:
                        conflicts[number] += 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=add, args=(n, opener())) for n in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert held(opener(), "shared") == Held(rounds * writers, b"%d" % (rounds * writers))


def test_threads_share_one_store(store: StateStore) -> None:
    errors: list[BaseException] = []

    def use(number: int) -> None:
        try:
            for version in range(10):
                store.write([write(f"a{number}", version, b"%d" % version, (number, version))])
                assert held(store, f"a{number}") == Held(version + 1, b"%d" % version)
                store.check()
                assert list(store.accounts())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=use, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_it_answers_a_check_and_closes_twice(store: StateStore) -> None:
    store.check()
    store.close()
    store.close()


@pytest.mark.parametrize(
    "url",
    ["", "state.db", "memory://x", "sqlite:///", "sqlite://state.db", "redis://", "mysql://h/0",
     "redis://host:not-a-port/0"],
)  # fmt: skip
def test_another_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="must be"):
        open_store(url)


def test_a_url_names_a_relative_path(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("sqlite:///state.db", kept=3)
    assert store.kept == 3
    store.close()
    assert (tmp_path / "state.db").is_file()


def test_ids_as_bytes_are_told_apart() -> None:
    assert len({base.id_bytes(name) for name in ODD_IDS}) == len(ODD_IDS)
    assert [base.id_text(base.id_bytes(name)) for name in ODD_IDS] == ODD_IDS


class TestErase:
    def test_nothing_of_the_account_is_left(self, opener: Opener) -> None:
        store = opener()
        store.write([write("a", 0, b"state of a", "e1", "e2"), write("b", 0, b"other", "e3")])
        assert store.erase("a") is True
        for one in (store, opener()):
            assert one.read(["a", "b"], []).held == [None, Held(1, b"other")]
            assert one.replay("a") == []
            assert one.replay("b") == [b"'e3'"]
            assert list(one.accounts()) == ["b"]
        assert store.erase("a") is False
        assert store.erase("nobody") is False

    @pytest.mark.parametrize("name", ODD_IDS)
    def test_only_that_account_goes(self, store: StateStore, name: str) -> None:
        store.write([write(own, 0, b"x", own) for own in ODD_IDS])
        assert store.erase(name)
        assert list(store.accounts()) == [own for own in ODD_IDS if own != name]
        assert held(store, name) is None

    def test_its_events_are_not_counted_again(self, store: StateStore) -> None:
        store.write([write("a", 0, b"x", "e1")])
        store.erase("a")
        assert store.read(["a"], [digest("e1")]).seen == {digest("e1")}
        with pytest.raises(ConflictError):
            store.write([write("a", 0, b"x", "e1")])
        assert held(store, "a") is None

    def test_what_was_read_before_is_not_written_after(self, store: StateStore) -> None:
        store.write([write("a", 0, b"x", "e1")])
        store.erase("a")
        with pytest.raises(ConflictError):
            store.write([write("a", 1, b"y", "e2")])
        assert held(store, "a") is None

    def test_it_may_come_anew(self, opener: Opener) -> None:
        store = opener(kept=3)
        store.write([write("z", 0, b"x", "e0"), write("a", 0, b"x", "e1", "e2")])
        store.erase("a")
        store.write([write("a", 0, b"y", "e3")])
        assert held(store, "a") == Held(1, b"y")
        assert store.replay("a") == [b"'e3'"]
        assert sorted(store.accounts()) == ["a", "z"]


@pytest.mark.parametrize("accounts", [1, 300])
def test_no_file_holds_what_is_erased(tmp_path: Path, accounts: int) -> None:
    needle = b"heliotrope petticoat"
    store = open_store(f"sqlite:///{tmp_path / 'state.db'}", kept=8)
    try:
        for version in range(3):
            # Larger than a page, and moved about as others come between.
            states = [needle, *[b"y"] * (accounts - 1)]
            store.write(
                [
                    write(f"a{n}", version, b"x" * 9000 + own, (n, version))
                    for n, own in enumerate(states)
                ]
            )
        events = [Counted(digest(("own", n)), needle + b"z" * 300) for n in range(20)]
        store.write([Write("a0", 3, needle * 500, 0.5, events)])
        store.write([write("a0", 4, needle, "last")])
        assert any(needle in path.read_bytes() for path in tmp_path.iterdir())
        assert store.erase("a0")
        assert [p.name for p in tmp_path.iterdir() if needle in p.read_bytes()] == []
        assert len(list(store.accounts())) == accounts - 1
    finally:
        store.close()
