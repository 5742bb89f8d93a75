"""The campaigns' tables, in a SQLite file of their own beside the desk's.

They hold ids and figures, and no prompts. `members` and `ties` are those of the last run; a tie's
accounts are places in the list of members. `rulings` outlive runs; the audit log holds them too.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stillwatch.data.errors import StoreError
from stillwatch.serving.transactions import rewrite, transaction

FILE = "campaigns.sqlite"
SCHEMA = 1
"""Raised when the tables change; kept in the file's user_version."""
APPLICATION_ID = 0x5357636D
"""Tells these files from other SQLite files."""
BUSY_S = 10.0
"""How long another process's write is waited for."""

_TABLES = """
CREATE TABLE runs (
    id INTEGER PRIMARY KEY, time REAL NOT NULL, seconds REAL NOT NULL, events INTEGER NOT NULL,
    fresh INTEGER NOT NULL, campaigns INTEGER NOT NULL, flagged INTEGER NOT NULL,
    bundle TEXT NOT NULL, rebuilt INTEGER NOT NULL
);
CREATE TABLE campaigns (
    id TEXT PRIMARY KEY, place INTEGER NOT NULL, flagged INTEGER NOT NULL,
    accounts INTEGER NOT NULL, fields TEXT NOT NULL
);
CREATE INDEX campaigns_place ON campaigns (place);
CREATE TABLE members (
    campaign TEXT NOT NULL, place INTEGER NOT NULL, account BLOB NOT NULL,
    PRIMARY KEY (campaign, place)
) WITHOUT ROWID;
CREATE INDEX members_account ON members (account);
CREATE TABLE ties (
    campaign TEXT NOT NULL, number INTEGER NOT NULL, kind TEXT NOT NULL, detail TEXT NOT NULL,
    events TEXT NOT NULL, places BLOB NOT NULL, PRIMARY KEY (campaign, number)
) WITHOUT ROWID;
CREATE TABLE rulings (
    entry INTEGER NOT NULL, campaign TEXT NOT NULL, account BLOB NOT NULL, verdict TEXT NOT NULL,
    reason TEXT NOT NULL, reviewer TEXT NOT NULL, time REAL NOT NULL, decision INTEGER,
    undone INTEGER, PRIMARY KEY (entry, account)
) WITHOUT ROWID;
CREATE INDEX rulings_campaign ON rulings (campaign);
CREATE INDEX rulings_account ON rulings (account)
"""


class Tables:
    """One connection, for one thread at a time. Every method raises StoreError."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder and the file if they are not there."""
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        path = folder / FILE
        with self._told():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # SQLite gives its other files the same mode.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._connection = sqlite3.connect(
                path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare(self._connection)
            except BaseException:
                self.close()
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, in a transaction that sees one state of all tables."""
        with self._lock, self._told(), transaction(self._opened(), "BEGIN"):
            yield self._opened()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The connection, in a transaction that is on the disk when the block ends, or undone if
        it raises. One at a time, over all processes."""
        with self._lock, self._told(), transaction(self._opened(), "BEGIN IMMEDIATE"):
            yield self._opened()

    def purge(self) -> None:
        """Write the file anew, so that no byte of what was deleted is left in it."""
        with self._lock, self._told():
            if not rewrite(self._opened(), BUSY_S):
                raise StoreError(
                    f"{FILE} must be free to be rewritten, however: another process reads it; "
                    "try again"
                )

    def close(self) -> None:
        """Closing twice does nothing."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute("PRAGMA secure_delete = ON").fetchall()
        with transaction(connection, "BEGIN IMMEDIATE"):
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if not tables:
                for statement in _TABLES.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {SCHEMA}")
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if (application, version) != (APPLICATION_ID, SCHEMA):
            raise StoreError(
                f"{FILE} must be a file of version {SCHEMA} that Stillwatch made, however: it is "
                "another; use the Stillwatch that made it, or another folder"
            )

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError(f"{FILE} must be open, however: it was closed; open it again")
        return self._connection

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            # SQLite's code, never its words: they may hold a value.
            name = getattr(error, "sqlite_errorname", None) or type(error).__name__
            raise StoreError(
                f"{FILE} in the desk's folder must be readable and writable, however: {name}; see "
                "to the folder"
            ) from error
        except OSError as error:
            raise StoreError(
                f"{FILE} in the desk's folder must be readable and writable, however: "
                f"{os.strerror(error.errno or 0)}; see to the folder"
            ) from error
