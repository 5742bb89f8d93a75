"""What has become of campaigns from one run to the next: new, merged, split, flagged, grown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from stillwatch.model.campaigns.finder import Campaign
from stillwatch.serving.campaigns.records import Change

PART = 0.5
"""Share of a new campaign's accounts that were in a known one for it to be a part of that."""


def sources_of(found: Sequence[Campaign], previous: Sequence[Campaign]) -> dict[str, str]:
    """Of campaigns that nobody knew: the known one that each is a part of, if there is one."""
    known = {old.campaign_id for old in previous}
    homes: dict[str, list[str]] = {}
    for old in previous:
        for account in old.accounts:
            homes.setdefault(account, []).append(old.campaign_id)
    sources = {}
    for campaign in found:
        if campaign.campaign_id in known:
            continue
        counts = Counter(home for one in campaign.accounts for home in homes.get(one, ()))
        best = max(counts, key=lambda name: (counts[name], name), default=None)
        if best is not None and counts[best] >= PART * len(campaign.accounts):
            sources[campaign.campaign_id] = best
    return sources


def changes_of(
    found: Sequence[Campaign], previous: Sequence[Campaign], sources: Mapping[str, str], now: float
) -> dict[str, Change]:
    """What changed of each campaign that is not as it was, by its id; of several things the one
    that matters most."""
    before = {old.campaign_id: old for old in previous}
    # A campaign whose id lives on and of which others are parts has split; one that is there no
    # more has only another name.
    parts: dict[str, list[str]] = {}
    alive = {one.campaign_id for one in found}
    for name, source in sources.items():
        if source in alive:
            parts.setdefault(source, []).append(name)
    changes = {}
    for campaign in found:
        change = _change(campaign, before, parts, sources, alive, now)
        if change is not None:
            changes[campaign.campaign_id] = change
    return changes


def _change(
    campaign: Campaign, before: Mapping[str, Campaign], parts: Mapping[str, list[str]],
    sources: Mapping[str, str], alive: set[str], now: float,
) -> Change | None:  # fmt: skip
    name, count = campaign.campaign_id, len(campaign.accounts)
    old = before.get(name)
    if old is None:
        if len(campaign.was) > 1:
            return Change("merged", now, count, campaign.was)
        if sources.get(name) in alive:
            return Change("split", now, count, (sources[name],))
        return Change("new", now, count)
    came = len(set(campaign.accounts) - set(old.accounts))
    gone = len(set(old.accounts) - set(campaign.accounts))
    if merged := sorted(set(campaign.was) - set(old.was)):
        return Change("merged", now, came, tuple(merged))
    if name in parts:
        return Change("split", now, -gone, tuple(sorted(parts[name])))
    if campaign.flagged and not old.flagged:
        return Change("flagged", now, came)
    if came:
        return Change("grown", now, came)
    return Change("shrunk", now, -gone) if gone else None
