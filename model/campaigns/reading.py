"""What a community looks like: its events read as one stream by the sequence classifier, and how
its accounts share the work.

Content alone does not tell a harvest in words that nobody has seen from a product under its
customers' accounts. How the work is shared does: an operator deals one list out over accounts, so
that each account's payloads are as unlike one another as those of different accounts, and each
account sends about as many; customers each come with matters of their own, in numbers of their own,
at times of their own.

Axis letters: N sampled events, D dimensions of a vector, F features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from stillwatch.data.events import Event
from stillwatch.model.campaigns.communities import Community
from stillwatch.model.campaigns.index import CampaignIndex, EventTable
from stillwatch.model.campaigns.risk import FEATURES
from stillwatch.model.detector import SLOT, Detector, Scored, text_key
from stillwatch.model.parts import encode_parts
from stillwatch.model.stream import EventTexts

SAMPLE_EVENTS = 64
"""Events of a community that are read: risk hardly moves after."""
EACH = 3
"""Of an account, while there are accounts enough."""
FIRST_LOOK = 16
"""Events that are read of a community first: most are clearly ordinary after that."""
AT_ONCE = 64
"""Communities that are read in one go: a search of the references costs as much for five texts as
for hundreds."""
HOPE = 1.0
"""By which the risk's logit may yet rise after the first look."""
SURE = 1.64
"""Standard errors by which a value must be certain to speak against accounts."""
LEAST_KINSHIP, UNKNOWN_KINSHIP = -0.1, 1.0
_SMALLEST = 1e-6

Fetch = Callable[[Sequence[int]], list[Event]]
"""The events with these numbers, in their order."""
Clear = Callable[[np.ndarray], bool]
"""Whether the features that speak most for a campaign, float64 (F,), still speak for none."""


@dataclass(frozen=True)
class Reading:
    """`features` float64 (F,); `intents` float64 (I,), calibrated, over the sampled events;
    `events` int64, all that are evidence, in order of time; `sampled` numbers of those read, of
    which there are FIRST_LOOK where a first look cleared the community."""

    features: np.ndarray
    intents: np.ndarray
    events: np.ndarray
    sampled: tuple[int, ...]


@dataclass(frozen=True)
class Work:
    """A community's events, int64, and what each of its accounts has of them: accounts int64 (A,)
    that have any, sorted, and counts int64 (A,)."""

    events: np.ndarray
    accounts: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class _Traffic:
    """All events and accounts: `order` int64 (E,) sorts the events by account, whose own are those
    between two `bounds` int64 (A + 1,); `hashes` uint64 (A,) are of the accounts' names."""

    table: EventTable
    index: CampaignIndex
    order: np.ndarray
    bounds: np.ndarray
    hashes: np.ndarray

    @classmethod
    def of(cls, table: EventTable, index: CampaignIndex) -> _Traffic:
        order = np.argsort(table.account, kind="stable")
        bounds = np.searchsorted(table.account[order], np.arange(len(index.accounts) + 1))
        hashes = np.array([hash_of(name) for name in index.accounts], dtype=np.uint64)
        return cls(table, index, order, bounds, hashes)


class _Content(NamedTuple):
    """What some events say: features as found, those that speak most for a campaign among what is
    likely, intents (I,), and the `text_key` of each event's payload."""

    found: dict[str, float]
    at_most: dict[str, float]
    intents: np.ndarray
    payloads: tuple[bytes, ...]


