"""Campaigns in the service: found by a process of their own, stored, ruled on by reviewers."""

from stillwatch.serving.campaigns.records import Change, MemberRuling, Run, Stored, Summary, Tie
from stillwatch.serving.campaigns.store import CampaignStore

__all__ = ["CampaignStore", "Change", "MemberRuling", "Run", "Stored", "Summary", "Tie"]
