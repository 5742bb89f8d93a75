"""Fits a bundle to a site's own ordinary traffic: benign references and thresholds.

Half of the site's accounts become benign references, the other half set the thresholds, so that
no account's risk is measured against references made of itself.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np

from stillwatch.data.errors import InputError
from stillwatch.data.events import Event
from stillwatch.model.bundle import Bundle, Thresholds, manifest_fields, write_bundle
from stillwatch.model.templates import BenignIndex
from stillwatch.model.thresholds import SiteThreshold, accounts_needed, site_threshold
from stillwatch.serving.scorer import Scorer

SUSPECT_RISK = 0.9
"""An account above this in the calibration log is more likely a campaign than ordinary."""
MAX_SUSPECTS = 0.02
SITE = "site"
"""Source name of references that come from a site's own traffic."""
MAX_REFERENCES = 800
TEXTS_A_REFERENCE = 8
"""A reference is the centre of about so many texts"""
LEAST_TEXTS = 3
"""and of no fewer than these."""
SAMPLED_TEXTS = 40_000

CARD_HEADING = "## Calibrated to a site"

Chunks = Callable[[str], AbstractContextManager[Iterator[list[Event]]]]


@dataclass(frozen=True, slots=True)
class Calibrated:
    """The new bundle and what is known of its threshold."""

    bundle: Bundle
    threshold: SiteThreshold
    references: int


def is_reference(account_id: str) -> bool:
    """Whether an account's traffic becomes references; the others set the threshold."""
    return zlib.crc32(account_id.encode("utf-8", "replace")) % 2 == 0


def check_enough(accounts: Iterable[str], max_fpr: float) -> None:
    """Raises InputError before anything long starts if too few accounts would set the
    threshold."""
    counted = sum(not is_reference(account) for account in accounts)
    needed = accounts_needed(max_fpr)
    if counted < needed:
        raise InputError(
            f"calibration to a false-positive rate of {max_fpr:g} must see about {2 * needed} "
            f"ordinary accounts, half of them to set the threshold, however: {counted} would set "
            "it; add traffic or ask for a higher rate"
        )


def calibrate(scorer: Scorer, chunks: Chunks, output: Path, max_fpr: float) -> Calibrated:
    """Write a new bundle to `output`; every account in `chunks` is taken to be ordinary.

    `chunks` opens the log anew each time, under a label that says what is done with it.
    Raises InputError if there are too few accounts, or if so many have a high risk that the log
    must hold campaigns: references and a threshold made of those would let campaigns through.
    """
    reservoir = _Reservoir(scorer.bundle.manifest.encoder.dimensions)
    scorer.observe = reservoir.add
    _score(scorer, chunks, "Reading half of the accounts for references", is_reference)
    _refuse_suspects(scorer.peak_risks())
    old = scorer.bundle
    benign = _with_site(scorer.benign, reservoir.vectors())
    fields = {**manifest_fields(old.manifest), "benign_sources": list(benign.sources)}
    content = {**old.content, **benign.to_files()}
    with tempfile.TemporaryDirectory() as scratch:
        widened = write_bundle(Path(scratch) / "bundle", fields, content)
        second = Scorer(widened, scorer.encoder)
        _score(second, chunks, "Scoring the other half", lambda name: not is_reference(name))
    peaks = second.peak_risks()
    _refuse_suspects(peaks)
    found = site_threshold(peaks, max_fpr)
    thresholds = Thresholds(
        enter=found.enter,
        leave=found.leave,
        max_fpr=max_fpr,
        ordinary_accounts=found.accounts,
        origin="a site's own ordinary traffic",
    )
    fields = {**fields, "thresholds": thresholds.model_dump()}
    card = content["README.md"].split(CARD_HEADING.encode())[0].rstrip() + b"\n"
    content["README.md"] = card + _card_section(old, found, benign.sources.count(SITE)).encode()
    return Calibrated(write_bundle(output, fields, content), found, benign.sources.count(SITE))


def _card_section(old: Bundle, found: SiteThreshold, references: int) -> str:
    """What the model card says of the calibration."""
    return "\n".join(
        [
            "",
            CARD_HEADING,
            f"From bundle {old.id} with a site's own ordinary traffic: {references} benign "
            f"references, and thresholds {found.enter:.6f} and {found.leave:.6f} in place of those "
            f"above. {found.above} of the {found.accounts} accounts that set them ever reached the "
            f"first; with {found.confidence:.0%} confidence at most {100 * found.max_fpr:g}% of "
            "the site's ordinary accounts do.",
            "",
        ]
    )


def _score(scorer: Scorer, chunks: Chunks, label: str, wanted: Callable[[str], bool]) -> None:
    with chunks(label) as events:
        for chunk in events:
            scorer.ingest([event for event in chunk if wanted(event.account_id)])


def _refuse_suspects(peaks: np.ndarray) -> None:
    suspects = int((peaks > SUSPECT_RISK).sum())
    if suspects > max(MAX_SUSPECTS * len(peaks), 1):
        raise InputError(
            f"a calibration log must hold ordinary traffic only, however: {suspects} of "
            f"{len(peaks)} accounts have a risk above {SUSPECT_RISK}; look at them with "
            "`stillwatch score` and leave campaigns out"
        )


def _with_site(benign: BenignIndex, vectors: np.ndarray) -> BenignIndex:
    """The references with centres of a site's vectors (N, D) in place of earlier ones of it."""
    kept = np.array([source != SITE for source in benign.sources])
    wanted = min(MAX_REFERENCES, len(vectors) // TEXTS_A_REFERENCE)
    if not wanted:
        return benign
    kmeans = faiss.Kmeans(
        vectors.shape[1], wanted, niter=12, seed=0, spherical=True, min_points_per_centroid=1
    )
    kmeans.train(vectors)
    centres = np.asarray(kmeans.centroids)
    _, nearest = kmeans.index.search(vectors, 1)
    # A customer's text may not be read back from its vector: a centre of few texts is left out.
    centres = centres[np.bincount(nearest[:, 0], minlength=wanted) >= LEAST_TEXTS]
    centres = centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-6)
    return BenignIndex(
        (*(s for s in benign.sources if s != SITE), *(SITE,) * len(centres)),
        np.concatenate([benign.vectors()[kept], centres.astype(np.float32)]),
    )


class _Reservoir:
    """An even sample of the vectors that pass by (Vitter 1985, algorithm R)."""

    def __init__(self, dimensions: int) -> None:
        self._rng = np.random.default_rng(0)
        self._kept = np.empty((SAMPLED_TEXTS, dimensions), dtype=np.float32)
        self._seen = 0

    def add(self, vectors: np.ndarray) -> None:
        for vector in vectors:
            position = self._seen
            if position >= SAMPLED_TEXTS:
                position = int(self._rng.integers(0, self._seen + 1))
            if position < SAMPLED_TEXTS:
                self._kept[position] = vector
            self._seen += 1

    def vectors(self) -> np.ndarray:
        return self._kept[: min(self._seen, SAMPLED_TEXTS)]
