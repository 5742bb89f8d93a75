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
_EVENT = np.uint64((1 << EVENT_BITS) - 1)
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
        fresh = _of_events_from(seen, pairs) if seen else pairs
        shared, smallest = _shared_with(fresh, pairs, account, _orders(event_hash), known)
        group = _alike(smallest)
        sizes = np.bincount(group, minlength=group.max(initial=-1) + 1)
        wanted = sizes >= MIN_SHINGLES
        keys = _group_keys(group, shared, len(sizes))
        of_group, event = _members(group, sizes, wanted, keys, shared, fresh, pairs, known)
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
    pairs: np.ndarray, account: np.ndarray, orders: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The shingles uint64 (S,), sorted, that at least MIN_ACCOUNTS accounts have sent, and the
    smallest hash of each one's events in each of the `orders` uint32 (HASHES, E): (S, HASHES)."""
    # Part by part: all at once would take several times the memory.
    firsts = np.arange(1, 1 << _PART_BITS, dtype=np.uint64) << np.uint64(
        EVENT_BITS + HASH_BITS - _PART_BITS
    )
    bounds = [0, *np.searchsorted(pairs, firsts).tolist(), len(pairs)]
    owner = account.astype(np.int32)
    parts = []
    for first, end in pairwise(bounds):
        shared, place, event = _shared(pairs[first:end], owner)
        smallest = np.full((len(shared), HASHES), _LOW, dtype=np.uint32)
        _lower(smallest, place, event, orders)
        parts.append((shared, smallest))
    shared, smallest = map(np.concatenate, zip(*parts, strict=True))
    return shared, smallest


def _shared(pairs: np.ndarray, account: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The shared ones among sorted pairs, and each pair of one of them as its place among those and
    its event, int32."""
    values = _shingle(pairs)
    starts = np.flatnonzero(np.concatenate([[len(values) > 0], values[1:] != values[:-1]]))
    sizes = np.diff(starts, append=len(values))
    enough = sizes >= MIN_ACCOUNTS
    starts, counts = starts[enough], sizes[enough]
    events = _event(pairs[np.repeat(enough, sizes)])
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


def _shared_with(
    fresh: np.ndarray, pairs: np.ndarray, account: np.ndarray, orders: np.ndarray, known: _Known
) -> tuple[np.ndarray, np.ndarray]:
    """`shared_shingles` of all pairs, by what is known and the fresh pairs: a shingle that was
    shared is so for good, and one that was not must be in a fresh event to be."""
    if not len(known.event_hash):
        return shared_shingles(pairs, account, orders)
    place = _place_in(known.shared, _shingle(fresh))
    smallest = known.smallest.copy()
    _lower(smallest, place[place >= 0], _event(fresh[place >= 0]), orders)
    unknown = distinct(_shingle(fresh[place < 0]))
    more, also = shared_shingles(pairs[_ranges(pairs, unknown)[0]], account, orders)
    both = np.concatenate([known.shared, more])
    order = np.argsort(both, kind="stable")
    return both[order], np.concatenate([smallest, also])[order]


def _orders(event_hash: np.ndarray) -> np.ndarray:
    """HASHES hashes of each event, uint32 (HASHES, E)."""
    orders = np.empty((HASHES, len(event_hash)), dtype=np.uint32)
    for number in range(HASHES):
        salted = (event_hash ^ np.uint64((number + 1) * 0xA24BAED4963EE407 % 2**64)) * _MIX
        salted ^= salted >> np.uint64(32)
        orders[number] = (salted * _MIX) >> np.uint64(32)
    return orders


def _lower(smallest: np.ndarray, place: np.ndarray, event: np.ndarray, orders: np.ndarray) -> None:
    """Bring rows of `smallest` down to the hashes of some events; their rows `place` are sorted."""
    if not len(place):
        return
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    rows = place[starts]
    for number, hashes in enumerate(orders):
        least = np.minimum.reduceat(hashes[event], starts)
        smallest[rows, number] = np.minimum(smallest[rows, number], least)


def _shingle(pairs: np.ndarray) -> np.ndarray:
    return pairs >> np.uint64(EVENT_BITS)


def _event(pairs: np.ndarray) -> np.ndarray:
    return (pairs & _EVENT).astype(np.int32)


def _of_events_from(seen: int, pairs: np.ndarray) -> np.ndarray:
    """The pairs of events from this number on."""
    # Block by block: a mask of all of them would be as large as they are.
    blocks = (pairs[first : first + _BLOCK] for first in range(0, len(pairs), _BLOCK))
    return np.concatenate([pairs[:0], *(own[(own & _EVENT) >= seen] for own in blocks)])


def _place_in(shared: np.ndarray, shingles: np.ndarray) -> np.ndarray:
    """Where each shingle stands among those that are shared, int64; -1 for one that does not."""
    place = np.searchsorted(shared, shingles)
    place[place == len(shared)] = 0
    found = shared[place] == shingles if len(shared) else np.zeros(len(place), dtype=bool)
    return np.where(found, place, -1)


def _ranges(pairs: np.ndarray, shingles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where among all pairs those of some shingles stand, in their order, int64, and how many of
    them each shingle has."""
    firsts = np.searchsorted(pairs, shingles << np.uint64(EVENT_BITS))
    counts = np.searchsorted(pairs, (shingles << np.uint64(EVENT_BITS)) | _EVENT, "right") - firsts
    at = np.arange(counts.sum())
    at += np.repeat(firsts - (np.cumsum(counts) - counts), counts)
    return at, counts


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
    shared: np.ndarray, fresh: np.ndarray, pairs: np.ndarray, known: _Known,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The groups that are wanted, with the events that hold enough of each: both int64, sorted.
    What is known of groups of the same shingles is taken over."""
    same = np.isin(keys, known.keys) & wanted
    anew = np.flatnonzero((wanted & ~same)[group])
    at, counts = _ranges(pairs, shared[anew])
    parts = [np.repeat(group[anew], counts) << 32 | _event(pairs[at])]
    if same.any():
        place = _place_in(shared, _shingle(fresh))
        going_on = (place >= 0) & same[group[place]]
        parts.append(group[place[going_on]] << 32 | _event(fresh[going_on]))
    both = np.concatenate(parts)
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
