"""Calibrates campaigns: how a community's features become its risk, and where it is flagged.

Fitted on worlds composed of sealed wrappers, which the detector was not trained on: what it says of
wrappers that it knows would be too sure. Each half of the sealed material is judged by what was
fitted on the other.

Axis letters: N communities, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stillwatch.data.errors import InputError
from stillwatch.data.files import atomic_writer
from stillwatch.data.simulator.campaigns import CampaignPlan
from stillwatch.model.campaigns.communities import find_communities
from stillwatch.model.campaigns.evidence import key_evidence, skeleton_evidence
from stillwatch.model.campaigns.index import CampaignIndex
from stillwatch.model.campaigns.reading import CommunityReader
from stillwatch.model.campaigns.risk import FEATURES, CampaignCalibration, feature_rows
from stillwatch.model.campaigns.skeletons import find_skeletons
from stillwatch.model.campaigns.trees import Trees
from stillwatch.model.detector import Detector
from stillwatch.model.thresholds import leave_threshold
from stillwatch.training.benchmark.campaign_world import (
    HALVES,
    World,
    WorldPlan,
    compose_world,
    world_materials,
)
from stillwatch.training.boosting import Boosting, boost
from stillwatch.training.calibration import fit_platt

Progress = Callable[[str], None]

EVERY_HALF = range(HALVES)

PREVALENCE = 0.02
"""Share of campaigns among communities for which the risk is a probability."""
BOOSTING = Boosting()
SIGNS = {
    "risk": 1, "contribution": 1, "dedication": 1, "unevenness": -1, "kinship": -1, "onset": -1,
    "accounts": 1, "variety": 1, "sharing": 1,
}  # fmt: skip
"""Which way each feature may speak: worlds are few, and a weight of the other sign would be chance.
"""
TOUCHED = 2e-3
"""Share of ordinary accounts that may be in flagged campaigns at the threshold. More than a third
of those of a composed world are in groups that look like campaigns, where few are elsewhere; and
one such group of eighty is more than a thousandth of all."""
CAMPAIGNS = 14
MOST_ACCOUNTS, MOST_PROMPTS = 1500, 6000
"""Of a campaign of a world that is composed for fitting."""
ORDINARY = 3000
LOOK_ALIKES = 0.3
PRODUCTS = 0.06
"""Of all products, so that as many lone accounts share one as among fifty thousand: five to twenty
customers of one product are what an ordinary site is full of."""


@dataclass(frozen=True)
class Communities:
    """What was read: features float64 (N, F), the share of evidence events that are attack prompts
    float64 (N,), the share of its campaign's accounts that each holds float64 (N,), accounts and
    ordinary accounts int64 (N,); `ordinary` accounts there were in all."""

    features: np.ndarray
    attack: np.ndarray
    whole: np.ndarray
    accounts: np.ndarray
    ordinary_accounts: np.ndarray
    ordinary: int


def fit_campaigns(
    detector: Detector, corpora: Path | None, seeds: Sequence[int], progress: Progress,
    readings: Path | None = None,
) -> tuple[CampaignCalibration, dict[str, float]]:  # fmt: skip
    """A calibration from one world a half and seed, and figures of the crosswise judgement.
    `readings` as in `read_half`."""
    halves = [read_half(detector, corpora, half, seeds, progress, readings) for half in EVERY_HALF]
    return calibrate_campaigns([joined(half) for half in halves])


def crossed_calibrations(
    detector: Detector, corpora: Path | None, seeds: Sequence[int], progress: Progress,
    readings: Path | None = None,
) -> list[CampaignCalibration]:  # fmt: skip
    """For each half of the sealed material a calibration that knows nothing of it."""
    halves = [read_half(detector, corpora, half, seeds, progress, readings) for half in EVERY_HALF]
    found = []
    for number in EVERY_HALF:
        # By world, since a threshold is to be set on what the trees have not seen.
        others = [world for n, half in enumerate(halves) if n != number for world in half]
        found.append(calibrate_campaigns(others)[0])
    return found


def read_half(
    detector: Detector, corpora: Path | None, half: int, seeds: Sequence[int],
    progress: Progress, readings: Path | None = None,
) -> list[Communities]:  # fmt: skip
    """What is read of the worlds of a half, by world. Readings of the same weights that lie in the
    folder `readings` are taken from there, others are put there: delete it when the code of
    worlds or readings changes."""
    found = []
    materials = None
    for seed in seeds:
        kept = readings and readings / f"{detector.state_id}-{half}-{seed}.npz"
        if kept and kept.is_file():
            with np.load(kept) as arrays:
                found.append(Communities(**{**arrays, "ordinary": int(arrays["ordinary"])}))
            continue
        materials = materials or world_materials(corpora, half)
        world = compose_world(fitting_plan(half, seed), materials)
        rng = np.random.default_rng([seed, half, 73])
        # In part, too: a campaign is to be seen before it has ended.
        shares = (1.0, float(rng.uniform(0.25, 0.6)))
        found.append(joined([read_world(detector, world, share) for share in shares]))
        progress(f"half {half + 1}, world {seed}: {len(found[-1].attack)} communities read")
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            with atomic_writer(kept) as file:
                np.savez(file, **vars(found[-1]))
    return found


def fitting_plan(half: int, seed: int) -> WorldPlan:
    """A world with campaigns of all sizes."""
    rng = np.random.default_rng([seed, half, 79])
    campaigns = tuple(
        CampaignPlan(
            accounts=(accounts := round(np.exp(rng.uniform(np.log(4), np.log(MOST_ACCOUNTS))))),
            prompts=min(int(rng.choice([3, 4, 4, 8, 20, 60])), max(MOST_PROMPTS // accounts, 4)),
            cover=float(rng.choice([0.0, 0.2, 0.5, 0.9])),
            infrastructure=rng.choice(["none", "none", "some", "all"]),
            days=float(rng.choice([2, 14, 30])),
            shuffled=bool(rng.random() < 0.8),
        )
        for _ in range(CAMPAIGNS)
    )
    return WorldPlan(campaigns, ORDINARY, LOOK_ALIKES, half, seed, products=PRODUCTS)


def read_world(detector: Detector, world: World, share: float = 1.0) -> Communities:
    """The communities among the first `share` of a world's events."""
    events = world.events()
    events = events[: round(share * len(events))]
    index = CampaignIndex()
    index.add(events)
    table = index.table()
    skeletons = find_skeletons(table.pair_shingle, table.pair_event, table.account, table.identity)
    communities = find_communities(
        [*skeleton_evidence(table, skeletons), *key_evidence(index.keys, len(index.accounts))]
    )
    reader = CommunityReader(detector, lambda numbers: [events[n] for n in numbers])
    readings = reader.read(communities, table, index)
    attacking = world.attack_events()
    attack_event = np.array([(e.account_id, e.event_id) in attacking for e in events], dtype=bool)
    owner = {s.account_id: n for n, g in enumerate(world.groups) if g.intent for s in g.streams}
    campaign = np.array([owner.get(name, -1) for name in index.accounts], dtype=np.int64)
    ordinary = campaign < 0
    return Communities(
        feature_rows([own.features for own in readings]),
        np.array([attack_event[own.events].mean() for own in readings]),
        np.array([_whole(own.accounts, campaign) for own in communities]),
        np.array([len(own.accounts) for own in communities]),
        np.array([int(ordinary[own.accounts].sum()) for own in communities]),
        int(ordinary.sum()),
    )


