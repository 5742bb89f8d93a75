"""Account states in one SQLite file: for one machine, where several processes may share it."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from stillwatch.data.errors import StoreError
from stillwatch.serving.stores.base import (
    REMEMBERED_DAYS,
    ConflictError,
    Held,
    Snapshot,
    Write,
    id_bytes,
    id_text,
)
from stillwatch.serving.transactions import transaction

SCHEMA = 1
"""Raised when the tables change; kept in the file's user_version."""
APPLICATION_ID = 0x53576368
"""Tells these files from other SQLite files."""
BUSY_TIMEOUT_S = 5.0
"""How long another process's write is waited for."""
LEAST_ROOM = 1024 * 1024
"""Bytes that the disk must have free for `check` to pass."""

_MAKING = threading.Lock()
_DAY_S = 86_400.0
_ASKED_AT_ONCE = 1000
_PRUNED_AT_LEAST = 64
# An event's row id is its account's number and its sequence: an account's events lie together.
_SEQUENCE_BITS = 32

_TABLES = """
CREATE TABLE accounts (
    number INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    version INTEGER NOT NULL,
    counted INTEGER NOT NULL,
    suspicion REAL NOT NULL,
    state BLOB NOT NULL
);
CREATE TABLE digests (digest BLOB PRIMARY KEY, arrived REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX digests_by_arrival ON digests (arrived);
CREATE TABLE events (place INTEGER PRIMARY KEY, fields BLOB NOT NULL);
CREATE TABLE checks (number INTEGER PRIMARY KEY, at REAL NOT NULL);
"""


