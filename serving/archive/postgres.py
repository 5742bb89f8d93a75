"""The archive's tables in PostgreSQL, for more than one machine. Needs the extra `postgres`.

Every process keeps an index of its own beside its queue, and reads from the tables what the others
wrote and removed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from stillwatch.data.errors import MissingError, StoreError
from stillwatch.serving.archive.database import Dialect, Session

if TYPE_CHECKING:
    import psycopg

SCHEMES = ("postgresql", "postgres")
CONNECT_S = 10
SCHEMA = "stillwatch_archive"
_LOCK = 0x5713_11A7
"""Of the advisory lock that writers take: ids are committed in the order they are given out in."""

_DIALECT = Dialect("BIGINT PRIMARY KEY", "BIGINT", "DOUBLE PRECISION", "BYTEA")


class _Connection:
    def __init__(self, raw: psycopg.Connection[tuple[Any, ...]]) -> None:
        self.raw = raw

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self.raw.execute(_query(sql), values, binary=True).fetchall()

    def run(self, sql: str, values: Sequence[Any] = ()) -> int:
        return self.raw.execute(_query(sql), values).rowcount

    def many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        with self.raw.cursor() as cursor:
            cursor.executemany(_query(sql), rows)


class PostgresDatabase:
    """A `Database` in the schema `stillwatch_archive` of a PostgreSQL database."""

    dialect = _DIALECT

    def __init__(self, url: str, read_only: bool = False) -> None:
        try:
            import psycopg
        except ImportError:
            raise MissingError(
                "an archive in PostgreSQL must have psycopg, however: it is missing; run "
                "pip install 'stillwatch[postgres]'"
            ) from None
        self._psycopg = psycopg
        self._url = url
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []
        self._closed = False
        if read_only:
            return
        with self._told(), self._borrowed() as connection, connection.raw.transaction():
            # Two processes that start together may both find the schema missing.
            connection.run("SELECT pg_advisory_xact_lock(?)", (_LOCK,))
            connection.run(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")

    @contextmanager
    def reading(self) -> Iterator[Session]:
        with self._told(), self._borrowed() as connection, connection.raw.transaction():
            connection.run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Session]:
        with self._told(), self._borrowed() as connection, connection.raw.transaction():
            connection.run("SELECT pg_advisory_xact_lock(?)", (_LOCK,))
            yield connection

    def purge(self, thorough: bool) -> None:
        """Rewrites the tables' files if `thorough`, else marks their room free. The server's own
        write-ahead log and backups keep what they hold until its operator's rules remove them."""
        with self._told(), self._borrowed() as connection:
            tables = connection.rows(
                "SELECT tablename FROM pg_tables WHERE schemaname = ?", (SCHEMA,)
            )
            for (table,) in tables:
                connection.run(f'VACUUM {"(FULL)" if thorough else ""} {SCHEMA}."{table}"')

    def backup(self, folder: str) -> bool:
        return False

    def size_bytes(self) -> int:
        with self.reading() as session:
            ((size,),) = session.rows(
                "SELECT COALESCE(SUM(pg_total_relation_size(c.oid)), 0)::BIGINT FROM pg_class c "
                "JOIN pg_namespace n ON n.oid = c.relnamespace "
                "WHERE n.nspname = ? AND c.relkind = 'r'",
                (SCHEMA,),
            )
        return int(size)

    def close(self) -> None:
        with self._lock:
            connections, self._idle, self._closed = self._idle, [], True
        for connection in connections:
            connection.raw.close()

    def _connect(self) -> _Connection:
        raw = self._psycopg.connect(self._url, autocommit=True, connect_timeout=CONNECT_S)
        # Statements that are prepared on the server name tables that a purge rewrites.
        raw.prepare_threshold = None
        raw.execute(f"SET search_path TO {SCHEMA}")
        raw.execute("SET synchronous_commit TO on")
        return _Connection(raw)

    @contextmanager
    def _borrowed(self) -> Iterator[_Connection]:
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is not None and connection.raw.closed:
            connection = None
        connection = connection or self._connect()
        sound = False
        try:
            yield connection
            sound = True
        except StoreError:
            sound = True
            raise
        finally:
            with self._lock:
                if sound and not self._closed:
                    self._idle.append(connection)
                    lost = []
                else:
                    # If the server was restarted, no connection is of use any more.
                    lost, self._idle = [connection, *self._idle], []
            for other in lost:
                with suppress(self._psycopg.Error):
                    other.raw.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        # A value that no table takes is no matter of the store: trying again would not help.
        except (self._psycopg.IntegrityError, self._psycopg.DataError):
            raise
        except self._psycopg.Error as error:
            # The server's code, never its words: they may hold a value or the password.
            state = error.sqlstate or type(error).__name__
            advice = "make room" if state == "53100" else "see to the server and try again"
            raise StoreError(
                f"the archive's database must be reachable and writable, however: {state}; {advice}"
            ) from None


def _query(sql: str) -> Any:
    return sql.replace("?", "%s")
