"""From the scores of all folds to the figures of a report: plain numbers, ready for JSON.

Positions: S streams of one fold and set. Scores of different folds are of different detectors, so
every threshold is a fold's own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import precision_recall_curve

from stillwatch.data.simulator.streams import SHARES
from stillwatch.model.bundle import Platt
from stillwatch.training.benchmark.folds import FoldResult
from stillwatch.training.calibration import fit_platt
from stillwatch.training.framed import FramedStreams
from stillwatch.training.metrics import bootstrap, threshold_at
from stillwatch.training.settings import Settings

RATES = (0.01, 0.003, 0.001)
SETTINGS = ("known", "new")
MAIN_RATE = 0.003
OURS = "stillwatch"
TOP_EVIDENCE = 5
WORST = 12
_CURVE_POINTS = 60
_BINS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0)


def summarise(results: list[FoldResult], settings: Settings) -> dict[str, Any]:
    """Every figure of both settings, by the names that the report reads."""
    rng = np.random.default_rng(settings.seed)
    accounts = {
        f"{who} {setting}": sum(len(of(result, setting)) for result in results)
        for who, of in (("attacks", attacks), ("ordinary", ordinary))
        for setting in SETTINGS
    }
    return {
        "intents": settings.intents,
        "shares": list(SHARES),
        "rates": list(RATES),
        "folds": [result.number + 1 for result in results],
        "accounts": accounts,
        "settings": {s: _one_setting(results, s, settings, rng) for s in SETTINGS},
    }


def attacks(result: FoldResult, setting: str) -> FramedStreams:
    """The attacking test streams of a setting."""
    streams = getattr(result.test, f"attacks_{setting}")
    assert isinstance(streams, FramedStreams)
    return streams


def ordinary(result: FoldResult, setting: str) -> FramedStreams:
    """The ordinary test streams of a setting."""
    streams = getattr(result.test, f"ordinary_{setting}")
    assert isinstance(streams, FramedStreams)
    return streams


def threshold(result: FoldResult, method: str, setting: str, rate: float) -> float:
    """known: what lets `rate` of the fold's ordinary test accounts through. new: what lets
    `rate` of the accounts that calibrate through."""
    scores = result.scores[method]
    return threshold_at(scores.ordinary_known if setting == "known" else scores.calibrating, rate)


def flags(
    result: FoldResult, method: str, setting: str, rate: float
) -> tuple[np.ndarray, np.ndarray]:
    """Which attacks and which ordinary accounts lie above the threshold, bool each."""
    scores = result.scores[method]
    at = threshold(result, method, setting, rate)
    return getattr(scores, f"attacks_{setting}") > at, getattr(scores, f"ordinary_{setting}") > at


def cells(streams: FramedStreams, intents: list[str]) -> np.ndarray:
    """Number of each attacking stream's cell of intent and share, int64 (S,)."""
    share = np.array([_share(s) for s in streams.shares])
    intent = np.array([intents.index(own[0]) for own in streams.intents])
    return intent * len(SHARES) + share


def _share(share: float) -> int:
    return int(np.argmin(np.abs(np.array(SHARES) - share)))


def main_origin(streams: FramedStreams, number: int, wanted: np.ndarray) -> str:
    """The commonest origin of a stream's events among those `wanted`, bool over all events."""
    span = slice(streams.offsets[number], streams.offsets[number + 1])
    chosen = streams.origins[span][wanted[span]]
    if not len(chosen):
        chosen = streams.origins[span]
    names, counts = np.unique(chosen, return_counts=True)
    return str(names[np.argmax(counts)])


def _origins(streams: FramedStreams) -> list[str]:
    """The source, family or product that each stream is about."""
    core = streams.attack if streams.attack.any() else streams.frame_id >= 0
    return [main_origin(streams, number, core) for number in range(len(streams))]


