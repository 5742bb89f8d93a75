"""Skeletons: what the prompts of several accounts share beside what varies in them.

Shingles that stand in nearly the same events belong to one skeleton, wherever in the prompt they
stand: the words before a slot and those after it, or both sides of a variable. Which shingles do is
told by MinHash (Broder 1997): two sets of events agree in each of their smallest hashes with the
chance of their Jaccard similarity, and sorting by those finds the pairs without comparing all.

Axis letters: E events, P pairs of shingle and event, S shingles that are shared, G groups of
shingles, K skeletons.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from stillwatch.model.campaigns.shingles import EVENT_BITS, HASH_BITS, distinct

MIN_ACCOUNTS = 3
"""Accounts that must share a skeleton: two agree by chance too often. `_shared` looks for a third
one and no further."""
MIN_SHINGLES = 5
"""Of a skeleton: eight words in one run, or more in several."""
MIN_COVER = 0.5
"""Share of a skeleton's shingles that an event must hold to be one of its events."""
HASHES = 12
AGREE = 8
"""Of HASHES smallest hashes of two shingles' events must be the same: a Jaccard similarity of some
two thirds."""

_PART_BITS = 4
_MIX = np.uint64(0x9E3779B97F4A7C15)
_LOW = np.uint64(0xFFFFFFFF)


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


@dataclass(frozen=True)
class _Known:
    """What a run leaves to the next: the event_hash uint64 (E,) it was about, the shared shingles
    uint64 (S,) with their smallest hashes uint32 (S, HASHES), keys uint64 (G,), sorted, of the
    groups of shingles that were large enough, and for each of their events the group's place among
    those and the event, int64 (M,)."""

    event_hash: np.ndarray
    shared: np.ndarray
    smallest: np.ndarray
    keys: np.ndarray
    group: np.ndarray
    event: np.ndarray


_NOTHING = _Known(
    np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros((0, HASHES), np.uint32),
    np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, np.int64),
)  # fmt: skip


class SkeletonFinder:
    """Finds skeletons again and again while events are added. What it found follows from the
    events alone; what it remembers spares it the pairs of the events that it has seen."""

    def __init__(self) -> None:
        self._known = _NOTHING

    def find(self, pairs: np.ndarray, account: np.ndarray, event_hash: np.ndarray) -> Skeletons:
        """The skeletons of some events.

        `pairs` uint64 (P,) are shingles with the events that hold them, packed by `pack_pairs`,
        sorted and without repeats; `account` int64 (E,) and `event_hash` uint64 (E,) belong to the
        events. The result depends on these values and not on the order of the events.
        """
        known, seen = self._known, len(self._known.event_hash)
        if not np.array_equal(known.event_hash, event_hash[:seen]):
            known, seen = _NOTHING, 0
        shared, place, event = shared_shingles(pairs, account)
        smallest = _smallest_hashes(shared, place, event, event_hash, known)
        group = _alike(smallest)
        sizes = np.bincount(group, minlength=group.max(initial=-1) + 1)
        wanted = sizes >= MIN_SHINGLES
        keys = _group_keys(group, shared, len(sizes))
        of_group, event = _members(group, sizes, wanted, keys, place, event, known)
        order = np.argsort(keys[wanted], kind="stable")
        rank = np.empty(len(sizes), dtype=np.int64)
        rank[np.flatnonzero(wanted)[order]] = np.arange(len(order))
        self._known = _Known(
            event_hash.copy(), shared, smallest, keys[wanted][order], rank[of_group], event
        )
        return _skeletons(group, sizes, of_group, event, account, shared)


def find_skeletons(pairs: np.ndarray, account: np.ndarray, event_hash: np.ndarray) -> Skeletons:
    """`SkeletonFinder.find` of one that knows nothing."""
    return SkeletonFinder().find(pairs, account, event_hash)


