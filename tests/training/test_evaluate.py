"""The benchmark from corpora to report, on small corpora, with the real encoder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache, partial
from pathlib import Path

import pytest

from stillwatch.data.errors import ConfigError, InputError
from stillwatch.data.events import Event
from stillwatch.model.bundle import released_bundle
from stillwatch.serving.cli import judge_log
from stillwatch.serving.scorer import Scorer
from stillwatch.training import cli
from stillwatch.training.benchmark.evaluate import compare_bundles, evaluate
from stillwatch.training.settings import Composition, Optimisation, Settings
from tests.training.test_sealed import Said

SETTINGS = Settings(
    seed=3,
    max_fpr=0.2,
    calibration_folds=1,
    composition=Composition(
        folds=3, attacks=18, ordinary=24, reference=10, source_prompts=40, forms=20,
        test_attacks=1, test_ordinary=36, test_longest=60,
    ),
    optimisation=Optimisation(epochs=2, longest=32, head_examples=1500, width=16, key=4),
)  # fmt: skip

pytestmark = pytest.mark.slow


@lru_cache(maxsize=1)
def scorer_of(bundle: Path) -> Scorer:
    return Scorer.from_bundle(bundle)


def judge_two(bundle: Path, events: Iterable[Event]) -> dict[str, Said]:
    """What the bundle says of the first two events is said of every account."""
    given = list(events)
    risk = max(verdict.risk for verdict in scorer_of(bundle).update(given[:2]))
    return {event.account_id: Said(risk, risk, None, ()) for event in given}


def test_a_fold_is_trained_tested_and_reported(
    corpora: Path, cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    figures = evaluate(
        SETTINGS, corpora, tmp_path / "report", tmp_path / "run", cache, 2, False,
        partial(print, flush=True),
        "stillwatch evaluate --folds [2]", [2], tested=(released_bundle(), judge_two),
    )  # fmt: skip
    saved = json.loads((tmp_path / "report" / "results.json").read_text())
    assert saved["folds"] == [2]
    assert saved["accounts"]["ordinary known"] == 36
    assert saved["accounts"]["ordinary new"] == 36
    assert set(figures["settings"]["known"]["methods"]) == {
        "stillwatch", "logistic regression", "gradient boosting", "nearest template",
        "best single prompt", "mean discrepancy", "PRADA",
    }  # fmt: skip
    for setting in ("known", "new"):
        for rates in figures["settings"][setting]["methods"].values():
            assert all(0 <= own["recall"] <= 1 for own in rates.values())
    page = (tmp_path / "report" / "report.html").read_text()
    assert "stillwatch evaluate --folds [2]" in page
    # Of other processes, too.
    shown = capfd.readouterr().out
    for word in ("known traffic", "new traffic", "PRADA", "calibration error"):
        assert word in shown
    assert "baselines without fold 2" in shown
    assert "robustness: payload after 8000 tokens" in shown
    sealed = json.loads((tmp_path / "report" / "sealed.json").read_text())
    assert 0 < sealed["sealed"]["threshold"] < 1
    assert {name: saved[name] for name in sealed} == sealed
    assert "split over two events" in page


def test_folds_that_there_are_not_are_refused(corpora: Path, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="folds must be 1 to 3, however"):
        evaluate(
            SETTINGS, corpora, tmp_path / "report", tmp_path / "run", cache, 2, False, print,
            "", [4],
        )  # fmt: skip
    assert not (tmp_path / "report").exists()


def test_a_bundle_is_not_compared_with_itself(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must name another bundle, however"):
        compare_bundles(tmp_path, tmp_path, judge_log, 1, print)


def test_a_bundle_is_tested_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report"
    cli.evaluate(["--only", "bundle", "--report", str(report), "--progress", "false"], judge_two)
    assert [path.name for path in report.iterdir()] == ["sealed.json"]
    shown = capsys.readouterr().out
    assert "attacking and 900 ordinary accounts" in shown
    assert "payload after 8000 tokens" in shown


def test_a_bundle_that_is_not_there_is_said_before_the_long_work(tmp_path: Path) -> None:
    options = ["--bundle", str(tmp_path / "none"), "--compare", str(tmp_path / "neither")]
    with pytest.raises(Exception, match="none"):
        cli.evaluate([*options, "--progress", "false"], judge_log)


@pytest.mark.parametrize("threads", ["0", "-1"])
def test_threads_that_there_cannot_be_are_refused_first(threads: str) -> None:
    for command in (cli.train, partial(cli.evaluate, judge=judge_log)):
        with pytest.raises(ConfigError, match=f"threads must be at least 1, however: {threads};"):
            command(["--threads", threads, "--corpora", "none"])
