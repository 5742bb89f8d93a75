"""Campaigns as rules of a response policy see them."""

from __future__ import annotations

from stillwatch.serving.campaigns.records import Stored
from stillwatch.serving.campaigns.store import CampaignStore
from stillwatch.serving.response.advice import Campaign


def judged(stored: Stored) -> Campaign:
    """One campaign, without accounts that a reviewer took out."""
    own = stored.summary
    return Campaign(
        own.campaign_id, tuple(stored.members), own.risk, own.intents, own.flagged,
        frozenset(own.kinds),
    )  # fmt: skip


def all_judged(store: CampaignStore) -> list[Campaign]:
    """Those of the last run. StoreError."""
    return [judged(stored) for stored in store.every()]
