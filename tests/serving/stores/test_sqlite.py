"""What is particular to SQLite: its file, its locks, what is forgotten, and a full disk."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from stillwatch.data.errors import StoreError
from stillwatch.data.events import Event
from stillwatch.model.bundle import Bundle
from stillwatch.model.detector import Detector
from stillwatch.serving.scorer import Scorer, event_digest
from stillwatch.serving.stores import sqlite as module
from stillwatch.serving.stores.base import ConflictError, Write
from stillwatch.serving.stores.sqlite import SCHEMA, SqliteStore
from tests.serving.stores.test_contract import counted, digest, held, write
from tests.support import make_events, tiny_scorer

DAY_S = 86_400.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path, kept=8)
    yield store
    store.close()


def ask(path: Path, statement: str) -> Any:
    """The answer by a connection of its own."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


def test_its_files_are_its_owners_alone(store: SqliteStore, path: Path) -> None:
    store.write([write("a", 0, b"", "a prompt")])
    files = sorted(path.parent.glob("state.db*"))
    assert [file.name for file in files] == ["state.db", "state.db-shm", "state.db-wal"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_write_is_on_the_disk_when_it_returns(store: SqliteStore, path: Path) -> None:
    connection = store._connection
    assert connection is not None
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    store.write([write("a", 0)])
    assert ask(path, "SELECT count(*) FROM accounts") == [(1,)]


def test_many_accounts_are_read_in_few_statements(store: SqliteStore) -> None:
    names = [f"a{number}" for number in range(1000)]
    store.write([write(name, 0, b"", name) for name in names])
    statements: list[str] = []
    connection = store._connection
    assert connection is not None
    connection.set_trace_callback(statements.append)
    found = store.read(names, [digest(name) for name in names])
    connection.set_trace_callback(None)
    assert None not in found.held
    assert len(found.seen) == 1000
    assert len(statements) <= 4


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM events WHERE place >= 1 AND place < 9",
        "DELETE FROM digests WHERE digest IN "
        "(SELECT digest FROM digests WHERE arrived < 1 ORDER BY arrived LIMIT 9)",
        "SELECT number, id FROM accounts WHERE number > 5 ORDER BY number LIMIT 9",
        "SELECT id FROM accounts WHERE id IN (1, 2)",
        "UPDATE accounts SET version = 2 WHERE id = 1 AND version = 1",
    ],
)
def test_nothing_is_scanned(store: SqliteStore, path: Path, statement: str) -> None:
    plan = [row[-1] for row in ask(path, f"EXPLAIN QUERY PLAN {statement}")]
    assert plan
    assert not [step for step in plan if step.startswith("SCAN") or "TEMP B-TREE" in step]


def test_events_are_forgotten_by_when_they_arrived(path: Path) -> None:
    now = [1000 * DAY_S]
    store = SqliteStore(path, remembered_days=90, clock=lambda: now[0])
    store.write([write("a", 0, b"", "old")])
    now[0] += 89.9 * DAY_S
    store.write([write("a", 1, b"", "later")])
    digests = [digest("old"), digest("later")]
    assert len(store.read([], digests).seen) == 2
    with pytest.raises(ConflictError):
        store.write([write("a", 2, b"", "old")])
    now[0] += 0.2 * DAY_S
    store.write([write("a", 2, b"", "latest")])
    assert store.read([], digests).seen == {digest("later")}
    store.close()


@pytest.mark.parametrize("days", [-3650.0, -1.0, 1.0, 3650.0])
def test_a_clock_that_is_off_expires_nothing(
    store: SqliteStore, bundle: Bundle, days: float
) -> None:
    """The time that an event names plays no part in whether it is known again."""
    scorer = tiny_scorer(bundle, store)
    events = make_events(accounts=1, each=5)
    shifted = [
        Event(f"x{number}", "a0", max(event.timestamp + days * DAY_S, 0.0), event.prompt)
        for number, event in enumerate(events)
    ]
    scorer.update([*events, *shifted])
    assert scorer.update([*shifted, *events])[-1].events == 10


def test_a_machines_clock_a_day_off_forgets_nothing(path: Path) -> None:
    now = [1000 * DAY_S]
    store = SqliteStore(path, clock=lambda: now[0])
    for version, off in enumerate((0.0, 1.0, -1.0, 0.0)):
        now[0] = (1000 + off) * DAY_S
        store.write([write("a", version, b"", version)])
    assert len(store.read([], [digest(version) for version in range(4)]).seen) == 4
    store.close()


