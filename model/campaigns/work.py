"""How the accounts of a community share its work: which events are its own, who sent how many of
them, and which are to be read.

It is worked out once and holds for as long as nothing of it changes: of a hundred thousand accounts
few have sent anything since the last run.

Axis letters: E events, A accounts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stillwatch.model.campaigns.communities import Community
from stillwatch.model.campaigns.index import CampaignIndex, EventTable

SAMPLE_EVENTS = 64
"""Events of a community that are read: risk hardly moves after."""
EACH = 3
"""Of an account, while there are accounts enough."""
SURE = 1.64
"""Standard errors by which a value must be certain to speak against accounts."""


@dataclass(frozen=True)
class Traffic:
    """All events and accounts: `order` int64 (E,) sorts the events by account, whose own are those
    between two `bounds` int64 (A + 1,); `hashes` uint64 (A,) are of the accounts' names."""

    table: EventTable
    index: CampaignIndex
    order: np.ndarray
    bounds: np.ndarray
    hashes: np.ndarray

    @classmethod
    def of(cls, table: EventTable, index: CampaignIndex) -> Traffic:
        order = np.argsort(table.account, kind="stable")
        bounds = np.searchsorted(table.account[order], np.arange(len(index.accounts) + 1))
        hashes = np.array([hash_of(name) for name in index.accounts], dtype=np.uint64)
        return cls(table, index, order, bounds, hashes)


@dataclass(frozen=True)
class Work:
    """`events` int64 are a community's, in order of time; `drawn` int64 at most SAMPLE_EVENTS of
    them, those to be read first in front. `shared` are the features that tell how the accounts
    share the work, but for the onset: the middle half of them begin within `begun_within` seconds.
    `key` is another once anything of this is."""

    key: bytes
    events: np.ndarray
    drawn: np.ndarray
    shared: dict[str, float]
    begun_within: float

    def sample(self, table: EventTable, most: int = SAMPLE_EVENTS) -> tuple[int, ...]:
        """Numbers of at most `most` events to read, in order of time."""
        return tuple(_by_time(self.drawn[:most], table).tolist())

    def features(self, table: EventTable) -> dict[str, float]:
        """`shared` and the onset, which depends on all traffic."""
        onset = np.log((self.begun_within + 60.0) / (table.middle_half + 60.0))
        return {**self.shared, "onset": float(onset)}


class Works:
    """The work of communities of one index, kept from one run to the next."""

    def __init__(self) -> None:
        self._kept: dict[bytes, Work] = {}

    def of(self, communities: Sequence[Community], traffic: Traffic) -> list[Work]:
        """One for each community; what no community of these has is forgotten."""
        found = []
        for community in communities:
            key = _key(community, traffic)
            found.append(self._kept.get(key) or _work(key, community, traffic))
        self._kept = {work.key: work for work in found}
        return found


def hash_of(text: str) -> int:
    """64 bits."""
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def _draw(
    events: np.ndarray, lone: np.ndarray, table: EventTable, hashes: np.ndarray
) -> np.ndarray:
    """At most SAMPLE_EVENTS of some events int64 (E,), those to be read first in front: EACH of an
    account, different texts first, drawn by hash so that a further event changes little. Accounts
    with several come before those whose event is `lone`, bool (E,): one prompt of an account tells
    nothing of its kinship. `hashes` uint64 are those of all accounts' names."""
    account, identity = table.account[events], table.identity[events]
    first_text = np.zeros(len(account), dtype=bool)
    by_identity = np.argsort(identity, kind="stable")
    _, first = np.unique(table.text[events][by_identity], return_index=True)
    first_text[by_identity[first]] = True
    # By hash: the first ones to come are not those that a campaign is made of.
    order = np.lexsort((identity, ~first_text, hashes[account], lone))
    starts = np.flatnonzero(np.diff(account[order], prepend=-1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    # All accounts' first EACH before anyone's next.
    turn = rank // EACH
    return np.asarray(events[order[np.argsort(turn, kind="stable")][:SAMPLE_EVENTS]])


def _key(community: Community, traffic: Traffic) -> bytes:
    """What a community's work follows from, as long as events keep their numbers."""
    digest = hashlib.blake2b(digest_size=16)
    for own in community.evidence:
        # Who has a key is not told apart: whoever comes to it has sent something.
        told = (own.identity, own.words, own.keys, len(own.events), len(own.accounts))
        digest.update(repr(told).encode("utf-8", "surrogatepass"))
        digest.update(own.events.tobytes())
        digest.update(own.accounts.tobytes())
    digest.update(traffic.table.sent[community.accounts].tobytes())
    return digest.digest()


def _work(key: bytes, community: Community, traffic: Traffic) -> Work:
    """Events that hold a skeleton of the community; all events of those accounts that only keys
    tie to it."""
    table, bounds = traffic.table, traffic.bounds
    parts = [own.events for own in community.evidence if own.kind == "skeleton"]
    held = np.unique(np.concatenate(parts)) if parts else np.zeros(0, dtype=np.int64)
    having = np.unique(table.account[held])
    others = [
        traffic.order[bounds[account] : bounds[account + 1]]
        for account in np.setdiff1d(community.accounts, having)
    ]
    events = _by_time(np.concatenate([held, *others]), table)
    accounts, owner, counts = np.unique(
        table.account[events], return_inverse=True, return_counts=True
    )
    begun = np.full(len(accounts), np.inf)
    np.minimum.at(begun, owner, table.time[events])
    low, high = np.quantile(begun, [0.25, 0.75])
    return Work(
        key, events,
        _draw(events, (counts < 2)[owner], table, traffic.hashes),
        {
            "dedication": float(np.median(counts / table.sent[accounts])),
            "unevenness": _unevenness(counts),
            "accounts": float(np.log(len(accounts))),
            "variety": len(np.unique(table.text[events])) / len(events),
            "sharing": _sharing(community, accounts, traffic.index),
        },
        float(high - low),
    )  # fmt: skip


def _by_time(events: np.ndarray, table: EventTable) -> np.ndarray:
    return np.asarray(events[np.lexsort((table.identity[events], table.time[events]))])


def _unevenness(counts: np.ndarray) -> float:
    """Log of the most that variance over mean of accounts' counts likely is; 0 is chance."""
    if len(counts) < 3:
        return 3.0
    error = np.sqrt(2 / (len(counts) - 1))
    return float(np.log(counts.var(ddof=1) / counts.mean() + 0.05) + SURE * error)


def _sharing(community: Community, accounts: np.ndarray, index: CampaignIndex) -> float:
    """Share of the accounts that have a network or payment of the community with another of them.
    A client is the caller's own word, and customers of one product name the same."""
    keys = [
        key for own in community.evidence for key in own.keys if key.kind in ("network", "payment")
    ]
    tied = set()
    for key in keys:
        both = index.keys[key].intersection(accounts.tolist())
        if len(both) > 1:
            tied |= both
    return len(tied) / len(accounts)
