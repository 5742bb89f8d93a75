"""`stillwatch evaluate`: the benchmark over folds, its tables and its report; and a bundle's test
on sealed material, beside another bundle's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stillwatch.data.errors import ConfigError, InputError
from stillwatch.data.files import atomic_writer
from stillwatch.training.benchmark.compare import GroupChange, compare
from stillwatch.training.benchmark.figures import summarise
from stillwatch.training.benchmark.fold_tests import TestSet
from stillwatch.training.benchmark.folds import FoldResult, Scores, evaluate_fold
from stillwatch.training.benchmark.report import write_report
from stillwatch.training.benchmark.robustness import robustness
from stillwatch.training.benchmark.sealed import (
    Judge,
    SealedPlan,
    compose_sealed,
    score_sealed,
    sealed_figures,
)
from stillwatch.training.benchmark.tables import print_changes, print_sealed, print_tables
from stillwatch.training.cores import in_processes, one_thread
from stillwatch.training.prepare import prepare
from stillwatch.training.settings import Settings
from stillwatch.training.workbench import Workbench

Progress = Callable[[str], None]


def evaluate(
    settings: Settings,
    corpora: Path | None,
    report: Path,
    run_folder: Path,
    cache: Path,
    threads: int,
    show_progress: bool,
    progress: Progress,
    command: str,
    only: list[int] | None = None,
    baselines: bool = True,
    tested: tuple[Path, Judge] | None = None,
) -> dict[str, Any]:
    """Run every fold (or those of `only`, from 1), as many at once as there are `threads`, print
    the tables, write `results.json` and `report.html`. A bundle that is `tested` beside them is
    told of in these too, and in `sealed.json`."""
    folds = settings.composition.folds
    wanted = [number - 1 for number in (only or range(1, folds + 1))]
    if any(not 0 <= number < folds for number in wanted):
        raise ConfigError(f"folds must be 1 to {folds}, however: {only}; correct --folds")
    report.mkdir(parents=True, exist_ok=True)
    with one_thread():
        bench, _, tests = prepare(settings, corpora, cache, threads, progress, wanted)
        jobs: list[Callable[[], Any]] = _bundle_jobs(*tested, progress) if tested else []
        # Bars of several jobs would write over one another.
        show_progress &= min(threads, len(jobs) + len(wanted)) == 1
        jobs += [
            partial(_fold, bench, number, tests[number], run_folder, show_progress, baselines)
            for number in wanted
        ]
        done = in_processes(jobs, threads)
        sealed = _bundle_figures(done, report) if tested else {}
        results = []
        for number, (scores, paths) in zip(wanted, done, strict=True):
            results.append(FoldResult(number, tests[number], scores, paths, bench.texts))
            # After each fold, so that a run that is killed has told what it found.
            figures = {"command": command, **summarise(results, settings), **sealed}
            _write_json(report / "results.json", figures)
            page = write_report(figures, report)
    print_tables(figures)
    progress(f"figures in {report / 'results.json'}, report in {page}")
    return figures


def _fold(
    bench: Workbench, number: int, test: TestSet, run_folder: Path, show_progress: bool,
    baselines: bool,
) -> tuple[dict[str, Scores], dict[str, list[np.ndarray]]]:  # fmt: skip
    """Scores and paths of one fold: the caller has all else."""
    result = evaluate_fold(bench, number, test, run_folder, show_progress, baselines)
    return result.scores, result.paths


def evaluate_bundle(
    bundle: Path, judge: Judge, threads: int, progress: Progress, report: Path
) -> dict[str, Any]:
    """Figures of a bundle on the sealed material, its robustness among them; prints them and
    writes `sealed.json`."""
    report.mkdir(parents=True, exist_ok=True)
    with one_thread():
        return _bundle_figures(in_processes(_bundle_jobs(bundle, judge, progress), threads), report)


def _bundle_jobs(bundle: Path, judge: Judge, progress: Progress) -> list[Callable[[], Any]]:
    return [partial(robustness, judge, bundle, progress), partial(_sealed, judge, bundle, progress)]


def _sealed(judge: Judge, bundle: Path, progress: Progress) -> dict[str, Any]:
    progress("composing the sealed streams")
    streams = compose_sealed(SealedPlan())
    progress(f"scoring {sum(len(s.events) for s in streams):,} events of {len(streams):,} accounts")
    return sealed_figures(streams, score_sealed(judge, bundle, streams))


def _bundle_figures(done: Iterator[Any], report: Path) -> dict[str, Any]:
    """What `_bundle_jobs` gave, printed and written."""
    figures = {"robustness": next(done), "sealed": next(done)}
    print_sealed(figures)
    _write_json(report / "sealed.json", figures)
    return figures


def compare_bundles(
    new: Path, old: Path, judge: Judge, threads: int, progress: Progress
) -> tuple[list[GroupChange], bool]:
    """Score the sealed streams with both bundles and print where the new one is worse or better;
    whether it may be released."""
    if new.resolve() == old.resolve():
        raise InputError(
            f"--compare must name another bundle, however: {old} is the one that is tested; "
            "name the last released one"
        )
    streams = compose_sealed(SealedPlan())
    progress(f"scoring {len(streams):,} sealed accounts with {old} and with {new}")
    with one_thread():
        jobs = [partial(score_sealed, judge, bundle, streams) for bundle in (old, new)]
        before, after = in_processes(jobs, threads)
    changes = compare(streams, before, after)
    print_changes(changes)
    return changes, not any(change.worse for change in changes)


def _write_json(path: Path, figures: dict[str, Any]) -> None:
    with atomic_writer(path) as file:
        file.write((json.dumps(figures, indent=1) + "\n").encode())