def shared_shingles(
    pairs: np.ndarray, account: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The shingles uint64 (S,), sorted, that at least MIN_ACCOUNTS accounts have sent; and the
    pairs of one of them, by its place among them, with an event, int32 and sorted by both."""
    # Part by part: all at once would take several times the memory.
    firsts = np.arange(1, 1 << _PART_BITS, dtype=np.uint64) << np.uint64(
        EVENT_BITS + HASH_BITS - _PART_BITS
    )
    bounds = [0, *np.searchsorted(pairs, firsts).tolist(), len(pairs)]
    owner = account.astype(np.int32)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    found = 0
    for first, end in pairwise(bounds):
        shared, place, events = _shared(pairs[first:end], owner)
        parts.append((shared, place + np.int32(found), events))
        found += len(shared)
    shared, place, events = map(np.concatenate, zip(*parts, strict=True))
    return shared, place, events


def _shared(pairs: np.ndarray, account: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values = pairs >> np.uint64(EVENT_BITS)
    starts = np.flatnonzero(np.concatenate([[len(values) > 0], values[1:] != values[:-1]]))
    sizes = np.diff(starts, append=len(values))
    enough = sizes >= MIN_ACCOUNTS
    starts, counts = starts[enough], sizes[enough]
    events = (pairs[np.repeat(enough, sizes)] & np.uint64((1 << EVENT_BITS) - 1)).astype(np.int32)
    if not len(starts):
        return values[starts], np.zeros(0, dtype=np.int32), events
    own = account[events]
    firsts = np.cumsum(counts) - counts
    # A third account differs from the one with the lowest number and from that with the highest.
    third = own != np.repeat(np.minimum.reduceat(own, firsts), counts)
    third &= own != np.repeat(np.maximum.reduceat(own, firsts), counts)
    wanted = np.logical_or.reduceat(third, firsts)
    place = np.repeat(np.arange(wanted.sum(), dtype=np.int32), counts[wanted])
    return values[starts[wanted]], place, events[np.repeat(wanted, counts)]


def _smallest_hashes(
    shared: np.ndarray, place: np.ndarray, event: np.ndarray, event_hash: np.ndarray, known: _Known
) -> np.ndarray:
    """The smallest hash of each shared shingle's events, in HASHES orders of the events, uint32
    (S, HASHES). `place` is sorted."""
    smallest = np.full((len(shared), HASHES), _LOW, dtype=np.uint32)
    old = np.searchsorted(known.shared, shared)
    old[old == len(known.shared)] = 0
    is_old = known.shared[old] == shared if len(known.shared) else np.zeros(len(shared), dtype=bool)
    smallest[is_old] = known.smallest[old[is_old]]
    fresh = (event >= len(known.event_hash)) | ~is_old[place]
    place, event = place[fresh], event[fresh]
    if not len(place):
        return smallest
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    rows = place[starts]
    for number in range(HASHES):
        salted = (event_hash ^ np.uint64((number + 1) * 0xA24BAED4963EE407 % 2**64)) * _MIX
        salted ^= salted >> np.uint64(32)
        hashes = ((salted * _MIX) >> np.uint64(32)).astype(np.uint32)
        least = np.minimum.reduceat(hashes[event], starts)
        smallest[rows, number] = np.minimum(smallest[rows, number], least)
    return smallest


def _alike(smallest: np.ndarray) -> np.ndarray:
    """Group int64 (S,) of each shingle: those whose events are nearly the same."""
    count = len(smallest)
    pairs = [np.zeros(0, dtype=np.uint64)]
    numbers = np.arange(count, dtype=np.uint64)
    for column in smallest.T:
        # As one number: sorting those is many times as fast as ordering by two columns.
        ordered = np.sort((column.astype(np.uint64) << np.uint64(32)) | numbers)
        same = (ordered[1:] ^ ordered[:-1]) <= _LOW
        pairs.append((ordered[:-1][same] << np.uint64(32)) | (ordered[1:][same] & _LOW))
    # Shingles of exactly the same events are neighbours in every order.
    both = distinct(np.concatenate(pairs))
    one, other = (both >> np.uint64(32)).astype(np.int64), (both & _LOW).astype(np.int64)
    agree = (smallest[one] == smallest[other]).sum(axis=1) >= AGREE
    graph = coo_array(
        (np.ones(agree.sum(), dtype=np.int8), (one[agree], other[agree])), shape=(count, count)
    )
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def _group_keys(group: np.ndarray, shared: np.ndarray, count: int) -> np.ndarray:
    """A hash of the set of shingles of each group, uint64 (G,): a sum that wraps."""
    keys = np.zeros(count, dtype=np.uint64)
    mixed = (shared ^ (shared >> np.uint64(17))) * _MIX
    np.add.at(keys, group, mixed ^ (mixed >> np.uint64(29)))
    return keys


def _members(
    group: np.ndarray, sizes: np.ndarray, wanted: np.ndarray, keys: np.ndarray,
    place: np.ndarray, event: np.ndarray, known: _Known,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The groups that are wanted, with the events that hold enough of each: both int64, sorted.
    What is known of groups of the same shingles is taken over."""
    same = np.isin(keys, known.keys) & wanted
    of_group = group.astype(np.int32)[place]
    kept = wanted[of_group] & (~same[of_group] | (event >= len(known.event_hash)))
    both = of_group[kept].astype(np.int64)
    both <<= 32
    both |= event[kept]
    both.sort()
    new = np.flatnonzero(np.concatenate([[len(both) > 0], both[1:] != both[:-1]]))
    held = np.diff(new, append=len(both))
    both = both[new]
    of_group = both >> 32
    both = both[held >= np.maximum(MIN_COVER * sizes[of_group], MIN_SHINGLES)]
    if len(known.keys):
        # The group of each known one, -1 where its shingles are another set now.
        now = np.full(len(known.keys), -1, dtype=np.int64)
        now[np.searchsorted(known.keys, keys[same])] = np.flatnonzero(same)
        going_on = now[known.group] >= 0
        old = (now[known.group[going_on]] << 32) | known.event[going_on]
        both = np.sort(np.concatenate([both, old]))
    return both >> 32, both & 0xFFFFFFFF


def _skeletons(
    group: np.ndarray, sizes: np.ndarray, of_group: np.ndarray, event: np.ndarray,
    account: np.ndarray, shared: np.ndarray,
) -> Skeletons:  # fmt: skip
    """Those groups that enough accounts have."""
    pairs = distinct((of_group << 32) | account[event])
    names, counts = np.unique(pairs >> 32, return_counts=True)
    names = names[counts >= MIN_ACCOUNTS]
    kept = np.isin(of_group, names)
    of_group, event = of_group[kept], event[kept]
    # The smallest shingle of each group; shared ones are sorted.
    identity = np.full(len(sizes), np.iinfo(np.uint64).max)
    np.minimum.at(identity, group, shared)
    return Skeletons(event, np.searchsorted(names, of_group), sizes[names] + 3, identity[names])
