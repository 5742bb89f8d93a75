"""Who shares a network, a means of payment or a client with whom.

A trait is one such value, by its kind and eight bytes of its hash. The table `traits` says how many
events of each account have it; it is kept up with the events, in their transactions.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from stillwatch.serving.archive.database import Session, in_lists
from stillwatch.serving.archive.rows import unpack_fields

KINDS = ("network", "payment", "client")
"""Fields of an event; a trait has the place of its kind here."""
MOST_OWN = 100
"""Traits of an account that are looked at, those of most of its events."""
BLOCK = 5000

Trait = tuple[int, int, bytes]
"""Account, kind, value."""


class Shared(NamedTuple):
    """What an account shares: of each other account, by number, the kinds and in how many of its
    events; `common` are kinds of which a value is too many accounts' to tell anything."""

    kinds: dict[int, set[str]]
    events: Counter[int]
    common: set[str]


def of_fields(account: int, fields: Mapping[str, Any]) -> list[Trait]:
    """An event's traits, by the names that its fields have in `details`."""
    found = []
    for place, kind in enumerate(KINDS):
        value = fields.get(kind)
        if isinstance(value, str) and value:
            raw = value.encode("utf-8", "surrogatepass")
            found.append((account, place, hashlib.blake2b(raw, digest_size=8).digest()))
    return found


def add(session: Session, traits: Iterable[Trait]) -> None:
    """Count the traits of new events."""
    session.many(
        "INSERT INTO traits (account, kind, value, events) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (account, kind, value) DO UPDATE SET events = traits.events + excluded.events",
        # In one order, whoever writes: then two writers cannot wait for each other.
        [(*trait, count) for trait, count in sorted(Counter(traits).items())],
    )


def take_away(session: Session, traits: Iterable[Trait]) -> None:
    """Count the traits of events that go no more."""
    gone = Counter(traits)
    where = "WHERE account = ? AND kind = ? AND value = ?"
    session.many(
        f"UPDATE traits SET events = events - ? {where}",
        [(count, *trait) for trait, count in sorted(gone.items())],
    )
    session.many(f"DELETE FROM traits {where} AND events <= 0", sorted(gone))


def of_events(session: Session, events: Iterable[int]) -> list[Trait]:
    """The traits of events that are in the tables."""
    found: list[Trait] = []
    for marks, part in in_lists(events):
        rows = session.rows(
            "SELECT e.account, d.content FROM events e JOIN details d ON d.event = e.id "
            f"WHERE e.id IN {marks}",
            part,
        )
        for account, content in rows:
            found += of_fields(int(account), unpack_fields(content))
    return found


def shared_with(session: Session, account: int, most: Mapping[str, int]) -> Shared:
    """What an account, by number, shares with others. A value that more than `most` of its kind
    accounts have is told as common alone."""
    own = session.rows(
        "SELECT kind, value FROM traits WHERE account = ? ORDER BY events DESC LIMIT ?",
        (account, MOST_OWN),
    )
    found = Shared({}, Counter(), set())
    for place, value in own:
        kind = KINDS[int(place)]
        holders = session.rows(
            "SELECT account, events FROM traits WHERE kind = ? AND value = ? LIMIT ?",
            (place, value, most[kind] + 1),
        )
        if len(holders) > most[kind]:
            found.common.add(kind)
            continue
        for other, count in holders:
            if int(other) != account:
                found.kinds.setdefault(int(other), set()).add(kind)
                found.events[int(other)] += int(count)
    return found


def fill(session: Session) -> None:
    """Count those of all events, in an archive that was made before there was this table."""
    session.run("DELETE FROM traits")
    last = 0
    while True:
        rows = session.rows(
            "SELECT e.id, e.account, d.content FROM events e JOIN details d ON d.event = e.id "
            "WHERE e.id > ? ORDER BY e.id LIMIT ?",
            (last, BLOCK),
        )
        if not rows:
            return
        add(
            session,
            [
                trait
                for _, account, content in rows
                for trait in of_fields(int(account), unpack_fields(content))
            ],
        )
        last = int(rows[-1][0])