def _whole(accounts: np.ndarray, campaign: np.ndarray) -> float:
    """The largest share of a campaign's accounts so far that some accounts hold."""
    own = campaign[accounts]
    names, counts = np.unique(own[own >= 0], return_counts=True)
    totals = [int((campaign == name).sum()) for name in names]
    return float(max((c / t for c, t in zip(counts, totals, strict=True)), default=0.0))


def joined(parts: Sequence[Communities]) -> Communities:
    """All of some."""
    return Communities(
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.attack for part in parts]),
        np.concatenate([part.whole for part in parts]),
        np.concatenate([part.accounts for part in parts]),
        np.concatenate([part.ordinary_accounts for part in parts]),
        sum(part.ordinary for part in parts),
    )


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
    chance = float(platt.probability(np.array([_threshold(every, crossed)]))[0])
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


def _threshold(read: Communities, logits: np.ndarray) -> float:
    """The lowest logit above which the share of ordinary accounts touched is at most TOUCHED."""
    ordinary = read.attack < 0.1
    order = np.argsort(-logits[ordinary])
    touched = np.cumsum(read.ordinary_accounts[ordinary][order])
    over = np.flatnonzero(touched > TOUCHED * read.ordinary)
    if not len(over):
        return float(logits.min())
    # Just above the first one that would be too many.
    return float(np.nextafter(np.float32(logits[ordinary][order[over[0]]]), np.float32(np.inf)))
