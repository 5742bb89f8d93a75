"""Calibration to a site's own traffic: another threshold, the same detector, or a refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stillwatch.data.errors import InputError, OutputError
from stillwatch.model.bundle import Bundle, load_bundle, manifest_fields, write_bundle
from stillwatch.model.thresholds import accounts_needed, allowed_above
from stillwatch.serving.calibrate import SUSPECT_RISK, calibrate
from stillwatch.serving.scorer import Scorer
from tests.support import TinyEncoder, make_events, tiny_bundle

ACCOUNTS, RATE = 60, 0.1


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="module")
def scored(bundle: Bundle) -> Scorer:
    scorer = Scorer(bundle, TinyEncoder())
    scorer.ingest(make_events(accounts=ACCOUNTS, each=4))
    return scorer


def with_offset(bundle: Bundle, folder: Path, offset: float) -> Scorer:
    """A scorer whose every risk is moved by this much, as a logit."""
    fields = manifest_fields(bundle.manifest)
    fields["calibration"] = {"slope": 1.0, "offset": offset}
    return Scorer(write_bundle(folder, fields, bundle.content), TinyEncoder())


def test_the_new_bundle_differs_in_its_thresholds_alone(
    bundle: Bundle, scored: Scorer, tmp_path: Path
) -> None:
    made, found = calibrate(scored, tmp_path / "own", RATE)
    assert load_bundle(tmp_path / "own").id == made.id != bundle.id
    assert made.content == bundle.content
    before, after = manifest_fields(bundle.manifest), manifest_fields(made.manifest)
    assert {name for name in before if before[name] != after[name]} == {"thresholds"}
    thresholds = made.manifest.thresholds
    assert (thresholds.enter, thresholds.leave) == (found.enter, found.leave)
    assert thresholds.leave < thresholds.enter
    assert (thresholds.max_fpr, thresholds.ordinary_accounts) == (RATE, ACCOUNTS)
    assert "own ordinary traffic" in thresholds.origin
    assert load_bundle(bundle.path).id == bundle.id


def test_as_many_ordinary_accounts_are_flagged_as_the_bound_allows(
    scored: Scorer, tmp_path: Path
) -> None:
    made, found = calibrate(scored, tmp_path / "own", RATE)
    assert found.above == allowed_above(ACCOUNTS, RATE) > 0
    again = Scorer(made, TinyEncoder())
    flagged = {
        verdict.account_id
        for verdict in again.update(make_events(accounts=ACCOUNTS, each=4))
        if verdict.flagged
    }
    # Whoever ever reached the threshold was flagged then.
    assert len(flagged) == found.above
    peaks = scored.peak_risks()
    assert flagged == {f"a{n}" for n in np.argsort(-peaks)[: found.above]}


def test_the_highest_risk_counts_and_not_the_last(scored: Scorer) -> None:
    last = np.array([verdict.risk for verdict in scored.verdicts()])
    peaks = scored.peak_risks()
    assert (peaks >= last - 1e-6).all()
    assert (peaks > last + 1e-3).any()


def test_too_few_accounts_are_refused(scored: Scorer, tmp_path: Path) -> None:
    needed = accounts_needed(0.003)
    with pytest.raises(InputError, match=f"at least {needed} ordinary accounts.* holds {ACCOUNTS}"):
        calibrate(scored, tmp_path / "own", 0.003)
    assert not (tmp_path / "own").exists()


def test_a_log_that_holds_campaigns_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    scorer = with_offset(bundle, tmp_path / "alarmed", 20.0)
    scorer.ingest(make_events(accounts=ACCOUNTS, each=2))
    with pytest.raises(
        InputError, match=rf"{ACCOUNTS} of {ACCOUNTS} accounts have a risk above {SUSPECT_RISK}"
    ):
        calibrate(scorer, tmp_path / "own", RATE)
    assert not (tmp_path / "own").exists()


def test_a_single_account_of_high_risk_is_let_pass(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = with_offset(bundle, tmp_path / "plain", 0.0)
    peaks = np.full(ACCOUNTS, 0.2, dtype=np.float32)
    monkeypatch.setattr(scorer, "peak_risks", lambda: peaks)
    peaks[7] = 0.95
    _, found = calibrate(scorer, tmp_path / "own", RATE)
    assert found.enter < 0.95
    peaks[8] = 0.95
    with pytest.raises(InputError, match=f"2 of {ACCOUNTS} accounts"):
        calibrate(scorer, tmp_path / "other", RATE)


def test_a_folder_of_something_else_is_not_written_to(scored: Scorer, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("the only copy")
    with pytest.raises(OutputError, match="must be new, empty or a bundle"):
        calibrate(scored, tmp_path, RATE)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
