"""What linking keeps of the events it has seen: hashes, times and who sent them. No prompts.

Added event by event, so that the next run reads only what is new; what is linked from it depends on
the events and not on the order in which they came.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import NamedTuple

import numpy as np

from stillwatch.data.errors import InputError
from stillwatch.data.events import Event
from stillwatch.model.campaigns.shingles import EVENT_BITS, pack_pairs, read_shingles

KEY_KINDS = ("network", "payment", "client")
"""Fields of an event whose equal values link accounts. All are the log's own keyed hashes or the
caller's own word."""
_ROWS = 65_536


class Key(NamedTuple):
    """A value of one of KEY_KINDS."""

    kind: str
    value: str


@dataclass(frozen=True)
class EventTable:
    """E events as columns: account int64, time float64 (seconds), identity uint64 (a hash of
    account and event id), text uint64 (a hash of the normalised prompt), model int64 (its number,
    -1 if none is known); and P pairs of a shingle and an event, `pack_pairs`, sorted."""

    account: np.ndarray
    time: np.ndarray
    identity: np.ndarray
    text: np.ndarray
    model: np.ndarray
    pairs: np.ndarray

    def __len__(self) -> int:
        return len(self.account)

    @cached_property
    def sent(self) -> np.ndarray:
        """How many events each account has sent, int64 (A,)."""
        return np.bincount(self.account)

    @cached_property
    def middle_half(self) -> float:
        """Seconds from the first to the third quartile of the times."""
        low, high = np.quantile(self.time, [0.25, 0.75])
        return float(high - low)

    @cached_property
    def began(self) -> float:
        """The earliest time; infinite if there is none."""
        return float(self.time.min(initial=np.inf))

    @cached_property
    def released(self) -> np.ndarray:
        """First use of each model by anyone, float64 (models,)."""
        used = self.model >= 0
        first = np.full(int(self.model.max(initial=-1)) + 1, np.inf)
        np.minimum.at(first, self.model[used], self.time[used])
        return first


class CampaignIndex:
    """Events by number, in the order in which they were added."""

    def __init__(self) -> None:
        self.accounts: list[str] = []
        """Their ids, by number."""
        self.models: list[str] = []
        self.keys: dict[Key, set[int]] = {}
        """Accounts that sent each value, by number."""
        self._account_number: dict[str, int] = {}
        self._model_number: dict[str, int] = {}
        self._seen: set[int] = set()
        """Identities of the events."""
        self._columns: list[list[float | int]] = [[] for _ in range(5)]
        self._shingles: list[np.ndarray] = []
        self._parts: list[EventTable] = []

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, events: Iterable[Event]) -> int:
        """Take in events; how many were new. An event that is here already changes nothing.
        InputError for more events than there are numbers for; those before stay."""
        before = len(self)
        for event in events:
            self._add(event)
        return len(self) - before

    def times(self, account_id: str) -> tuple[float, float]:
        """First and last time of an account, seconds; KeyError if it was never seen."""
        table = self.table()
        own = table.time[table.account == self._account_number[account_id]]
        return float(own.min()), float(own.max())

    def table(self) -> EventTable:
        """All events."""
        self._close_part()
        if len(self._parts) == 1:
            return self._parts[0]
        names = [field.name for field in fields(EventTable)]
        joined = EventTable(
            **{
                name: np.concatenate([np.zeros(0, dtype), *(getattr(p, name) for p in self._parts)])
                for name, dtype in zip(names, _DTYPES, strict=True)
            }
        )
        # Merges what is sorted already.
        joined.pairs.sort(kind="stable")
        self._parts = [joined]
        return joined

    def _add(self, event: Event) -> None:
        identity = _identity(event.account_id, event.event_id)
        if identity in self._seen:
            return
        if len(self) >= 1 << EVENT_BITS:
            raise InputError(
                f"events linked at once must be at most {1 << EVENT_BITS:,}, however: there are "
                "more; link fewer days at a time, or keep prompts for fewer days"
            )
        account = _number(event.account_id, self._account_number, self.accounts)
        model = _number(event.model, self._model_number, self.models) if event.model else -1
        for kind in KEY_KINDS:
            value = getattr(event, kind)
            if value:
                self.keys.setdefault(Key(kind, value), set()).add(account)
        read = read_shingles(event)
        for column, cell in zip(
            self._columns, (account, event.timestamp, identity, read.text, model), strict=True
        ):
            column.append(cell)
        self._shingles.append(read.shingles)
        self._seen.add(identity)
        if len(self._shingles) >= _ROWS:
            self._close_part()

    def _close_part(self) -> None:
        """Rows to arrays, which take a tenth of the memory."""
        if not self._shingles:
            return
        first = len(self._seen) - len(self._shingles)
        sizes = [len(own) for own in self._shingles]
        account, time, identity, text, model = (
            np.array(column, dtype=dtype)
            for column, dtype in zip(self._columns, _DTYPES[:5], strict=True)
        )
        self._parts.append(
            EventTable(
                account,
                time,
                identity,
                text,
                model,
                np.sort(
                    pack_pairs(
                        np.concatenate(self._shingles),
                        np.repeat(np.arange(first, len(self._seen)), sizes),
                    )
                ),
            )
        )
        self._shingles.clear()
        for column in self._columns:
            column.clear()


_DTYPES = (np.int64, np.float64, np.uint64, np.uint64, np.int64, np.uint64)


def _number(name: str, numbers: dict[str, int], names: list[str]) -> int:
    found = numbers.get(name)
    if found is None:
        found = numbers[name] = len(names)
        names.append(name)
    return found


def _identity(account_id: str, event_id: str) -> int:
    account = hashlib.blake2b(account_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    event = event_id.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(event, digest_size=8, key=account).digest(), "big")
