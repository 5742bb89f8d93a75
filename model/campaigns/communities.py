"""Communities of evidence: skeletons and keys that the same accounts have.

Leiden (Traag, Waltman and van Eck 2019) on the graph of pieces of evidence, not of accounts: its
size does not grow with the square of a campaign's accounts, an account can be in two campaigns, and
its objective, the constant Potts model, has no resolution limit, so that a campaign of fifty
accounts is not swallowed by an estate of five thousand.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import igraph
import numpy as np
from scipy.sparse import csr_array

from stillwatch.model.campaigns.evidence import Evidence
from stillwatch.model.campaigns.index import EventTable

RESOLUTION = 0.15
"""Mean overlap of accounts that holds pieces of evidence together."""
MIN_OVERLAP = 0.1
CONTAINED = 0.9
"""A community whose accounts are so far those of a larger one is a part of it."""
MIN_MEMBER_SHARE = 0.2
MIN_MEMBER_EVENTS = 4
"""An account is a member if so many of its events are of the campaign, or such a share, or if keys
tie it to another member: one that tried a prompt now and then is none."""
MIN_MAIN_SHARE = 0.2
"""Of the accounts of a community's largest skeleton that a skeleton must tie to make members: who
sends what a few of a campaign's accounts sent too, a public exercise in their frame, is none by
that."""


class _NoChance:
    """Stands in for the generator that igraph draws from: all draws are the same, so that a shuffle
    leaves everything in its order. With a seed a further piece of evidence gives all others another
    draw, and a tenth of the communities come out otherwise, none of them better."""

    @staticmethod
    def getrandbits(count: int) -> int:
        return (1 << count) - 1

    @staticmethod
    def randint(_first: int, last: int) -> int:
        return last

    @staticmethod
    def random() -> float:
        return 0.5

    @staticmethod
    def gauss(mean: float, _deviation: float) -> float:
        return mean


@dataclass(frozen=True)
class Community:
    """Pieces of evidence, and the accounts int64 (sorted) that have any of them."""

    evidence: tuple[Evidence, ...]
    accounts: np.ndarray


def find_communities(evidence: Sequence[Evidence]) -> list[Community]:
    """Communities in an order that depends on the evidence alone, largest first."""
    evidence = sorted(evidence, key=lambda one: one.identity)
    if not evidence:
        return []
    one, other, overlap = _overlaps(evidence)
    graph = igraph.Graph(n=len(evidence), edges=np.stack([one, other], axis=1).tolist())
    igraph.set_random_number_generator(_NoChance())
    try:
        label = graph.community_leiden(
            objective_function="CPM", weights=overlap.tolist(), resolution=RESOLUTION,
            n_iterations=-1,
        ).membership  # fmt: skip
    finally:
        igraph.set_random_number_generator(random)
    groups: dict[int, list[Evidence]] = {}
    for own, number in zip(evidence, label, strict=True):
        groups.setdefault(number, []).append(own)
    return _absorbed([_community(own) for own in groups.values()])


def members_of(community: Community, events: np.ndarray, table: EventTable) -> np.ndarray:
    """The accounts int64, sorted, that a campaign made of a community consists of; `events` int64
    are those that are evidence of it. All that sent one, if none would be a member."""
    accounts, counts = np.unique(table.account[events], return_counts=True)
    member = (counts >= MIN_MEMBER_EVENTS) | (counts >= MIN_MEMBER_SHARE * table.sent[accounts])
    skeletons = [one.accounts for one in community.evidence if one.kind == "skeleton"]
    least = MIN_MAIN_SHARE * max(map(len, skeletons), default=0)
    keys = [one.accounts for one in community.evidence if one.kind == "keys"]
    main = [tied for tied in skeletons if len(tied) >= least]
    member &= np.isin(accounts, _joined(main))
    member |= np.isin(accounts, _joined(keys))
    return np.asarray(accounts[member] if member.any() else accounts)


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])


def _community(evidence: Sequence[Evidence]) -> Community:
    accounts = np.unique(np.concatenate([own.accounts for own in evidence]))
    return Community(tuple(evidence), accounts)


def _overlaps(evidence: Sequence[Evidence]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of pieces int64, and the share of the smaller one's accounts that both have."""
    sizes = np.array([len(own.accounts) for own in evidence])
    columns = np.concatenate([own.accounts for own in evidence])
    rows = np.repeat(np.arange(len(evidence)), sizes)
    shape = (len(evidence), int(columns.max()) + 1)
    matrix = csr_array((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=shape)
    common = (matrix @ matrix.T).tocoo()
    upper = common.row < common.col
    one, other, shared = common.row[upper], common.col[upper], common.data[upper]
    overlap = shared / np.minimum(sizes[one], sizes[other])
    kept = overlap >= MIN_OVERLAP
    return one[kept].astype(np.int64), other[kept].astype(np.int64), overlap[kept]


def _absorbed(communities: Sequence[Community]) -> list[Community]:
    """Each community that lies within a larger one becomes a part of it."""
    ordered = sorted(communities, key=lambda own: (-len(own.accounts), own.evidence[0].identity))
    kept: list[Community] = []
    homes: dict[int, list[int]] = {}
    for own in ordered:
        counts: dict[int, int] = {}
        for account in own.accounts.tolist():
            for home in homes.get(account, ()):
                counts[home] = counts.get(home, 0) + 1
        home = max(counts, key=lambda name: (counts[name], -name), default=-1)
        if home >= 0 and counts[home] >= CONTAINED * len(own.accounts):
            kept[home] = _community([*kept[home].evidence, *own.evidence])
            target = home
        else:
            target = len(kept)
            kept.append(own)
        for account in own.accounts.tolist():
            places = homes.setdefault(account, [])
            if target not in places:
                places.append(target)
    return kept
