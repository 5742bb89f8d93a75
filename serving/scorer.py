"""The scorer: events in, verdicts out. Needs no torch.

The same code serves batch scoring and single events, and gives the same numbers for both: what an
event adds depends on the event and on its account's record, never on what is scored beside it.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stillwatch.data.errors import BundleError
from stillwatch.data.events import Event
from stillwatch.model.bundle import Bundle, Layout, check_names, load_bundle, released_bundle
from stillwatch.model.encoder import Encoder, OnnxEncoder
from stillwatch.model.encoder_export import cached_encoder, check_golden
from stillwatch.model.features import EventFacts, advance
from stillwatch.model.heads import PLACES, IntentHeads
from stillwatch.model.runtime import ClassifierStep
from stillwatch.model.signals import SignalLayout, text_signals
from stillwatch.model.stream import EventTexts, clip_middle, encode_texts, read_event, state_dtype
from stillwatch.model.templates import BenignIndex, TemplateIndex
from stillwatch.model.text import normalise
from stillwatch.serving.accounts import AccountTable, Checkout, Kept
from stillwatch.serving.verdict import Evidence, Verdict, excerpt

CHUNK_EVENTS = 1024
"""Events scored together."""
SIGNALS_KEPT = 131_072
"""Distinct texts whose signals are kept; the longest unused go first."""
FRAME, SLOT = PLACES.index("frame"), PLACES.index("slot")


@dataclass(frozen=True, slots=True)
class Match:
    """A template near a text; similarity is a cosine, higher is closer."""

    template_id: str
    intent: str
    similarity: float
    text: str
    language: str
    source: str


class _Signal(NamedTuple):
    row: np.ndarray
    template: int
    truncated: bool


class _Read(NamedTuple):
    event: Event
    place: int
    texts: EventTexts
    frame_key: bytes
    slot_key: bytes


class _Outcome(NamedTuple):
    risk: np.ndarray
    intents: np.ndarray
    evidence: np.ndarray


class Scorer:
    """Scores accounts' streams with one bundle and keeps their states in memory."""

    def __init__(self, bundle: Bundle, encoder: Encoder) -> None:
        manifest = bundle.manifest
        self.bundle = bundle
        self.bundle_id = bundle.id
        self.intents = tuple(manifest.intents)
        self.truncated = 0
        self.observe: Callable[[str, EventTexts], None] | None = None
        """Called with each event's account and texts before it is scored."""
        self.encoder = encoder
        check_names(manifest)
        self._layout = SignalLayout(len(manifest.classes))
        dimensions = manifest.encoder.dimensions
        self._heads = IntentHeads.from_bytes(
            bundle.content["heads.safetensors"], dimensions, len(manifest.classes)
        )
        self._templates = TemplateIndex.from_files(bundle.content, dimensions, self.intents)
        self.benign = BenignIndex.from_files(bundle.content, dimensions, manifest.benign_sources)
        self._step = ClassifierStep(
            bundle.content["classifier.onnx"], len(manifest.features), len(self.intents),
            tuple(manifest.classifier_state),
        )  # fmt: skip
        self._signals: OrderedDict[bytes, _Signal] = OrderedDict()
        record = state_dtype(self._layout.classes, len(self.intents), manifest.classifier_state)
        self._accounts = AccountTable(
            np.dtype([*_fields(record), *_verdict_fields(len(self.intents))])
        )

    @classmethod
    def from_bundle(cls, path: Path | None = None, threads: int = 1) -> Scorer:
        """Load and verify a bundle; None is the one that comes with the package. A bundle
        without its encoder takes the cached export, made on first use if torch is there."""
        bundle = load_bundle(path or released_bundle())
        encoder = OnnxEncoder(_encoder_source(bundle), threads=threads)
        if encoder.dimensions != bundle.manifest.encoder.dimensions:
            raise BundleError(
                f"the encoder must have {bundle.manifest.encoder.dimensions} dimensions, "
                f"however: {encoder.dimensions}; use the encoder that the bundle names"
            )
        check_golden(encoder, bundle.manifest.encoder.golden)
        return cls(bundle, encoder)

    @property
    def threshold(self) -> float:
        return self.bundle.manifest.thresholds.enter

    def ingest(self, events: Iterable[Event]) -> None:
        """Score events without building verdicts. Events of an account come in their order.

        Events are scored in chunks; if one fails, accounts stay as they were after the chunk
        before it.
        """
        for chunk in _chunks(events):
            self._score(chunk, None)

    def update(self, events: Iterable[Event]) -> list[Verdict]:
        """Score events; the verdict of each event's account after it, in the order given. Chunks
        as in `ingest`."""
        found: list[Verdict] = []
        for chunk in _chunks(events):
            verdicts: list[Verdict | None] = [None] * len(chunk)
            self._score(chunk, verdicts)
            found += [verdict for verdict in verdicts if verdict is not None]
        return found

    def verdict(self, account_id: str) -> Verdict:
        """The account's verdict now; KeyError if it was never seen."""
        row = self._accounts.row(account_id)
        return self._verdict(account_id, self._accounts.record(row), self._accounts.evidence(row))

    def verdicts(self) -> Iterator[Verdict]:
        """One verdict an account, in the order in which they were first seen."""
        for account_id in self._accounts.names:
            yield self.verdict(account_id)

    def peak_risks(self) -> np.ndarray:
        """Highest risk that each account ever had, float32 (accounts,)."""
        records = [self._accounts.record(row) for row in range(len(self._accounts))]
        return np.array([record["peak"] for record in records], dtype=np.float32)

    def search_templates(self, text: str, k: int = 5) -> list[Match]:
        """The k templates nearest to a text, nearest first."""
        vector = encode_texts(self.encoder, [normalise(clip_middle(text))])[0].vector
        k = min(k, len(self._templates))
        similarity, index = self._templates.search(vector[None, :], k)
        found = []
        for value, position in zip(similarity[0], index[0], strict=True):
            template = self._templates.templates[int(position)]
            found.append(
                Match(
                    template.id, template.intent, float(value), template.text,
                    template.language, template.source,
                )
            )  # fmt: skip
        return found

    def _score(self, events: list[Event], verdicts: list[Verdict | None] | None) -> None:
        # On copies, so that what fails halfway leaves no account changed. Signals found by then
        # are kept: they depend on the texts alone.
        names = list(dict.fromkeys(event.account_id for event in events))
        accounts = self._accounts.check_out(names)
        places = {name: position for position, name in enumerate(names)}
        reads = [self._read(event, places[event.account_id], accounts.records) for event in events]
        if self.observe is not None:
            for read in reads:
                self.observe(read.event.account_id, read.texts)
        signals = self._look_up(reads)
        seen: dict[int, int] = {}
        waves: list[list[int]] = []
        for position, read in enumerate(reads):
            wave = seen.get(read.place, 0)
            seen[read.place] = wave + 1
            if wave == len(waves):
                waves.append([])
            waves[wave].append(position)
        for wave_positions in waves:
            self._score_wave(wave_positions, reads, signals, accounts, verdicts)
        self._accounts.put_back(accounts)
        self.truncated += sum(_is_truncated(read, signals) for read in reads)

    def _read(self, event: Event, place: int, records: np.ndarray) -> _Read:
        texts = read_event(event, records[place])
        return _Read(event, place, texts, _key(FRAME, texts.frame), _key(SLOT, texts.slot))

    def _look_up(self, reads: Sequence[_Read]) -> dict[bytes, _Signal]:
        """Signals of every text of these events; unknown ones are encoded."""
        found: dict[bytes, _Signal] = {}
        missing: tuple[dict[bytes, str], dict[bytes, str]] = ({}, {})
        for read in reads:
            pairs = [(SLOT, read.slot_key, read.texts.slot)]
            if read.texts.frame:
                pairs.append((FRAME, read.frame_key, read.texts.frame))
            for place, key, text in pairs:
                known = self._signals.get(key)
                if known is None:
                    missing[place][key] = text
                else:
                    self._signals.move_to_end(key)
                    found[key] = known
        for place, texts in enumerate(missing):
            encoded = encode_texts(self.encoder, list(texts.values()))
            rows, templates = text_signals(
                list(texts.values()), encoded, place, self._heads, self._templates, self.benign
            )
            for position, key in enumerate(texts):
                signal = _Signal(
                    rows[position].copy(), int(templates[position]), encoded[position].truncated
                )
                found[key] = self._signals[key] = signal
        while len(self._signals) > SIGNALS_KEPT:
            self._signals.popitem(last=False)
        return found

    def _score_wave(
        self,
        positions: list[int],
        reads: Sequence[_Read],
        signals: dict[bytes, _Signal],
        accounts: Checkout,
        verdicts: list[Verdict | None] | None,
    ) -> None:
        """One event each of different accounts."""
        wave = [reads[position] for position in positions]
        places = np.array([read.place for read in wave])
        slot = np.stack([signals[read.slot_key].row for read in wave])
        frame = np.zeros_like(slot)
        for position, read in enumerate(wave):
            if read.texts.frame:
                frame[position] = signals[read.frame_key].row
        facts = EventFacts(
            np.array([read.event.timestamp for read in wave]),
            np.array([read.texts.frame_hash for read in wave], dtype=np.uint32),
            np.array([read.texts.scalars for read in wave], dtype=np.float32),
        )
        records = accounts.records[places]
        features = advance(records, frame, slot, facts, self._layout, len(self.intents))
        logits, records["classifier"] = self._step.run(features, records["classifier"])
        outcome = self._judge(records, logits)
        for position, read in enumerate(wave):
            records["truncated"][position] += _is_truncated(read, signals)
            own = [signals[key] for key in _keys(read)]
            self._keep_evidence(read, outcome.evidence[position], own, accounts)
        accounts.records[places] = records
        if verdicts is not None:
            for position, read in zip(positions, wave, strict=True):
                verdicts[position] = self._verdict(
                    read.event.account_id,
                    accounts.records[read.place],
                    accounts.evidence(read.place),
                )

    def _judge(self, records: np.ndarray, logits: np.ndarray) -> _Outcome:
        """Calibrated figures from logits (B, 1 + 2I), and the flags in `records`."""
        calibration = self.bundle.manifest.calibration
        thresholds = self.bundle.manifest.thresholds
        count = len(self.intents)
        risk = calibration.risk.probability(logits[:, 0])
        intents = np.stack(
            [own.probability(logits[:, 1 + i]) for i, own in enumerate(calibration.intents)], axis=1
        )
        records["risk"] = risk
        records["peak"] = np.maximum(records["peak"], risk)
        records["intents"] = intents
        records["flagged"] = (risk >= thresholds.enter) | (
            records["flagged"] & (risk >= thresholds.leave)
        )
        first = (records["flagged_after"] == 0) & records["flagged"]
        records["flagged_after"] = np.where(first, records["events"], records["flagged_after"])
        return _Outcome(risk, intents, _sigmoid(logits[:, 1 + count :]))

    def _keep_evidence(
        self, read: _Read, evidence: np.ndarray, signals: Sequence[_Signal], accounts: Checkout
    ) -> None:
        strongest = int(np.argmax(evidence))
        contribution = float(evidence[strongest])
        if contribution <= accounts.weakest_evidence(read.place):
            return
        nearest = max(signals, key=lambda signal: signal.row[self._layout.template])
        template = self._templates.templates[nearest.template].id if nearest.template >= 0 else None
        evidence_of_event = Evidence(
            event_id=read.event.event_id,
            intent=self.intents[strongest],
            contribution=contribution,
            template_id=template,
            similarity=float(nearest.row[self._layout.template]),
            excerpt=excerpt(read.event.prompt),
        )
        prompt_hash = zlib.crc32(read.event.prompt.encode("utf-8", "replace"))
        accounts.add_evidence(read.place, Kept(prompt_hash, evidence_of_event))

    def _verdict(self, account_id: str, record: np.void, evidence: tuple[Evidence, ...]) -> Verdict:
        return Verdict(
            account_id=account_id,
            events=int(record["events"]),
            risk=float(record["risk"]),
            peak_risk=float(record["peak"]),
            intents={
                name: float(value)
                for name, value in zip(self.intents, record["intents"], strict=True)
            },
            flagged=bool(record["flagged"]),
            threshold=self.threshold,
            flagged_after=int(record["flagged_after"]) or None,
            evidence=evidence,
            bundle=self.bundle_id,
            truncated=int(record["truncated"]),
        )