class SqliteStore:
    """States in the file at `path`, made if it is not there, for its owner's eyes alone: it holds
    prompts. A write is on the disk (WAL, synchronous=FULL) when `write` returns.

    `kept` latest events of each account are held for replays. An event is known again for
    `remembered_days` from when it arrived here, by this machine's `clock`: what time the event
    itself names plays no part. Any thread may call any method. After an error (no room, a lock
    held too long) the same store goes on as soon as its cause is gone.
    """

    def __init__(
        self,
        path: str | Path,
        kept: int = 0,
        remembered_days: float = REMEMBERED_DAYS,
        clock: Callable[[], float] = time.time,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
    ) -> None:
        self.path = Path(path)
        self.kept = kept
        self._remembered_s = remembered_days * _DAY_S
        self._clock = clock
        self._busy_timeout_s = busy_timeout_s
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._closed = False
        self._making = True
        self._opened: tuple[int, int] | None = None
        # A file that cannot be used is told at once.
        with self._connected():
            pass
        # If it goes away later, an empty one in its place would count everything anew.
        self._making = False

    def read(self, accounts: Sequence[str], digests: Sequence[bytes]) -> Snapshot:
        wanted = [id_bytes(name) for name in accounts]
        held: dict[bytes, Held] = {}
        seen: set[bytes] = set()
        with self._connected() as connection, transaction(connection, "BEGIN"):
            for some in _parts(wanted):
                query = f"SELECT id, version, state FROM accounts WHERE id IN ({_marks(some)})"
                for name, version, value in connection.execute(query, some):
                    held[name] = Held(version, value)
            for some in _parts(digests):
                query = f"SELECT digest FROM digests WHERE digest IN ({_marks(some)})"
                seen.update(digest for (digest,) in connection.execute(query, some))
        return Snapshot([held.get(name) for name in wanted], frozenset(seen))

    def write(self, writes: Sequence[Write]) -> None:
        if not writes:
            return
        arrived = self._clock()
        with self._connected() as connection, transaction(connection, "BEGIN IMMEDIATE"):
            counted = 0
            for write in writes:
                self._put(connection, write)
                counted += len(write.counted)
            new = ((event.digest, arrived) for write in writes for event in write.counted)
            try:
                connection.executemany("INSERT INTO digests VALUES (?, ?)", new)
            except sqlite3.IntegrityError as error:
                raise ConflictError(
                    "an event must be counted once, however: another process has counted it; "
                    "score the events again"
                ) from error
            # More than come in, so that what is due never piles up.
            connection.execute(
                "DELETE FROM digests WHERE digest IN "
                "(SELECT digest FROM digests WHERE arrived < ? ORDER BY arrived LIMIT ?)",
                (arrived - self._remembered_s, max(2 * counted, _PRUNED_AT_LEAST)),
            )

    def _put(self, connection: sqlite3.Connection, write: Write) -> None:
        values = (write.suspicion, write.value, len(write.counted), id_bytes(write.account_id))
        if write.version == 0:
            found = connection.execute(
                "INSERT INTO accounts (suspicion, state, counted, id, version) "
                "VALUES (?, ?, ?, ?, 1) ON CONFLICT DO NOTHING RETURNING number, counted",
                values,
            ).fetchall()
        else:
            found = connection.execute(
                "UPDATE accounts SET suspicion = ?, state = ?, counted = counted + ?, "
                "version = version + 1 WHERE id = ? AND version = ? RETURNING number, counted",
                (*values, write.version),
            ).fetchall()
        if not found:
            raise ConflictError(
                "an account must stay as it was read until it is written, however: another "
                "process changed one; score its events again"
            )
        ((number, end),) = found
        first = number << _SEQUENCE_BITS
        if self.kept:
            latest = write.counted[-self.kept :]
            begin = first + end - len(latest)
            connection.executemany(
                "INSERT INTO events VALUES (?, ?)",
                ((begin + place, event.kept) for place, event in enumerate(latest)),
            )
        connection.execute(
            "DELETE FROM events WHERE place >= ? AND place < ?", (first, first + end - self.kept)
        )

    def replay(self, account_id: str) -> list[bytes]:
        with self._connected() as connection:
            rows = connection.execute(
                "SELECT fields FROM accounts JOIN events ON place >= number << ? "
                "AND place < (number + 1) << ? WHERE id = ? ORDER BY place DESC LIMIT ?",
                (_SEQUENCE_BITS, _SEQUENCE_BITS, id_bytes(account_id), self.kept),
            ).fetchall()
        return [fields for (fields,) in reversed(rows)]

    def accounts(self) -> Iterator[str]:
        last = 0
        while True:
            with self._connected() as connection:
                rows = connection.execute(
                    "SELECT number, id FROM accounts WHERE number > ? ORDER BY number LIMIT ?",
                    (last, _ASKED_AT_ONCE),
                ).fetchall()
            if not rows:
                return
            yield from (id_text(name) for _, name in rows)
            last = rows[-1][0]

    def erase(self, account_id: str) -> bool:
        """What it held is overwritten in the file, and the write-ahead log emptied. StoreError if
        another process reads the file for so long that it cannot be: erase again then."""
        with self._connected() as connection:
            with transaction(connection, "BEGIN IMMEDIATE"):
                found = connection.execute(
                    "DELETE FROM accounts WHERE id = ? RETURNING number", (id_bytes(account_id),)
                ).fetchall()
                for (number,) in found:
                    connection.execute(
                        "DELETE FROM events WHERE place >= ? AND place < ?",
                        (number << _SEQUENCE_BITS, (number + 1) << _SEQUENCE_BITS),
                    )
            # Pages that were split may keep stale copies of rows: only a file that is written anew
            # is sure to hold none.
            connection.execute("VACUUM")
            _patiently(lambda: self._empty_log(connection), self._busy_timeout_s)
        return bool(found)

    def _empty_log(self, connection: sqlite3.Connection) -> None:
        if connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            error = sqlite3.OperationalError("the log is in use")
            error.sqlite_errorname = "SQLITE_BUSY"
            raise error

    def check(self) -> None:
        """Writes a row, and looks for room for more than that."""
        with self._connected() as connection:
            with transaction(connection, "BEGIN IMMEDIATE"):
                connection.execute("INSERT OR REPLACE INTO checks VALUES (1, ?)", (self._clock(),))
            disk = os.statvfs(self.path)
        if disk.f_bavail * disk.f_frsize < LEAST_ROOM:
            raise self._full()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._disconnect()

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """The connection, for this thread alone. Whatever SQLite complains of is a StoreError;
        after all but a lock or a full disk, the next call opens the file anew."""
        with self._lock:
            if self._closed:
                raise StoreError("a store must be open, however: it was closed; open it again")
            try:
                if self._connection is not None and self._identity() != self._opened:
                    # What is written to a file without a name is gone with this process.
                    self._disconnect()
                if self._connection is None:
                    self._connection = self._open()
                    self._opened = self._identity()
                yield self._connection
            except (sqlite3.Error, OSError) as error:
                usable = self._connection is not None and not self._connection.in_transaction
                if not usable or _name(error) not in ("SQLITE_BUSY", "SQLITE_FULL"):
                    self._disconnect()
                raise self._explained(error) from error

    def _identity(self) -> tuple[int, int] | None:
        """Tells the file at the path from any other; None if there is none."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _open(self) -> sqlite3.Connection:
        self._make()
        connection = sqlite3.connect(
            self.path,
            timeout=self._busy_timeout_s,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _make(self) -> None:
        """An empty file if there is none. One that is there is never opened but by SQLite: closing
        it would drop the locks that this process holds on it."""
        try:
            with _MAKING:
                if self._making:
                    # SQLite gives its other files the same mode.
                    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                    with suppress(FileExistsError):
                        os.close(os.open(self.path, flags, 0o600))
                self.path.stat()
        except OSError as error:
            raise StoreError(
                f"the store {self.path} must be a file that can be written, however: "
                f"{error.strerror}; give another path or mend its folder"
            ) from error

    def _prepare(self, connection: sqlite3.Connection) -> None:
        with transaction(connection, "BEGIN"):
            ours = self._is_ours(connection)
        if not ours:
            if not self._making:
                raise StoreError(
                    f"the store {self.path} must stay while it is in use, however: it is empty "
                    "now; put it back, or start again"
                )
            with transaction(connection, "BEGIN IMMEDIATE"):
                # Another process may have been faster.
                if not self._is_ours(connection):
                    for statement in _TABLES.strip().rstrip(";").split(";"):
                        connection.execute(statement)
                    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                    connection.execute(f"PRAGMA user_version = {SCHEMA}")
        # Does not wait for the lock by itself.
        _patiently(
            lambda: connection.execute("PRAGMA journal_mode = WAL").fetchall(),
            self._busy_timeout_s,
        )
        connection.execute("PRAGMA synchronous = FULL")
        # What is deleted is overwritten: it was prompts.
        connection.execute("PRAGMA secure_delete = FAST").fetchall()
        connection.execute("PRAGMA cache_size = -16000")
        connection.execute(f"PRAGMA journal_size_limit = {64 * 1024 * 1024}").fetchall()

    def _is_ours(self, connection: sqlite3.Connection) -> bool:
        """False for an empty file. Within a transaction, or another process may change the file
        between the questions; changes nothing in it."""
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application == 0 and version == 0 and tables == 0:
            return False
        if application != APPLICATION_ID:
            raise StoreError(
                f"the store {self.path} must be a file that Stillwatch made, however: it is "
                "another program's database; give another path"
            )
        if version != SCHEMA:
            raise StoreError(
                f"the store {self.path} must be of schema {SCHEMA}, however: it is of schema "
                f"{version}; use the version of Stillwatch that made it, or another path"
            )
        return True

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _full(self) -> StoreError:
        return StoreError(
            f"the store {self.path} must have room on its disk, however: the disk is full; make "
            "room and try again"
        )

    def _explained(self, error: Exception) -> StoreError:
        name = _name(error)
        if name == "SQLITE_FULL":
            return self._full()
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return StoreError(
                f"the store {self.path} must be free to write within {self._busy_timeout_s:g} s, "
                "however: another process holds it; try again, or find what holds it"
            )
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            return StoreError(
                f"the store {self.path} must be an intact SQLite file, however: it is damaged or "
                "none; put a copy in its place, or give another path"
            )
        return StoreError(
            f"the store {self.path} must be readable and writable, however: {name}; see to its "
            "disk and its permissions, and try again"
        )


def _patiently(action: Callable[[], object], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            action()
            return
        except sqlite3.OperationalError as error:
            if _name(error) != "SQLITE_BUSY" or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _name(error: Exception) -> str:
    """SQLite's own name of the error, such as SQLITE_IOERR_WRITE, or its class."""
    return getattr(error, "sqlite_errorname", type(error).__name__)


def _marks(values: Sequence[bytes]) -> str:
    return ",".join("?" * len(values))


def _parts(values: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    return (
        values[start : start + _ASKED_AT_ONCE] for start in range(0, len(values), _ASKED_AT_ONCE)
    )
