"""`stillwatch campaigns` from the command line to the file."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from stillwatch.data.errors import ConfigError
from stillwatch.data.events import event_to_fields
from stillwatch.model.campaigns.risk import CampaignCalibration
from stillwatch.serving.cli import app
from stillwatch.serving.commands import intake
from stillwatch.serving.scorer import Scorer
from tests.model.campaigns.campaign_support import calibration, campaign, ordinary, with_keys
from tests.support import tiny_bundle, tiny_scorer

TOLD = calibration(accounts=4.0, dedication=4.0, offset=-4.0)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    events = [*campaign(rng), *ordinary(rng), *with_keys(ordinary(rng, 3), payment="card")]
    events = [replace(event, event_id=f"{n}") for n, event in enumerate(events)]
    path = tmp_path / "log.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for event in events:
            file.write(json.dumps(event_to_fields(event)) + "\n")
    return path


def scores_with(
    monkeypatch: pytest.MonkeyPatch, folder: Path, told: CampaignCalibration | None,
    enter: float = 0.999999,
) -> None:  # fmt: skip
    bundle = tiny_bundle(folder / f"bundle{enter}", enter=enter, leave=enter / 2)
    manifest = bundle.manifest.model_copy(update={"campaigns": told})

    def load(path: Path | None, threads: int, show_progress: bool = True) -> Scorer:
        return tiny_scorer(replace(bundle, manifest=manifest))

    monkeypatch.setattr(intake, "load_scorer", load)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["campaigns", *map(str, arguments), "--no-progress"])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_a_campaign(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, log: Path) -> None:
    scores_with(monkeypatch, tmp_path, TOLD)
    result = run(log, "--output", tmp_path / "out.jsonl")
    assert result.exit_code == 0, result.output
    (only,) = lines(tmp_path / "out.jsonl")
    contract = ["campaign_id", "accounts", "risk", "intents", "flagged", "links", "first_seen",
                "last_seen", "bundle"]  # fmt: skip
    assert list(only)[: len(contract)] == contract
    assert sorted(only["accounts"]) == sorted(f"c{n}" for n in range(12))
    assert only["flagged"] is True
    assert {"kind", "accounts", "detail"} == set(only["links"][0])
    assert only["first_seen"] < only["last_seen"]
    assert "campaigns flagged: 1, of 12 accounts" in result.output
    assert "events: 213, of 42 accounts" in result.output


def test_all_names_ordinary_groups_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, log: Path
) -> None:
    scores_with(monkeypatch, tmp_path, TOLD)
    assert run(log, "--output", tmp_path / "out.jsonl", "--all").exit_code == 0
    found = lines(tmp_path / "out.jsonl")
    assert [one["flagged"] for one in found] == [True, False]
    assert {link["kind"] for link in found[1]["links"]} >= {"payment"}


def test_a_flagged_account_without_others_is_a_campaign_of_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, log: Path
) -> None:
    scores_with(monkeypatch, tmp_path, TOLD, enter=1e-6)
    assert run(log, "--output", tmp_path / "out.jsonl").exit_code == 0
    found = lines(tmp_path / "out.jsonl")
    assert len(found) == 31
    assert sorted(len(one["accounts"]) for one in found) == [1] * 30 + [12]
    assert run(log, "--output", tmp_path / "linked.jsonl", "--linked-only").exit_code == 0
    assert len(lines(tmp_path / "linked.jsonl")) == 1


def test_no_prompt_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, log: Path) -> None:
    scores_with(monkeypatch, tmp_path, TOLD)
    result = run(log, "--output", tmp_path / "out.jsonl", "--all")
    for text in (result.output, (tmp_path / "out.jsonl").read_text()):
        assert not any(word in text for word in ("barley", "lantern", "wrong turns"))


def test_a_bundle_that_knows_no_campaigns(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, log: Path
) -> None:
    scores_with(monkeypatch, tmp_path, None)
    result = run(log, "--output", tmp_path / "out.jsonl")
    assert isinstance(result.exception, ConfigError | SystemExit)
    assert result.exit_code == 2
    assert not (tmp_path / "out.jsonl").exists()


def test_bad_lines_are_counted_and_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, log: Path
) -> None:
    scores_with(monkeypatch, tmp_path, TOLD)
    broken = tmp_path / "broken.jsonl"
    good = {"event_id": "e", "account_id": "z", "timestamp": 1.7e9, "prompt": "hello"}
    broken.write_text(json.dumps(good) + '\n{"account_id": "a"}\n')
    result = run(
        log, broken, "--output", tmp_path / "out.jsonl", "--rejects", tmp_path / "no.jsonl"
    )
    assert result.exit_code == 0, result.output
    assert "lines rejected: 1" in result.output
    assert len((tmp_path / "no.jsonl").read_text().splitlines()) == 1
