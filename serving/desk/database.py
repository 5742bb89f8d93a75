"""The desk's tables, in one SQLite file for its owner's eyes alone.

The audit log holds everything that was decided; the other tables say where in it to look, and hold
the texts of templates, which the log names by their hashes alone.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from stillwatch.data.errors import StoreError
from stillwatch.serving.transactions import rewrite, transaction

FILE, LOCK = "desk.sqlite", "desk.lock"
SCHEMA = 1
"""Raised when the tables change; kept in the file's user_version."""
APPLICATION_ID = 0x5357646B
"""Tells these files from other SQLite files."""
BUSY_S = 10.0
"""How long another process's write is waited for."""

_TABLES = """
CREATE TABLE audit (number INTEGER PRIMARY KEY, content TEXT NOT NULL, hash TEXT NOT NULL);
CREATE TABLE decisions (
    id INTEGER PRIMARY KEY REFERENCES audit, account BLOB NOT NULL,
    undone INTEGER REFERENCES audit
);
CREATE INDEX decisions_account ON decisions (account);
CREATE TABLE templates (
    number INTEGER PRIMARY KEY, text TEXT NOT NULL, source TEXT NOT NULL, state TEXT NOT NULL,
    expires TEXT NOT NULL, added INTEGER NOT NULL REFERENCES audit,
    changed INTEGER NOT NULL REFERENCES audit, replayed INTEGER REFERENCES audit
);
"""
_LATER = (
    "CREATE TABLE IF NOT EXISTS template_accounts (template INTEGER NOT NULL REFERENCES templates, "
    "account BLOB NOT NULL, PRIMARY KEY (template, account)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS template_accounts_account ON template_accounts (account)",
)
"""Made in files that lack them: what reads the other tables need not know of them."""


def json_at(path: str) -> str:
    """SQL for what stands at a path of an entry's content, as JSON; NULL if the content is none:
    what somebody has tampered with must not stop what reads it."""
    return f"CASE WHEN json_valid(content) THEN content -> '$.{path}' END"


FOUND_BY = ("action", "actor", "fields.account_id")
"""Paths of an entry's content by which entries are looked for."""


class Database:
    """One connection, for one thread at a time. Every method raises StoreError."""

    def __init__(self, folder: Path, read_only: bool = False) -> None:
        """Makes the folder and the file if they are not there, unless `read_only`."""
        self.path = folder / FILE
        self._lock = threading.RLock()
        self._resources = ExitStack()
        with self._told(), ExitStack() as resources:
            if read_only:
                if not self.path.is_file():
                    raise StoreError(
                        f"a desk must be a folder that Stillwatch made, however: it holds no "
                        f"{FILE}; name the folder that the service writes"
                    )
                self._lock_file = -1
            else:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
                self._lock_file = os.open(folder / LOCK, flags, 0o600)
                resources.callback(os.close, self._lock_file)
                # SQLite gives its other files the same mode.
                os.close(os.open(self.path, flags, 0o600))
            connection = sqlite3.connect(
                self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            resources.callback(connection.close)
            # What somebody has tampered with is to be found, not to end the search.
            connection.text_factory = lambda text: text.decode("utf-8", "replace")
            self._connection = connection
            self._prepare(read_only)
            self._resources = resources.pop_all()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, in a transaction that sees one state of all tables."""
        with self._lock, self._told(), transaction(self._connection, "BEGIN"):
            yield self._connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The connection, in a transaction that is on the disk when the block ends, or undone if
        it raises."""
        with self._lock, self._told(), transaction(self._connection, "BEGIN IMMEDIATE"):
            yield self._connection

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """No other process and no other thread writes until the block ends."""
        if self._lock_file < 0:
            raise StoreError(
                "the desk must be open for writing, however: it was opened to read, or closed; "
                "open it again where it is to be changed"
            )
        with self._lock:
            until = time.monotonic() + BUSY_S
            while True:
                try:
                    fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise StoreError(
                            "the desk must be free to write, however: another process holds it; "
                            "try again, or find what holds it"
                        ) from None
                time.sleep(0.01)
            try:
                yield
            finally:
                fcntl.flock(self._lock_file, fcntl.LOCK_UN)

    def purge(self) -> None:
        """Write the file anew, so that no byte of what was deleted is left in it or beside it."""
        with self._lock, self._told():
            if not rewrite(self._connection, BUSY_S):
                raise StoreError(
                    f"the desk's {FILE} must be free to be rewritten, however: another process "
                    "reads it; try again"
                )

    def close(self) -> None:
        """Closing twice does nothing."""
        with self._lock:
            self._resources.close()
            # Its number may soon be another file's.
            self._lock_file = -1

    def _prepare(self, read_only: bool) -> None:
        connection = self._connection
        if not read_only:
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA secure_delete = ON").fetchall()
            with self.exclusive(), transaction(self._connection, "BEGIN IMMEDIATE"):
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
                (application,) = connection.execute("PRAGMA application_id").fetchone()
                if version == 0 and tables == 0:
                    for statement in _TABLES.strip().rstrip(";").split(";"):
                        connection.execute(statement)
                    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                    connection.execute(f"PRAGMA user_version = {SCHEMA}")
                    version, application = SCHEMA, APPLICATION_ID
                if (application, version) == (APPLICATION_ID, SCHEMA):
                    for statement in _LATER:
                        connection.execute(statement)
                    for path in FOUND_BY:
                        connection.execute(
                            f"CREATE INDEX IF NOT EXISTS audit_{path.replace('.', '_')} "
                            f"ON audit ({json_at(path)}, number)"
                        )
        else:
            connection.execute("PRAGMA query_only = ON")
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if (application, version) != (APPLICATION_ID, SCHEMA):
            raise StoreError(
                f"the desk's {FILE} must be a file of version {SCHEMA} that Stillwatch made, "
                "however: it is another; use the Stillwatch that made it, or another folder"
            )

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            # SQLite's code, never its words: they may hold a value.
            name = getattr(error, "sqlite_errorname", None) or type(error).__name__
            raise StoreError(
                f"the desk's tables must be readable and writable, however: {name}; see to the "
                "disk and the permissions of its folder, and try again"
            ) from error
        except OSError as error:
            raise StoreError(
                "the desk's folder must be writable, however: "
                f"{os.strerror(error.errno or 0)}; name another, or see to its permissions"
            ) from error
