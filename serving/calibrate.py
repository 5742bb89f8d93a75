"""Sets a bundle's thresholds from a site's own ordinary traffic."""

from __future__ import annotations

from pathlib import Path

from stillwatch.data.errors import InputError
from stillwatch.model.bundle import Bundle, Thresholds, manifest_fields, write_bundle
from stillwatch.model.thresholds import SiteThreshold, site_threshold
from stillwatch.serving.scorer import Scorer

SUSPECT_RISK = 0.9
"""An account above this in the calibration log is more likely a campaign than ordinary."""
MAX_SUSPECTS = 0.02


def calibrate(scorer: Scorer, output: Path, max_fpr: float) -> tuple[Bundle, SiteThreshold]:
    """Write a new bundle to `output` whose thresholds follow from the accounts that `scorer` has
    seen, all of which are taken to be ordinary.

    Raises InputError if there are too few of them, or if so many have a high risk that the log
    must hold campaigns: a threshold above those would let campaigns through.
    """
    peaks = scorer.peak_risks()
    found = site_threshold(peaks, max_fpr)
    suspects = int((peaks > SUSPECT_RISK).sum())
    if suspects > max(MAX_SUSPECTS * len(peaks), 1):
        raise InputError(
            f"a calibration log must hold ordinary traffic only, however: {suspects} of "
            f"{len(peaks)} accounts have a risk above {SUSPECT_RISK}; look at them with "
            "`stillwatch score` and leave campaigns out"
        )
    old = scorer.bundle
    thresholds = Thresholds(
        enter=found.enter,
        leave=found.leave,
        max_fpr=max_fpr,
        ordinary_accounts=found.accounts,
        origin="a site's own ordinary traffic",
    )
    fields = {**manifest_fields(old.manifest), "thresholds": thresholds.model_dump()}
    return write_bundle(output, fields, old.content), found
