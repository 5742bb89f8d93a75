"""Fits the heads that read one text, and the benign reference bank. Convex fits: no seed matters
but that of the choice of examples."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import faiss
import numpy as np
from scipy import sparse

from stillwatch.model.adapt import (
    DENSE_PENALTY,
    LEXICAL_PENALTIES,
    SITE_TEXTS,
    HeadExamples,
    HeadTexts,
    ngram_rows,
    sample_by_account,
)
from stillwatch.model.heads import (
    ANY_INTENT,
    ORDINARY_CLASSES,
    PLACES,
    IntentHeads,
    projection_matrix,
)
from stillwatch.model.lexical import BUCKETS, ngram_chunks
from stillwatch.model.logistic import Problem, balanced
from stillwatch.training.forms import FormTexts
from stillwatch.training.framed import FramedStreams
from stillwatch.training.vectors import VectorTable

BANK_PER_ORIGIN, SLOTS_PER_PRODUCT, FRAMES_PER_ORIGIN = 40, 6, 8
SMOOTHING = 3.0
"""Texts of either side that are taken to hold every n-gram, when they are counted."""
LEAST_RATIO = 0.1
"""As a logarithm. What all use alike, and what none of the texts hold, counts a little, so that a
site's own n-grams can be learnt; no more, since it stands in the row of every unseen text."""
ATTACK_POWER, ORDINARY_POWER = 0.5, 0.75
"""Of the number of an origin's texts, in slots: what the origin weighs. Few sources attack and each
says much, whereas ordinary products' first prompts are a thousand origins of a few texts each: were
all alike, a whole source of ordinary prompts would hardly count beside them."""
SAMPLED_EXAMPLES = 3000
"""Examples of each place that a bundle holds, for heads to be adapted with."""


@dataclass(frozen=True)
class Examples:
    """Distinct (text, class) pairs of one place: text_id int64 (N,), target float32 (N, C),
    weight float32 (N,) by what its origin weighs; how many ordinary origins of like weight the
    ordinary ones are worth."""

    text_id: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    ordinary_origins: float


class NgramTable:
    """N-grams of all texts of a run, counted once, stretch by stretch as `ngram_chunks` does."""

    def __init__(self, texts: Sequence[str], processes: int = 1) -> None:
        """Forks if `processes` is above 1: not to be made beside running threads."""
        global _TEXTS
        starts = range(0, len(texts), _COUNTED_TOGETHER)
        if processes == 1 or len(starts) < 2:
            self._chunks = [ngram_chunks(text) for text in texts]
            return
        _TEXTS = texts
        with ProcessPoolExecutor(processes, multiprocessing.get_context("fork")) as pool:
            self._chunks = [own for part in pool.map(_count_ngrams, starts) for own in part]
        _TEXTS = ()

    def chunks(self, text_id: int) -> list[np.ndarray]:
        """What `ngram_chunks` gives for the text."""
        return self._chunks[text_id]

    def rows(self, text_ids: np.ndarray, salience: np.ndarray) -> sparse.csr_array:
        """The texts' whole bags as `ngram_rows` gives them, sparse float32 (N, BUCKETS)."""
        return ngram_rows(self._bags(text_ids), salience)

    def salience(self, text_ids: np.ndarray, weight: np.ndarray, target: np.ndarray) -> np.ndarray:
        """What each n-gram counts in a row, float16 (BUCKETS,): its rarity, as a logarithm of how
        few of these texts hold it (Spärck Jones 1972), times the root of how differently it is
        used, as a logarithm of how much more often texts of a class hold it than others (Wang and
        Manning 2012), over the classes of `target` (N, C) as a root mean square, LEAST_RATIO or
        more."""
        holds = (self.rows(text_ids, np.ones(BUCKETS, np.float16)) > 0).astype(np.float64)
        holds = holds.T.tocsr()
        weight = weight / weight.mean()
        rarity = np.log((weight.sum() + 1) / (holds @ weight + 1))
        mass = balanced(target, weight) * len(text_ids)
        sides = [holds @ (mass * side) + SMOOTHING for side in (target, 1 - target)]
        inside, outside = (np.log(side / side.sum(axis=0)) for side in sides)
        ratio = np.sqrt(((inside - outside) ** 2).mean(axis=1))
        return (rarity * np.sqrt(np.maximum(ratio, LEAST_RATIO))).astype(np.float16)

    def _bags(self, text_ids: np.ndarray) -> list[np.ndarray]:
        return [
            own[0] if len(own) == 1 else np.unique(np.concatenate(own))
            for own in (self._chunks[i] for i in text_ids)
        ]


_COUNTED_TOGETHER = 4096
_TEXTS: Sequence[str] = ()


