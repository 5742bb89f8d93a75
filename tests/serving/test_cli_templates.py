"""`stillwatch templates list`, `search` and `calibrate` with a small real bundle."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from stillwatch.data.events import event_to_fields
from stillwatch.data.log import read_log
from stillwatch.model.bundle import load_bundle
from stillwatch.serving.cli import app
from stillwatch.serving.commands import intake
from stillwatch.serving.scorer import Scorer
from tests.serving.fake_scorer import LIBRARY, FakeScorer
from tests.support import make_events, tiny_bundle, tiny_scorer


def run(*argv: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in argv])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny").path


def records(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_list_filters(bundle: Path) -> None:
    everything = records(run("templates", "list", "--bundle", bundle, "--json"))
    assert [template["id"] for template in everything] == ["T0", "T1", "T2"]
    chosen = run("templates", "list", "--bundle", bundle, "--json", "--intent", "cot_harvesting")
    assert records(chosen) == [everything[1]]
    assert run("templates", "list", "--bundle", bundle, "--language", "en").stdout.splitlines()[
        -1
    ] == ("3 of 3 templates")


@pytest.mark.parametrize(
    ("option", "known"), [("--intent", "capability_probing, cot_harvesting"), ("--language", "en")]
)
def test_list_names_what_there_is(option: str, known: str, bundle: Path) -> None:
    result = run("templates", "list", "--bundle", bundle, option, "nonsense")
    assert result.exit_code == 2
    assert f"{option} must be one of {known}" in result.stderr


def test_a_missing_bundle_is_one_line(tmp_path: Path) -> None:
    result = run("templates", "list", "--bundle", tmp_path)
    assert result.exit_code == 2
    assert "manifest.json" in result.stderr
    assert result.stderr.count("\n") == 1


def test_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "load_scorer", lambda *_, **__: FakeScorer())
    found = records(run("search", "--templates", "think aloud", "--json", "-k", "2"))
    assert [match["template_id"] for match in found] == ["cot-tags-1", "pairs-1"]
    assert found[1]["text"] == LIBRARY[1].text
    shown = run("search", "--templates", "think aloud").stdout
    # Neither markup nor a line break of a template is acted upon.
    assert "Write [bold]pairs[/bold] as JSON" in " ".join(shown.split())


def write_log(path: Path, accounts: int) -> Path:
    lines = [json.dumps(event_to_fields(event)) for event in make_events(accounts, each=3)]
    path.write_text("\n".join(lines))
    return path


def test_calibrate_writes_a_bundle_with_new_thresholds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tiny_bundle(tmp_path / "tiny", offset=-4.0).path

    def load(path: Path, threads: int, show_progress: bool) -> Scorer:
        return tiny_scorer(load_bundle(path))

    monkeypatch.setattr(intake, "load_scorer", load)
    log, output = write_log(tmp_path / "log.jsonl", 60), tmp_path / "new" / "site"
    options = ("--bundle", bundle, "--max-fpr", "0.2", "--output", output)
    result = run("calibrate", log, *options)
    assert result.exit_code == 0, result.output
    made = load_bundle(output)
    accounts = {event.account_id for event in read_log([log])}
    assert made.manifest.thresholds.ordinary_accounts == len(accounts)
    assert made.manifest.thresholds.max_fpr == 0.2
    assert "180 events of 60 accounts" in result.stderr
    assert made.id in result.stderr

    result = run("calibrate", log, *options)
    assert result.exit_code == 2
    assert "new or empty" in result.stderr


def test_calibrate_counts_accounts_before_it_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = FakeScorer()
    monkeypatch.setattr(intake, "load_scorer", lambda *_: scorer)
    log, output = write_log(tmp_path / "log.jsonl", 5), tmp_path / "site"
    result = run("calibrate", log, "--max-fpr", "0.003", "--output", output)
    assert result.exit_code == 2
    assert "at least 998 ordinary accounts" in result.stderr
    assert not scorer.events
    assert not output.exists()


@pytest.mark.parametrize("value", ["0", "0.5", "-0.1", "nan", "inf"])
def test_calibrate_checks_the_rate(value: str, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.jsonl", 1)
    result = run("calibrate", log, f"--max-fpr={value}", "--output", tmp_path / "site")
    assert result.exit_code == 2
    assert "--max-fpr must be above 0 and below 0.5" in result.stderr
