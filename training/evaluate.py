"""`stillwatch evaluate`: the whole benchmark, its tables, and what a report needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from stillwatch.data.errors import ConfigError
from stillwatch.data.files import atomic_writer
from stillwatch.data.simulator.streams import SHARES
from stillwatch.training.evaluation import (
    REFERENCE_SIXTH,
    THRESHOLD_SIXTH,
    FoldResult,
    evaluate_fold,
)
from stillwatch.training.framed import FramedStreams
from stillwatch.training.metrics import bootstrap, threshold_at
from stillwatch.training.prepare import prepare
from stillwatch.training.settings import Settings

RATES = (0.01, 0.003, 0.001)
SETTINGS = ("known", "new")


def evaluate(
    settings: Settings,
    corpora: Path | None,
    report: Path,
    run_folder: Path,
    cache: Path,
    threads: int,
    show_progress: bool,
    progress: Callable[[str], None],
    only: list[int] | None = None,
    baselines: bool = True,
) -> dict[str, Any]:
    """Run every fold (or those of `only`, from 1), print the tables, write `results.json`."""
    folds = settings.composition.folds
    wanted = [number - 1 for number in (only or range(1, folds + 1))]
    if any(not 0 <= number < folds for number in wanted):
        raise ConfigError(f"folds must be 1 to {folds}, however: {only}; correct --folds")
    report.mkdir(parents=True, exist_ok=True)
    bench, _, tests = prepare(settings, corpora, cache, threads, progress, wanted)
    results = [
        evaluate_fold(bench, number, tests[number], run_folder, show_progress, baselines)
        for number in wanted
    ]
    figures = summarise(results, settings)
    with atomic_writer(report / "results.json") as file:
        file.write((json.dumps(figures, indent=1) + "\n").encode())
    print_tables(figures)
    progress(f"figures written to {report / 'results.json'}")
    return figures


def caught(result: FoldResult, method: str, setting: str, rate: float) -> tuple[np.ndarray, float]:
    """Which attacks of a fold lie above the threshold, bool (S,), and the false-positive rate.

    known: the threshold lets `rate` of the fold's ordinary test accounts through. new: it is set
    on a sixth of the ordinary accounts, and the rate is what it lets through of those that did
    not calibrate.
    """
    scores = result.scores[method]
    if setting == "known":
        threshold = threshold_at(scores.ordinary_known, rate)
        return scores.attacks_known > threshold, float((scores.ordinary_known > threshold).mean())
    sixth = np.arange(len(scores.ordinary_new)) % 6
    threshold = threshold_at(scores.ordinary_new[sixth == THRESHOLD_SIXTH], rate)
    rest = scores.ordinary_new[(sixth != THRESHOLD_SIXTH) & (sixth != REFERENCE_SIXTH)]
    return scores.attacks_new > threshold, float((rest > threshold).mean())


def _cells(streams: FramedStreams, intents: list[str]) -> np.ndarray:
    """Number of the intent's and share's cell of each attacking stream, int64 (S,)."""
    share = np.array([int(np.argmin(np.abs(np.array(SHARES) - s))) for s in streams.shares])
    intent = np.array([intents.index(own[0]) for own in streams.intents])
    return intent * len(SHARES) + share


def _groups(streams: FramedStreams) -> list[str]:
    """The commonest origin of each stream's attack prompts."""
    groups = []
    for start, stop in zip(streams.offsets[:-1], streams.offsets[1:], strict=True):
        origins = streams.origins[start:stop][streams.attack[start:stop]]
        names, counts = np.unique(origins, return_counts=True)
        groups.append(str(names[np.argmax(counts)]))
    return groups


def summarise(results: list[FoldResult], settings: Settings) -> dict[str, Any]:
    """Figures of all folds: for each setting, method and rate the mean recall over the cells of
    intent and share with its interval, and the recall of each cell; false flags by kind."""
    intents = settings.intents
    figures: dict[str, Any] = {"intents": intents, "shares": list(SHARES), "methods": {}}
    counts = {
        f"{name} accounts": int(sum(len(getattr(r.test, name)) for r in results))
        for name in ("attacks_known", "attacks_new", "ordinary_known", "ordinary_new")
    }
    figures["accounts"] = counts
    rng = np.random.default_rng(settings.seed)
    for method in results[0].scores:
        figures["methods"][method] = {
            setting: {
                str(rate): _one_rate(results, method, setting, rate, intents, rng) for rate in RATES
            }
            for setting in SETTINGS
        }
    figures["false_flags_by_kind"] = {
        setting: _by_kind(results, setting, 0.003) for setting in SETTINGS
    }
    return figures