def _count_ngrams(start: int) -> list[list[np.ndarray]]:
    return [ngram_chunks(text) for text in _TEXTS[start : start + _COUNTED_TOGETHER]]


def collect_examples(
    sets: list[FramedStreams],
    place: int,
    classes: tuple[str, ...],
    most: int,
    rng: np.random.Generator,
    forms: Sequence[FormTexts] = (),
) -> Examples:
    """What stands at a place in these streams, with the class of the events it stood in.

    A frame or slot of a diluted stream's attack prompts has their intent, its cover the class of
    ordinary text. A slot within a frame is left out: an attack asks about what products ask about,
    so the slot head learns from whole prompts alone. For frames, `forms` stand in the place of what
    streams made of them, a form is an origin, and every origin has the same weight, so that what
    few large sources say counts no more than what a small one says. In slots an origin weighs by
    how many texts it has, to a power.
    """
    frames = PLACES[place] == "frame"
    rendered = frozenset().union(*(own.origins for own in forms)) if frames else frozenset()
    seen: dict[tuple[int, str], str] = {}
    for streams in sets:
        ids = streams.frame_id if frames else streams.slot_id
        kept = ids >= 0 if frames else streams.frame_id < 0
        for text_id, label, origin in zip(
            ids[kept], streams.labels[kept], streams.origins[kept], strict=True
        ):
            if origin not in rendered:
                seen.setdefault((int(text_id), str(label)), str(origin))
    pairs = list(seen)
    if len(pairs) > most:
        pairs = [pairs[int(p)] for p in rng.choice(len(pairs), most, replace=False)]
    found = [(text_id, label, f"{seen[text_id, label]}:{label}") for text_id, label in pairs]
    if frames:
        found += [
            (int(text_id), label, f"{form}:{label}")
            for own in forms
            for text_id, label, form in zip(own.text_id, own.labels, own.forms, strict=True)
            if label in classes
        ]
    return _examples(found, classes, (0, 0) if frames else (ATTACK_POWER, ORDINARY_POWER))


def _examples(
    found: Sequence[tuple[int, str, str]], classes: tuple[str, ...], powers: tuple[float, float]
) -> Examples:
    """Of (text id, class, origin) each; an origin weighs as many texts as it has to the first of
    `powers` if it attacks, to the second if it is ordinary."""
    column = {name: position for position, name in enumerate(classes)}
    counts = Counter(origin for _, _, origin in found)
    target = np.zeros((len(found), len(classes)), dtype=np.float32)
    for row, (_, label, _) in enumerate(found):
        target[row, column[label]] = 1
        target[row, column[ANY_INTENT]] = label not in ORDINARY_CLASSES
    weight = np.array(
        [counts[origin] ** (powers[label in ORDINARY_CLASSES] - 1) for _, label, origin in found],
        dtype=np.float32,
    )
    ordinary = dict.fromkeys(origin for _, label, origin in found if label in ORDINARY_CLASSES)
    return Examples(
        np.array([text_id for text_id, _, _ in found], dtype=np.int64),
        target,
        weight / weight.mean(),
        _effective_number(np.array([counts[origin] ** powers[1] for origin in ordinary])),
    )


def _effective_number(weights: np.ndarray) -> float:
    """How many of like weight these say as much as (Kish 1965)."""
    return float(weights.sum() ** 2 / (weights**2).sum()) if len(weights) else 0.0


def fit_heads(
    examples: tuple[Examples, Examples], vectors: VectorTable, ngrams: NgramTable
) -> IntentHeads:
    """One-against-rest logistic regressions for each place on n-grams, for slots on vectors too.

    In frames n-grams count by their salience. In slots all count alike: there rare words are what a
    source is about.
    """
    lexical = []
    salience = np.ones((len(PLACES), BUCKETS), dtype=np.float16)
    for place, own in enumerate(examples):
        weight = balanced(own.target, own.weight)
        if PLACES[place] == "slot":
            rows = vectors.means[own.text_id]
            dense = Problem(rows, own.target, weight, DENSE_PENALTY).minimise()
        else:
            asked = own.target[:, : -len(ORDINARY_CLASSES)]
            salience[place] = ngrams.salience(own.text_id, own.weight, asked)
        bags = ngrams.rows(own.text_id, salience[place])
        lexical.append(Problem(bags, own.target, weight, LEXICAL_PENALTIES[place]).minimise())
    return IntentHeads(
        dense[:-1],
        dense[-1],
        np.stack([found[:-1] for found in lexical]).astype(np.float16),
        np.stack([found[-1] for found in lexical]),
        salience,
        projection_matrix(vectors.means.shape[1]),
    )


