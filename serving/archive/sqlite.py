"""The archive's tables in a SQLite file: the default, for one machine."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from stillwatch.data.errors import StoreError
from stillwatch.serving.archive.database import Dialect, Session

BUSY_S = 10.0
"""How long another connection's transaction is waited for."""
CACHE_KIB = 16_384
FILE = "archive.db"

_DIALECT = Dialect("INTEGER PRIMARY KEY", "INTEGER", "REAL", "BLOB")


class _Connection:
    def __init__(self, raw: sqlite3.Connection) -> None:
        self.raw = raw

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self.raw.execute(sql, values).fetchall()

    def run(self, sql: str, values: Sequence[Any] = ()) -> int:
        return self.raw.execute(sql, values).rowcount

    def many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        self.raw.executemany(sql, rows)


class SqliteDatabase:
    """A `Database` in one file. Deleted content is overwritten (`secure_delete`)."""

    dialect = _DIALECT

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self.path = path
        self._read_only = read_only
        self._lock = threading.Lock()
        self._writer = threading.Lock()
        self._idle: list[_Connection] = []
        self._open: list[_Connection] = []
        with self._told():
            if read_only and not path.is_file():
                raise StoreError(
                    "the archive must be a folder that Stillwatch made, however: it holds no "
                    f"{path.name}; name the folder that the service writes"
                )
            if not read_only:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch(mode=0o600)
            self._idle.append(self._connect())

    @contextmanager
    def reading(self) -> Iterator[Session]:
        with self._told(), self._borrowed() as connection:
            connection.raw.execute("BEGIN")
            try:
                yield connection
            finally:
                _roll_back(connection.raw)

    @contextmanager
    def writing(self) -> Iterator[Session]:
        with self._told(), self._writer, self._borrowed() as connection:
            connection.raw.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.raw.execute("COMMIT")
            finally:
                _roll_back(connection.raw)

    def purge(self, thorough: bool) -> None:
        with self._told(), self._writer, self._borrowed() as connection:
            # Pages that were split may keep stale copies of rows beside what `secure_delete`
            # overwrote: only a file that is written anew is sure to hold none.
            if thorough:
                connection.raw.execute("VACUUM")
            self._truncate(connection.raw)

    def backup(self, folder: str) -> bool:
        with self._told(), self._borrowed() as connection:
            target = sqlite3.connect(Path(folder) / FILE)
            with closing(target):
                connection.raw.backup(target)
        return True

    def size_bytes(self) -> int:
        beside = (self.path, self.path.with_name(self.path.name + "-wal"))
        return sum(path.stat().st_size for path in beside if path.exists())

    def close(self) -> None:
        with self._lock:
            connections, self._open, self._idle = self._open, [], []
        for connection in connections:
            connection.raw.close()

    def _connect(self) -> _Connection:
        # Not tied to a thread: one thread at a time has it, and another may close it.
        raw = sqlite3.connect(
            self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False,
            cached_statements=64,
        )  # fmt: skip
        try:
            if not self._read_only:
                raw.execute("PRAGMA journal_mode=WAL")
                raw.execute("PRAGMA synchronous=FULL")
                raw.execute("PRAGMA secure_delete=ON")
                raw.execute("PRAGMA journal_size_limit=67108864")
            else:
                raw.execute("PRAGMA query_only=ON")
            raw.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        except BaseException:
            raw.close()
            raise
        connection = _Connection(raw)
        with self._lock:
            self._open.append(connection)
        return connection

    @contextmanager
    def _borrowed(self) -> Iterator[_Connection]:
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        connection = connection or self._connect()
        try:
            yield connection
        finally:
            with self._lock:
                if connection in self._open:
                    self._idle.append(connection)

    def _truncate(self, raw: sqlite3.Connection) -> None:
        """Empty the write-ahead log, which still holds what was deleted."""
        until = time.monotonic() + BUSY_S
        while raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            if time.monotonic() > until:
                raise StoreError(
                    "the archive's write-ahead log must be free to be emptied, however: another "
                    "process reads the archive; end it, the archive tries again by itself"
                )
            time.sleep(0.05)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        # A value that no table takes is no matter of the store: trying again would not help.
        except (sqlite3.IntegrityError, sqlite3.DataError):
            raise
        except sqlite3.Error as error:
            # SQLite's code, never its words: they may hold a value.
            name = getattr(error, "sqlite_errorname", None) or type(error).__name__
            advice = {
                "SQLITE_FULL": "make room, nothing that was accepted is lost",
                "SQLITE_CORRUPT": "restore it from a backup",
                "SQLITE_NOTADB": "restore it from a backup",
            }.get(name, "see to its folder and try again")
            raise StoreError(
                f"the archive's tables must be readable and writable, however: {name}; {advice}"
            ) from error
        except OSError as error:
            raise StoreError(
                f"the archive's folder must be writable, however: {error.strerror}; see to it"
            ) from error


def _roll_back(raw: sqlite3.Connection) -> None:
    with suppress(sqlite3.Error):
        if raw.in_transaction:
            raw.execute("ROLLBACK")
