"""The released bundle with its real encoder, on the sample log."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import stillwatch.data
from stillwatch.data.events import Event
from stillwatch.data.labels import read_labels
from stillwatch.data.log import read_log
from stillwatch.model.bundle import load_bundle, released_bundle
from stillwatch.serving.scorer import Scorer
from tests.project.test_layers import ONLY_IN_TRAINING

SAMPLE = Path(stillwatch.data.__file__).parent / "sample"
SCORE_WITHOUT_TORCH = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
from stillwatch.serving.cli import main
sys.argv = ["stillwatch", *sys.argv[1:]]
try:
    main()
finally:
    assert "torch" not in sys.modules
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return list(read_log([SAMPLE / "requests.jsonl"], strict=True))


@pytest.fixture(scope="module")
def scored(events: list[Event]) -> Scorer:
    scorer = Scorer.from_bundle()
    scorer.ingest(events)
    return scorer


def test_campaigns_of_the_sample_are_flagged_and_look_alikes_are_not(scored: Scorer) -> None:
    labels = {label.id: bool(label.intents) for label in read_labels(SAMPLE / "labels.jsonl")}
    ranked = sorted(scored.verdicts(), key=lambda verdict: -verdict.peak_risk)
    attacks = sum(labels.values())
    ever = [labels[verdict.account_id] for verdict in ranked if verdict.flagged_after]
    # When the bundle was released: two flagged, both of them attacks; the first four are attacks,
    # and eleven of the first twelve.
    assert len(ever) >= 2
    assert all(ever)
    assert sum(labels[verdict.account_id] for verdict in ranked[:attacks]) >= 10


def test_event_by_event_equals_one_go(scored: Scorer, events: list[Event]) -> None:
    single = Scorer.from_bundle(threads=2)
    last = {}
    for event in events:
        for verdict in single.update([event]):
            last[verdict.account_id] = verdict
    for verdict in scored.verdicts():
        other = last[verdict.account_id]
        assert other.risk == pytest.approx(verdict.risk, abs=1e-4)
        assert other.flagged_after == verdict.flagged_after


def test_a_complete_bundle_scores_the_same_without_torch(scored: Scorer, tmp_path: Path) -> None:
    complete, output = tmp_path / "complete", tmp_path / "verdicts.jsonl"
    export = [sys.executable, "-c", "from stillwatch.serving.cli import main; main()"]
    run = subprocess.run(
        [*export, "export", "--output", str(complete)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert load_bundle(complete).has_encoder
    code = f"BLOCKED = {ONLY_IN_TRAINING!r}\n{SCORE_WITHOUT_TORCH}"
    options = ["score", str(SAMPLE / "requests.jsonl"), "--bundle", str(complete)]
    run = subprocess.run(
        [sys.executable, "-c", code, *options, "--output", str(output), "--no-progress"],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "STILLWATCH_CACHE": "/nonexistent"},
    )
    assert run.returncode == 0, run.stderr
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    expected = {verdict.account_id: verdict for verdict in scored.verdicts()}
    assert len(lines) == len(expected)
    for line in lines:
        verdict = expected[line["account_id"]]
        assert line["risk"] == pytest.approx(verdict.risk, abs=2e-6)
        assert line["flagged"] == verdict.flagged
        assert [item["event_id"] for item in line["evidence"]] == [
            item.event_id for item in verdict.evidence
        ]


def test_one_changed_bit_of_a_released_file_is_refused(tmp_path: Path) -> None:
    from stillwatch.data.errors import BundleError

    copy = tmp_path / "bundle"
    copy.mkdir()
    for file in released_bundle().iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    content = bytearray((copy / "classifier.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "classifier.onnx").write_bytes(bytes(content))
    with pytest.raises(BundleError, match=r"classifier\.onnx must have SHA-256"):
        Scorer.from_bundle(copy)
