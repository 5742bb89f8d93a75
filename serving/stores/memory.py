"""Account states in this process's memory: for batch scoring and tests. Nothing outlives it."""

from __future__ import annotations

import heapq
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from stillwatch.data.errors import StoreError
from stillwatch.serving.stores.base import ConflictError, Held, Snapshot, Write

SUSPECT = 0.5
"""An account of this suspicion or more is not forgotten for a new one."""


class _Account(NamedTuple):
    held: Held
    suspicion: float
    events: tuple[bytes, ...]


class MemoryStore:
    """States by account.

    `most` bounds the accounts: for new ones those go that are longest unseen, the least suspect of
    them first, and never suspects. If only suspects are left, new accounts are refused with
    StoreError. None bounds nothing.

    `remembered` is the number of latest events that are known again when they come a second time;
    0 is for callers that drop duplicates themselves. `kept` latest events of each account are held
    for replays. Any thread may call any method.
    """

    def __init__(self, most: int | None = None, remembered: int = 1_000_000, kept: int = 0) -> None:
        self._most = most
        self._remembered = remembered
        self.kept = kept
        self._accounts: dict[str, _Account] = {}
        # Dictionaries keep the order of insertion: the first were longest unseen.
        self._unseen: dict[str, None] = {}
        self._digests: set[bytes] = set()
        self._arrived: deque[bytes] = deque()
        self._lock = threading.Lock()
        self.forgotten = 0
        """Accounts that had to make room."""

    def read(self, accounts: Sequence[str], digests: Sequence[bytes]) -> Snapshot:
        with self._lock:
            found = [self._accounts.get(name) for name in accounts]
            seen = frozenset(digest for digest in digests if digest in self._digests)
        return Snapshot([own.held if own else None for own in found], seen)

    def write(self, writes: Sequence[Write]) -> None:
        with self._lock:
            self._verify(writes)
            self._make_room(writes)
            try:
                self._take(writes)
            except BaseException:
                # Interrupted: what is there already is left alone, the rest follows.
                self._take(writes)
                raise

    def _verify(self, writes: Sequence[Write]) -> None:
        for write in writes:
            if self._version(write.account_id) != write.version:
                raise ConflictError(
                    "an account must stay as it was read until it is written, however: one "
                    "changed; score its events again"
                )
            if any(event.digest in self._digests for event in write.counted):
                raise ConflictError(
                    "an event must be counted once, however: one was counted since it was read; "
                    "score the events again"
                )

    def _version(self, name: str) -> int:
        own = self._accounts.get(name)
        return own.held.version if own else 0

    def _take(self, writes: Sequence[Write]) -> None:
        for write in writes:
            name = write.account_id
            old = self._accounts.get(name)
            if old is not None and old.held.version > write.version:
                continue
            self._remember(event.digest for event in write.counted)
            events = [*(old.events if old else ()), *(event.kept for event in write.counted)]
            self._unseen.pop(name, None)
            self._unseen[name] = None
            self._accounts[name] = _Account(
                Held(write.version + 1, write.value),
                write.suspicion,
                tuple(events[-self.kept :]) if self.kept else (),
            )

    def _remember(self, digests: Iterable[bytes]) -> None:
        for digest in digests if self._remembered else ():
            if digest not in self._digests:
                self._digests.add(digest)
                self._arrived.append(digest)
        while len(self._arrived) > self._remembered:
            self._digests.discard(self._arrived.popleft())

    def _make_room(self, writes: Sequence[Write]) -> None:
        if self._most is None:
            return
        written = {write.account_id for write in writes}
        needed = len(self._accounts) + sum(not self._version(name) for name in written) - self._most
        if needed <= 0:
            return
        # In order of age. More than is needed at once, so that this is not done for each account.
        others = [
            name
            for name in self._unseen
            if self._accounts[name].suspicion < SUSPECT and name not in written
        ]
        if len(others) < needed:
            raise StoreError(
                f"the memory store must have room for {needed} new accounts, however: of its "
                f"{self._most} all but {len(others)} are suspect or in use; raise the bound or use "
                "a store on disk"
            )
        going = max(needed, min(self._most // 100, len(others)))
        oldest = others[: 2 * going]
        for name in heapq.nsmallest(going, oldest, key=lambda name: self._accounts[name].suspicion):
            del self._accounts[name], self._unseen[name]
            self.forgotten += 1

    def replay(self, account_id: str) -> list[bytes]:
        with self._lock:
            own = self._accounts.get(account_id)
        return list(own.events) if own else []

    def accounts(self) -> Iterator[str]:
        with self._lock:
            return iter(list(self._accounts))

    def erase(self, account_id: str) -> bool:
        with self._lock:
            self._unseen.pop(account_id, None)
            return self._accounts.pop(account_id, None) is not None

    def check(self) -> None:
        """Memory always answers."""

    def close(self) -> None:
        """Nothing is open."""