def _one_setting(
    results: list[FoldResult], setting: str, settings: Settings, rng: np.random.Generator
) -> dict[str, Any]:
    methods = list(results[0].scores)
    return {
        "methods": {
            method: {
                str(rate): _one_rate(results, method, setting, rate, settings.intents, rng)
                for rate in RATES
            }
            for method in methods
        },
        "prevalence": settings.prevalence,
        "curves": {m: _curve(results, m, setting, settings.prevalence) for m in methods},
        "detection": _detection(results, setting),
        "reliability": _reliability(results, setting, settings.prevalence),
        "ordinary_by_kind": _ordinary_by(results, setting, lambda s, n: s.kinds[n]),
        "ordinary_by_language": _ordinary_by(results, setting, lambda s, n: s.languages[n]),
        "attacks_by_language": _attacks_by(results, setting, lambda s, n: s.languages[n]),
        "attacks_by_family": _attacks_by(results, setting, lambda s, n: s.kinds[n]),
        "evidence": _evidence(results, setting, len(settings.intents)),
        "worst": _worst(results, setting, settings),
    }


def _one_rate(
    results: list[FoldResult],
    method: str,
    setting: str,
    rate: float,
    intents: list[str],
    rng: np.random.Generator,
) -> dict[str, Any]:
    hits, false, cell_of, groups, false_groups = [], [], [], [], []
    for result in results:
        streams, others = attacks(result, setting), ordinary(result, setting)
        found, wrong = flags(result, method, setting, rate)
        hits.append(found)
        false.append(wrong)
        cell_of.append(cells(streams, intents))
        groups += _origins(streams)
        false_groups += _origins(others)
    hit, cell = np.concatenate(hits).astype(float), np.concatenate(cell_of)
    wrong = np.concatenate(false).astype(float)
    by_cell = [
        float(hit[cell == c].mean()) if (cell == c).any() else float("nan")
        for c in range(len(intents) * len(SHARES))
    ]
    # Each cell weighs the same in the mean, so each stream weighs by its cell's rarity.
    weight = 1 / np.bincount(cell, minlength=len(by_cell))[cell]
    return {
        "recall": float(np.nanmean(by_cell)),
        "interval": list(bootstrap(groups, hit * weight / weight.mean(), rng)),
        "cells": by_cell,
        "false_positive_rate": float(wrong.mean()),
        "false_positive_interval": list(bootstrap(false_groups, wrong, rng)),
    }


def _curve(
    results: list[FoldResult], method: str, setting: str, prevalence: float
) -> dict[str, list[float]]:
    """Precision against recall at the prevalence. Scores are ranks within a fold, since folds
    have detectors of their own."""
    ranks, truth, weights = [], [], []
    for result in results:
        scores = result.scores[method]
        good = getattr(scores, f"ordinary_{setting}")
        bad = getattr(scores, f"attacks_{setting}")
        ordered = np.sort(good)
        for own, label, share in ((good, 0, 1 - prevalence), (bad, 1, prevalence)):
            # Above all ordinary ones the score itself decides, below that the rank.
            rank = np.searchsorted(ordered, own, side="left") / len(ordered)
            ranks.append(rank + 1e-9 * np.tanh(own - ordered[-1]))
            truth.append(np.full(len(own), label))
            weights.append(np.full(len(own), share / len(own)))
    precision, recall, _ = precision_recall_curve(
        np.concatenate(truth), np.concatenate(ranks), sample_weight=np.concatenate(weights)
    )
    kept = np.unique(np.linspace(0, len(recall) - 1, _CURVE_POINTS).astype(int))
    return {
        "recall": [round(float(v), 5) for v in recall[kept]],
        "precision": [round(float(v), 5) for v in precision[kept]],
    }


