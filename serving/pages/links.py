"""Accounts that share a network, a means of payment or a client, by the hashes in their events.

The archive keeps these with each event and has no table of them. So they are read once, event by
event, a bounded number at a time, and held as numbers: 8 bytes of a value's hash, ids of accounts.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from stillwatch.serving.archive import PromptArchive
from stillwatch.serving.archive.rows import unpack_fields

KINDS = ("network", "payment", "client")
BLOCK = 2000
MOST_AT_ONCE = 20_000
"""Events read for one page; the rest is read for the next ones."""
COMMON = {"network": 1000, "payment": 1000, "client": 200}
"""A value that more accounts share tells nothing."""
COMMON_CLIENT = 0.05
"""Nor does a client that more than this share of all accounts has: it is a library."""
MOST_LINKED = 50

_SQL = """
SELECT e.id, e.account, d.content FROM events e JOIN details d ON d.event = e.id
WHERE e.id > ? ORDER BY e.id LIMIT ?
"""


class Linked(NamedTuple):
    """An account's number, what it shares, and in how many of its events."""

    account: int
    kinds: tuple[str, ...]
    events: int


@dataclass(frozen=True, slots=True)
class LinkedAccounts:
    """Those that share most first. `common` are kinds whose values are too many accounts' to
    tell; `unread` events are not looked at yet."""

    accounts: list[Linked]
    common: tuple[str, ...]
    unread: int


class Links:
    """Safe to share between threads."""

    def __init__(self, archive: PromptArchive) -> None:
        self._archive = archive
        self._lock = threading.Lock()
        self._last = 0
        self._read = 0
        self._held: dict[tuple[str, bytes], Counter[int]] = {}
        self._own: dict[int, set[tuple[str, bytes]]] = {}

    def of(self, account: int) -> LinkedAccounts:
        """Accounts that share something with one, by its number. StoreError."""
        with self._lock:
            self._catch_up()
            kinds: dict[int, set[str]] = {}
            events: Counter[int] = Counter()
            common = set()
            for key in self._own.get(account, ()):
                held = self._held[key]
                if len(held) > self._limit(key[0]):
                    common.add(key[0])
                    continue
                for other, count in held.items():
                    if other != account:
                        kinds.setdefault(other, set()).add(key[0])
                        events[other] += count
            unread = max(self._archive._live.rows.count - self._read, 0)
        found = [
            Linked(other, tuple(kind for kind in KINDS if kind in shared), events[other])
            for other, shared in kinds.items()
        ]
        # A shared payment or network says more than any number of events of one client.
        found.sort(key=lambda link: (-_weight(link.kinds), -link.events, link.account))
        return LinkedAccounts(found[:MOST_LINKED], tuple(sorted(common)), unread)

    def _limit(self, kind: str) -> int:
        most = COMMON[kind]
        return min(most, max(3, int(COMMON_CLIENT * len(self._own)))) if kind == "client" else most

    def _catch_up(self) -> None:
        for _ in range(MOST_AT_ONCE // BLOCK):
            with self._archive._database.reading() as session:
                rows = session.rows(_SQL, (self._last, BLOCK))
            for number, account, content in rows:
                self._last = int(number)
                self._note(int(account), unpack_fields(content))
            self._read += len(rows)
            if len(rows) < BLOCK:
                return

    def _note(self, account: int, fields: dict[str, object]) -> None:
        for kind in KINDS:
            value = fields.get(kind)
            if isinstance(value, str) and value:
                raw = value.encode("utf-8", "surrogatepass")
                key = (kind, hashlib.blake2b(raw, digest_size=8).digest())
                self._held.setdefault(key, Counter())[account] += 1
                self._own.setdefault(account, set()).add(key)


def _weight(kinds: Iterable[str]) -> int:
    weights = {"payment": 4, "network": 2, "client": 1}
    return sum(weights[kind] for kind in kinds)
