"""Conditions of rules. Each says why it holds of a case, with the values, or None.

What they say holds numbers and names of intents and link kinds alone, never a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from stillwatch.serving.response.advice import Campaign, Case, Ruled
from stillwatch.serving.verdict import Verdict


class Condition(Protocol):
    """One line of a rule's `when`."""

    def holds(self, case: Case, campaign: Campaign | None, confirmed: int) -> str | None:
        """Why it holds, None if it does not. Under a campaign rule `campaign` is the one that is
        judged and `confirmed` how many of its accounts are confirmed; else None and 0."""


Figure = Callable[[Verdict], float]

FIGURES: Mapping[str, Figure] = {
    "risk": lambda verdict: verdict.risk,
    "peak_risk": lambda verdict: verdict.peak_risk,
    "margin": lambda verdict: verdict.risk - verdict.threshold,
    "events": lambda verdict: verdict.events,
    "truncated": lambda verdict: verdict.truncated / verdict.events if verdict.events else 0.0,
}
"""Figures of an account: risks are probabilities, `margin` how far the risk is above the
threshold, `events` how many were read, `truncated` the share of them not read whole."""


@dataclass(frozen=True, slots=True)
class AtLeast:
    """A figure of the account has reached a limit."""

    name: str
    limit: float

    def holds(self, case: Case, campaign: Campaign | None, confirmed: int) -> str | None:
        value = FIGURES[self.name](case.verdict)
        return f"{self.name} {value:.4g} >= {self.limit:g}" if value >= self.limit else None


@dataclass(frozen=True, slots=True)
class AtMost:
    """A figure of the account is not above a limit."""

    name: str
    limit: float

    def holds(self, case: Case, campaign: Campaign | None, confirmed: int) -> str | None:
        value = FIGURES[self.name](case.verdict)
        return f"{self.name} {value:.4g} <= {self.limit:g}" if value <= self.limit else None


@dataclass(frozen=True, slots=True)
class CampaignAtLeast:
    """A figure of the campaign has reached a limit: risk, accounts or confirmed accounts."""

    name: str
    limit: float

    def holds(self, case: Case, campaign: Campaign | None, confirmed: int) -> str | None:
        assert campaign is not None
        value = {
            "risk": campaign.risk, "accounts": len(campaign.accounts),
            "confirmed accounts": confirmed,
        }[self.name]  # fmt: skip
        told = f"campaign's {self.name} {value:.4g} >= {self.limit:g}"
        return told if value >= self.limit else None


@dataclass(frozen=True, slots=True)
class Flagged:
    """The account, or under a campaign rule the campaign, is flagged now, or is not."""

    wanted: bool

    def holds(self, case: Case, campaign: Campaign | None, confirmed: int) -> str | None:
        who = "campaign " if campaign else ""
        found = campaign.flagged if campaign else case.verdict.flagged
        return f"{who}{'flagged' if found else 'not flagged'}" if found == self.wanted else None


@dataclass(frozen=True, slots=True)
class EvidenceAtLeast:
    """So many events of the evidence speak for an intent by `contribution` or more, and are as
    near to a template as `similarity`."""

    count: int
    contribution: float = 0.0
    similarity: float | None = None

    def holds(self, case: Case, campaign: Campaign | None, confirmed: int) -> str | None:
        found = sum(
            item.contribution >= self.contribution
            and (
                self.similarity is None
                or (item.template_id is not None and item.similarity >= self.similarity)
            )
            for item in case.verdict.evidence
        )
        if found < self.count:
            return None
        what = "events" if self.similarity is None else "template matches"
        by = f"contribution >= {self.contribution:g}"
        if self.similarity is not None:
            by = f"similarity >= {self.similarity:g}"
        return f"{found} {what} of {by} (at least {self.count})"


@dataclass(frozen=True, slots=True)
class AnyIntent:
    """One of some intents is so likely, of the account or of the campaign."""

    names: tuple[str, ...]
    limit: float

    def holds(self, case: Case, campaign: Campaign | None, confirmed: int) -> str | None:
        values = campaign.intents if campaign else case.verdict.intents
        found = [name for name in self.names if values.get(name, 0.0) >= self.limit]
        told = [f"{name} {values[name]:.4g} >= {self.limit:g}" for name in found]
        return " and ".join(told) or None


@dataclass(frozen=True, slots=True)
class DecisionIs:
    """How the account stands with its reviewers."""

    wanted: Ruled

    def holds(self, case: Case, campaign: Campaign | None, confirmed: int) -> str | None:
        if case.ruled != self.wanted:
            return None
        if case.decision is None or self.wanted == "none":
            return "no decision that counts"
        return f"{self.wanted} by decision {case.decision.id}"


@dataclass(frozen=True, slots=True)
class AnyLink:
    """The campaign's accounts are linked by one of some kinds."""

    kinds: tuple[str, ...]

    def holds(self, case: Case, campaign: Campaign | None, confirmed: int) -> str | None:
        assert campaign is not None
        found = sorted(campaign.links & set(self.kinds))
        return f"linked by {', '.join(found)}" if found else None
