"""Calibrates campaigns: how a community's features become its risk, and where it is flagged.

Each half of the sealed material is judged by what was fitted on the other.

Axis letters: N communities, F features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import gamma

from stillwatch.data.errors import InputError
from stillwatch.model.campaigns.risk import FEATURES, CampaignCalibration
from stillwatch.model.campaigns.trees import Trees
from stillwatch.model.thresholds import leave_threshold
from stillwatch.training.boosting import Boosting, boost
from stillwatch.training.calibration import fit_platt
from stillwatch.training.campaign_readings import Communities, joined

PREVALENCE = 0.02
"""Share of campaigns among communities for which the risk is a probability."""
BOOSTING = Boosting()
SIGNS = {
    "risk": 1, "contribution": 1, "dedication": 1, "unevenness": -1, "kinship": -1, "onset": -1,
    "accounts": 1, "variety": 1, "sharing": 1,
}  # fmt: skip
"""Which way each feature may speak: worlds are few, and a weight of the other sign would be chance.
"""
TOUCHED = 1e-3
"""Share of a site's ordinary accounts that may be in flagged campaigns at the threshold."""
CONFIDENCE = 0.95
"""That they are no more, where groups are drawn one by one and each touches its own accounts. A
threshold that is chosen by it, and not given, keeps a little less."""
LONE = 0.78
"""Share of a site's ordinary accounts that are in no group that looks like a campaign. In composed
worlds it is less than half, so that there are groups enough to learn from; each side counts as on
a site."""


def fit_campaigns(
    halves: Sequence[Sequence[Communities]],
) -> tuple[CampaignCalibration, dict[str, float]]:
    """A calibration from what `read_worlds` gave, and figures of the crosswise judgement."""
    return calibrate_campaigns([joined(half) for half in halves])


def crossed_calibrations(halves: Sequence[Sequence[Communities]]) -> list[CampaignCalibration]:
    """For each half of the sealed material a calibration that knows nothing of it."""
    found = []
    for number in range(len(halves)):
        # By world, since a threshold is to be set on what the trees have not seen.
        others = [world for n, half in enumerate(halves) if n != number for world in half]
        found.append(calibrate_campaigns(others)[0])
    return found


def calibrate_campaigns(
    folds: Sequence[Communities], plan: Boosting = BOOSTING
) -> tuple[CampaignCalibration, dict[str, float]]:
    """Trees from all folds; the threshold, and what a logit is worth, from each fold as trees of
    the others judge it. InputError if a fold holds no campaign or nothing ordinary."""
    every = joined(folds)
    crossed = np.concatenate([
        fit_trees(joined([o for n, o in enumerate(folds) if n != number]), plan).total(own.features)
        for number, own in enumerate(folds)
    ])  # fmt: skip
    campaign, ordinary = is_campaign(every), is_ordinary(every)
    platt = fit_platt(crossed[campaign], crossed[ordinary], PREVALENCE)
    chance = float(platt.probability(np.array([threshold_logit(every, crossed)]))[0])
    chance = min(max(chance, 1e-6), 1 - 1e-6)
    flagged = platt.probability(crossed) >= chance
    figures = {
        "communities": len(every.attack),
        "of them campaigns": int(campaign.sum()),
        "campaigns flagged": round(float(flagged[campaign].mean()), 3),
        "accounts of campaigns flagged": round(
            float(every.accounts[campaign & flagged].sum() / every.accounts[campaign].sum()), 3
        ),
        "ordinary accounts": every.ordinary,
        "ordinary accounts in flagged campaigns": int(
            every.ordinary_accounts[flagged & ordinary].sum()
        ),
        "ordinary accounts touched, share": round(
            float(touched_share(every)[flagged & ordinary].sum()), 6
        ),
    }
    calibration = CampaignCalibration(
        features=list(FEATURES),
        trees=fit_trees(every, plan),
        slope=platt.slope,
        offset=platt.offset,
        typical=[float(value) for value in np.median(every.features[ordinary], axis=0)],
        enter=chance,
        leave=leave_threshold(chance),
        origin=f"{len(every.attack)} communities of composed worlds, sealed wrappers; threshold "
        "from each fold as the others judge it",
    )
    return calibration, figures


def fit_trees(read: Communities, plan: Boosting = BOOSTING) -> Trees:
    """Trees that tell campaigns from ordinary communities, both counting alike. A campaign's
    smaller pieces are left out: they do not tell the two apart."""
    campaign = is_campaign(read)
    known = campaign | is_ordinary(read)
    target = campaign[known].astype(np.float64)
    if not 0 < target.sum() < len(target):
        raise InputError(
            "worlds must hold campaigns and ordinary groups, however: one of them is missing; "
            "compose more of them"
        )
    # A community counts by the accounts that a flag would find or touch, though a large one not
    # for all of them.
    weight = np.sqrt(np.where(campaign, read.accounts, read.ordinary_accounts)[known])
    for side in (target, 1 - target):
        weight[side > 0] *= 0.5 * len(target) / (weight * side).sum()
    signs = np.array([SIGNS[name] for name in FEATURES])
    return boost(read.features[known], target, weight, signs, plan)[0]


def is_campaign(read: Communities) -> np.ndarray:
    """bool (N,): whether a community is what most of a campaign's accounts attack with."""
    return (read.attack > 0.5) & (read.whole >= 0.5)


def is_ordinary(read: Communities) -> np.ndarray:
    """bool (N,): whether nearly nothing of a community is a campaign's, and a flag would touch
    ordinary accounts. Those whose cover is the same product may be most of its accounts."""
    return (read.attack < 0.1) & (read.ordinary_accounts > 0)


def touched_share(read: Communities) -> np.ndarray:
    """What share of a site's ordinary accounts each community touches if it is flagged, (N,)."""
    groups = read.ordinary_accounts - read.lone_accounts
    of_lone = read.lone_accounts / max(read.lone, 1)
    of_groups = groups / max(read.ordinary - read.lone, 1)
    return np.asarray(LONE * of_lone + (1 - LONE) * of_groups)


def threshold_logit(read: Communities, logits: np.ndarray) -> float:
    """The lowest logit above which, as sure as CONFIDENCE, at most TOUCHED of a site's ordinary
    accounts are touched: a few groups decide it, and others might have come. The bound is that of
    Fay and Feuer (1997) for a weighted sum of Poisson counts."""
    ordinary = read.attack < 0.1
    order = np.argsort(-logits[ordinary])
    share = touched_share(read)[ordinary][order]
    share, above = share[share > 0], logits[ordinary][order][share > 0]
    # As if one more had come, as large as the largest.
    largest = np.maximum.accumulate(share)
    total, squares = np.cumsum(share) + largest, np.cumsum(share**2) + largest**2
    over = np.flatnonzero(gamma.ppf(CONFIDENCE, total**2 / squares) * squares / total > TOUCHED)
    if not len(over):
        return float(logits.min())
    # Just above the first one that would be too many.
    return float(np.nextafter(np.float32(above[over[0]]), np.float32(np.inf)))
