"""The released bundle on sealed material: no worse than when it was released, as the gate says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stillwatch.data.simulator.streams import Stream
from stillwatch.model.bundle import load_bundle, manifest_fields, released_bundle, write_bundle
from stillwatch.model.detector import Detector
from stillwatch.model.golden import with_golden
from stillwatch.model.heads import IntentHeads
from stillwatch.serving.cli import judge_log
from stillwatch.training.benchmark.compare import compare
from stillwatch.training.benchmark.sealed import (
    REGRESSION,
    SealedScores,
    compose_sealed,
    is_attack,
    score_sealed,
    sealed_figures,
)

RECORD = Path(__file__).resolve().parents[2] / "benchmarks" / "regression.json"
LEAST_RECALL = 0.3
"""Recall at 1% of sealed ordinary accounts below which no bundle is released."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def streams() -> list[Stream]:
    return compose_sealed(REGRESSION)


@pytest.fixture(scope="module")
def recorded(streams: list[Stream]) -> SealedScores:
    known = json.loads(RECORD.read_text(encoding="utf-8"))["peaks"]
    return as_scores(np.array([known[stream.account_id] for stream in streams]))


def as_scores(peaks: np.ndarray) -> SealedScores:
    return SealedScores(peaks, [None] * len(peaks), [[] for _ in peaks])


def test_the_released_detector_is_no_worse_than_recorded(
    streams: list[Stream], recorded: SealedScores
) -> None:
    found = score_sealed(judge_log, released_bundle(), streams)
    worse = [change for change in compare(streams, recorded, found) if change.worse]
    assert not worse
    assert sealed_figures(streams, found)["recall"] >= LEAST_RECALL


def test_a_detector_that_reads_worse_is_refused(
    streams: list[Stream], recorded: SealedScores, tmp_path: Path
) -> None:
    # Heads that say the opposite, in a bundle that is sound otherwise and knows its own risks.
    bundle = load_bundle(released_bundle())
    manifest = bundle.manifest
    heads = IntentHeads.from_bytes(
        bundle.content["heads.safetensors"], manifest.encoder.dimensions, len(manifest.classes)
    )
    heads.lexical_weight[:] *= -1
    heads.dense_weight[:] *= -1
    content = {**bundle.content, "heads.safetensors": heads.to_bytes()}
    fields = with_golden(manifest_fields(manifest), content, Detector.load().encoder)
    spoiled = write_bundle(tmp_path / "spoiled", fields, content)
    chosen = [stream for number, stream in enumerate(streams) if number % 3 == 0]
    known = as_scores(recorded.peaks[::3])
    found = score_sealed(judge_log, spoiled.path, chosen)
    worse = {change.group for change in compare(chosen, known, found) if change.worse}
    assert "attacks" in worse
    assert is_attack(chosen).any()
