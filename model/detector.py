"""The detector: one bundle at work on events and on the records of the accounts they belong to.

The same code serves batch scoring, single events, calibration and the service, and gives the same
numbers for all: what an event adds depends on the event and on its account's record, never on what
is scored beside it. Needs no torch.

Axis letters: N events, A accounts, I intents.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stillwatch.data.errors import BundleError
from stillwatch.data.events import Event
from stillwatch.model.bundle import Bundle, Layout, check_names, load_bundle, released_bundle
from stillwatch.model.encoder import Encoder, OnnxEncoder
from stillwatch.model.encoder_export import cached_encoder, check_golden
from stillwatch.model.features import EventFacts, advance
from stillwatch.model.heads import PLACES, IntentHeads
from stillwatch.model.parts import encode_parts
from stillwatch.model.runtime import ClassifierStep
from stillwatch.model.signals import SignalLayout, text_signals
from stillwatch.model.stream import EventTexts, read_event, read_text, state_dtype
from stillwatch.model.templates import BenignIndex, Template, TemplateIndex

KNOWN_SIMILARITY, KNOWN_LOGIT = 0.85, 4.0
"""Cosine to a site's own template from which a text reads as it, and its least logit then."""
SIGNALS_KEPT = 131_072
"""Distinct texts whose signals are kept; the longest unused go first."""
STATE_VERSION = 1
"""Raised when the meaning of a record changes though its fields do not."""
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


class Scored(NamedTuple):
    """What N events came to, in their order; risk and intents are those of the event's account
    after it, calibrated."""

    risk: np.ndarray
    """float64 (N,)."""
    intents: np.ndarray
    """float64 (N, I)."""
    contribution: np.ndarray
    """float64 (N, I): how strongly the event itself speaks for each intent, in [0, 1]."""
    template: np.ndarray
    """int64 (N,): number of the nearest template, -1 if there is none."""
    similarity: np.ndarray
    """float32 (N,): the cosine of that template."""
    truncated: np.ndarray
    """bool (N,): whether a part of the event was not read."""
    texts: list[EventTexts]
    """N of them: what was read of each event."""
    vectors: dict[bytes, np.ndarray]
    """Unit vectors float32 (D,) of the texts that were encoded for this call, by `text_key`; what
    was known from earlier calls is not encoded again."""

    def part(self, first: int, end: int) -> Scored:
        """Of the events from `first` to before `end`; `vectors` stays whole."""
        cut = slice(first, end)
        return self._replace(
            risk=self.risk[cut], intents=self.intents[cut], contribution=self.contribution[cut],
            template=self.template[cut], similarity=self.similarity[cut],
            truncated=self.truncated[cut], texts=self.texts[cut],
        )  # fmt: skip


class _Signal(NamedTuple):
    row: np.ndarray
    template: int
    truncated: bool


class _Read(NamedTuple):
    event: Event
    texts: EventTexts
    frame_key: bytes
    slot_key: bytes

    @property
    def keys(self) -> tuple[bytes, ...]:
        return (self.slot_key, self.frame_key) if self.texts.frame else (self.slot_key,)


