"""What accounts of left-out folds say of a detector: its calibration, thresholds and figures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stillwatch.model.bundle import Calibration, Thresholds
from stillwatch.model.thresholds import site_threshold
from stillwatch.training.calibration import fit_platt
from stillwatch.training.metrics import recall_at
from stillwatch.training.settings import Settings

RATES = (0.05, 0.01, 0.003)


@dataclass(frozen=True)
class LeftOut:
    """Logits of S accounts of folds that neither heads nor classifier knew: of risk after the
    last event and at its highest float32 (S,), of intents after the last event float32 (S, I);
    and what is true, targets float32 (S, I)."""

    last: np.ndarray
    peak: np.ndarray
    intents: np.ndarray
    targets: np.ndarray

    @property
    def attacks(self) -> np.ndarray:
        return self.last[self.targets.any(axis=1)]

    @property
    def ordinary(self) -> np.ndarray:
        return self.last[~self.targets.any(axis=1)]

    @property
    def peaks(self) -> np.ndarray:
        """The highest logits of ordinary accounts."""
        return self.peak[~self.targets.any(axis=1)]

    @property
    def attack_peaks(self) -> np.ndarray:
        """The highest logits of attacking accounts."""
        return self.peak[self.targets.any(axis=1)]


def judge_left_out(
    settings: Settings, left_out: dict[str, LeftOut]
) -> tuple[Calibration, Thresholds, dict[str, float]]:
    """Calibration and thresholds from accounts read as `new`, since a released bundle knows
    nothing of the site that it comes to; and figures of every reading."""
    new = left_out["new"]
    calibration = Calibration(
        risk=fit_platt(new.attacks, new.ordinary, settings.prevalence),
        intents=[
            fit_platt(
                new.intents[new.targets[:, column] > 0, column],
                new.intents[new.targets[:, column] == 0, column],
                settings.prevalence / len(settings.intents),
            )
            for column in range(len(settings.intents))
        ],
    )
    site = site_threshold(calibration.risk.probability(new.peaks), settings.max_fpr)
    thresholds = Thresholds(
        enter=site.enter,
        leave=site.leave,
        max_fpr=settings.max_fpr,
        ordinary_accounts=len(new.ordinary),
        origin="composed ordinary accounts of folds left out of training, half of them built as "
        "attacks are; nothing known of their traffic",
    )
    figures: dict[str, float] = {
        "left-out attacking accounts": len(new.attacks),
        "left-out ordinary accounts": len(new.ordinary),
    }
    for name, own in left_out.items():
        for rate in RATES:
            figures[f"recall at {rate:.1%} false positives, {name} traffic"] = round(
                recall_at(own.attacks, own.ordinary, rate), 3
            )
        for who, logits in (("attacks", own.attack_peaks), ("ordinary accounts", own.peaks)):
            flagged = calibration.risk.probability(logits) >= site.enter
            figures[f"{who} ever flagged at the default threshold, {name} traffic"] = round(
                float(flagged.mean()), 4
            )
    return calibration, thresholds, figures
