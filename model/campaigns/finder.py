"""Campaigns: communities of accounts, read and judged.

    events -> CampaignIndex -> skeletons and keys -> communities -> readings -> campaigns

The same for one log, for all of an archive, and for what has come since the last run: the result
depends on the events and on the campaigns that were known before, which give their ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

import numpy as np

from stillwatch.model.campaigns.communities import Community, find_communities, members_of
from stillwatch.model.campaigns.evidence import Evidence, key_evidence, skeleton_evidence
from stillwatch.model.campaigns.index import CampaignIndex, EventTable
from stillwatch.model.campaigns.reading import CommunityReader, Fetch, Reading
from stillwatch.model.campaigns.risk import CampaignCalibration, feature_rows
from stillwatch.model.campaigns.skeletons import SkeletonFinder
from stillwatch.model.campaigns.timing import timing_links
from stillwatch.model.campaigns.work import Work
from stillwatch.model.detector import Detector

SAME = 0.3
"""Jaccard similarity of accounts above which a campaign is one that was known before."""
LINK_SHARE = 0.02
"""Of a campaign's accounts that a piece of evidence must tie to be told of as a link."""

Progress = Callable[[str, int, int], None]
"""Gets a stage's name, how much of it is done and of how much."""


@dataclass(frozen=True, slots=True)
class Link:
    """Why accounts are one campaign. `kind` is skeleton, network, payment, client, timing,
    handover or pivot; `events` names up to three events that show it; `detail` holds no prompt."""

    kind: str
    accounts: tuple[str, ...]
    detail: str
    events: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Campaign:
    """Accounts linked as one operation. `risk` and `intents` are probabilities; times are seconds
    since the epoch; `events` counts those that are evidence. `reasons` are features with their
    values and what each adds to the risk's logit. `was` are ids of campaigns that went into it."""

    campaign_id: str
    accounts: tuple[str, ...]
    risk: float
    intents: dict[str, float]
    flagged: bool
    threshold: float
    links: tuple[Link, ...]
    first_seen: float
    last_seen: float
    events: int
    bundle: str
    reasons: tuple[tuple[str, float, float], ...] = ()
    was: tuple[str, ...] = ()

    def to_fields(self) -> dict[str, Any]:
        """What a line of JSON says of it: the contract's fields first."""
        return {
            "campaign_id": self.campaign_id,
            "accounts": list(self.accounts),
            "risk": round(self.risk, 6),
            "intents": {name: round(value, 6) for name, value in self.intents.items()},
            "flagged": self.flagged,
            "links": [
                {"kind": link.kind, "accounts": list(link.accounts), "detail": link.detail}
                for link in self.links
            ],
            "first_seen": _time(self.first_seen),
            "last_seen": _time(self.last_seen),
            "bundle": self.bundle,
            "threshold": round(self.threshold, 6),
            "events": self.events,
            "reasons": [
                {"feature": name, "value": round(value, 4), "logit": round(share, 4)}
                for name, value, share in self.reasons
            ],
            "was": list(self.was),
        }


class _Ties(NamedTuple):
    """A community's members by name, sorted, those of its events that they sent, int64 in order of
    time, and the links that are no matter of time."""

    accounts: tuple[str, ...]
    events: np.ndarray
    links: tuple[Link, ...]


