"""How many of a campaign's accounts are found, who else is touched, and what leaks before.

A campaign is told of in accounts: those of it that stand in a flagged campaign are found, and
ordinary ones that do are touched. Precision is the share of found among all that stand in one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from stillwatch.data.events import Event
from stillwatch.model.campaigns.communities import Community
from stillwatch.model.campaigns.evidence import Evidence, key_evidence
from stillwatch.model.campaigns.finder import Campaign, CampaignFinder
from stillwatch.model.campaigns.index import CampaignIndex
from stillwatch.model.campaigns.reading import CommunityReader
from stillwatch.model.campaigns.risk import FEATURES, CampaignCalibration
from stillwatch.model.campaigns.skeletons import find_skeletons
from stillwatch.model.detector import Detector
from stillwatch.training.benchmark.campaign_world import World

Progress = Callable[[str], None]

PRECISION = 0.97
"""Of the accounts in flagged campaigns."""


@dataclass(frozen=True)
class Truth:
    """Of a world: the campaign that each attacking account is of, and the kind of group that each
    ordinary account is of (`lone` for most)."""

    campaign: dict[str, str]
    kind: dict[str, str]

    @classmethod
    def of(cls, world: World) -> Truth:
        campaign: dict[str, str] = {}
        kind: dict[str, str] = {}
        for group in world.groups:
            for stream in group.streams:
                if group.intent:
                    campaign[stream.account_id] = group.name
                else:
                    kind[stream.account_id] = group.kind
        kind.update({stream.account_id: "lone" for stream in world.ordinary})
        return cls(campaign, kind)


@dataclass(frozen=True)
class Found:
    """Accounts of each campaign found and in all, and ordinary ones touched and in all, by kind."""

    campaigns: dict[str, tuple[int, int]]
    ordinary: dict[str, tuple[int, int]]

    @property
    def recall(self) -> float:
        found, total = map(sum, zip(*self.campaigns.values(), strict=True))
        return found / total

    @property
    def precision(self) -> float:
        found = sum(own for own, _ in self.campaigns.values())
        touched = sum(own for own, _ in self.ordinary.values())
        return found / (found + touched) if found else 0.0

    @property
    def untouched(self) -> float:
        touched, total = map(sum, zip(*self.ordinary.values(), strict=True))
        return 1 - touched / total


def judge(truth: Truth, flagged: Iterable[str]) -> Found:
    """What it means that these accounts stand in flagged campaigns."""
    named = set(flagged)
    campaigns: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    ordinary: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for groups, counts in ((truth.campaign, campaigns), (truth.kind, ordinary)):
        for account, name in groups.items():
            counts[name][0] += account in named
            counts[name][1] += 1
    return Found(
        {name: (own[0], own[1]) for name, own in campaigns.items()},
        {name: (own[0], own[1]) for name, own in ordinary.items()},
    )


def in_flagged(campaigns: Iterable[Campaign]) -> set[str]:
    """Accounts of flagged campaigns."""
    return {account for one in campaigns if one.flagged for account in one.accounts}


def find(
    detector: Detector, calibration: CampaignCalibration, index: CampaignIndex,
    events: Sequence[Event], progress: Progress,
) -> list[Campaign]:  # fmt: skip
    """Everything linked among the events of an index."""

    def told(stage: str, done: int, total: int) -> None:
        if done % 200 == 0 or done == total:
            progress(f"{stage}: {done:,} of {total:,}")

    return CampaignFinder(
        detector, index, lambda numbers: [events[n] for n in numbers], calibration
    ).find(progress=told)


def shared_infrastructure(index: CampaignIndex) -> set[str]:
    """Baseline: accounts with a rare network or payment in common with two others."""
    tied = key_evidence(index.keys, len(index.accounts))
    return {index.accounts[int(a)] for own in tied for a in own.accounts}


def tied_by_skeletons(
    detector: Detector, index: CampaignIndex, events: Sequence[Event], guilty: frozenset[str]
) -> set[str]:
    """Baseline: connected components of accounts that share any skeleton, each judged by the
    classifier's risk on its merged stream. At its best: the threshold that finds the most accounts
    of `guilty` at PRECISION, which no site could know."""
    table = index.table()
    found = find_skeletons(table.pairs, table.account, table.identity)
    rows, columns = found.skeleton, len(found) + table.account[found.event]
    total = len(found) + len(index.accounts)
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(total, total))
    label = connected_components(graph, directed=False)[1][len(found) :]
    held = np.unique(table.account[found.event])
    groups: dict[int, list[int]] = defaultdict(list)
    for account in held:
        groups[int(label[account])].append(int(account))
    communities = []
    for accounts in groups.values():
        own = found.event[np.isin(table.account[found.event], accounts)]
        evidence = Evidence("skeleton", "all", np.array(accounts), np.unique(own))
        communities.append(Community((evidence,), np.array(accounts)))
    reader = CommunityReader(detector, lambda numbers: [events[n] for n in numbers])
    readings = reader.read(communities, table, index)
    order = sorted(
        range(len(communities)), key=lambda n: -readings[n].features[FEATURES.index("risk")]
    )
    best: set[str] = set()
    named: set[str] = set()
    for number in order:
        named |= {index.accounts[int(a)] for a in communities[number].accounts}
        true = len(named & guilty)
        if true >= PRECISION * len(named) and true > len(best & guilty):
            best = set(named)
    return best


def leaks(
    detector: Detector,
    calibration: CampaignCalibration,
    world: World,
    times: Sequence[float],
    progress: Progress,
) -> dict[str, float]:
    """Share of each campaign's attack prompts that had been answered when a run of the linking
    first held half of the accounts that had begun in a flagged campaign; 1 if none did. Runs come
    at `times`, seconds, each on what is new since the last."""
    truth = Truth.of(world)
    attacking = world.attack_events()
    events = world.events()
    sent = Counter(truth.campaign[account] for account, _ in attacking)
    index = CampaignIndex()
    finder = CampaignFinder(
        detector, index, lambda numbers: [events[n] for n in numbers], calibration
    )
    found: dict[str, float] = {}
    seen = 0
    previous: list[Campaign] = []
    begun: dict[str, set[str]] = defaultdict(set)
    prompts: Counter[str] = Counter()
    for time in times:
        stop = bisect_right(events, time, key=lambda event: event.timestamp)
        index.add(events[seen:stop])
        for event in events[seen:stop]:
            if (event.account_id, event.event_id) in attacking:
                name = truth.campaign[event.account_id]
                begun[name].add(event.account_id)
                prompts[name] += 1
        seen = stop
        previous = finder.find(previous)
        flagged = in_flagged(previous)
        for name, accounts in begun.items():
            if name not in found and len(accounts & flagged) >= len(accounts) / 2:
                found[name] = prompts[name] / sent[name]
        progress(f"a run on {seen:,} events: {len(found)} of {len(sent)} campaigns flagged by now")
    return {name: found.get(name, 1.0) for name in sent}
