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

_EVENT_BITS = 64 - HASH_BITS
_PART_BITS = 4
_MIX = np.uint64(0x9E3779B97F4A7C15)


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
    shared, place, event = shared_shingles(shingle, event, account)
    group = _alike(place, event, event_hash, len(shared))
    sizes = np.bincount(group, minlength=group.max(initial=-1) + 1)
    return _members(group, sizes, place, event, account, shared)


def shared_shingles(
    shingle: np.ndarray, event: np.ndarray, account: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The shingles uint64 (S,), sorted, that at least MIN_ACCOUNTS accounts have sent; and the
    pairs of one of them, by its place among them, with an event, int32 and sorted by both.
    ValueError for more events than there are numbers for."""
    if len(account) > 1 << _EVENT_BITS:
        raise ValueError(f"events must be at most 2**{_EVENT_BITS}, however: more; use days")
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    found = 0
    # By the first bits, which keeps the order: all at once would take several times the memory.
    part_of = (shingle >> np.uint64(HASH_BITS - _PART_BITS)).astype(np.uint8)
    for number in range(1 << _PART_BITS):
        own = part_of == number
        shared, place, events = _shared(shingle[own], event[own], account)
        parts.append((shared, place + np.int32(found), events))
        found += len(shared)
    shared, place, events = map(np.concatenate, zip(*parts, strict=True))
    return shared, place, events


def _shared(
    shingle: np.ndarray, event: np.ndarray, account: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # As one number: sorting those is many times as fast as ordering by two columns.
    pairs = shingle << np.uint64(_EVENT_BITS)
    pairs |= event.astype(np.uint64)
    pairs.sort()
    values = pairs >> np.uint64(_EVENT_BITS)
    starts = np.flatnonzero(np.concatenate([[len(values) > 0], values[1:] != values[:-1]]))
    sizes = np.diff(starts, append=len(values))
    enough = sizes >= MIN_ACCOUNTS
    shared = values[starts[enough]]
    events = (pairs[np.repeat(enough, sizes)] & np.uint64((1 << _EVENT_BITS) - 1)).astype(np.int32)
    place = np.repeat(np.arange(len(shared)), sizes[enough])
    owners = distinct((place << 32) | account[events]) >> 32
    wanted = np.bincount(owners, minlength=len(shared)) >= MIN_ACCOUNTS
    kept = wanted[place]
    renumbered = (np.cumsum(wanted) - 1).astype(np.int32)
    return shared[wanted], renumbered[place[kept]], events[kept]


def _alike(place: np.ndarray, event: np.ndarray, event_hash: np.ndarray, count: int) -> np.ndarray:
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
        smallest[:, number] = np.minimum.reduceat((salted * _MIX)[event], starts)
    pairs = []
    for number in range(HASHES):
        order = np.argsort(smallest[:, number], kind="stable")
        ordered = smallest[order, number]
        same = ordered[1:] == ordered[:-1]
        pairs.append((order[:-1][same] << 32) | order[1:][same])
    # Shingles of exactly the same events are neighbours in every order.
    both = distinct(np.concatenate(pairs))
    one, other = both >> 32, both & 0xFFFFFFFF
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
    of_group = group.astype(np.int32)[place]
    kept = wanted[of_group]
    both = of_group[kept].astype(np.int64)
    both <<= 32
    both |= event[kept]
    both.sort()
    new = np.flatnonzero(np.concatenate([[len(both) > 0], both[1:] != both[:-1]]))
    held = np.diff(new, append=len(both))
    of_group, event = both[new] >> 32, both[new] & 0xFFFFFFFF
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