def _keys(read: _Read) -> list[bytes]:
    return [read.slot_key, read.frame_key] if read.texts.frame else [read.slot_key]


def _is_truncated(read: _Read, signals: dict[bytes, _Signal]) -> bool:
    return read.texts.truncated or any(signals[key].truncated for key in _keys(read))


def _chunks(events: Iterable[Event]) -> Iterator[list[Event]]:
    left = iter(events)
    while chunk := list(islice(left, CHUNK_EVENTS)):
        yield chunk


def _encoder_source(bundle: Bundle) -> Path | tuple[bytes, bytes]:
    if bundle.has_encoder:
        model, tokenizer = (bundle.content[name] for name in Layout.ENCODER)
        return model, tokenizer
    entry = bundle.manifest.encoder
    return cached_encoder(entry.name, "fp32" if entry.precision == "fp32" else "int8")


def _fields(dtype: np.dtype) -> list[tuple[Any, ...]]:
    """A structured type's fields in the form that numpy.dtype takes."""
    return [(name, dtype[name].base, dtype[name].shape) for name in dtype.names or ()]


def _verdict_fields(intents: int) -> list[tuple[Any, ...]]:
    return [
        ("risk", "<f4"), ("peak", "<f4"), ("intents", "<f4", (intents,)),
        ("flagged", "?"), ("flagged_after", "<u4"), ("truncated", "<u4"),
    ]  # fmt: skip


def _key(place: int, text: str) -> bytes:
    digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16, salt=bytes([place]))
    return digest.digest()


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -60, 60)))