def _detection(results: list[FoldResult], setting: str) -> dict[str, Any]:
    """Attack prompts until the first event above the threshold of MAIN_RATE, by share."""
    prompts: dict[str, list[int]] = {str(share): [] for share in SHARES}
    counts = dict.fromkeys(prompts, 0)
    for result in results:
        at = threshold(result, OURS, setting, MAIN_RATE)
        streams = attacks(result, setting)
        for number, path in enumerate(result.paths[f"attacks_{setting}"]):
            share = str(SHARES[_share(streams.shares[number])])
            counts[share] += 1
            above = np.flatnonzero(path[:, 0] > at)
            if len(above):
                start = int(streams.offsets[number])
                prompts[share].append(int(streams.attack[start : start + above[0] + 1].sum()))
    return {
        share: {
            "streams": counts[share],
            "found": len(own),
            "quartiles": [float(q) for q in np.quantile(own, (0.25, 0.5, 0.75))] if own else None,
        }
        for share, own in prompts.items()
    }


def _calibration(
    results: list[FoldResult], result: FoldResult, setting: str, prevalence: float
) -> Platt:
    """A fold's risks are calibrated on the other folds' accounts, or where there is one fold on
    every other of its own."""
    rest = [r for r in results if r is not result]
    step = 1 if rest else 2
    good, bad = (
        np.concatenate(parts)[::step]
        for parts in (
            [getattr(r.scores[OURS], f"ordinary_{setting}") for r in rest or results],
            [getattr(r.scores[OURS], f"attacks_{setting}") for r in rest or results],
        )
    )
    return fit_platt(bad, good, prevalence)


def _reliability(results: list[FoldResult], setting: str, prevalence: float) -> dict[str, Any]:
    """How true the risk is, accounts weighted to the prevalence."""
    risks, truth, weights = [], [], []
    for result in results:
        scores = result.scores[OURS]
        good = getattr(scores, f"ordinary_{setting}")
        bad = getattr(scores, f"attacks_{setting}")
        if len(results) == 1:
            good, bad = good[1::2], bad[1::2]
        platt = _calibration(results, result, setting, prevalence)
        for own, label, share in ((good, 0, 1 - prevalence), (bad, 1, prevalence)):
            risks.append(platt.probability(own))
            truth.append(np.full(len(own), label))
            weights.append(np.full(len(own), share / len(own) / len(results)))
    risk, true = np.concatenate(risks), np.concatenate(truth)
    weight = np.concatenate(weights)
    bins = []
    error = 0.0
    for low, high in itertools.pairwise(_BINS):
        inside = (risk >= low) & ((risk < high) | (high == 1.0))
        if not inside.any():
            continue
        mass = float(weight[inside].sum())
        mean = float((risk * weight)[inside].sum() / mass)
        share_of_attacks = float((true * weight)[inside].sum() / mass)
        error += mass * abs(mean - share_of_attacks)
        bins.append(
            {
                "low": low,
                "high": high,
                "accounts": int(inside.sum()),
                "mean_risk": mean,
                "attack_share": share_of_attacks,
            }
        )
    return {"ece": error / float(weight.sum()), "bins": bins}


Group = Callable[[FramedStreams, int], str]


def _ordinary_by(results: list[FoldResult], setting: str, group: Group) -> dict[str, Any]:
    rows: list[tuple[str, bool]] = []
    for result in results:
        _, wrong = flags(result, OURS, setting, MAIN_RATE)
        streams = ordinary(result, setting)
        names = [group(streams, number) for number in range(len(streams))]
        rows += zip(names, wrong.tolist(), strict=True)
    return _counted(rows, "flagged")


def _attacks_by(results: list[FoldResult], setting: str, group: Group) -> dict[str, Any]:
    rows: list[tuple[str, bool]] = []
    for result in results:
        found, _ = flags(result, OURS, setting, MAIN_RATE)
        streams = attacks(result, setting)
        names = [group(streams, number) for number in range(len(streams))]
        rows += zip(names, found.tolist(), strict=True)
    return _counted(rows, "found")