def test_what_is_due_goes_a_little_at_a_time(path: Path) -> None:
    now = [1000 * DAY_S]
    store = SqliteStore(path, remembered_days=1, clock=lambda: now[0])
    store.write([write("a", 0, b"", *range(1000))])
    now[0] += 2 * DAY_S
    left = [1000]
    for version in range(1, 40):
        store.write([write("a", version, b"", -version)])
        ((count,),) = ask(path, f"SELECT count(*) FROM digests WHERE arrived < {now[0] - DAY_S}")
        left.append(count)
    assert left[-1] == 0
    assert max(before - after for before, after in pairwise(left)) <= 64
    # Many at once are outpaced all the same.
    now[0] += 2 * DAY_S
    store.write([Write("b", 0, b"", 0.0, counted(*(("b", n) for n in range(5000))))])
    now[0] += 2 * DAY_S
    store.write([Write("c", 0, b"", 0.0, counted(*(("c", n) for n in range(2600))))])
    assert ask(path, "SELECT count(*) FROM digests") == [(2600,)]
    store.close()


def test_prompts_that_are_not_kept_leave_the_file(path: Path) -> None:
    store = SqliteStore(path, kept=1)
    canary = b"canary 5f3a9 of a prompt " * 20
    store.write([Write("a", 0, b"", 0.0, [*counted("e1")[:0], *_kept(canary)])])
    store.write([Write("a", 1, b"", 0.0, _kept(b"another"))])
    store.close()
    assert b"canary 5f3a9" not in path.read_bytes()


def _kept(fields: bytes) -> list[Any]:
    return [event._replace(kept=fields) for event in counted(fields)]


def test_another_programs_database_is_left_alone(path: Path) -> None:
    ask(path, "CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"state.db must be a file that Stillwatch made"):
        SqliteStore(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"not a database, but a letter " * 50, b"\0" * 4096])
def test_what_is_no_database_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"state.db must be an intact SQLite file"):
        SqliteStore(path)
    assert path.read_bytes() == content


def test_a_newer_schema_is_refused(store: SqliteStore, path: Path) -> None:
    store.close()
    ask(path, f"PRAGMA user_version = {SCHEMA + 1}")
    with pytest.raises(StoreError, match=rf"must be of schema {SCHEMA}, however.* {SCHEMA + 1};"):
        SqliteStore(path)


def test_a_damaged_file_is_told(store: SqliteStore, path: Path) -> None:
    store.write([write(f"a{number}", 0, bytes(9000)) for number in range(50)])
    store.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))
    damaged = SqliteStore(path)
    for _ in range(2):
        with pytest.raises(StoreError, match=r"state.db must be an intact SQLite file"):
            damaged.read([f"a{number}" for number in range(50)], [])
    with pytest.raises(StoreError):
        damaged.write([write("a1", 1)])
    damaged.close()


def test_a_path_that_cannot_be_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere" / "state.db"):
        with pytest.raises(StoreError, match=r"must be .* writ.*, however: (No such|SQLITE_CANT)"):
            SqliteStore(path)


def test_opening_again_keeps_the_locks_of_this_process(store: SqliteStore, path: Path) -> None:
    """Whoever closes a file drops all locks that the process holds on it: another process would
    take the store for unused, and remove its log."""
    store.write([write("a", 0)])
    SqliteStore(path).close()
    end = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM checks')"
    subprocess.run([sys.executable, "-c", end + "; c.close()", str(path)], check=True)
    assert path.with_name("state.db-wal").exists()
    store.write([write("a", 1)])
    assert ask(path, "SELECT version FROM accounts") == [(2,)]


def test_a_file_that_was_removed_is_told(store: SqliteStore, path: Path) -> None:
    """An empty one in its place would count everything anew."""
    store.write([write("a", 0, b"", "e1")])
    path.unlink()
    for _ in range(3):
        with pytest.raises(StoreError, match=r"state\.db must be .*, however"):
            store.check()
    assert not path.exists()
    path.touch()
    with pytest.raises(StoreError, match="must stay while it is in use, however: it is empty"):
        store.write([write("a", 0, b"", "e1")])


def test_a_file_put_in_its_place_is_used(store: SqliteStore, path: Path) -> None:
    store.write([write("a", 0, b"now", "e1")])
    restored = SqliteStore(path.with_name("backup.db"))
    restored.write([write("a", 0, b"then", "e0")])
    restored.close()
    for file in path.parent.glob("state.db*"):
        file.unlink()
    path.with_name("backup.db").rename(path)
    assert held(store, "a") == (1, b"then")
    store.write([write("a", 1, b"next", "e1")])
    assert ask(path, "SELECT version FROM accounts") == [(2,)]


def test_a_closed_store_says_so(store: SqliteStore) -> None:
    store.close()
    with pytest.raises(StoreError, match="it was closed"):
        store.read(["a"], [])


def test_a_lock_held_too_long_is_told_and_got_over(path: Path) -> None:
    store = SqliteStore(path, busy_timeout_s=0.05)
    store.write([write("a", 0)])
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    acts: list[Callable[[], None]] = [lambda: store.write([write("a", 1, b"", "e")]), store.check]
    for act in acts:
        with pytest.raises(StoreError, match="another process holds it"):
            act()
    # Reading goes on meanwhile.
    assert held(store, "a") is not None
    holder.execute("ROLLBACK")
    holder.close()
    store.write([write("a", 1, b"", "e")])
    store.check()
    store.close()


