"""Skeletons: what the prompts of several accounts share beside what varies in them.

Shingles that stand in nearly the same events belong to one skeleton, wherever in the prompt they
stand: the words before a slot and those after it, or both sides of a variable. Which shingles do is
told by MinHash (Broder 1997): two sets of events agree in each of their smallest hashes with the
chance of their Jaccard similarity, and sorting by those finds the pairs without comparing all.

Axis letters: E events, P pairs of event and shingle, S shingles that are shared, K skeletons.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from stillwatch.model.campaigns.shingles import HASH_BITS, distinct

MIN_ACCOUNTS = 3
"""Accounts that must share a skeleton: two agree by chance too often."""
MIN_SHINGLES = 5
"""Of a skeleton: eight words in one run, or more in several."""
MIN_COVER = 0.5
"""Share of a skeleton's shingles that an event must hold to be one of its events."""
HASHES = 12
AGREE = 8
"""Of HASHES smallest hashes of two shingles' events must be the same: a Jaccard similarity of some
two thirds."""

_ACCOUNT_BITS = 64 - HASH_BITS
_MIX = np.uint64(0x9E3779B97F4A7C15)
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Skeletons:
    """K skeletons, and which events are of which: event (M,) and skeleton (M,), int64, each pair
    once, ordered by skeleton and event. `words` int64 (K,) is about how many words each has;
    `identity` uint64 (K,) is the same for the same skeleton in another run as long as its smallest
    shingle is."""

    event: np.ndarray
    skeleton: np.ndarray
    words: np.ndarray
    identity: np.ndarray

    def __len__(self) -> int:
        return len(self.words)


def find_skeletons(
    shingle: np.ndarray, event: np.ndarray, account: np.ndarray, event_hash: np.ndarray
) -> Skeletons:
    """The skeletons of some events.

    `shingle` uint64 (P,) and `event` int32 (P,) are pairs without repeats; `account` int64 (E,)
    and `event_hash` uint64 (E,) belong to the events. The result depends on these values and
    not on the order of the events.
    """
    shared = shared_shingles(shingle, account[event])
    place, event = _of_shared(shared, shingle, event)
    order = np.lexsort((event, place))
    place, event = place[order], event[order]
    group = _alike(place, event_hash[event], len(shared))
    sizes = np.bincount(group, minlength=group.max(initial=-1) + 1)
    return _members(group, sizes, place, event, account, shared)


def _of_shared(
    shared: np.ndarray, shingle: np.ndarray, event: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Place in `shared` int64 and event of those pairs whose shingle is shared."""
    places, events = [np.zeros(0, dtype=np.int64)], [event[:0]]
    # In blocks: all places at once would take as much memory as the shingles do.
    for start in range(0, len(shingle) if len(shared) else 0, _BLOCK):
        block = shingle[start : start + _BLOCK]
        place = np.minimum(np.searchsorted(shared, block), len(shared) - 1)
        kept = shared[place] == block
        places.append(place[kept])
        events.append(event[start : start + _BLOCK][kept])
    return np.concatenate(places), np.concatenate(events)


def shared_shingles(shingle: np.ndarray, account: np.ndarray) -> np.ndarray:
    """Sorted shingles uint64 (S,) that at least MIN_ACCOUNTS accounts have sent. ValueError for
    more accounts than there are numbers for."""
    if account.max(initial=0) >= 1 << _ACCOUNT_BITS:
        raise ValueError(f"accounts must be fewer than 2**{_ACCOUNT_BITS}, however: more; use days")
    pairs = shingle << np.uint64(_ACCOUNT_BITS)
    pairs |= account.astype(np.uint64)
    owners = distinct(pairs) >> np.uint64(_ACCOUNT_BITS)
    starts = np.flatnonzero(np.concatenate([[len(owners) > 0], owners[1:] != owners[:-1]]))
    counts = np.diff(starts, append=len(owners))
    return np.asarray(owners[starts[counts >= MIN_ACCOUNTS]])


def _alike(place: np.ndarray, event_hash: np.ndarray, count: int) -> np.ndarray:
    """Group int64 (S,) of each shingle: those whose events are nearly the same. `place` is
    sorted."""
    if not count:
        return np.zeros(0, dtype=np.int64)
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    smallest = np.empty((count, HASHES), dtype=np.uint64)
    for number in range(HASHES):
        # Another order of the events each time.
        salted = (event_hash ^ np.uint64((number + 1) * 0xA24BAED4963EE407 % 2**64)) * _MIX
        salted ^= salted >> np.uint64(32)
        smallest[:, number] = np.minimum.reduceat(salted * _MIX, starts)
    left, right = [], []
    for number in range(HASHES):
        order = np.argsort(smallest[:, number], kind="stable")
        ordered = smallest[order, number]
        same = ordered[1:] == ordered[:-1]
        left.append(order[:-1][same])
        right.append(order[1:][same])
    one, other = np.concatenate(left), np.concatenate(right)
    agree = (smallest[one] == smallest[other]).sum(axis=1) >= AGREE
    graph = coo_array(
        (np.ones(agree.sum(), dtype=np.int8), (one[agree], other[agree])), shape=(count, count)
    )
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def _members(
    group: np.ndarray, sizes: np.ndarray, place: np.ndarray, event: np.ndarray,
    account: np.ndarray, shared: np.ndarray,
) -> Skeletons:  # fmt: skip
    """The groups that are large enough, with the events that hold enough of each."""
    wanted = sizes >= MIN_SHINGLES
    of_group = group[place]
    kept = wanted[of_group]
    of_group, event = of_group[kept], event[kept]
    order = np.lexsort((event, of_group))
    of_group, event = of_group[order], event[order]
    new = np.flatnonzero(
        np.diff(of_group, prepend=-1).astype(bool) | np.diff(event, prepend=-1).astype(bool)
    )
    held = np.diff(new, append=len(event))
    of_group, event = of_group[new], event[new]
    enough = held >= np.maximum(MIN_COVER * sizes[of_group], MIN_SHINGLES)
    of_group, event = of_group[enough], event[enough]

    pairs = distinct((of_group << 32) | account[event])
    names, counts = np.unique(pairs >> 32, return_counts=True)
    names = names[counts >= MIN_ACCOUNTS]
    kept = np.isin(of_group, names)
    of_group, event = of_group[kept], event[kept]
    # The smallest shingle of each group; shared ones are sorted.
    identity = np.full(len(sizes), np.iinfo(np.uint64).max)
    np.minimum.at(identity, group, shared)
    return Skeletons(event, np.searchsorted(names, of_group), sizes[names] + 3, identity[names])
