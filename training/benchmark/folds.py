"""The detector on material of which it has seen nothing: fold by fold, beside its baselines.

For each fold, heads, template index, benign references and classifier are made from the other
folds alone; then the fold's campaigns are scored against ordinary traffic.

known traffic: ordinary streams of the other folds' sources and products, other prompts of them;
the site has calibrated with further ones.
new traffic: ordinary streams of the held-out fold too. A third of the site's ordinary accounts
calibrate, as `stillwatch calibrate` does: each part of them is read with what the others have
taught, and all set the threshold; the rest, read with what all have taught, are the test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stillwatch.data.simulator.attacks import compose_attack
from stillwatch.data.simulator.materials import Materials, split_folds
from stillwatch.data.simulator.phrases import Phrase
from stillwatch.data.simulator.streams import SHARES, Stream
from stillwatch.model.adapt import SITE_PARTS
from stillwatch.model.parts import split_parts
from stillwatch.training.benchmark.baselines import Baseline, account_summaries, summary_baselines
from stillwatch.training.benchmark.event_vectors import event_vectors
from stillwatch.training.benchmark.mmd import MmdTest
from stillwatch.training.benchmark.prada import prada_scores
from stillwatch.training.benchmark.single_prompt import SinglePrompt
from stillwatch.training.composition import (
    PARTS,
    TEST_PARTS,
    available_intents,
    compose_framed,
    compose_ordinaries,
)
from stillwatch.training.featurise import Readers
from stillwatch.training.fit_classifier import fit_classifier, stream_logits
from stillwatch.training.framed import FramedStreams, TextTable
from stillwatch.training.settings import Settings
from stillwatch.training.vectors import VectorTable
from stillwatch.training.workbench import Workbench

EXCERPT_CHARS = 300
REFERENCE_PROMPTS = 500
SETS = ("attacks_known", "attacks_new", "ordinary_known", "ordinary_new")


def calibrating_parts(count: int) -> list[np.ndarray]:
    """Rows of a new site's `count` ordinary accounts that calibrate, a third of all, part by
    part."""
    rows = np.arange(0, count, 3)
    return [rows[part::SITE_PARTS] for part in range(SITE_PARTS)]


@dataclass(frozen=True)
class TestSet:
    """One fold's test streams: attacks under known and under new cover, ordinary of both."""

    __test__ = False
    attacks_known: FramedStreams
    attacks_new: FramedStreams
    ordinary_known: FramedStreams
    ordinary_new: FramedStreams


def compose_tests(
    materials: Materials,
    settings: Settings,
    table: TextTable,
    progress: Callable[[str], None],
    processes: int = 1,
    only: list[int] | None = None,
) -> dict[int, TestSet]:
    """Test streams of every fold or of those in `only`; the folds are those of training."""
    plan = settings.composition
    parts = split_folds(materials, plan.folds)
    wanted = list(range(plan.folds)) if only is None else only
    progress(f"composing {len(wanted)} folds of test streams")

    def compose(number: int, name: str) -> list[Stream]:
        part = parts[number]
        known = [own for n, own in enumerate(parts) if n != number]
        cover = _union(known).portion(TEST_PARTS, PARTS) if name.endswith("known") else part
        rng = np.random.default_rng([settings.seed, 41, number, SETS.index(name)])
        if name.startswith("ordinary"):
            count = plan.test_known if name.endswith("known") else plan.test_new
            return compose_ordinaries(rng, cover, count, f"t{number}{name}", plan.test_longest)
        cells = [(i, s) for i in available_intents(part, settings.intents) for s in SHARES]
        return [
            compose_attack(
                rng, part, cover, f"t{number}{name}{c}-{k}", intent, share, plan.test_longest
            )
            for c, (intent, share) in enumerate(cells)
            for k in range(plan.test_attacks)
        ]

    jobs = [partial(compose, number, name) for number in wanted for name in SETS]
    framed = iter(compose_framed(jobs, table, processes))
    return {number: TestSet(**{name: next(framed) for name in SETS}) for number in wanted}