class Detector:
    """A verified bundle and its encoder. `score` must not be called by two threads at once."""

    def __init__(self, bundle: Bundle, encoder: Encoder) -> None:
        manifest = bundle.manifest
        check_names(manifest)
        self.bundle = bundle
        self.bundle_id = bundle.id
        self.intents = tuple(manifest.intents)
        self.encoder = encoder
        self.observe: Callable[[str, EventTexts], None] | None = None
        """Called with each event's account and texts before it is scored."""
        self._layout = SignalLayout(len(manifest.classes))
        dimensions = manifest.encoder.dimensions
        self._heads = IntentHeads.from_bytes(
            bundle.content["heads.safetensors"], dimensions, len(manifest.classes)
        )
        self._bundled = TemplateIndex.from_files(bundle.content, dimensions, self.intents)
        self.templates = self._bundled
        """Those of the bundle, after them those of the site."""
        self.site_templates: tuple[Template, ...] = ()
        self.benign = BenignIndex.from_files(bundle.content, dimensions, manifest.benign_sources)
        self._step = ClassifierStep(
            bundle.content["classifier.onnx"], len(manifest.features), len(self.intents),
            tuple(manifest.classifier_state),
        )  # fmt: skip
        calibration = [manifest.calibration.risk, *manifest.calibration.intents]
        # Of the risk and of each intent, (1 + I,).
        self._slopes = np.array([platt.slope for platt in calibration])
        self._offsets = np.array([platt.offset for platt in calibration])
        self._signals: OrderedDict[bytes, _Signal] = OrderedDict()
        self.record_dtype = state_dtype(
            self._layout.classes, len(self.intents), manifest.classifier_state
        )
        """Of the record that is kept of an account between events."""
        self.state_id = _state_id(bundle, self.record_dtype)
        """Sixteen hexadecimal digits: records of two detectors mean the same if these agree."""

    @classmethod
    def load(
        cls, path: Path | None = None, threads: int = 1, encoder: Encoder | None = None
    ) -> Detector:
        """Load and verify a bundle; None is the one that comes with the package. A bundle
        without its encoder takes the cached export, made on first use if torch is there, or
        `encoder`, which the caller knows to be the one that the bundle names."""
        bundle = load_bundle(path or released_bundle())
        if encoder is not None:
            return cls(bundle, encoder)
        opened = OnnxEncoder(_encoder_source(bundle), threads=threads)
        if opened.dimensions != bundle.manifest.encoder.dimensions:
            raise BundleError(
                f"the encoder must have {bundle.manifest.encoder.dimensions} dimensions, "
                f"however: {opened.dimensions}; use the encoder that the bundle names"
            )
        check_golden(opened, bundle.manifest.encoder.golden)
        return cls(bundle, opened)

    def score(self, events: Sequence[Event], places: Sequence[int], records: np.ndarray) -> Scored:
        """Score events in their order; changes `records` (A,), of `record_dtype`, in place.

        `places` gives each event's account as a position in `records`. If it fails, records may
        be changed in part: hand over copies.
        """
        count = len(events)
        scored = Scored(
            np.zeros(count), np.zeros((count, len(self.intents))),
            np.zeros((count, len(self.intents))), np.full(count, -1, dtype=np.int64),
            np.zeros(count, dtype=np.float32), np.zeros(count, dtype=bool), [], {},
        )  # fmt: skip
        reads = [
            self._read(event, records[place]) for event, place in zip(events, places, strict=True)
        ]
        scored.texts.extend(read.texts for read in reads)
        if self.observe is not None:
            for read in reads:
                self.observe(read.event.account_id, read.texts)
        signals = self._look_up(reads, scored.vectors)
        owners = np.asarray(places, dtype=np.int64)
        for wave in _waves(places):
            self._score_wave(wave, owners[wave], reads, signals, records, scored)
        return scored

    def search_templates(self, text: str, k: int = 5) -> list[Match]:
        """The k templates nearest to a text, nearest first."""
        vector = self.encoder.encode([read_text(text)])[0].vector
        k = min(k, len(self.templates))
        similarity, index = self.templates.search(vector[None, :], k)
        found = []
        for value, position in zip(similarity[0], index[0], strict=True):
            template = self.templates.templates[int(position)]
            found.append(
                Match(
                    template.id, template.intent, float(value), template.text,
                    template.language, template.source,
                )
            )  # fmt: skip
        return found

    def set_site_templates(self, templates: Sequence[Template], vectors: np.ndarray) -> None:
        """Search these, with their unit vectors float32 (N, D), beside those of the bundle, in the
        place of those set before. Not during `score`: everything is read anew afterwards.

        ValueError for an intent that the bundle does not know, an id that is there already, or
        vectors that do not fit; nothing is changed then.
        """
        ids = [template.id for template in (*self._bundled.templates, *templates)]
        if len(set(ids)) < len(ids) or any(t.intent not in self.intents for t in templates):
            raise ValueError(
                "site templates must have ids of their own and intents of the bundle, however: "
                "one has not; leave it out"
            )
        combined = self._bundled
        if len(templates) or len(vectors):
            # By themselves first, so that what is wrong is told of them.
            site = TemplateIndex(templates, vectors)
            combined = TemplateIndex(
                [*self._bundled.templates, *templates],
                np.concatenate([self._bundled.vectors(), site.vectors()]),
            )
        self.templates, self.site_templates = combined, tuple(templates)
        # They hold nearest templates by their numbers.
        self._signals.clear()

    def _read(self, event: Event, record: np.void) -> _Read:
        texts = read_event(event, record)
        return _Read(event, texts, text_key(FRAME, texts.frame), text_key(SLOT, texts.payload))

    def _look_up(
        self, reads: Sequence[_Read], vectors: dict[bytes, np.ndarray]
    ) -> dict[bytes, _Signal]:
        """Signals of every text of these events; unknown ones are encoded, `vectors` gets their
        vectors, by the `text_key` of frame and slot."""
        found: dict[bytes, _Signal] = {}
        missing: tuple[dict[bytes, EventTexts], dict[bytes, EventTexts]] = ({}, {})
        for read in reads:
            keys = [(SLOT, read.slot_key)]
            if read.texts.frame:
                keys.append((FRAME, read.frame_key))
            for place, key in keys:
                known = self._signals.get(key)
                if known is None:
                    missing[place][key] = read.texts
                else:
                    self._signals.move_to_end(key)
                    found[key] = known
        for place, wanted in enumerate(missing):
            if not wanted:
                continue
            texts = [own.payload if place == SLOT else own.frame for own in wanted.values()]
            encoded = encode_parts(self.encoder, texts)
            rows, templates = text_signals(
                texts, encoded, place, self._heads, self.templates, self.benign
            )
            self._know_again(rows, templates)
            for position, (key, own) in enumerate(wanted.items()):
                signal = _Signal(
                    rows[position].copy(), int(templates[position]), encoded[position].truncated
                )
                found[key] = self._signals[key] = signal
                # A slot is looked for as it stands, whole or in parts.
                name = text_key(SLOT, own.slot) if place == SLOT else key
                vectors[name] = encoded[position].vector
        while len(self._signals) > SIGNALS_KEPT:
            self._signals.popitem(last=False)
        return found

    def _know_again(self, rows: np.ndarray, nearest: np.ndarray) -> None:
        """A text that is like a site's own template reads as what that asks for, whatever the
        heads make of it: a person has approved the template, and its replay hit nothing ordinary.
        Changes `rows`."""
        first = len(self._bundled)
        known = (nearest >= first) & (rows[:, self._layout.template] >= KNOWN_SIMILARITY)
        for position in np.flatnonzero(known):
            intent = self.intents.index(self.templates.templates[nearest[position]].intent)
            for part in (self._layout.dense, self._layout.lexical):
                # The intent's column and that of any intent.
                columns = part.start + np.array([intent, len(self.intents)])
                rows[position, columns] = np.maximum(rows[position, columns], KNOWN_LOGIT)

    def _score_wave(
        self,
        wave: list[int],
        owners: np.ndarray,
        reads: Sequence[_Read],
        signals: dict[bytes, _Signal],
        records: np.ndarray,
        scored: Scored,
    ) -> None:
        """One event each of different accounts."""
        own = [reads[position] for position in wave]
        single = len(own) == 1
        slot = np.array([signals[read.slot_key].row for read in own])
        frame = np.zeros_like(slot)
        for position, read in enumerate(own):
            if read.texts.frame:
                frame[position] = signals[read.frame_key].row
        facts = EventFacts(
            np.array([read.event.timestamp for read in own]),
            np.array([read.texts.frame_hash for read in own], dtype=np.uint32),
            np.array([read.texts.scalars for read in own], dtype=np.float32),
        )
        # A single record is changed where it lies: copying one costs more than its arithmetic.
        state = records[owners[0] : owners[0] + 1] if single else records[owners]
        features = advance(state, frame, slot, facts, self._layout, len(self.intents))
        logits, state["classifier"] = self._step.run(features, state["classifier"])
        if not single:
            records[owners] = state
        count = len(self.intents)
        calibrated = self._slopes * logits[:, : 1 + count].astype(np.float64) + self._offsets
        chances = _sigmoid(calibrated)
        scored.risk[wave] = chances[:, 0]
        scored.intents[wave] = chances[:, 1:]
        scored.contribution[wave] = _sigmoid(logits[:, 1 + count :])
        for position, read in zip(wave, own, strict=True):
            found = [signals[key] for key in read.keys]
            nearest = max(found, key=lambda signal: signal.row[self._layout.template])
            scored.template[position] = nearest.template
            scored.similarity[position] = nearest.row[self._layout.template]
            scored.truncated[position] = read.texts.truncated or any(s.truncated for s in found)


