"""The detector on material of which it has seen nothing: fold by fold, beside its baselines.

For each fold, heads, template index, benign references and classifier are made from the other
folds alone; then the fold's campaigns are scored against ordinary traffic.

known traffic: ordinary accounts of the other folds' sources and products, other prompts of them;
the site has calibrated with further ones.
new traffic: ordinary accounts of the held-out fold too. The site calibrates as `stillwatch
calibrate` does, with those that other tests train on: each part of them is read with what the
others have taught, and all set the threshold; the tested accounts, of other prompts, are read with
what all have taught.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stillwatch.model.adapt import SITE_PARTS
from stillwatch.model.parts import split_parts
from stillwatch.training.benchmark.baselines import account_summaries, summary_baselines
from stillwatch.training.benchmark.event_vectors import event_vectors
from stillwatch.training.benchmark.fold_tests import SETS, TestSet
from stillwatch.training.benchmark.mmd import MmdTest
from stillwatch.training.benchmark.prada import prada_scores
from stillwatch.training.benchmark.single_prompt import SinglePrompt
from stillwatch.training.featurise import Readers
from stillwatch.training.fit_classifier import fit_classifier, stream_logits
from stillwatch.training.framed import FramedStreams
from stillwatch.training.vectors import VectorTable
from stillwatch.training.workbench import Workbench

EXCERPT_CHARS = 300
REFERENCE_PROMPTS = 500


@dataclass
class Scores:
    """Scores of one fold's test by one method, and of the accounts with which the new site
    calibrates: higher is more suspicious, one an account."""

    attacks_known: np.ndarray
    attacks_new: np.ndarray
    ordinary_known: np.ndarray
    ordinary_new: np.ndarray
    calibrating: np.ndarray


@dataclass
class FoldResult:
    """One fold: its test streams and, by method, their scores. `paths` holds the detector's
    logits at every event, by the same names as Scores."""

    number: int
    test: TestSet
    scores: dict[str, Scores] = field(default_factory=dict)
    paths: dict[str, list[np.ndarray]] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list, repr=False)

    def prompt(self, streams: FramedStreams, row: int) -> str:
        """The beginning of the normalised text of an event of these streams."""
        frame = self.texts[streams.frame_id[row]] + " … " if streams.frame_id[row] >= 0 else ""
        slot = "\n".join(split_parts(self.texts[streams.slot_id[row]]))
        return (frame + slot)[:EXCERPT_CHARS]


def evaluate_fold(
    bench: Workbench,
    number: int,
    test: TestSet,
    folder: Path,
    show_progress: bool,
    baselines: bool = True,
) -> FoldResult:
    """Train on all other folds and score this one."""
    others = tuple(n for n in range(len(bench.folds)) if n != number)
    training = bench.training_set(others)
    bench.progress(f"training the classifier without fold {number + 1}")
    classifier = fit_classifier(
        training, bench.settings, folder / f"without-{number + 1}", show_progress, seed=number,
        progress=bench.progress,
    )  # fmt: skip
    sites = _Sites.of(bench, number, test)
    result = FoldResult(number, test, texts=bench.texts)

    def logits(streams: FramedStreams, readers: Readers) -> list[np.ndarray]:
        return stream_logits(classifier, bench.stream_set(streams, readers).features)

    result.paths = sites.read(logits)
    final = {name: np.array([path[-1, 0] for path in own]) for name, own in result.paths.items()}
    result.scores["stillwatch"] = Scores(**final)
    if baselines:
        bench.progress(f"baselines without fold {number + 1}")
        found = sites.read(_fit_baselines(bench, others))
        for name in found["calibrating"][0]:
            columns = {own: np.array([row[name] for row in rows]) for own, rows in found.items()}
            result.scores[name] = Scores(**columns)
    return result


@dataclass(frozen=True)
class _Sites:
    """What reads a fold's test streams. Both sites have calibrated: the known one with other
    prompts of the sources that it shares with the training, the new one with ordinary accounts of
    its own, in parts. Of `taught` each knows all of those parts but one."""

    test: TestSet
    parts: list[FramedStreams]
    known: Readers
    new: Readers
    taught: list[Readers]

    @classmethod
    def of(cls, bench: Workbench, number: int, test: TestSet) -> _Sites:
        others = tuple(n for n in range(len(bench.folds)) if n != number)
        own = bench.folds[number]
        ordinary = np.flatnonzero(~own.streams.is_attack)
        site = FramedStreams.join([own.streams.subset(ordinary), own.reference])
        order = np.random.default_rng([bench.settings.seed, 47, number]).permutation(len(site))
        parts = [site.subset(rows) for rows in np.array_split(order, SITE_PARTS)]
        return cls(
            test,
            parts,
            bench.site_readers(others, [bench.folds[n].reference for n in others]),
            bench.site_readers(others, parts),
            [bench.site_readers(others, [*parts[:n], *parts[n + 1 :]]) for n in range(SITE_PARTS)],
        )

    def read(self, read: Callable[[FramedStreams, Readers], list[Any]]) -> dict[str, list[Any]]:
        """What `read` gives for each stream of each set, and of the accounts that calibrate, each
        part of them with readers that the other parts have taught."""
        found = {
            name: read(getattr(self.test, name), self.known if name.endswith("known") else self.new)
            for name in SETS
        }
        found["calibrating"] = [
            value
            for part, readers in zip(self.parts, self.taught, strict=True)
            for value in read(part, readers)
        ]
        return found


def _fit_baselines(
    bench: Workbench, folds: tuple[int, ...]
) -> Callable[[FramedStreams, Readers], list[dict[str, float]]]:
    """What the detector is compared with, fitted on the same training streams: gives for each
    stream its score by every baseline."""
    vectors, seed = bench.vectors, bench.settings.seed
    sets = [bench.folds[n].streams for n in folds]
    attacking = np.concatenate([streams.is_attack for streams in sets])
    of_summaries = summary_baselines(*_training_summaries(bench, folds), seed)
    single = SinglePrompt().fit(sets, vectors, seed)
    reference = _reference_vectors([bench.folds[n].reference for n in folds], vectors, seed)
    discrepancy = MmdTest(reference).fit(sets, vectors, attacking)

    def score(streams: FramedStreams, readers: Readers) -> list[dict[str, float]]:
        summaries = account_summaries([streams], vectors, readers.templates, readers.benign)
        scores = {
            **{baseline.name: baseline.score(summaries) for baseline in of_summaries},
            "best single prompt": single.score(streams, vectors),
            "mean discrepancy": discrepancy.score(streams, vectors),
            "PRADA": prada_scores(streams, vectors),
        }
        return [dict(zip(scores, row, strict=True)) for row in zip(*scores.values(), strict=True)]

    return score


def _reference_vectors(sets: list[FramedStreams], vectors: VectorTable, seed: int) -> np.ndarray:
    """REFERENCE_PROMPTS ordinary prompts, float32 (R, D), each account drawn as often."""
    rng = np.random.default_rng([seed, 59])
    drawn = []
    for streams in sets:
        each = -(-REFERENCE_PROMPTS // (len(sets) * len(streams)))
        rows = rng.integers(
            streams.offsets[:-1, None], streams.offsets[1:, None], (len(streams), each)
        )
        drawn.append(event_vectors(streams, vectors, rows.ravel()))
    found = np.concatenate(drawn)
    return found[rng.permutation(len(found))[:REFERENCE_PROMPTS]]


def _training_summaries(bench: Workbench, folds: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Summaries of these folds' training streams float32 (S, D) and which attack bool (S,), each
    fold read by what knows only the others, as the classifier's training streams are."""
    summaries, attacking = [], []
    for number in folds:
        rest = tuple(n for n in folds if n != number)
        streams = bench.folds[number].streams
        for familiar in (None, number):
            readers = bench.readers(rest, familiar)
            summaries.append(
                account_summaries([streams], bench.vectors, readers.templates, readers.benign)
            )
            attacking.append(streams.is_attack)
    return np.concatenate(summaries), np.concatenate(attacking)