def _one_rate(
    results: list[FoldResult],
    method: str,
    setting: str,
    rate: float,
    intents: list[str],
    rng: np.random.Generator,
) -> dict[str, Any]:
    hits, cells, groups, rates = [], [], [], []
    for result in results:
        streams = getattr(result.test, f"attacks_{setting}")
        found, false_rate = caught(result, method, setting, rate)
        hits.append(found)
        rates.append(false_rate)
        cells.append(_cells(streams, intents))
        groups += _groups(streams)
    hit, cell = np.concatenate(hits).astype(float), np.concatenate(cells)
    by_cell = [
        float(hit[cell == c].mean()) if (cell == c).any() else float("nan")
        for c in range(len(intents) * len(SHARES))
    ]
    # Each cell weighs the same in the mean, so each stream weighs by its cell's rarity.
    weight = 1 / np.bincount(cell, minlength=len(by_cell))[cell]
    low, high = bootstrap(groups, hit * weight / weight.mean(), rng)
    return {
        "recall": float(np.nanmean(by_cell)),
        "interval": [low, high],
        "cells": by_cell,
        "false_positive_rate": float(np.mean(rates)),
    }


def _by_kind(results: list[FoldResult], setting: str, rate: float) -> dict[str, Any]:
    flagged: dict[str, list[bool]] = {}
    for result in results:
        scores = result.scores["stillwatch"]
        ordinary = getattr(scores, f"ordinary_{setting}")
        kinds = np.array(getattr(result.test, f"ordinary_{setting}").kinds)
        if setting == "new":
            # Accounts that calibrated are no test.
            sixth = np.arange(len(ordinary)) % 6
            tested = (sixth != THRESHOLD_SIXTH) & (sixth != REFERENCE_SIXTH)
            ordinary, kinds = ordinary[tested], kinds[tested]
        threshold = threshold_at(ordinary, rate)
        for kind, score in zip(kinds, ordinary, strict=True):
            flagged.setdefault(str(kind), []).append(bool(score > threshold))
    return {
        kind: {"accounts": len(own), "flagged": int(sum(own))}
        for kind, own in sorted(flagged.items())
    }


def print_tables(figures: dict[str, Any]) -> None:
    """The tables on standard output."""
    console = Console(width=110)
    shown = ", ".join(f"{count:,} {name}" for name, count in figures["accounts"].items())
    console.print(f"Test accounts, of folds left out of training: {shown}", highlight=False)
    for setting in SETTINGS:
        table = Table(
            title=f"{setting} traffic: recall (95% interval over sources), "
            "mean of intents and shares"
        )
        table.add_column("method")
        for rate in RATES:
            table.add_column(f"{rate:.1%} false positives", justify="right")
        for method, own in figures["methods"].items():
            cells = []
            for rate in RATES:
                one = own[setting][str(rate)]
                low, high = one["interval"]
                cell = f"{one['recall']:.3f} ({low:.2f}–{high:.2f})"
                if setting == "new":
                    cell += f" at {one['false_positive_rate']:.2%}"
                cells.append(cell)
            table.add_row(method, *cells)
        console.print(table)
    _print_cells(console, figures)
    _print_kinds(console, figures)


def _print_cells(console: Console, figures: dict[str, Any]) -> None:
    shares = figures["shares"]
    table = Table(title="recall at 0.3% false positives by intent and share, known | new traffic")
    table.add_column("intent")
    for share in shares:
        table.add_column(f"{share:.0%} attack", justify="right")
    own = figures["methods"]["stillwatch"]
    for number, intent in enumerate(figures["intents"]):
        row = []
        for column in range(len(shares)):
            position = number * len(shares) + column
            known, new = (own[setting]["0.003"]["cells"][position] for setting in SETTINGS)
            row.append(f"{known:.2f} | {new:.2f}")
        table.add_row(intent, *row)
    console.print(table)


def _print_kinds(console: Console, figures: dict[str, Any]) -> None:
    table = Table(title="ordinary accounts above the threshold at 0.3% overall")
    table.add_column("kind")
    for setting in SETTINGS:
        table.add_column(f"{setting} traffic", justify="right")
    kinds = figures["false_flags_by_kind"]
    for kind in sorted({*kinds["known"], *kinds["new"]}):
        row = []
        for setting in SETTINGS:
            one = kinds[setting].get(kind, {"accounts": 0, "flagged": 0})
            row.append(f"{one['flagged']} of {one['accounts']}")
        table.add_row(kind, *row)
    console.print(table)
