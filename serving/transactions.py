"""SQLite transactions, over a connection that begins none by itself, and a file freed of what was
deleted from it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def transaction(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    """What the block does is committed when it ends, or undone if it raises. `begin` is the
    statement that begins it, such as BEGIN IMMEDIATE."""
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # Some errors have ended the transaction already.
        if connection.in_transaction:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise


def rewrite(connection: sqlite3.Connection, wait_s: float) -> bool:
    """Write the file anew, so that no byte of what was deleted is left in it or in its log. False
    if another process read it for so many seconds that its log could not be emptied."""
    connection.execute("VACUUM")
    until = time.monotonic() + wait_s
    while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True
