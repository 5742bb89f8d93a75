"""Fits a bundle to a site's own ordinary traffic: benign references, heads and thresholds.

Each of SITE_PARTS parts of the site's accounts is scored with what the others have taught, and all
these risks set the thresholds (cross-conformal prediction, Vovk 2015): no account's risk is
measured by what was made of itself, and every account counts. The new bundle has learnt from all of
them, so it gives ordinary accounts rather lower risks than those that set its thresholds.
"""

from __future__ import annotations

import random
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from stillwatch.data.errors import InputError
from stillwatch.data.events import Event
from stillwatch.model.adapt import (
    SITE_PARTS,
    SITE_TEXTS,
    HeadTexts,
    adapt_heads,
    examples_from_bytes,
    ngram_rows,
    sample_by_account,
)
from stillwatch.model.bundle import Bundle, Thresholds, manifest_fields, write_bundle
from stillwatch.model.detector import Detector, Scored
from stillwatch.model.encoder import Encoder, TextVectors
from stillwatch.model.golden import with_golden
from stillwatch.model.heads import PLACES
from stillwatch.model.lexical import ngram_chunks
from stillwatch.model.stream import EventTexts
from stillwatch.model.templates import BenignIndex
from stillwatch.model.thresholds import SiteThreshold, accounts_needed, site_threshold
from stillwatch.model.traffic import TRAFFIC_FILE, Columns, Traffic
from stillwatch.serving.archive.language import guess_language
from stillwatch.serving.scorer import Scorer

SUSPECT_RISK = 0.5
"""Of left-out ordinary accounts fewer than one in 150 ever came above this."""
MAX_SUSPECTS = 0.02
SITE = "site"
"""Source name of references that come from a site's own traffic."""
MAX_FRAMES, MAX_SLOTS = 1500, 800
"""References made of a site's frames and of its prompts without one."""
TEXTS_A_REFERENCE = 8
"""A reference of prompts is the centre of about so many"""
LEAST_TEXTS = 3
"""and of no fewer than these."""
SAMPLED_ACCOUNTS, TEXTS_AN_ACCOUNT = 2000, 30
MAX_DISTINCT = 20_000
"""Texts of one account after which no more of it are looked at."""
KEPT_TEXTS = 100_000
"""Texts of the log whose vectors are kept while it is read again; others are encoded again."""

CARD_HEADING = "## Calibrated to a site"

Chunks = Callable[[str], AbstractContextManager[Iterator[list[Event]]]]


@dataclass(frozen=True, slots=True)
class Calibrated:
    """The new bundle and what is known of its threshold."""

    bundle: Bundle
    threshold: SiteThreshold
    references: int


def part_of(account_id: str) -> int:
    """The part of the site that an account is of, below SITE_PARTS."""
    return _hash(account_id) % SITE_PARTS


def _hash(account_id: str) -> int:
    return zlib.crc32(account_id.encode("utf-8", "replace"))


def check_enough(accounts: Collection[str], max_fpr: float) -> None:
    """Raises InputError before anything long starts if there are too few accounts."""
    needed = accounts_needed(max_fpr)
    if len(accounts) < needed:
        raise InputError(
            f"calibration to a false-positive rate of {max_fpr:g} must see at least {needed} "
            f"ordinary accounts, however: the log holds {len(accounts)}; add traffic or ask for a "
            "higher rate"
        )


def calibrate(scorer: Scorer, chunks: Chunks, output: Path, max_fpr: float) -> Calibrated:
    """Write a new bundle to `output`; every account in `chunks` is taken to be ordinary.

    `chunks` opens the log anew each time, under a label that says what is done with it.
    Raises InputError if there are too few accounts, or if so many have a high risk that the log
    must hold campaigns: references and a threshold made of those would let campaigns through.
    """
    old, encoder = scorer.bundle, _Remembering(scorer.encoder)
    samples = [SiteSample() for _ in range(SITE_PARTS)]
    first = Scorer(Detector(old, encoder))
    first.detector.observe = lambda account, texts: samples[part_of(account)].add(account, texts)
    _score(first, chunks, "Reading what the site sends")
    _refuse_suspects(first.peak_risks())
    peaks, seen = [], _Seen()
    with tempfile.TemporaryDirectory() as scratch:
        for part in range(SITE_PARTS):
            others = SiteSample.join(own for n, own in enumerate(samples) if n != part)
            folder = Path(scratch) / str(part)
            taught = Scorer(Detector(write_bundle(folder, *_taught(old, others, encoder)), encoder))
            taught.archive = seen
            label = f"Scoring part {part + 1} of {SITE_PARTS}, taught by the others"
            _score(taught, chunks, label, part)
            peaks.append(taught.peak_risks())
    _refuse_suspects(np.concatenate(peaks))
    found = site_threshold(np.concatenate(peaks), max_fpr)
    thresholds = Thresholds(
        enter=found.enter,
        leave=found.leave,
        max_fpr=max_fpr,
        ordinary_accounts=found.accounts,
        origin="a site's own ordinary traffic",
    )
    fields, content = _taught(old, SiteSample.join(samples), encoder)
    fields["thresholds"] = thresholds.model_dump()
    references = fields["benign_sources"].count(SITE)
    card = content["README.md"].split(CARD_HEADING.encode())[0].rstrip() + b"\n"
    content[TRAFFIC_FILE] = seen.traffic().to_bytes()
    content["README.md"] = card + _card_section(old, found, references).encode()
    fields = with_golden(fields, content, scorer.encoder)
    return Calibrated(write_bundle(output, fields, content), found, references)


