"""Campaigns found among ordinary accounts, of wrappers that the detector has not seen.

Each half of the sealed wrappers stands in a world of its own and is judged with a calibration that
was fitted on the other half. Beside it: accounts that share a network or payment; accounts tied by
any shared skeleton, their merged stream judged by the sequence classifier at its best threshold;
and every account by itself.

    python benchmarks/campaigns.py --json benchmarks/campaigns.json
    python benchmarks/campaigns.py --ordinary 5000 --worlds 1 --leaks 0
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from _machine import machine, tell

from stillwatch.data.events import Event
from stillwatch.data.simulator.campaigns import DAY_S, CampaignPlan
from stillwatch.data.simulator.timing import START_S
from stillwatch.model.campaigns.finder import Campaign
from stillwatch.model.campaigns.index import CampaignIndex
from stillwatch.model.campaigns.risk import CampaignCalibration
from stillwatch.model.detector import Detector
from stillwatch.training.benchmark.campaign_world import (
    HALVES,
    World,
    WorldPlan,
    compose_world,
    world_materials,
)
from stillwatch.training.benchmark.campaigns import (
    Found,
    Truth,
    find,
    in_flagged,
    judge,
    leaks,
    shared_infrastructure,
    tied_by_skeletons,
)
from stillwatch.training.campaign_readings import read_worlds
from stillwatch.training.campaigns import crossed_calibrations

TARGET = (
    *[CampaignPlan(50, 4, 0.2, days=days) for days in (2, 2, 14, 14, 30)],
    *[CampaignPlan(200, 4, 0.2, days=days) for days in (2, 14, 14)],
    *[CampaignPlan(1000, 4, 0.2, days=days) for days in (2, 14)],
    CampaignPlan(5000, 4, 0.2, days=2),
)
"""Four prompts an account, a fifth ordinary traffic, nothing shared."""
OTHERS = (
    CampaignPlan(1, 60, 0.0), CampaignPlan(3, 60, 0.5), CampaignPlan(10, 30, 0.2, days=14),
    CampaignPlan(20, 700, 0.5, days=30), CampaignPlan(50, 3, 0.5), CampaignPlan(50, 4, 0.2, "some"),
    CampaignPlan(50, 4, 0.2, "all"), CampaignPlan(200, 30, 0.9, days=30),
    CampaignPlan(200, 4, 0.2, shuffled=False), CampaignPlan(100, 20, 0.5, "all", days=14),
    CampaignPlan(150, 40, 0.0, days=10, start_day=20, release_day=25),
)  # fmt: skip
TOLD_FROM = 0.05
"""Risk from which a group is listed by itself."""
LEAKING = (
    *[CampaignPlan(accounts, 4, 0.2, days=2, start_day=30) for accounts in (50, 200, 1000, 5000)],
    *[CampaignPlan(accounts, 4, 0.2, days=14, start_day=30) for accounts in (50, 200)],
)
LEAK_STEPS = (0.01, 0.02, 0.04, 0.07, 0.10, 0.15, 0.25, 0.5, 1.0)


def main() -> int:
    options = _options()
    detector = Detector.load(options.bundle, threads=options.threads)
    tell("fitting calibrations crosswise")
    halves = read_worlds(
        options.bundle, options.corpora, range(options.seeds), options.threads, tell,
        options.readings,
    )  # fmt: skip
    calibrations = crossed_calibrations(halves)
    result: dict[str, Any] = {
        "machine": machine(options.threads),
        "bundle": detector.bundle_id,
        "left out": "network transport; events come from memory",
        "worlds": [],
    }
    leaked: dict[str, dict[str, float]] = {}
    for half in range(options.worlds):
        materials = world_materials(options.corpora, half)
        plan = WorldPlan((*TARGET, *OTHERS), options.ordinary, options.look_alikes, half, 100)
        world = compose_world(plan, materials)
        result["worlds"].append(_world(detector, calibrations[half], world, options))
        result["together"] = _together(result["worlds"])
        # After each world, so that a run that is killed has told what it found.
        _write(options.json, result)
        if options.leaks:
            plan = WorldPlan(LEAKING, options.leaks, 0.25, half, 200)
            _leaks(detector, calibrations[half], compose_world(plan, materials), leaked)
            shares = [share for own in leaked.values() for share in own.values()]
            result["leaks"] = {"mean": round(float(np.mean(shares)), 4), "by plan": leaked}
            _write(options.json, result)
    print(
        json.dumps({key: result[key] for key in ("together", "leaks") if key in result}, indent=1)
    )
    return 0


def _world(
    detector: Detector, calibration: CampaignCalibration, world: World, options: Any
) -> dict[str, Any]:
    truth = Truth.of(world)
    events = world.events()
    tell(f"{len(events):,} events of {len(truth.campaign) + len(truth.kind):,} accounts")
    start = time.perf_counter()
    index = CampaignIndex()
    index.add(events)
    found = find(detector, calibration, index, events, tell)
    seconds = time.perf_counter() - start
    tell(f"linked and read in {seconds:.0f} s")
    methods = {
        "stillwatch": in_flagged(found),
        "shared infrastructure": shared_infrastructure(index),
        "shared skeletons, merged stream": tied_by_skeletons(
            detector, index, events, frozenset(truth.campaign)
        ),
    }
    return {
        "events": len(events),
        "accounts": len(truth.campaign) + len(truth.kind),
        "ordinary accounts": len(truth.kind),
        "seconds": round(seconds, 1),
        "flagged campaigns": sum(one.flagged for one in found),
        "groups found ordinary": sum(not one.flagged for one in found),
        "threshold": round(calibration.enter, 4),
        "groups": [_group(one, truth) for one in found if one.risk >= TOLD_FROM],
        "plans": {name: asdict(plan) for name, plan in world.plans.items()},
        "sends": world.sends,
        "methods": {
            name: {"campaigns": own.campaigns, "ordinary": own.ordinary}
            for name, own in ((name, judge(truth, own)) for name, own in methods.items())
        },
        "accounts alone": _alone(detector, world, events, options.alone),
    }


def _group(campaign: Campaign, truth: Truth) -> dict[str, Any]:
    """One group's risk and whose accounts are in it, so that other thresholds can be looked at."""
    campaigns = Counter(truth.campaign[a] for a in campaign.accounts if a in truth.campaign)
    ordinary = Counter(truth.kind[a] for a in campaign.accounts if a in truth.kind)
    return {
        "risk": round(campaign.risk, 4), "events": campaign.events,
        "campaigns": dict(campaigns.most_common(3)), "ordinary": dict(ordinary.most_common()),
    }  # fmt: skip


