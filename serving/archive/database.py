"""The two databases that the archive's tables may live in, behind one face.

SQL is written once, for both: `?` stands for a value, types come from `Dialect`, ids are given out
by the tables themselves. Every error of a database becomes a StoreError that holds no value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

IN_LIST = 500
"""Values in one list of a statement."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """Names of column types."""

    key: str
    """A 64-bit integer that is the primary key."""
    integer: str
    real: str
    data: str


class Session(Protocol):
    """One connection, in a transaction or not."""

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""

    def run(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Run a statement; the number of rows that it changed."""

    def many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each of the rows of values."""


class Database(Protocol):
    """Safe to share between threads. Every method raises StoreError."""

    dialect: Dialect

    def reading(self) -> AbstractContextManager[Session]:
        """A session that sees one state of all tables and changes none."""

    def writing(self) -> AbstractContextManager[Session]:
        """A session whose changes are durable, all of them, when the block ends, or none if it
        raises. One at a time, over all processes: what is committed later was written later."""

    def purge(self, thorough: bool) -> None:
        """Leave nothing of what was deleted in the database's own files; `thorough` writes them
        anew, so that not even a stale copy of a byte is left, and takes as long."""

    def backup(self, folder: str) -> bool:
        """Write a copy of one state of all tables into a folder; False if its operator's own
        tools have to do that."""

    def size_bytes(self) -> int:
        """Of all tables, on disk."""

    def close(self) -> None:
        """Close all connections. Closing twice does nothing."""


def in_lists(values: Iterable[Any]) -> Iterator[tuple[str, list[Any]]]:
    """Values in parts of at most IN_LIST, each with its `(?,?,…)`."""
    every = list(values)
    for start in range(0, len(every), IN_LIST):
        part = every[start : start + IN_LIST]
        yield f"({','.join('?' * len(part))})", part