def _union(parts: list[Materials]) -> Materials:
    phrases: dict[str, tuple[Phrase, ...]] = {}
    for part in parts:
        for kind, own in part.phrases.items():
            phrases[kind] = (*phrases.get(kind, ()), *own)
    return Materials(
        tuple(s for part in parts for s in part.sources),
        tuple(w for part in parts for w in part.wrappers),
        tuple(p for part in parts for p in part.products),
        phrases,
    )


@dataclass
class Scores:
    """Scores of one fold's test by one method: higher is more suspicious, one an account."""

    attacks_known: np.ndarray
    attacks_new: np.ndarray
    ordinary_known: np.ndarray
    ordinary_new: np.ndarray


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
        training, bench.settings, folder / f"without-{number + 1}", show_progress, seed=number
    )
    sites = _Sites.of(bench, others, test)
    result = FoldResult(number, test, texts=bench.texts)

    def logits(streams: FramedStreams, readers: Readers) -> list[np.ndarray]:
        return stream_logits(classifier, bench.stream_set(streams, readers).features)

    result.paths = sites.read(logits)
    final = {name: np.array([path[-1, 0] for path in own]) for name, own in result.paths.items()}
    result.scores["stillwatch"] = Scores(**final)
    if baselines:
        bench.progress(f"baselines without fold {number + 1}")
        for name, score in _fit_baselines(bench, others).items():
            found = sites.read(partial(_listed, score))
            result.scores[name] = Scores(**{own: np.array(found[own]) for own in SETS})
    return result


Score = Callable[[FramedStreams, Readers], np.ndarray]


def _listed(score: Score, streams: FramedStreams, readers: Readers) -> list[Any]:
    return list(score(streams, readers))


@dataclass(frozen=True)
class _Sites:
    """What reads a fold's test streams. Both sites have calibrated: the known one with other
    prompts of the sources that it shares with the training, the new one with a third of its own
    accounts. Of `taught` each knows all of that third but one part."""

    test: TestSet
    known: Readers
    new: Readers
    taught: list[Readers]

    @classmethod
    def of(cls, bench: Workbench, others: tuple[int, ...], test: TestSet) -> _Sites:
        parts = [
            test.ordinary_new.subset(rows) for rows in calibrating_parts(len(test.ordinary_new))
        ]
        return cls(
            test,
            bench.site_readers(others, [bench.folds[n].reference for n in others]),
            bench.site_readers(others, parts),
            [bench.site_readers(others, [*parts[:n], *parts[n + 1 :]]) for n in range(len(parts))],
        )

    def read(self, read: Callable[[FramedStreams, Readers], list[Any]]) -> dict[str, list[Any]]:
        """What `read` gives for each stream of each set; for those that calibrate, what it gives
        with readers that the other parts have taught."""
        found = {
            name: read(getattr(self.test, name), self.known if name.endswith("known") else self.new)
            for name in SETS
        }
        streams = self.test.ordinary_new
        for rows, readers in zip(calibrating_parts(len(streams)), self.taught, strict=True):
            for row, value in zip(rows, read(streams.subset(rows), readers), strict=True):
                found["ordinary_new"][row] = value
        return found


def _fit_baselines(bench: Workbench, folds: tuple[int, ...]) -> dict[str, Score]:
    """What the detector is compared with, fitted on the same training streams."""
    vectors, seed = bench.vectors, bench.settings.seed
    sets = [bench.folds[n].streams for n in folds]
    attacking = np.concatenate([streams.is_attack for streams in sets])
    summaries, summaries_attack = _training_summaries(bench, folds)
    single = SinglePrompt().fit(sets, vectors, seed)
    reference = _reference_vectors([bench.folds[n].reference for n in folds], vectors, seed)
    discrepancy = MmdTest(reference).fit(sets, vectors, attacking)

    def summarised(baseline: Baseline) -> Score:
        return lambda streams, readers: baseline.score(
            account_summaries([streams], vectors, readers.templates, readers.benign)
        )

    return {
        **{
            baseline.name: summarised(baseline)
            for baseline in summary_baselines(summaries, summaries_attack, seed)
        },
        "best single prompt": lambda streams, _: single.score(streams, vectors),
        "mean discrepancy": lambda streams, _: discrepancy.score(streams, vectors),
        "PRADA": lambda streams, _: prada_scores(streams, vectors),
    }


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