def sample_examples(
    examples: Examples,
    place: int,
    intents: int,
    vectors: VectorTable,
    ngrams: NgramTable,
    salience: np.ndarray,
    rng: np.random.Generator,
    most: int = SAMPLED_EXAMPLES,
) -> HeadExamples:
    """A sample that stands for all examples: half of it attacks, each with the same weight, drawn
    as often as it weighs."""
    attacks = examples.target[:, :intents].any(axis=1)
    chosen, weights = [], []
    for side in (attacks, ~attacks):
        rows = np.flatnonzero(side)
        weight = examples.weight[rows].astype(np.float64)
        total = float(weight.sum())
        count = min(most // 2, len(rows))
        chosen.append(rng.choice(rows, count, replace=False, p=weight / total))
        weights.append(np.full(count, total / max(count, 1)))
    kept = np.concatenate(chosen)
    weight = np.concatenate(weights)
    texts = head_texts(examples.text_id[kept], place, weight, vectors, ngrams, salience)
    return HeadExamples(texts, examples.target[kept])


def head_texts(
    text_id: np.ndarray,
    place: int,
    weight: np.ndarray,
    vectors: VectorTable,
    ngrams: NgramTable,
    salience: np.ndarray,
) -> HeadTexts:
    """Texts of the run as heads of the place with this salience (BUCKETS,) read them."""
    rows = ngrams.rows(text_id, salience)
    dimensions = vectors.means.shape[1] if PLACES[place] == "slot" else 0
    return HeadTexts(vectors.means[text_id, :dimensions], rows, weight.astype(np.float32))


def site_texts(
    sets: list[FramedStreams],
    place: int,
    vectors: VectorTable,
    ngrams: NgramTable,
    salience: np.ndarray,
    rng: np.random.Generator,
) -> HeadTexts:
    """What stands at a place in a site's ordinary streams, each account weighing 1 in all."""
    pairs, accounts = [], 0
    for streams in sets:
        framed = streams.frame_id >= 0
        ids = streams.frame_id if PLACES[place] == "frame" else streams.slot_id
        kept = framed if PLACES[place] == "frame" else ~framed
        account = np.repeat(np.arange(len(streams)), streams.lengths) + accounts
        pairs.append(np.unique(np.stack([account[kept], ids[kept]], axis=1), axis=0))
        accounts += len(streams)
    found = np.concatenate(pairs)
    chosen, weight = sample_by_account(found[:, 0], SITE_TEXTS, rng)
    return head_texts(found[chosen, 1], place, weight, vectors, ngrams, salience)


def benign_bank(
    sets: list[FramedStreams], vectors: VectorTable, seed: int = 0
) -> tuple[np.ndarray, tuple[str, ...]]:
    """References of ordinary traffic: unit vectors float32 (M, D) and their origins.

    A product's frames are few and stand as they are, up to FRAMES_PER_ORIGIN centres of them, so
    that a known product is known for certain; of what varies there are centres alone.
    """
    frames: dict[str, set[int]] = {}
    slots: dict[str, set[int]] = {}
    framed_origins: set[str] = set()
    for streams in sets:
        ordinary = np.repeat(~streams.is_attack, streams.lengths)
        for ids, found in ((streams.frame_id, frames), (streams.slot_id, slots)):
            for text_id, origin in zip(ids[ordinary], streams.origins[ordinary], strict=True):
                if text_id >= 0:
                    found.setdefault(str(origin), set()).add(int(text_id))
        framed_origins.update(frames)
    centres, origins = [], []
    for origin in sorted(frames):
        points = vectors.means[sorted(frames[origin])]
        centres.append(_centres(points, min(FRAMES_PER_ORIGIN, len(points)), seed))
        origins += [origin] * len(centres[-1])
    for origin in sorted(slots):
        points = vectors.means[sorted(slots[origin])]
        most = SLOTS_PER_PRODUCT if origin in framed_origins else BANK_PER_ORIGIN
        centres.append(_centres(points, min(most, max(1, len(points) // 4)), seed))
        origins += [origin] * len(centres[-1])
    return np.concatenate(centres), tuple(origins)


def _centres(points: np.ndarray, wanted: int, seed: int) -> np.ndarray:
    """Unit centres float32 (wanted, D) of points (N, D); the points themselves if so few."""
    found = points
    if wanted == 1:
        found = points.mean(axis=0, keepdims=True)
    elif wanted < len(points):
        kmeans = faiss.Kmeans(
            points.shape[1], wanted, niter=12, seed=seed, spherical=True,
            min_points_per_centroid=1, max_points_per_centroid=256,
        )  # fmt: skip
        kmeans.train(points)
        found = np.asarray(kmeans.centroids)
    unit = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-6)
    return np.asarray(unit, dtype=np.float32)
