"""The scorer: events in, verdicts out. Needs no torch.

A detector says what an event adds; the scorer keeps what is held of each account in a store, sees
that each event counts once, and puts verdicts together with the evidence they stand on.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from stillwatch.data.events import Event, event_to_fields, parse_event
from stillwatch.model.bundle import Bundle
from stillwatch.model.detector import Detector, Match, Scored
from stillwatch.model.encoder import Encoder
from stillwatch.model.golden import load_detector
from stillwatch.serving import state
from stillwatch.serving.state import Kept, Standing
from stillwatch.serving.stores.base import (
    ConflictError,
    Counted,
    StateStore,
    Write,
    id_bytes,
)
from stillwatch.serving.stores.memory import MemoryStore
from stillwatch.serving.verdict import Evidence, Verdict, excerpt

CHUNK_EVENTS = 1024
"""Events scored together."""
TRIES = 8
"""Times that a chunk is scored anew because another process changed one of its accounts."""
SETTLING_EVENTS = 32
"""Events that a new bundle reads of an account before it may take away an older one's flag."""
SUSPECT_SHARE = 0.5
"""Of the threshold: an account whose risk was ever higher is read again as far as can be."""
UNSUSPECTED_EVENTS = 8
"""Latest events that are read again of any other."""


@dataclass(slots=True)
class _Chunk:
    """Accounts of a chunk as they were read, and the events of it that are not counted yet."""

    names: list[str]
    versions: list[int]
    records: np.ndarray
    standings: list[Standing]
    fresh: list[tuple[int, Event, int, bytes]]
    """Position in the chunk, event, position of its account, digest."""
    flagged: list[bool] = field(default_factory=list)
    """Whether the account of each of these events stood flagged after it."""


class Archive(Protocol):
    """Takes what was scored once the store holds it; `serving.archive` has one."""

    def offer_scored(
        self, detector: Detector, events: Sequence[Event], scored: Scored,
        flagged: Sequence[bool], vectors: Mapping[bytes, np.ndarray],
    ) -> None:  # fmt: skip
        """Never raises and never waits for long. `vectors` are those of `scored` and of earlier
        tries to score the same events."""


