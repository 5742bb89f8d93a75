"""Thresholds from a site's own ordinary traffic, with a bound that holds for few accounts too."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from stillwatch.data.errors import InputError

CONFIDENCE = 0.95
LEAVE_MARGIN = 1.0
"""A flag is left when the logit of the risk is this far below the one that enters it."""
_EDGE = 1e-12


@dataclass(frozen=True, slots=True)
class SiteThreshold:
    """A threshold and what is known of it.

    With probability `confidence` over the choice of accounts, at most `max_fpr` of the site's
    ordinary accounts ever reach `enter`; `above` of the `accounts` given did.
    """

    enter: float
    leave: float
    max_fpr: float
    accounts: int
    above: int
    confidence: float


def accounts_needed(max_fpr: float, confidence: float = CONFIDENCE) -> int:
    """Fewest ordinary accounts from which a rate can be promised: none of them may be above."""
    return math.ceil(math.log(1 - confidence) / math.log1p(-max_fpr))


def allowed_above(accounts: int, max_fpr: float, confidence: float = CONFIDENCE) -> int:
    """Most accounts that may lie above a threshold for the bound to hold, -1 if not even none.

    The exact binomial bound (Clopper and Pearson 1934): if the true rate were `max_fpr`, so few
    or fewer would be seen with probability at most 1 - confidence.
    """
    log_term = accounts * math.log1p(-max_fpr)
    odds = math.log(max_fpr) - math.log1p(-max_fpr)
    total = 0.0
    above = -1
    while above < accounts:
        total += math.exp(log_term)
        if total > 1 - confidence:
            break
        above += 1
        log_term += math.log((accounts - above) / (above + 1)) + odds if above < accounts else 0.0
    return above


def site_threshold(
    peaks: np.ndarray, max_fpr: float, confidence: float = CONFIDENCE
) -> SiteThreshold:
    """The lowest threshold for the highest risks that ordinary accounts had, float (accounts,).

    Raises InputError if there are too few accounts for the rate asked for.
    """
    needed = accounts_needed(max_fpr, confidence)
    if len(peaks) < needed:
        raise InputError(
            f"calibration to a false-positive rate of {max_fpr:g} must see at least {needed} "
            f"ordinary accounts, however: the log holds {len(peaks)}; add traffic or ask for a "
            f"higher rate"
        )
    above = allowed_above(len(peaks), max_fpr, confidence)
    ordered = np.sort(peaks.astype(np.float64))[::-1]
    # Just above the first account that must stay below.
    enter = min(float(np.nextafter(np.float32(ordered[above]), np.float32(2))), 1 - 1e-6)
    enter = max(enter, 1e-6)
    return SiteThreshold(
        enter, leave_threshold(enter), max_fpr, len(peaks), int((ordered >= enter).sum()),
        confidence,
    )  # fmt: skip


def leave_threshold(enter: float) -> float:
    """The risk below which a flag is left, for the risk that enters it."""
    # A logit is finite only inside (0, 1).
    enter = min(max(enter, _EDGE), 1 - _EDGE)
    logit = math.log(enter / (1 - enter)) - LEAVE_MARGIN
    return 1 / (1 + math.exp(-logit))
