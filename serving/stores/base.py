"""What a store of account states does, whatever it keeps them in.

A store holds bytes and knows nothing of what they mean but how suspect an account is. The one
rule that all keep: `write` is whole or not at all, and when it returns, what was written outlives
the process (the memory store excepted).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from stillwatch.data.errors import StoreError

REMEMBERED_DAYS = 90.0
"""How long a store that outlives the process knows an event again, from its arrival on."""


class Held(NamedTuple):
    """An account's state and the version at which it was read; versions count its writes."""

    version: int
    value: bytes


class Snapshot(NamedTuple):
    """`held` has one entry for each account asked for, None where nothing is known of it; `seen`
    are those of the digests asked for whose events are counted already."""

    held: list[Held | None]
    seen: frozenset[bytes]


class Counted(NamedTuple):
    """An event that a write counts: its digest, and what is kept of it for a replay."""

    digest: bytes
    kept: bytes


@dataclass(frozen=True, slots=True)
class Write:
    """The new state of one account, in place of the one read at `version` (0: none was held)."""

    account_id: str
    version: int
    value: bytes
    suspicion: float
    """Peak risk in parts of the threshold, and 1 more while flagged: who has most stays longest."""
    counted: Sequence[Counted]
    """In the order in which they were scored."""


def id_bytes(name: str) -> bytes:
    """An id as it is kept: different ids are different bytes, whatever they hold."""
    return name.encode("utf-8", "surrogatepass")


def id_text(stored: bytes) -> str:
    """The id of which `id_bytes` made these."""
    return stored.decode("utf-8", "surrogatepass")


class ConflictError(StoreError):
    """Another process has changed an account, or counted an event, since it was read."""


class StateStore(Protocol):
    """Every method raises StoreError if the store cannot be reached or has no room."""

    @property
    def kept(self) -> int:
        """How many of an account's latest events are kept for replays."""

    def read(self, accounts: Sequence[str], digests: Sequence[bytes]) -> Snapshot:
        """What is held of these accounts, and which of these events are counted already."""

    def write(self, writes: Sequence[Write]) -> None:
        """Take all of these over, of different accounts, or none; ConflictError if another has
        written one of the accounts or counted one of the events meanwhile."""

    def replay(self, account_id: str) -> list[bytes]:
        """What was kept of the account's latest events, oldest first."""

    def accounts(self) -> Iterator[str]:
        """Every account id, in the order in which they were first seen."""

    def erase(self, account_id: str) -> bool:
        """Leave nothing of an account, neither its state nor what is kept of its events; whether
        there was anything. A write of what was read before is a ConflictError. The digests of its
        events stay: a copy of one that comes late is not counted again."""

    def check(self) -> None:
        """StoreError unless the store answers and could take a write."""

    def close(self) -> None:
        """Give back what is open. Closing twice does nothing."""