class CampaignFinder:
    """Finds the campaigns among the events of an index. `fetch` gives events by their numbers."""

    def __init__(
        self, detector: Detector, index: CampaignIndex, fetch: Fetch,
        calibration: CampaignCalibration,
    ) -> None:  # fmt: skip
        self.index = index
        self.calibration = calibration
        self._bundle = detector.bundle_id
        self._intents = detector.intents
        self._skeletons = SkeletonFinder()
        self._reader = CommunityReader(detector, fetch)
        self._ties: dict[bytes, _Ties] = {}

    def find(
        self, previous: Sequence[Campaign] = (), progress: Progress = lambda *_: None
    ) -> list[Campaign]:
        """All communities as campaigns, flagged or not, the riskiest first. One that is mostly a
        previous one keeps its id, and stays flagged until its risk falls below `leave`."""
        table = self.index.table()
        if not len(table):
            return []
        progress("skeletons", 0, 1)
        skeletons = self._skeletons.find(table.pairs, table.account, table.identity)
        evidence = [
            *skeleton_evidence(table, skeletons),
            *key_evidence(self.index.keys, len(self.index.accounts)),
        ]
        progress("skeletons", 1, 1)
        communities = find_communities(evidence)
        readings = self._reader.read(
            communities, table, self.index,
            lambda done: progress("communities", done, len(communities)), self._clear,
        )  # fmt: skip
        rows = feature_rows([own.features for own in readings])
        judged = zip(
            self._ties_of(communities, readings, table), readings,
            self.calibration.probability(rows).tolist(), self.calibration.reasons(rows),
            strict=True,
        )  # fmt: skip
        found = [self._campaign(*one, table) for one in judged]
        return named(found, previous, self.calibration.leave)

    def _clear(self, features: np.ndarray) -> np.ndarray:
        return self.calibration.probability(features) < self.calibration.leave

    def _ties_of(
        self, communities: Sequence[Community], readings: Sequence[Reading], table: EventTable
    ) -> list[_Ties]:
        """What ties the accounts of each community; kept for as long as its work is the same."""
        works = [reading.work for reading in readings]
        found = [
            self._ties.get(work.key) or self._tied(community, work, table)
            for community, work in zip(communities, works, strict=True)
        ]
        self._ties = {work.key: ties for work, ties in zip(works, found, strict=True)}
        return found

    def _tied(self, community: Community, work: Work, table: EventTable) -> _Ties:
        members = members_of(community, work.events, table)
        links = [
            link
            for one in community.evidence
            for link in self._links(one, members, table)
            if len(link.accounts) >= max(2.0, LINK_SHARE * len(members))
        ]
        own = np.isin(table.account[work.events], members)
        return _Ties(self._account_names(members), work.events[own], tuple(links))

    def _campaign(
        self, ties: _Ties, reading: Reading, risk: float,
        reasons: Sequence[tuple[str, float, float]], table: EventTable,
    ) -> Campaign:  # fmt: skip
        links = [
            Link(found.kind, self._account_names(found.accounts), found.detail)
            for found in timing_links(table, ties.events, self.index.models)
        ]
        return Campaign(
            campaign_id=_new_id(ties.accounts),
            accounts=ties.accounts,
            risk=risk,
            intents=dict(zip(self._intents, map(float, reading.intents), strict=True)),
            flagged=risk >= self.calibration.enter,
            threshold=self.calibration.enter,
            links=tuple(sorted([*ties.links, *links], key=lambda link: -len(link.accounts))),
            first_seen=float(table.time[ties.events[0]]),
            last_seen=float(table.time[ties.events[-1]]),
            events=len(ties.events),
            bundle=self._bundle,
            reasons=tuple(reasons),
        )

    def _links(self, one: Evidence, members: np.ndarray, table: EventTable) -> list[Link]:
        if one.kind == "keys":
            return [
                Link(
                    key.kind, self._account_names(tied),
                    f"{len(tied)} accounts have the same {key.kind}",
                )
                for key in one.keys
                if len(tied := np.intersect1d(sorted(self.index.keys[key]), members)) > 1
            ]  # fmt: skip
        own = one.events[np.isin(table.account[one.events], members)]
        tied = np.unique(table.account[own])
        texts = len(np.unique(table.text[own]))
        detail = (
            f"about {one.words} words shared by {len(own):,} prompts of {len(tied):,} accounts, "
            f"{texts:,} of them different"
        )
        shown = own[np.argsort(table.identity[own], kind="stable")][:3]
        return [Link("skeleton", self._account_names(tied), detail, self._event_names(shown))]

    def _account_names(self, numbers: np.ndarray) -> tuple[str, ...]:
        return tuple(sorted(self.index.accounts[int(number)] for number in numbers))

    def _event_names(self, numbers: np.ndarray) -> tuple[tuple[str, str], ...]:
        events = self._reader.fetch([int(number) for number in numbers])
        return tuple((event.account_id, event.event_id) for event in events)


class Judged(Protocol):
    """What is known of one account; serving's Verdict is one."""

    @property
    def account_id(self) -> str: ...
    @property
    def events(self) -> int: ...
    @property
    def risk(self) -> float: ...
    @property
    def threshold(self) -> float: ...
    @property
    def intents(self) -> Mapping[str, float]: ...
    @property
    def bundle(self) -> str: ...


def single_account(verdict: Judged, first_seen: float, last_seen: float) -> Campaign:
    """A flagged account that is linked with no other, as a campaign of its own; times as in
    Campaign."""
    return Campaign(
        campaign_id=_new_id([verdict.account_id]),
        accounts=(verdict.account_id,),
        risk=verdict.risk,
        intents=dict(verdict.intents),
        flagged=True,
        threshold=verdict.threshold,
        links=(),
        first_seen=first_seen,
        last_seen=last_seen,
        events=verdict.events,
        bundle=verdict.bundle,
    )


def named(found: Sequence[Campaign], previous: Sequence[Campaign], leave: float) -> list[Campaign]:
    """Campaigns with the ids of those they go on from, the riskiest first. Of the parts of one that
    has split, the most alike keeps its id; one that others have merged into keeps that of the most
    alike and names the others in `was`."""
    holders: dict[str, list[int]] = {}
    for place, old in enumerate(previous):
        for account in old.accounts:
            holders.setdefault(account, []).append(place)
    pairs = []
    inside: dict[int, list[int]] = {}
    for number, campaign in enumerate(found):
        common: dict[int, int] = {}
        for account in campaign.accounts:
            for place in holders.get(account, ()):
                common[place] = common.get(place, 0) + 1
        for place, both in common.items():
            old = previous[place]
            union = len(campaign.accounts) + len(old.accounts) - both
            pairs.append((both / union, number, place))
            if both >= len(old.accounts) / 2:
                inside.setdefault(number, []).append(place)
    ids: dict[int, int] = {}
    taken: set[int] = set()
    for alike, number, place in sorted(pairs, key=lambda p: (-p[0], found[p[1]].campaign_id)):
        if alike >= SAME and number not in ids and place not in taken:
            ids[number] = place
            taken.add(place)
    result = []
    for number, campaign in enumerate(found):
        was = {
            previous[place].campaign_id for place in inside.get(number, ()) if place not in taken
        }
        if number in ids:
            old = previous[ids[number]]
            campaign = replace(
                campaign,
                campaign_id=old.campaign_id,
                flagged=campaign.flagged or (old.flagged and campaign.risk >= leave),
                was=tuple(sorted(was | set(old.was))),
            )
        elif was:
            campaign = replace(campaign, was=tuple(sorted(was)))
        result.append(campaign)
    return sorted(result, key=lambda one: (-one.flagged, -one.risk, one.campaign_id))


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _new_id(accounts: Sequence[str]) -> str:
    digest = hashlib.blake2b(digest_size=6)
    for account in accounts:
        digest.update(account.encode("utf-8", "surrogatepass") + b"\0")
    return f"c-{digest.hexdigest()}"
