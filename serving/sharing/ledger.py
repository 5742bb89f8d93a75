"""What came from which source: one SQLite file in the desk's folder.

It says which object of a feed became which template, so that a second import changes nothing, a
revocation finds its template and only its creator can send it, and a poll goes on where it was. It
holds no text: the desk has that.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from stillwatch.data.errors import StoreError

FILE = "sharing.sqlite"
SCHEMA = 1
BUSY_S = 10.0
_TABLES = (
    "CREATE TABLE objects (source TEXT NOT NULL, id TEXT NOT NULL, creator TEXT NOT NULL, "
    "modified REAL NOT NULL, template TEXT, PRIMARY KEY (source, id))",
    "CREATE TABLE campaigns (source TEXT NOT NULL, id TEXT NOT NULL, creator TEXT NOT NULL, "
    "modified REAL NOT NULL, fields TEXT NOT NULL, PRIMARY KEY (source, id))",
    "CREATE TABLE cursors (source TEXT PRIMARY KEY, feed TEXT NOT NULL, added_after TEXT NOT NULL)",
)


class Known(NamedTuple):
    """An object that was taken before: its version, and the template it became, None if it came
    revoked."""

    creator: str
    modified: float
    template: str | None


class Ledger:
    """One connection, for one thread at a time. Every method raises StoreError."""

    def __init__(self, folder: Path) -> None:
        self._lock = threading.RLock()
        with self._told():
            path = folder / FILE
            # For its owner's eyes alone, as the desk's own file is.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._connection = sqlite3.connect(
                path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def known(self, source: str, own: str) -> Known | None:
        """What is known of an object of a source."""
        sql = "SELECT creator, modified, template FROM objects WHERE source = ? AND id = ?"
        with self._told():
            row = self._connection.execute(sql, (source, own)).fetchone()
        return Known(*row) if row else None

    def note(self, source: str, own: str, known: Known) -> None:
        """Keep that an object was taken."""
        with self._told():
            self._connection.execute(
                "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?)", (source, own, *known)
            )

    def campaign(self, source: str, own: str) -> tuple[str, float] | None:
        """Creator and version of a campaign that was taken before."""
        sql = "SELECT creator, modified FROM campaigns WHERE source = ? AND id = ?"
        with self._told():
            row = self._connection.execute(sql, (source, own)).fetchone()
        return (str(row[0]), float(row[1])) if row else None

    def note_campaign(
        self, source: str, own: str, creator: str, modified: float, fields: Mapping[str, Any]
    ) -> None:
        """Keep the figures of a campaign."""
        with self._told():
            self._connection.execute(
                "INSERT OR REPLACE INTO campaigns VALUES (?, ?, ?, ?, ?)",
                (source, own, creator, modified, json.dumps(dict(fields), sort_keys=True)),
            )

    def campaigns(self) -> list[dict[str, Any]]:
        """Figures of others' campaigns, with their `source`, by source and id."""
        with self._told():
            rows = self._connection.execute(
                "SELECT source, fields FROM campaigns ORDER BY source, id"
            ).fetchall()
        return [{"source": source, **json.loads(fields)} for source, fields in rows]

    def cursor(self, source: str, feed: str) -> str | None:
        """Up to when a feed was read; None if never, or if the source was another feed then."""
        with self._told():
            row = self._connection.execute(
                "SELECT added_after FROM cursors WHERE source = ? AND feed = ?", (source, feed)
            ).fetchone()
        return str(row[0]) if row else None

    def move(self, source: str, feed: str, added_after: str) -> None:
        """Keep up to when a feed was read."""
        with self._told():
            self._connection.execute(
                "INSERT OR REPLACE INTO cursors VALUES (?, ?, ?)", (source, feed, added_after)
            )

    def close(self) -> None:
        """Closing twice does nothing."""
        with self._lock:
            self._connection.close()

    def _prepare(self) -> None:
        connection = self._connection
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version == 0 and tables == 0:
            for statement in _TABLES:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA}")
            version = SCHEMA
        connection.execute("COMMIT")
        if version != SCHEMA:
            raise StoreError(
                f"{FILE} must be a file of version {SCHEMA} that Stillwatch made, however: it is "
                "another; use the Stillwatch that made it"
            )

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", None) or type(error).__name__
            raise StoreError(
                f"{FILE} in the desk's folder must be readable and writable, however: {name}; see "
                "to the disk and the permissions of its folder, and try again"
            ) from error
        except OSError as error:
            raise StoreError(
                "the desk's folder must be writable, however: "
                f"{os.strerror(error.errno or 0)}; see to its permissions"
            ) from error