class CommunityReader:
    """Reads communities with a detector. What is sampled anew is read anew; the rest is kept."""

    def __init__(self, detector: Detector, fetch: Fetch) -> None:
        self.detector = detector
        self.fetch = fetch
        self._kept: dict[bytes, _Content] = {}
        self._vectors: dict[bytes, np.ndarray] = {}
        """Of payloads, by `text_key`: the detector keeps what it made of them and not these."""
        self._used: set[bytes] = set()
        """Keys of `_kept` and `_vectors` that the present run has asked for."""

    def read(
        self, communities: Sequence[Community], table: EventTable, index: CampaignIndex,
        progress: Callable[[int], None] = lambda count: None, clear: Clear | None = None,
    ) -> list[Reading]:  # fmt: skip
        """One reading a community; `progress` gets how many are done. With `clear` those that it
        clears after a first look are not read further."""
        traffic = _Traffic.of(table, index)
        self._used = set()
        found: list[Reading] = []
        for start in range(0, len(communities), AT_ONCE):
            found += self._read_some(communities[start : start + AT_ONCE], traffic, clear)
            progress(len(found))
        self._kept = {key: kept for key, kept in self._kept.items() if key in self._used}
        self._vectors = {key: kept for key, kept in self._vectors.items() if key in self._used}
        return found

    def _read_some(
        self, communities: Sequence[Community], traffic: _Traffic, clear: Clear | None
    ) -> list[Reading]:
        table = traffic.table
        works = [_work(community, traffic) for community in communities]
        shared = [
            _work_shared(community, work, traffic)
            for community, work in zip(communities, works, strict=True)
        ]
        most = SAMPLE_EVENTS if clear is None else FIRST_LOOK
        samples = [sample(work, table, traffic.hashes, most) for work in works]
        contents = self._contents(samples, table, whole=clear is None)
        if clear is not None:
            further = [
                number
                for number, (content, sharing) in enumerate(zip(contents, shared, strict=True))
                if not clear(_features(content.at_most, sharing))
            ]
            for number in further:
                samples[number] = sample(works[number], table, traffic.hashes)
            read = self._contents([samples[number] for number in further], table, whole=True)
            for number, content in zip(further, read, strict=True):
                contents[number] = content
        return [
            Reading(
                _features(content.found, sharing), content.intents,
                work.events[np.lexsort((table.identity[work.events], table.time[work.events]))],
                sampled,
            )
            for work, sharing, sampled, content in zip(
                works, shared, samples, contents, strict=True
            )
        ]  # fmt: skip

    def _contents(
        self, samples: Sequence[tuple[int, ...]], table: EventTable, whole: bool
    ) -> list[_Content]:
        """What the events of each sample say, each read as a stream of its own."""
        suffix = self.detector.bundle_id.encode() + bytes([whole])
        keys = [
            hashlib.blake2b(table.identity[list(own)].tobytes() + suffix, digest_size=16).digest()
            for own in samples
        ]
        unread = {key: own for key, own in zip(keys, samples, strict=True) if key not in self._kept}
        read = self._read_contents(list(unread.values()), whole)
        self._kept |= zip(unread, read, strict=True)
        found = [self._kept[key] for key in keys]
        self._used.update(keys, *(content.payloads for content in found))
        return found

    def _read_contents(self, samples: Sequence[tuple[int, ...]], whole: bool) -> list[_Content]:
        events = self.fetch([number for own in samples for number in own])
        places = np.repeat(np.arange(len(samples)), [len(own) for own in samples])
        records = np.zeros(len(samples), dtype=self.detector.record_dtype)
        scored = self.detector.score(events, places.tolist(), records)
        bounds = np.searchsorted(places, np.arange(len(samples) + 1))
        return [
            self._content(events[first:end], scored.part(first, end), whole)
            for first, end in pairwise(bounds)
        ]

    def _content(self, events: Sequence[Event], scored: Scored, whole: bool) -> _Content:
        last = max(len(events) // 4, 1)
        strongest = _logit(scored.contribution.max(axis=1))
        risk = float(_logit(scored.risk[-last:]).mean())
        contribution = float(strongest.mean())
        error = float(strongest.std()) / np.sqrt(len(events))
        payloads = tuple(text_key(SLOT, texts.slot) for texts in scored.texts)
        self._vectors |= {key: scored.vectors[key] for key in payloads if key in scored.vectors}
        kinship = self._kinship(events, scored.texts, payloads) if whole else UNKNOWN_KINSHIP
        return _Content(
            {"risk": risk, "contribution": contribution, "kinship": kinship},
            {
                "risk": risk + HOPE, "contribution": contribution + SURE * error,
                "kinship": LEAST_KINSHIP,
            },
            scored.intents[-last:].mean(axis=0), payloads,
        )  # fmt: skip

    def _kinship(
        self, events: Sequence[Event], texts: Sequence[EventTexts], payloads: Sequence[bytes]
    ) -> float:
        """The most by which payloads of one account are likely more alike than those of two;
        UNKNOWN_KINSHIP where no account has two."""
        framed = [bool(one.frame) for one in texts]
        # The first events of a stream have nothing yet to tell the frame by.
        wanted = [n for n, one in enumerate(framed) if one or not any(framed)]
        missing = {
            payloads[n]: texts[n].payload for n in wanted if payloads[n] not in self._vectors
        }
        encoded = encode_parts(self.detector.encoder, list(missing.values()))
        self._vectors |= zip(missing, (one.vector for one in encoded), strict=True)
        matrix = np.array([self._vectors[payloads[n]] for n in wanted])
        owner = np.array([hash_of(events[n].account_id) for n in wanted], dtype=np.uint64)
        alike = matrix @ matrix.T
        pairs = np.triu(np.ones_like(alike, dtype=bool), 1)
        # Texts of two accounts that are the same say nothing of either.
        text = np.array([hash_of(texts[n].slot) for n in wanted], dtype=np.uint64)
        pairs &= text[:, None] != text[None, :]
        same = pairs & (owner[:, None] == owner[None, :])
        other = pairs & ~same
        if not same.any() or not other.any():
            return UNKNOWN_KINSHIP
        # Pairs of one account are not independent: accounts are what was drawn.
        accounts = len(np.unique(owner[same.any(axis=0) | same.any(axis=1)]))
        error = float(alike[other].std()) / np.sqrt(accounts)
        return float(alike[same].mean() - alike[other].mean() + SURE * error)


def sample(
    work: Work, table: EventTable, hashes: np.ndarray, most: int = SAMPLE_EVENTS
) -> tuple[int, ...]:
    """Numbers of at most `most` of a community's events, in order of time: EACH of an
    account, different texts first, drawn by hash so that a further event changes little. Accounts
    with several come first: one prompt of an account tells nothing of its kinship. `hashes` uint64
    are those of all accounts' names."""
    account, identity = table.account[work.events], table.identity[work.events]
    first_text = np.zeros(len(account), dtype=bool)
    by_identity = np.argsort(identity, kind="stable")
    _, first = np.unique(table.text[work.events][by_identity], return_index=True)
    first_text[by_identity[first]] = True
    lone = (work.counts < 2)[np.searchsorted(work.accounts, account)]
    # By hash: the first ones to come are not those that a campaign is made of.
    order = np.lexsort((identity, ~first_text, hashes[account], lone))
    starts = np.flatnonzero(np.diff(account[order], prepend=-1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    # All accounts' first EACH before anyone's next.
    turn = rank // EACH
    chosen = order[np.argsort(turn, kind="stable")][:most]
    numbers = work.events[chosen]
    numbers = numbers[np.lexsort((table.identity[numbers], table.time[numbers]))]
    return tuple(int(number) for number in numbers)


def _work(community: Community, traffic: _Traffic) -> Work:
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
    events = np.sort(np.concatenate([held, *others]))
    accounts, counts = np.unique(table.account[events], return_counts=True)
    return Work(events, accounts, counts)


def _work_shared(community: Community, work: Work, traffic: _Traffic) -> dict[str, float]:
    """The features that tell how the accounts share the work."""
    table = traffic.table
    begun = np.full(len(work.accounts), np.inf)
    owner = np.searchsorted(work.accounts, table.account[work.events])
    np.minimum.at(begun, owner, table.time[work.events])
    return {
        "dedication": float(np.median(work.counts / table.sent[work.accounts])),
        "unevenness": _unevenness(work.counts),
        "onset": float(np.log((_middle_half(begun) + 60.0) / (table.middle_half + 60.0))),
        "accounts": float(np.log(len(work.accounts))),
        "variety": len(np.unique(table.text[work.events])) / len(work.events),
        "sharing": _sharing(community, work.accounts, traffic.index),
    }


def _features(content: dict[str, float], sharing: dict[str, float]) -> np.ndarray:
    both = {**content, **sharing}
    return np.array([both[name] for name in FEATURES])


def hash_of(text: str) -> int:
    """64 bits."""
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


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


def _middle_half(times: np.ndarray) -> float:
    low, high = np.quantile(times, [0.25, 0.75])
    return float(high - low)


def _logit(chance: np.ndarray) -> np.ndarray:
    bounded = np.clip(chance, _SMALLEST, 1 - _SMALLEST)
    return np.asarray(np.log(bounded / (1 - bounded)))
