"""When each reviewer last looked at an account, so that a queue can say what has changed since.

An account is known here by a keyed hash of its id: nothing of it has to be erased.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from stillwatch.data.errors import StoreError
from stillwatch.serving.stores.base import id_bytes
from stillwatch.serving.verdict import Verdict

FILE = "looks.sqlite"
KEPT_S = 400 * 86_400.0
IN_LIST = 500

_TABLES = """
CREATE TABLE IF NOT EXISTS secret (key BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS looks (
    reviewer TEXT NOT NULL, account BLOB NOT NULL, time REAL NOT NULL, risk REAL NOT NULL,
    events INTEGER NOT NULL, flagged INTEGER NOT NULL, PRIMARY KEY (reviewer, account)
) WITHOUT ROWID;
"""


class Look(NamedTuple):
    """What a reviewer saw of an account, and when."""

    time: float
    risk: float
    events: int
    flagged: bool


class Looks:
    """A small database in the desk's folder. Safe to share between threads; StoreError."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            path = folder / FILE
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._connection = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, timeout=10
            )
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.executescript(_TABLES)
            self._key = self._secret()
            self._run("DELETE FROM looks WHERE time < ?", (clock() - KEPT_S,))
        except (OSError, sqlite3.Error) as error:
            raise _unusable() from error

    def note(self, reviewer: str, verdict: Verdict) -> None:
        """The reviewer looks at an account now."""
        values = (
            reviewer, self._digest(verdict.account_id), self._clock(), verdict.risk,
            verdict.events, int(verdict.flagged),
        )  # fmt: skip
        self._run("INSERT OR REPLACE INTO looks VALUES (?, ?, ?, ?, ?, ?)", values)

    def of(self, reviewer: str, account_ids: Iterable[str]) -> dict[str, Look]:
        """The last look of a reviewer at each of these accounts, where there was one."""
        digests = {self._digest(account_id): account_id for account_id in account_ids}
        found: dict[str, Look] = {}
        keys = list(digests)
        for start in range(0, len(keys), IN_LIST):
            part = keys[start : start + IN_LIST]
            rows = self._run(
                "SELECT account, time, risk, events, flagged FROM looks WHERE reviewer = ? "
                f"AND account IN ({','.join('?' * len(part))})",
                (reviewer, *part),
            )
            for account, when, risk, events, flagged in rows:
                found[digests[account]] = Look(when, risk, events, bool(flagged))
        return found

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _digest(self, account_id: str) -> bytes:
        return hashlib.blake2b(id_bytes(account_id), digest_size=16, key=self._key).digest()

    def _secret(self) -> bytes:
        # Of two processes that open a new file at once, the first to write decides.
        self._run(
            "INSERT INTO secret (key) SELECT ? WHERE NOT EXISTS (SELECT 1 FROM secret)",
            (secrets.token_bytes(32),),
        )
        return bytes(self._run("SELECT key FROM secret LIMIT 1", ())[0][0])

    def _run(self, sql: str, values: tuple[object, ...]) -> list[Any]:
        try:
            with self._lock, closing(self._connection.execute(sql, values)) as cursor:
                return cursor.fetchall()
        except sqlite3.Error as error:
            raise _unusable() from error


def _unusable() -> StoreError:
    return StoreError(
        f"{FILE} in the desk's folder must be readable and writable, however: it is not; see to "
        "the folder"
    )
