"""What a community looks like: its events read as one stream by the sequence classifier, beside how
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
from stillwatch.model.campaigns.risk import FEATURES, feature_rows
from stillwatch.model.campaigns.work import SAMPLE_EVENTS, SURE, Traffic, Work, Works, hash_of
from stillwatch.model.detector import SLOT, Detector, Scored, text_key
from stillwatch.model.parts import encode_parts
from stillwatch.model.stream import EventTexts

FIRST_LOOK = 16
"""Events that are read of a community first: most are clearly ordinary after that."""
AT_ONCE = 64
"""Communities that are read in one go: a search of the references costs as much for five texts as
for hundreds."""
HOPE = 1.0
"""By which the risk's logit may yet rise after the first look."""
LEAST_KINSHIP, UNKNOWN_KINSHIP = -0.1, 1.0
_SMALLEST = 1e-6

Fetch = Callable[[Sequence[int]], list[Event]]
"""The events with these numbers, in their order."""
Clear = Callable[[np.ndarray], np.ndarray]
"""Whether features that speak most for a campaign, float64 (N, F), still speak for none: bool (N,).
"""


@dataclass(frozen=True)
class Reading:
    """`features` float64 (F,); `intents` float64 (I,), calibrated, over the sampled events, whose
    numbers are `sampled`: at most FIRST_LOOK where a first look cleared the community."""

    work: Work
    features: np.ndarray
    intents: np.ndarray
    sampled: tuple[int, ...]


class _Content(NamedTuple):
    """What some events say: features as found, those that speak most for a campaign among what is
    likely, intents (I,), and the `text_key` of each event's payload."""

    found: dict[str, float]
    at_most: dict[str, float]
    intents: np.ndarray
    payloads: tuple[bytes, ...]


class CommunityReader:
    """Reads communities of one index with a detector. What is sampled anew is read anew; the rest
    is kept."""

    def __init__(self, detector: Detector, fetch: Fetch) -> None:
        self.detector = detector
        self.fetch = fetch
        self._works = Works()
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
        works = self._works.of(communities, Traffic.of(table, index))
        self._used = set()
        found: list[Reading] = []
        for start in range(0, len(works), AT_ONCE):
            found += self._read_some(works[start : start + AT_ONCE], table, clear)
            progress(len(found))
        self._kept = {key: kept for key, kept in self._kept.items() if key in self._used}
        self._vectors = {key: kept for key, kept in self._vectors.items() if key in self._used}
        return found

    def _read_some(
        self, works: Sequence[Work], table: EventTable, clear: Clear | None
    ) -> list[Reading]:
        shared = [work.features(table) for work in works]
        most = SAMPLE_EVENTS if clear is None else FIRST_LOOK
        samples = [work.sample(table, most) for work in works]
        contents = self._contents(samples, table, whole=clear is None)
        if clear is not None:
            at_most = [
                _features(own.at_most, also) for own, also in zip(contents, shared, strict=True)
            ]
            further = np.flatnonzero(~clear(feature_rows(at_most))).tolist()
            for number in further:
                samples[number] = works[number].sample(table)
            read = self._contents([samples[number] for number in further], table, whole=True)
            for number, content in zip(further, read, strict=True):
                contents[number] = content
        return [
            Reading(work, _features(content.found, sharing), content.intents, sampled)
            for work, sharing, sampled, content in zip(
                works, shared, samples, contents, strict=True
            )
        ]

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


def _features(content: dict[str, float], sharing: dict[str, float]) -> np.ndarray:
    both = {**content, **sharing}
    return np.array([both[name] for name in FEATURES])


def _logit(chance: np.ndarray) -> np.ndarray:
    bounded = np.clip(chance, _SMALLEST, 1 - _SMALLEST)
    return np.asarray(np.log(bounded / (1 - bounded)))