def test_a_file_can_be_made_by_many_at_once(path: Path) -> None:
    errors: list[BaseException] = []
    ready = threading.Barrier(8)

    def make(number: int) -> None:
        try:
            ready.wait()
            own = SqliteStore(path)
            own.write([write(f"a{number}", 0)])
            own.close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert ask(path, "SELECT count(*) FROM accounts") == [(8,)]


class Failing:
    """A connection whose statements fail in the way that SQLite reports a broken disk."""

    def __init__(self, connection: sqlite3.Connection, begins: str, name: str) -> None:
        self._connection, self._begins, self._name = connection, begins, name

    def execute(self, statement: str, *values: Any) -> Any:
        if statement.startswith(self._begins):
            error = sqlite3.OperationalError("a message with the prompt in it")
            error.sqlite_errorname = self._name
            raise error
        return self._connection.execute(statement, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@pytest.mark.parametrize("begins", ["BEGIN", "INSERT", "DELETE FROM digests", "COMMIT"])
@pytest.mark.parametrize("name", ["SQLITE_IOERR_WRITE", "SQLITE_FULL", "SQLITE_READONLY_DBMOVED"])
def test_after_an_error_the_store_goes_on(store: SqliteStore, begins: str, name: str) -> None:
    store.write([write("a", 0, b"first", "e1")])
    store._connection = Failing(store._connection, begins, name)  # type: ignore
    with pytest.raises(StoreError) as caught:
        store.write([write("b", 0, b"new", "e2"), write("a", 1, b"second", "e3")])
    assert "prompt" not in str(caught.value)
    assert "state.db must" in str(caught.value)
    if isinstance(store._connection, Failing):
        # Room was made.
        store._connection = store._connection._connection
    assert held(store, "b") is None
    assert not store.read([], [digest("e2"), digest("e3")]).seen
    store.write([write("b", 0, b"new", "e2"), write("a", 1, b"second", "e3")])
    assert held(store, "a") == (2, b"second")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """8 MiB of it."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small disk cannot be mounted: that needs to be root")
    yield folder
    # Also if a test that failed has left a file open.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_loses_nothing_that_was_acknowledged(
    small_disk: Path, detector: Detector
) -> None:
    store = SqliteStore(small_disk / "state.db", kept=64)
    scorer = Scorer(detector, store)
    events = make_events(accounts=100, each=36)
    batches = [events[start : start + 50] for start in range(0, len(events), 50)]
    acknowledged: list[Event] = []
    filler = small_disk / "filler"
    for _ in range(3):
        # A little room is left: it runs out in the midst of the writes.
        _fill(filler, leave=256 * 1024)
        told: list[str] = []
        while batches and len(told) < 3:
            try:
                scorer.update(batches[0])
            except StoreError as error:
                told.append(str(error))
            else:
                acknowledged += batches.pop(0)
        assert len(told) == 3, "the disk never filled"
        assert all("must have room on its disk" in message for message in told)
        with pytest.raises(StoreError, match="must have room"):
            store.check()
        # What was acknowledged can be read on.
        for event in acknowledged:
            assert scorer.verdict(event.account_id).events > 0
        filler.unlink()
        store.check()
        for _ in range(4):
            scorer.update(batches[0])
            acknowledged += batches.pop(0)
    digests = [event_digest(event) for event in acknowledged]
    for one in (store, SqliteStore(small_disk / "state.db")):
        assert len(one.read([], digests).seen) == len(acknowledged)
        expected = Counter(event.account_id for event in acknowledged)
        found = Scorer(detector, one).verdicts()
        assert {verdict.account_id: verdict.events for verdict in found} == expected
        one.close()


def _fill(path: Path, leave: int) -> None:
    block = b"\1" * 4096
    with path.open("wb", buffering=0) as file:
        space = os.statvfs(path)
        left = space.f_bavail * space.f_frsize - leave
        for _ in range(left // len(block)):
            file.write(block)


def test_a_store_cannot_be_made_on_a_full_disk(small_disk: Path) -> None:
    _fill(small_disk / "filler", leave=0)
    with pytest.raises(StoreError):
        SqliteStore(small_disk / "state.db")
    (small_disk / "filler").unlink()
    SqliteStore(small_disk / "state.db").close()


def test_the_wait_for_a_lock_ends(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = sqlite3.OperationalError("locked")
    error.sqlite_errorname = "SQLITE_BUSY"

    def busy() -> None:
        raise error

    with pytest.raises(sqlite3.OperationalError):
        module._patiently(busy, 0.03)