class Scorer:
    """Scores accounts' streams and keeps their states in a store.

    One thread at a time may call it. Several processes may share a store on disk or in Redis.
    """

    def __init__(self, detector: Detector, store: StateStore | None = None) -> None:
        self.detector = detector
        """May be put in the place of another between calls: states are migrated as accounts are
        met again."""
        self.store: StateStore = MemoryStore() if store is None else store
        self.truncated = 0
        """Events scored here of which not everything was read."""
        self.duplicates = 0
        """Events that came here again and were not counted."""
        self.replayed = 0
        """Accounts whose state was made anew because an older bundle had left it."""
        self.archive: Archive | None = None
        """Gets every event that is scored here and counted."""

    @classmethod
    def from_bundle(
        cls, path: Path | None = None, threads: int = 1, store: StateStore | None = None
    ) -> Scorer:
        """Load and verify a bundle; None is the one that comes with the package."""
        return cls(load_detector(path, threads), store)

    @property
    def bundle(self) -> Bundle:
        return self.detector.bundle

    @property
    def bundle_id(self) -> str:
        return self.detector.bundle_id

    @property
    def encoder(self) -> Encoder:
        return self.detector.encoder

    @property
    def intents(self) -> tuple[str, ...]:
        return self.detector.intents

    @property
    def threshold(self) -> float:
        return self.bundle.manifest.thresholds.enter

    def ingest(self, events: Iterable[Event]) -> None:
        """Score events without building verdicts. Events of an account come in their order.

        Events are scored in chunks; if one fails, accounts stay as they were after the chunk
        before it. When it returns, the store holds what the events added.
        """
        for chunk in _chunks(events):
            self._score(chunk, None)

    def update(self, events: Iterable[Event]) -> list[Verdict]:
        """Score events; the verdict of each event's account after it, in the order given. One
        that was counted before changes nothing and gets the account's verdict as it stands.
        Chunks as in `ingest`."""
        found: list[Verdict] = []
        for chunk in _chunks(events):
            verdicts: list[Verdict | None] = [None] * len(chunk)
            self._score(chunk, verdicts)
            found += [verdict for verdict in verdicts if verdict is not None]
        return found

    def verdict(self, account_id: str) -> Verdict:
        """The account's verdict now; KeyError if it was never seen."""
        (held,) = self.store.read([account_id], []).held
        if held is None:
            raise KeyError(account_id)
        _, standing = self._parse(held.value)
        return self._verdict(account_id, standing)

    def verdicts(self) -> Iterator[Verdict]:
        """One verdict an account, in the order in which they were first seen."""
        for account_id in self.store.accounts():
            yield self.verdict(account_id)

    def peak_risks(self) -> np.ndarray:
        """Highest risk that each account ever had, float32 (accounts,)."""
        return np.array([verdict.peak_risk for verdict in self.verdicts()], dtype=np.float32)

    def search_templates(self, text: str, k: int = 5) -> list[Match]:
        """The k templates nearest to a text, nearest first."""
        return self.detector.search_templates(text, k)

    def close(self) -> None:
        """Closes the store."""
        self.store.close()

    def _score(self, events: list[Event], verdicts: list[Verdict | None] | None) -> None:
        vectors: dict[bytes, np.ndarray] = {}
        for attempt in range(1, TRIES + 1):
            chunk = self._check_out(events)
            # On copies, so that what fails halfway leaves no account changed.
            fresh = [event for _, event, _, _ in chunk.fresh]
            scored = self.detector.score(
                fresh, [place for _, _, place, _ in chunk.fresh], chunk.records
            )
            # What is scored a second time is not encoded again.
            vectors |= scored.vectors
            found = self._judge(chunk, scored, verdicts is not None)
            try:
                self.store.write(self._writes(chunk))
            except ConflictError:
                if attempt == TRIES:
                    raise
                continue
            break
        self.truncated += int(scored.truncated.sum())
        self.duplicates += len(events) - len(chunk.fresh)
        if self.archive is not None:
            self.archive.offer_scored(self.detector, fresh, scored, chunk.flagged, vectors)
        if verdicts is None:
            return
        places = {name: place for place, name in enumerate(chunk.names)}
        for position, event in enumerate(events):
            verdicts[position] = found.get(position) or self._verdict(
                event.account_id, chunk.standings[places[event.account_id]]
            )

    def _check_out(self, events: Sequence[Event]) -> _Chunk:
        names = list(dict.fromkeys(event.account_id for event in events))
        digests = [event_digest(event) for event in events]
        snapshot = self.store.read(names, digests)
        records = np.zeros(len(names), dtype=self.detector.record_dtype)
        chunk = _Chunk(names, [], records, [], [])
        places = {name: place for place, name in enumerate(names)}
        counted = set(snapshot.seen)
        for position, (event, digest) in enumerate(zip(events, digests, strict=True)):
            if digest not in counted:
                counted.add(digest)
                chunk.fresh.append((position, event, places[event.account_id], digest))
        changing = {place for _, _, place, _ in chunk.fresh}
        for place, (name, held) in enumerate(zip(names, snapshot.held, strict=True)):
            chunk.versions.append(held.version if held else 0)
            standing = Standing()
            if held is not None:
                record, standing = self._parse(held.value)
                if record is not None:
                    records[place] = record
                # Where nothing is counted, the verdict stays the older bundle's.
                elif place in changing:
                    records[place] = self._migrate(name, standing)
            chunk.standings.append(standing)
        return chunk

    def _parse(self, value: bytes) -> tuple[np.void | None, Standing]:
        return state.from_bytes(value, self.detector.state_id, self.detector.record_dtype)

    def _migrate(self, account_id: str, standing: Standing) -> np.void:
        """A record of this detector in place of an older one's: the account's latest events are
        read again, as far as the store has kept them; of one that was never suspect only a few,
        since many accounts come at once after a reload and others wait. What the account did
        before stays: its number of events, its peak risk, and its flag, until enough of it has
        been read."""
        record = np.zeros(1, dtype=self.detector.record_dtype)
        kept = self.store.replay(account_id)
        if standing.peak < SUSPECT_SHARE * standing.threshold:
            kept = kept[-UNSUSPECTED_EVENTS:]
        events = [parse_event(json.loads(zlib.decompress(fields))) for fields in kept]
        if events:
            scored = self.detector.score(events, [0] * len(events), record)
            standing.risk = float(scored.risk[-1])
            standing.intents = self._named(scored.intents[-1])
        standing.held_flag = max(SETTLING_EVENTS - len(events), 0) if standing.flagged else 0
        self.replayed += 1
        return record[0]

    def _judge(self, chunk: _Chunk, scored: Scored, wanted: bool) -> dict[int, Verdict]:
        """Take the scores over into the standings; the verdict after each event, by position."""
        thresholds = self.bundle.manifest.thresholds
        found = {}
        for number, (position, event, place, _) in enumerate(chunk.fresh):
            standing = chunk.standings[place]
            risk = float(scored.risk[number])
            standing.events += 1
            standing.bundle, standing.threshold = self.bundle_id, thresholds.enter
            standing.risk = risk
            standing.peak = max(standing.peak, risk)
            standing.intents = self._named(scored.intents[number])
            standing.truncated += bool(scored.truncated[number])
            standing.flagged = risk >= thresholds.enter or (
                standing.flagged and (risk >= thresholds.leave or standing.held_flag > 0)
            )
            standing.held_flag = max(standing.held_flag - 1, 0)
            if standing.flagged and standing.flagged_after is None:
                standing.flagged_after = standing.events
            chunk.flagged.append(standing.flagged)
            self._keep_evidence(standing, event, scored, number)
            if wanted:
                found[position] = self._verdict(event.account_id, standing)
        return found

    def _keep_evidence(self, standing: Standing, event: Event, scored: Scored, number: int) -> None:
        strongest = int(np.argmax(scored.contribution[number]))
        contribution = float(scored.contribution[number, strongest])
        if contribution <= standing.weakest_evidence:
            return
        template = int(scored.template[number])
        templates = self.detector.templates.templates
        evidence = Evidence(
            event_id=event.event_id,
            intent=self.intents[strongest],
            contribution=contribution,
            template_id=templates[template].id if template >= 0 else None,
            similarity=float(scored.similarity[number]),
            excerpt=excerpt(event.prompt),
        )
        standing.add_evidence(Kept(zlib.crc32(event.prompt.encode("utf-8", "replace")), evidence))

    def _writes(self, chunk: _Chunk) -> list[Write]:
        counted: dict[int, list[Counted]] = {}
        for _, event, place, digest in chunk.fresh:
            kept = _kept_fields(event) if self.store.kept else b""
            counted.setdefault(place, []).append(Counted(digest, kept))
        enter = self.bundle.manifest.thresholds.enter
        writes = []
        # Accounts whose events were all counted before are left as they are.
        for place, events in counted.items():
            standing = chunk.standings[place]
            writes.append(
                Write(
                    chunk.names[place],
                    chunk.versions[place],
                    state.to_bytes(self.detector.state_id, chunk.records[place], standing),
                    standing.peak / enter + standing.flagged,
                    events,
                )
            )
        return writes

    def _named(self, intents: np.ndarray) -> dict[str, float]:
        return {name: float(value) for name, value in zip(self.intents, intents, strict=True)}

    def _verdict(self, account_id: str, standing: Standing) -> Verdict:
        return Verdict(
            account_id=account_id,
            events=standing.events,
            risk=standing.risk,
            peak_risk=standing.peak,
            intents=dict(standing.intents),
            flagged=standing.flagged,
            threshold=standing.threshold,
            flagged_after=standing.flagged_after,
            evidence=tuple(item.evidence for item in standing.kept),
            bundle=standing.bundle,
            truncated=standing.truncated,
        )


def event_digest(event: Event) -> bytes:
    """Sixteen bytes that tell one event of one account: by them a store knows it again."""
    account = hashlib.blake2b(id_bytes(event.account_id), digest_size=16).digest()
    return hashlib.blake2b(id_bytes(event.event_id), digest_size=16, key=account).digest()


def _kept_fields(event: Event) -> bytes:
    """What a replay needs of an event."""
    fields = event_to_fields(event)
    return zlib.compress(json.dumps(fields, separators=(",", ":")).encode("ascii"), 1)


def _chunks(events: Iterable[Event]) -> Iterator[list[Event]]:
    left = iter(events)
    while chunk := list(islice(left, CHUNK_EVENTS)):
        yield chunk