def _counted(rows: Iterable[tuple[str, bool]], what: str) -> dict[str, Any]:
    counts: dict[str, dict[str, int]] = {}
    for name, hit in rows:
        own = counts.setdefault(name or "unknown", {"accounts": 0, what: 0})
        own["accounts"] += 1
        own[what] += int(hit)
    return dict(sorted(counts.items()))


def top_evidence(
    streams: FramedStreams, number: int, path: np.ndarray, intents: int
) -> Sequence[int]:
    """Positions in the stream of the events that speak loudest for an attack, repeats of one text
    once, as a verdict's evidence does."""
    strength = path[:, 1 + intents :].max(axis=1)
    start = int(streams.offsets[number])
    seen: set[tuple[int, int]] = set()
    chosen: list[int] = []
    for position in np.argsort(-strength, kind="stable"):
        row = start + int(position)
        text = (int(streams.frame_id[row]), int(streams.slot_id[row]))
        if text not in seen:
            seen.add(text)
            chosen.append(int(position))
        if len(chosen) == TOP_EVIDENCE:
            break
    return chosen


def _evidence(results: list[FoldResult], setting: str, intents: int) -> dict[str, Any]:
    """Of the top events of flagged attacking streams, how many are attack prompts, by share."""
    found = {str(share): {"streams": 0, "events": 0, "attack": 0} for share in SHARES}
    for result in results:
        streams = attacks(result, setting)
        hit, _ = flags(result, OURS, setting, MAIN_RATE)
        for number in np.flatnonzero(hit):
            path = result.paths[f"attacks_{setting}"][number]
            own = found[str(SHARES[_share(streams.shares[number])])]
            start = int(streams.offsets[number])
            top = top_evidence(streams, int(number), path, intents)
            own["streams"] += 1
            own["events"] += len(top)
            own["attack"] += int(sum(streams.attack[start + p] for p in top))
    return found


def _worst(results: list[FoldResult], setting: str, settings: Settings) -> dict[str, Any]:
    """Ordinary accounts that stand highest and attacks that stand lowest above and below their
    fold's threshold, with their evidence."""
    wrong: list[tuple[float, dict[str, Any]]] = []
    missed: list[tuple[float, dict[str, Any]]] = []
    for result in results:
        at = threshold(result, OURS, setting, MAIN_RATE)
        platt = _calibration(results, result, setting, settings.prevalence)
        for name, streams, into, sign in (
            (f"ordinary_{setting}", ordinary(result, setting), wrong, 1),
            (f"attacks_{setting}", attacks(result, setting), missed, -1),
        ):
            scores = getattr(result.scores[OURS], name)
            for number in np.argsort(-sign * scores)[:WORST]:
                if sign * (scores[number] - at) <= 0:
                    break
                described = _describe(result, name, streams, int(number), settings, platt)
                into.append((sign * float(scores[number] - at), described))
    return {
        "false_flags": [d for _, d in sorted(wrong, key=lambda item: -item[0])[:WORST]],
        "missed": [d for _, d in sorted(missed, key=lambda item: -item[0])[:WORST]],
    }


def _describe(
    result: FoldResult,
    name: str,
    streams: FramedStreams,
    number: int,
    settings: Settings,
    platt: Platt,
) -> dict[str, Any]:
    path = result.paths[name][number]
    start = int(streams.offsets[number])
    origins, counts = np.unique(
        streams.origins[start : int(streams.offsets[number + 1])], return_counts=True
    )
    top = top_evidence(streams, number, path, len(settings.intents))
    return {
        "account": f"fold {result.number + 1}, {name} {number}",
        "kind": streams.kinds[number],
        "language": streams.languages[number],
        "risk": round(float(platt.probability(path[-1:, 0])[0]), 4),
        "events": len(path),
        "share": round(float(streams.shares[number]), 3),
        "origins": [str(origins[p]) for p in np.argsort(-counts)[:4]],
        "prompts": [result.prompt(streams, start + p) for p in top],
    }