def _taught(
    old: Bundle, sample: SiteSample, encoder: Encoder
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Fields and files of a bundle that knows a sample of ordinary traffic."""
    manifest = old.manifest
    examples, fitted = examples_from_bytes(
        old.content["examples.safetensors"], manifest.encoder.dimensions, len(manifest.classes)
    )
    benign, site = _with_site(old, sample, fitted.salience, encoder)
    heads = adapt_heads(fitted, examples, site, manifest.head_origins, len(manifest.intents) + 1)
    fields = {**manifest_fields(manifest), "benign_sources": list(benign.sources)}
    return fields, {**old.content, **benign.to_files(), "heads.safetensors": heads.to_bytes()}


def _card_section(old: Bundle, found: SiteThreshold, references: int) -> str:
    """What the model card says of the calibration."""
    return "\n".join(
        [
            "",
            CARD_HEADING,
            f"From bundle {old.id} with a site's own ordinary traffic: {references} benign "
            f"references, and thresholds {found.enter:.6f} and {found.leave:.6f} in place of those "
            f"above. {found.above} of the {found.accounts} accounts that set them ever reached the "
            f"first, each scored with what others of them had taught; with "
            f"{found.confidence:.0%} confidence at most {100 * found.max_fpr:g}% of the site's "
            "ordinary accounts do.",
            "",
        ]
    )


class _Remembering:
    """An encoder that keeps the vectors of the first KEPT_TEXTS texts."""

    def __init__(self, encoder: Encoder) -> None:
        self.name, self.dimensions = encoder.name, encoder.dimensions
        self._encoder = encoder
        self._kept: dict[str, TextVectors] = {}

    def encode(self, texts: Sequence[str]) -> list[TextVectors]:
        unknown = [text for text in dict.fromkeys(texts) if text not in self._kept]
        read = dict(zip(unknown, self._encoder.encode(unknown), strict=True))
        room = max(KEPT_TEXTS - len(self._kept), 0)
        self._kept.update(islice(read.items(), room))
        return [read[text] if text in read else self._kept[text] for text in texts]


class _Seen:
    """Stands where a service has its archive, and keeps a few numbers of each event."""

    def __init__(self) -> None:
        self._rows: list[tuple[float, float, float, float, bool]] = []
        self._numbers: dict[str, int] = {}
        self._accounts: list[int] = []
        self._languages: Counter[str] = Counter()
        self._intents: Counter[str] = Counter()

    def offer_scored(
        self, detector: Detector, events: Sequence[Event], scored: Scored,
        flagged: Sequence[bool], vectors: Mapping[bytes, np.ndarray],
    ) -> None:  # fmt: skip
        """As `Archive.offer_scored`."""
        likeliest = scored.contribution.argmax(axis=1).tolist()
        for number, event in enumerate(events):
            own = float(scored.contribution[number, likeliest[number]])
            self._rows.append(
                (float(scored.risk[number]), own, float(scored.similarity[number]),
                 event.timestamp, bool(scored.texts[number].frame))
            )  # fmt: skip
            numbered = self._numbers.setdefault(event.account_id, len(self._numbers))
            self._accounts.append(numbered)
        self._languages.update(guess_language(event.prompt) for event in events)
        self._intents.update(detector.intents[number] for number in likeliest)

    def traffic(self) -> Traffic:
        """Of all events so far."""
        risk, contribution, similarity, time, framed = np.array(self._rows, dtype=np.float64).T
        return Traffic.of(
            Columns(
                risk, contribution, similarity, time, framed > 0,
                np.array(self._accounts, dtype=np.int64), self._languages, self._intents,
            )
        )  # fmt: skip


def _score(scorer: Scorer, chunks: Chunks, label: str, part: int | None = None) -> None:
    """The log's events, or those of one part of its accounts."""
    with chunks(label) as events:
        for chunk in events:
            scorer.ingest(
                [event for event in chunk if part is None or part_of(event.account_id) == part]
            )


def _refuse_suspects(peaks: np.ndarray) -> None:
    suspects = int((peaks > SUSPECT_RISK).sum())
    if suspects > max(MAX_SUSPECTS * len(peaks), 1):
        raise InputError(
            f"a calibration log must hold ordinary traffic only, however: {suspects} of "
            f"{len(peaks)} accounts have a risk above {SUSPECT_RISK}; look at them with "
            "`stillwatch score` and leave campaigns out"
        )


def _with_site(
    old: Bundle, sample: SiteSample, salience: np.ndarray, encoder: Encoder
) -> tuple[BenignIndex, tuple[HeadTexts, HeadTexts]]:
    """The references with a site's own in place of earlier ones of it, and its texts as heads of
    this salience read them."""
    manifest = old.manifest
    dimensions = manifest.encoder.dimensions
    benign = BenignIndex.from_files(old.content, dimensions, manifest.benign_sources)
    kept = np.array([source != SITE for source in benign.sources])
    vectors = [benign.vectors()[kept]]
    heads = []
    for place, name in enumerate(PLACES):
        accounts, texts = sample.texts(place)
        encoded = encoder.encode(texts)
        points = np.array([item.vector for item in encoded], dtype=np.float32)
        points = points.reshape(len(texts), dimensions)
        chosen, weight = sample_by_account(accounts, SITE_TEXTS, np.random.default_rng(0))
        bags = [np.unique(np.concatenate(ngram_chunks(texts[int(n)]))) for n in chosen]
        rows = ngram_rows(bags, salience[place])
        read = points[chosen, : dimensions if name == "slot" else 0]
        heads.append(HeadTexts(read, rows, weight.astype(np.float32)))
        vectors.append(_references(points, name))
    found = np.concatenate(vectors)
    sources = (*(s for s in benign.sources if s != SITE), *(SITE,) * (len(found) - kept.sum()))
    return BenignIndex(sources, found), (heads[0], heads[1])


def _references(points: np.ndarray, place: str) -> np.ndarray:
    """Unit vectors float32 (M, D) that stand for a site's texts (N, D). A frame is a template,
    and stands for itself where there are few; of what varies there are centres alone."""
    most = MAX_FRAMES if place == "frame" else min(MAX_SLOTS, len(points) // TEXTS_A_REFERENCE)
    if len(points) <= most or not most:
        return points if most else points[:0]
    kmeans = faiss.Kmeans(
        points.shape[1], most, niter=12, seed=0, spherical=True, min_points_per_centroid=1
    )
    kmeans.train(points)
    centres = np.asarray(kmeans.centroids)
    if place == "slot":
        # A customer's text may not be read back from its vector: centres of few are left out.
        _, nearest = kmeans.index.search(points, 1)
        centres = centres[np.bincount(nearest[:, 0], minlength=most) >= LEAST_TEXTS]
    unit = centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-6)
    return np.asarray(unit, dtype=np.float32)


class SiteSample:
    """An even sample of each account's distinct frames, and of its prompts without a frame
    (Vitter 1985, algorithm R), of SAMPLED_ACCOUNTS accounts chosen by the hash of their names."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[_Reservoir, _Reservoir]] = {}

    def add(self, account_id: str, texts: EventTexts) -> None:
        """One event's texts."""
        own = self._kept.get(account_id)
        if own is None:
            own = self._kept[account_id] = (_Reservoir(), _Reservoir())
            if len(self._kept) > 2 * SAMPLED_ACCOUNTS:
                self._thin()
        if texts.frame:
            own[0].add(texts.frame)
        else:
            own[1].add(texts.slot)

    @classmethod
    def join(cls, samples: Iterable[SiteSample]) -> SiteSample:
        """The sample of several, whose accounts are different ones."""
        found = cls()
        for sample in samples:
            found._kept |= sample._kept
        return found

    def _thin(self) -> None:
        names = sorted(self._kept, key=_hash)[:SAMPLED_ACCOUNTS]
        self._kept = {name: self._kept[name] for name in names}

    def texts(self, place: int) -> tuple[np.ndarray, list[str]]:
        """Number of the account of each text, int64 (N,), and the texts, N of them."""
        self._thin()
        found = [
            (number, text)
            for number, name in enumerate(sorted(self._kept))
            for text in self._kept[name][place].texts
        ]
        return np.array([number for number, _ in found], dtype=np.int64), [t for _, t in found]


class _Reservoir:
    """TEXTS_AN_ACCOUNT of the distinct texts that pass by."""

    __slots__ = ("_distinct", "_rng", "texts")

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._distinct: set[int] = set()
        self._rng = random.Random(0)

    def add(self, text: str) -> None:
        key = zlib.crc32(text.encode("utf-8", "replace"))
        if key in self._distinct or len(self._distinct) >= MAX_DISTINCT:
            return
        self._distinct.add(key)
        if len(self.texts) < TEXTS_AN_ACCOUNT:
            self.texts.append(text)
        elif (place := self._rng.randrange(len(self._distinct))) < TEXTS_AN_ACCOUNT:
            self.texts[place] = text
