"""Accounts that share a network, a means of payment or a client, by the hashes in their events."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from stillwatch.serving.archive import PromptArchive
from stillwatch.serving.archive.traits import KINDS
from stillwatch.serving.pages.tallies import Tallies

COMMON = {"network": 1000, "payment": 1000, "client": 200}
"""A value that more accounts share tells nothing."""
COMMON_CLIENT = 0.05
"""Nor does a client that more than this share of all accounts has: it is a library."""
MOST_LINKED = 50
_WEIGHTS = {"payment": 4, "network": 2, "client": 1}
"""A shared payment or network says more than any number of events of one client."""


@dataclass(frozen=True, slots=True)
class Linked:
    """An account that shares something with another: what, in how many of its events, and how it
    stands."""

    account_id: str
    kinds: tuple[str, ...]
    events: int
    flagged: bool
    risk: float


@dataclass(frozen=True, slots=True)
class LinkedAccounts:
    """Those that share most first. `common` are kinds whose values are too many accounts' to
    tell."""

    accounts: list[Linked]
    common: tuple[str, ...]


def links_of(archive: PromptArchive, tallies: Tallies, account_id: str) -> LinkedAccounts:
    """Accounts that share something with one. StoreError."""
    number = archive.account_numbers([account_id]).get(account_id)
    if number is None:
        return LinkedAccounts([], ())
    library = max(3, int(COMMON_CLIENT * archive.totals().accounts))
    most = {**COMMON, "client": min(COMMON["client"], library)}
    shared = archive.shared_with(number, most)
    order = sorted(
        shared.kinds, key=lambda own: (-_weight(shared.kinds[own]), -shared.events[own], own)
    )[:MOST_LINKED]
    names, standings = archive.account_names(order), tallies.standings(order)
    found = [
        Linked(
            names[own], tuple(kind for kind in KINDS if kind in shared.kinds[own]),
            shared.events[own], standings[own].flagged, standings[own].risk,
        )
        for own in order
        if own in names and own in standings
    ]  # fmt: skip
    return LinkedAccounts(found, tuple(sorted(shared.common)))


def _weight(kinds: Iterable[str]) -> int:
    return sum(_WEIGHTS[kind] for kind in kinds)
