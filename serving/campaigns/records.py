"""What is kept of campaigns, of the runs that found them, and of what reviewers ruled on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, get_args

from stillwatch.model.campaigns.finder import Campaign, Link
from stillwatch.serving.verdict import DIGITS

ChangeKind = Literal["new", "merged", "split", "flagged", "grown", "shrunk"]
CHANGES: tuple[ChangeKind, ...] = get_args(ChangeKind)
Membership = Literal["confirmed", "excluded"]


class Change(NamedTuple):
    """What was last seen to change of a campaign, and when. `accounts` came, or went if it is
    negative; `of` are the campaigns that merged into it, or that it split from or into."""

    kind: ChangeKind
    time: float
    accounts: int = 0
    of: tuple[str, ...] = ()


class Run(NamedTuple):
    """One look for campaigns: when it began, seconds it took, events that were looked at and how
    many of them were new. `rebuilt` says that all of them were read again."""

    id: int
    time: float
    seconds: float
    events: int
    fresh: int
    campaigns: int
    flagged: int
    bundle: str
    rebuilt: bool

    def to_fields(self) -> dict[str, Any]:
        """As JSON."""
        return self._asdict()


class MemberRuling(NamedTuple):
    """What a reviewer said of one account of a campaign. `entry` is the audit log's; `decision`
    the one on the account that a confirmation made."""

    entry: int
    campaign_id: str
    account_id: str
    verdict: Membership
    reason: str
    reviewer: str
    time: float
    decision: int | None


@dataclass(frozen=True, slots=True)
class Summary:
    """A campaign without its members. Times are seconds since the epoch; `accounts` counts all
    that linking found, excluded ones too. `lineage` are ids under which rulings on it were made."""

    campaign_id: str
    risk: float
    intents: Mapping[str, float]
    flagged: bool
    threshold: float
    accounts: int
    events: int
    first_seen: float
    last_seen: float
    kinds: Mapping[str, int]
    """How many links of each kind."""
    bundle: str
    reasons: tuple[tuple[str, float, float], ...]
    was: tuple[str, ...]
    lineage: tuple[str, ...]
    change: Change | None

    def to_fields(self) -> dict[str, Any]:
        """As JSON: how many accounts, and how many links of each kind."""
        return {
            "campaign_id": self.campaign_id,
            "accounts": self.accounts,
            "risk": round(self.risk, DIGITS),
            "intents": {name: round(value, DIGITS) for name, value in self.intents.items()},
            "flagged": self.flagged,
            "links": dict(self.kinds),
            "first_seen": _time(self.first_seen),
            "last_seen": _time(self.last_seen),
            "bundle": self.bundle,
            "threshold": round(self.threshold, DIGITS),
            "events": self.events,
            "was": list(self.was),
            "change": change_fields(self.change),
        }


@dataclass(frozen=True, slots=True)
class Tie:
    """A link with its accounts as places in the campaign's list; `accounts` counts them."""

    kind: str
    detail: str
    events: tuple[tuple[str, str], ...]
    places: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """A campaign as the last run left it. `accounts` by place; a place whose account was erased
    since is not there. `rulings` are those that stand, by account."""

    summary: Summary
    accounts: Mapping[int, str]
    ties: tuple[Tie, ...]
    rulings: Mapping[str, MemberRuling] = field(default_factory=dict)

    @property
    def excluded(self) -> frozenset[str]:
        """Accounts that a reviewer took out."""
        return frozenset(
            name for name, ruling in self.rulings.items() if ruling.verdict == "excluded"
        )

    @property
    def members(self) -> list[str]:
        """Accounts that nobody took out, in order."""
        out = self.excluded
        return [name for name in self.accounts.values() if name not in out]

    def to_campaign(self) -> Campaign:
        """As linking gave it, but for accounts that were erased since."""
        own = self.summary
        links = tuple(Link(tie.kind, self._names(tie), tie.detail, tie.events) for tie in self.ties)
        return Campaign(
            own.campaign_id, tuple(self.accounts.values()), own.risk, dict(own.intents),
            own.flagged, own.threshold, links, own.first_seen, own.last_seen, own.events,
            own.bundle, own.reasons, own.was,
        )  # fmt: skip

    def to_fields(self) -> dict[str, Any]:
        """As JSON: the line of `stillwatch campaigns`, its accounts and links without those that
        were taken out, these told apart."""
        out = self.excluded
        fields = self.to_campaign().to_fields()
        fields["accounts"] = [name for name in fields["accounts"] if name not in out]
        for link in fields["links"]:
            link["accounts"] = [name for name in link["accounts"] if name not in out]
        return {
            **fields,
            "excluded": sorted(out),
            "change": change_fields(self.summary.change),
        }

    def _names(self, tie: Tie) -> tuple[str, ...]:
        return tuple(self.accounts[place] for place in tie.places if place in self.accounts)


def change_fields(change: Change | None) -> dict[str, Any] | None:
    """A change as JSON."""
    return None if change is None else {**change._asdict(), "of": list(change.of)}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