def _alone(
    detector: Detector, world: World, events: list[Event], count: int
) -> dict[str, Any] | None:
    """Each account by itself, at the bundle's threshold: accounts of the campaigns and ordinary
    ones, some of each."""
    if not count:
        return None
    from stillwatch.serving.scorer import Scorer

    rng = np.random.default_rng(83)
    truth = Truth.of(world)
    chosen = {
        str(name)
        for names in (sorted(truth.campaign), sorted(truth.kind))
        for name in rng.choice(names, min(count, len(names)), replace=False)
    }
    scorer = Scorer(detector)
    scorer.ingest(event for event in events if event.account_id in chosen)
    flagged = {v.account_id for v in scorer.verdicts() if v.flagged_after is not None}
    attacking = chosen & truth.campaign.keys()
    return {
        "accounts of campaigns": len(attacking),
        "of them ever flagged": len(attacking & flagged),
        "ordinary accounts": len(chosen - attacking),
        "ordinary ever flagged": len(flagged - attacking),
    }


def _together(worlds: list[dict[str, Any]]) -> dict[str, Any]:
    """All worlds in one: what the target cell comes to, every plan, every kind of look-alike."""
    told: dict[str, Any] = {}
    for method in worlds[0]["methods"]:
        campaigns: dict[str, tuple[int, int]] = {}
        ordinary: dict[str, tuple[int, int]] = {}
        cells: dict[str, list[int]] = {}
        target: dict[str, tuple[int, int]] = {}
        for world in worlds:
            own = world["methods"][method]
            campaigns |= own["campaigns"]
            for kind, (touched, total) in own["ordinary"].items():
                before = ordinary.get(kind, (0, 0))
                ordinary[kind] = (before[0] + touched, before[1] + total)
            for name, counts in own["campaigns"].items():
                plan = CampaignPlan(**world["plans"][name])
                if plan in TARGET:
                    target[name] = counts
                cell = cells.setdefault(_cell(plan), [0, 0])
                cell[0] += counts[0]
                cell[1] += counts[1]
        both = Found(target, ordinary)
        told[method] = {
            "target cell": {
                "campaigns": len(target),
                "accounts found": round(both.recall, 4),
                "mean over campaigns": round(
                    float(np.mean([found / total for found, total in target.values()])), 4
                ),
                "precision": round(both.precision, 4),
                "found by what they send": {
                    f"{name}: {', '.join(sends)}": "{} of {}".format(*target[name])
                    for world in worlds
                    for name, sends in world["sends"].items()
                    if name in target
                },
            },
            "all campaigns": round(Found(campaigns, ordinary).recall, 4),
            "precision": round(Found(campaigns, ordinary).precision, 4),
            "ordinary untouched": round(both.untouched, 6),
            "touched by kind": {k: f"{own} of {total}" for k, (own, total) in ordinary.items()},
            "found by plan": {k: f"{own} of {total}" for k, (own, total) in cells.items()},
        }
    return told


def _cell(plan: CampaignPlan) -> str:
    extra = "" if plan.infrastructure == "none" else f", {plan.infrastructure} infrastructure"
    extra += "" if plan.shuffled else ", in order"
    extra += "" if plan.release_day is None else ", pivot to a new model"
    return (
        f"{plan.accounts} accounts, {plan.prompts} prompts, {plan.cover:.0%} cover, "
        f"{plan.days:g} days{extra}"
    )


def _leaks(
    detector: Detector, calibration: CampaignCalibration, world: World,
    leaked: dict[str, dict[str, float]],
) -> None:  # fmt: skip
    """Adds the share of attack prompts that leaked, by plan and by campaign and what it sends."""
    times = sorted(
        {START_S + (30 + days * step) * DAY_S for days in (2, 14) for step in LEAK_STEPS}
    )
    for name, share in leaks(detector, calibration, world, times, tell).items():
        sends = ", ".join(world.sends[name])
        leaked.setdefault(_cell(world.plans[name]), {})[f"{name}: {sends}"] = round(share, 4)


def _write(path: Path | None, result: dict[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(result, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ordinary", type=int, default=43_000, help="lone accounts of a world")
    parser.add_argument("--look-alikes", type=float, default=1.0, help="groups: 1 is some 7,000")
    parser.add_argument("--worlds", type=int, default=HALVES, choices=range(1, HALVES + 1))
    parser.add_argument("--seeds", type=int, default=4, help="worlds of a half to fit on")
    parser.add_argument("--leaks", type=int, default=2000, help="lone accounts; 0 leaves it out")
    parser.add_argument("--alone", type=int, default=1500, help="accounts of each sort; 0: none")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--corpora", type=Path)
    parser.add_argument("--readings", type=Path, help="folder that keeps what was fitted on")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
