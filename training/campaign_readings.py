"""What the reader of communities makes of composed worlds: what campaigns are calibrated on.

Worlds are composed of sealed wrappers, which the detector was not trained on: what it says of
wrappers that it knows would be too sure.

Axis letters: N communities, F features.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

import faiss
import numpy as np

from stillwatch.data.errors import InputError
from stillwatch.data.files import atomic_writer
from stillwatch.data.simulator.campaigns import CampaignPlan
from stillwatch.data.simulator.materials import Materials
from stillwatch.model.campaigns.communities import find_communities, members_of
from stillwatch.model.campaigns.evidence import key_evidence, skeleton_evidence
from stillwatch.model.campaigns.index import CampaignIndex
from stillwatch.model.campaigns.reading import CommunityReader
from stillwatch.model.campaigns.risk import feature_rows
from stillwatch.model.campaigns.skeletons import find_skeletons
from stillwatch.model.detector import Detector
from stillwatch.model.golden import load_detector
from stillwatch.training.benchmark.campaign_world import (
    HALVES,
    World,
    WorldPlan,
    compose_world,
    world_materials,
)

Progress = Callable[[str], None]

CAMPAIGNS = 14
MOST_ACCOUNTS, MOST_PROMPTS = 1500, 6000
"""Of a campaign of a world that is composed for fitting."""
ORDINARY = 3000
LOOK_ALIKES = 0.3
FORMS = 0.06
"""Of all products, and of the phrases that customers share, so that as many lone accounts share one
as among fifty thousand: five to twenty customers of one product, or red teams with one list of
attacks, are what an ordinary site is full of."""


@dataclass(frozen=True)
class Communities:
    """What was read: features float64 (N, F), the share of evidence events that are attack prompts
    float64 (N,), the share of its campaign's accounts that are members of each float64 (N,),
    members, ordinary ones and those of them that are in no look-alike group int64 (N,); `ordinary`
    and `lone` accounts there were in all."""

    features: np.ndarray
    attack: np.ndarray
    whole: np.ndarray
    accounts: np.ndarray
    ordinary_accounts: np.ndarray
    lone_accounts: np.ndarray
    ordinary: int
    lone: int


def read_worlds(
    bundle: Path | None,
    corpora: Path | None,
    seeds: Sequence[int],
    threads: int,
    progress: Progress,
    readings: Path | None = None,
) -> list[list[Communities]]:
    """What is read of a world of each seed, by half and seed, with the bundle in a folder (None for
    the package's own); in as many processes as `threads`. Readings of the same weights that lie in
    the folder `readings` are taken from there, others are put there: delete it when the code of
    worlds or readings changes."""
    jobs = [(half, seed) for half in range(HALVES) for seed in seeds]
    found: dict[tuple[int, int], Communities] = {}
    # Not forked: an encoder has threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(threads, len(jobs)), context) as pool:
        running = {pool.submit(_read_seed, bundle, corpora, *job, readings): job for job in jobs}
        for done in as_completed(running):
            half, seed = job = running[done]
            found[job] = done.result()
            progress(f"half {half + 1}, world {seed}: {len(found[job].attack)} communities read")
    return [[found[half, seed] for seed in seeds] for half in range(HALVES)]


def _read_seed(
    bundle: Path | None, corpora: Path | None, half: int, seed: int, readings: Path | None
) -> Communities:
    detector = _detector(bundle)
    kept = readings and readings / f"{detector.state_id}-{half}-{seed}.npz"
    if kept and kept.is_file():
        with np.load(kept) as arrays:
            if set(arrays) != {field.name for field in fields(Communities)}:
                raise InputError(
                    f"readings must be of the code that asks for them, however: {kept} holds "
                    f"others; delete {readings}"
                )
            counts = {name: int(arrays[name]) for name in ("ordinary", "lone")}
            return Communities(**{**arrays, **counts})
    world = compose_world(fitting_plan(half, seed), _materials(corpora, half))
    rng = np.random.default_rng([seed, half, 73])
    # In part, too: a campaign is to be seen before it has ended.
    shares = (1.0, float(rng.uniform(0.25, 0.6)))
    found = joined([read_world(detector, world, share) for share in shares])
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with atomic_writer(kept) as file:
            np.savez(file, **vars(found))
    return found


@lru_cache(maxsize=1)
def _detector(bundle: Path | None) -> Detector:
    faiss.omp_set_num_threads(1)
    return load_detector(bundle, threads=1)


@lru_cache(maxsize=HALVES)
def _materials(corpora: Path | None, half: int) -> tuple[Materials, Materials]:
    return world_materials(corpora, half)


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
    return WorldPlan(campaigns, ORDINARY, LOOK_ALIKES, half, seed, forms=FORMS)


def read_world(detector: Detector, world: World, share: float = 1.0) -> Communities:
    """The communities among the first `share` of a world's events."""
    events = world.events()
    events = events[: round(share * len(events))]
    index = CampaignIndex()
    index.add(events)
    table = index.table()
    skeletons = find_skeletons(table.pairs, table.account, table.identity)
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
    alone = {stream.account_id for stream in world.ordinary}
    lone = np.array([name in alone for name in index.accounts], dtype=bool)
    members = [
        members_of(community, own.work.events, table)
        for community, own in zip(communities, readings, strict=True)
    ]
    return Communities(
        feature_rows([own.features for own in readings]),
        np.array([attack_event[own.work.events].mean() for own in readings]),
        np.array([_whole(own, campaign) for own in members]),
        np.array([len(own) for own in members]),
        np.array([int(ordinary[own].sum()) for own in members]),
        np.array([int(lone[own].sum()) for own in members]),
        int(ordinary.sum()),
        int(lone.sum()),
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
        np.concatenate([part.lone_accounts for part in parts]),
        sum(part.ordinary for part in parts),
        sum(part.lone for part in parts),
    )