def _waves(places: Sequence[int]) -> list[list[int]]:
    """Positions of events in groups that hold each account at most once, in order."""
    seen: dict[int, int] = {}
    waves: list[list[int]] = []
    for position, place in enumerate(places):
        wave = seen.get(place, 0)
        seen[place] = wave + 1
        if wave == len(waves):
            waves.append([])
        waves[wave].append(position)
    return waves


def _state_id(bundle: Bundle, dtype: np.dtype) -> str:
    """Changes with whatever gives a record its meaning. Calibration and thresholds do not."""
    manifest = bundle.manifest
    shaping = ("classifier.onnx", "heads.safetensors", "templates.faiss", "benign.faiss")
    parts = [
        STATE_VERSION, repr(dtype.descr), manifest.features, manifest.intents, manifest.classes,
        manifest.encoder.name, manifest.encoder.revision, manifest.encoder.precision,
        [manifest.files[name] for name in shaping],
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _encoder_source(bundle: Bundle) -> Path | tuple[bytes, bytes]:
    if bundle.has_encoder:
        model, tokenizer = (bundle.content[name] for name in Layout.ENCODER)
        return model, tokenizer
    entry = bundle.manifest.encoder
    return cached_encoder(entry.name, "fp32" if entry.precision == "fp32" else "int8")


def text_key(place: int, text: str) -> bytes:
    """Sixteen bytes that stand for a normalised text read as a frame or as a slot."""
    digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16, salt=bytes([place]))
    return digest.digest()


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    bounded = np.minimum(np.maximum(logits.astype(np.float64), -60), 60)
    return np.asarray(1 / (1 + np.exp(-bounded)))
