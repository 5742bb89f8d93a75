"""Figures of a benchmark: each counts what it says, on streams and scores that are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stillwatch.data.simulator.streams import SHARES
from stillwatch.model.features import SCALARS
from stillwatch.training.benchmark.figures import (
    OURS,
    summarise,
    threshold,
    top_evidence,
)
from stillwatch.training.benchmark.fold_tests import TestSet
from stillwatch.training.benchmark.folds import FoldResult, Scores
from stillwatch.training.framed import FramedStreams
from stillwatch.training.settings import Settings
from tests.support import INTENTS

EVENTS, EACH, ORDINARY, CALIBRATING = 20, 4, 600, 300


def streams(attacking: bool, count: int, seed: int) -> FramedStreams:
    """Streams of EVENTS events; attacks take the cells of intent and share in turn."""
    cells = [(intent, share) for intent in INTENTS for share in SHARES]
    mine = [cells[n % len(cells)] if attacking else ("", 0.0) for n in range(count)]
    attack = np.concatenate([np.arange(EVENTS) < round(EVENTS * share) for _, share in mine])
    total = EVENTS * count
    rng = np.random.default_rng(seed)
    return FramedStreams(
        tuple("cot_tags" if attacking else ("person", "judge")[n % 2] for n in range(count)),
        tuple(("en", "de")[n % 2] for n in range(count)),
        tuple((intent,) if attacking else () for intent, _ in mine),
        np.array([share for _, share in mine]),
        np.arange(0, total + 1, EVENTS, dtype=np.int64),
        np.full(total, -1, dtype=np.int32), np.arange(total, dtype=np.int32),
        np.zeros(total, dtype=np.uint32), np.arange(total, dtype=np.float64),
        np.zeros((total, len(SCALARS)), dtype=np.float32), attack,
        np.full(total, "person"), np.array([f"source {n}" for n in rng.integers(0, 9, total)]),
    )  # fmt: skip


def paths(own: FramedStreams, final: np.ndarray) -> list[np.ndarray]:
    """Risk that is -9 until the third attack prompt (or event) and `final` from then on; evidence
    that is high at attack prompts."""
    found = []
    for number, value in enumerate(final):
        span = slice(own.offsets[number], own.offsets[number + 1])
        marks = own.attack[span] if own.attack[span].any() else np.ones(EVENTS, bool)
        path = np.full((EVENTS, 1 + 2 * len(INTENTS)), -9.0)
        path[np.cumsum(marks) >= min(3, marks.sum()), 0] = value
        path[:, 1 + len(INTENTS)] = own.attack[span] * 5 - np.arange(EVENTS) / 100
        found.append(path)
    return found


@pytest.fixture(scope="module")
def results() -> list[FoldResult]:
    made = []
    for fold in range(2):
        test = TestSet(
            streams(True, 12 * EACH, fold), streams(True, 12 * EACH, fold + 5),
            streams(False, ORDINARY, fold + 9), streams(False, ORDINARY, fold + 13),
        )  # fmt: skip
        result = FoldResult(fold, test, texts=[f"text {n}" for n in range(EVENTS * ORDINARY)])
        rng = np.random.default_rng(fold)
        ours, worse = {}, {}
        for name in ("attacks_known", "attacks_new", "ordinary_known", "ordinary_new"):
            own = getattr(test, name)
            raised = 6.0 if name.startswith("attacks") else 0.0
            ours[name] = rng.normal(raised, 1, len(own))
            worse[name] = rng.normal(raised / 3, 1, len(own))
            result.paths[name] = paths(own, ours[name])
        ours["calibrating"] = rng.normal(1.0, 1, CALIBRATING)
        worse["calibrating"] = rng.normal(0.0, 1, CALIBRATING)
        result.scores = {OURS: Scores(**ours), "baseline": Scores(**worse)}
        made.append(result)
    return made


@pytest.fixture(scope="module")
def figures(results: list[FoldResult]) -> dict[str, Any]:
    return summarise(results, Settings())


def test_new_traffic_has_the_threshold_of_the_accounts_that_calibrate(
    results: list[FoldResult], figures: dict[str, Any]
) -> None:
    assert figures["accounts"] == {
        "attacks known": 24 * EACH, "attacks new": 24 * EACH,
        "ordinary known": 2 * ORDINARY, "ordinary new": 2 * ORDINARY,
    }  # fmt: skip
    scores = results[0].scores[OURS]
    assert threshold(results[0], OURS, "new", 0.01) == np.sort(scores.calibrating)[-4]
    assert threshold(results[0], OURS, "known", 0.01) == np.sort(scores.ordinary_known)[-7]
    ours = figures["settings"]["new"]["methods"][OURS]["0.01"]
    # It stands higher than the test's own: these accounts are of more suspicious kinds.
    assert ours["false_positive_rate"] < 0.005


def test_recall_and_false_positives_are_counted(figures: dict[str, Any]) -> None:
    for setting in ("known", "new"):
        methods = figures["settings"][setting]["methods"]
        ours, other = (methods[name]["0.01"] for name in (OURS, "baseline"))
        assert ours["recall"] > 0.95
        assert other["recall"] < 0.7
        assert other["recall"] == pytest.approx(np.mean(other["cells"]))
        low, high = ours["false_positive_interval"]
        assert low <= ours["false_positive_rate"] <= high
        assert 0 <= other["interval"][0] <= other["recall"] <= other["interval"][1] <= 1
    known = figures["settings"]["known"]["methods"][OURS]["0.01"]
    assert known["false_positive_rate"] == pytest.approx(0.01)


def test_groups_add_up(figures: dict[str, Any]) -> None:
    own = figures["settings"]["known"]
    for part, total in (("ordinary_by_kind", 2 * ORDINARY), ("attacks_by_language", 24 * EACH)):
        assert sum(one["accounts"] for one in own[part].values()) == total
    flagged = sum(one["flagged"] for one in own["ordinary_by_kind"].values())
    assert flagged == sum(one["flagged"] for one in own["ordinary_by_language"].values()) == 2
    assert set(own["attacks_by_family"]) == {"cot_tags"}


def test_attack_prompts_to_detection_are_those_seen_by_then(figures: dict[str, Any]) -> None:
    found = figures["settings"]["known"]["detection"]
    assert found["1.0"]["quartiles"] == [3, 3, 3]
    assert found["0.1"]["quartiles"] == [2, 2, 2], "a tenth of 20 events is 2"
    assert found["1.0"]["streams"] == 6 * EACH >= found["1.0"]["found"] > 4 * EACH


def test_evidence_names_attack_prompts(results: list[FoldResult], figures: dict[str, Any]) -> None:
    own = figures["settings"]["known"]["evidence"]
    assert own["1.0"]["attack"] == own["1.0"]["events"] == 5 * own["1.0"]["streams"]
    assert own["0.1"]["attack"] == 2 * own["0.1"]["streams"], "there are but two"
    test = results[0].test.attacks_known
    path = results[0].paths["attacks_known"][0]
    test.slot_id[test.offsets[0] : test.offsets[0] + 3] = test.slot_id[test.offsets[0]]
    assert list(top_evidence(test, 0, path, len(INTENTS))) == [0, 3, 4, 5, 6]


def test_risks_are_judged_at_the_prevalence(figures: dict[str, Any]) -> None:
    own = figures["settings"]["known"]["reliability"]
    assert own["ece"] < 0.02
    assert sum(one["accounts"] for one in own["bins"]) == 24 * EACH + 2 * ORDINARY
    assert own["bins"][0]["attack_share"] < 0.05 < own["bins"][-1]["attack_share"]


def test_precision_is_that_of_the_prevalence(figures: dict[str, Any]) -> None:
    curve = figures["settings"]["known"]["curves"]["baseline"]
    assert curve["precision"][0] == pytest.approx(0.05, abs=1e-3), "everybody flagged"
    assert all(0 <= value <= 1 for value in curve["recall"] + curve["precision"])


def test_the_worst_errors_are_shown_with_what_they_said(figures: dict[str, Any]) -> None:
    own = figures["settings"]["known"]["worst"]
    assert len(own["false_flags"]) == 2
    for one in own["false_flags"]:
        assert 0 <= one["risk"] <= 1
        assert one["prompts"][0].startswith("text ")
        assert len(one["origins"]) == 4
