"""What a policy advises, and what it judges: an account, what was decided, its campaigns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from stillwatch.serving.desk.records import Decision
from stillwatch.serving.verdict import Verdict

Action = Literal["observe", "throttle", "challenge", "review", "block"]
ACTIONS: tuple[Action, ...] = get_args(Action)
RANK: Mapping[Action, int] = {
    "observe": 0, "review": 1, "throttle": 2, "challenge": 3, "block": 4,
}  # fmt: skip
"""How hard an action is on a customer, who notices nothing of the first two."""
TOUCHING: frozenset[Action] = frozenset({"throttle", "challenge", "block"})
"""Actions that a customer notices: the only ones that can be enforced."""

Ruled = Literal["confirmed", "rejected", "none"]
"""How an account stands with its reviewers. `none`: nobody decided, more was wanted, or a
confirmation waits for a second reviewer."""
RULED: tuple[Ruled, ...] = get_args(Ruled)

NO_RULE, REJECTED_ACCOUNT = "no-rule", "rejected-account"
"""What stands in the place of a rule's name where no rule fits, and where a reviewer said that the
account does not attack."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What a policy says of an account. `because` are the conditions that hold, with their values.

    `line` and `text` are the rule as it stands in the policy's file, None and empty of what is
    built in. `reviewer` and `reason` are the rule's: who stands for enforcing it, and why.
    `policy` is the SHA-256 of the file. `campaign` is the one that a campaign rule fits by.
    """

    action: Action
    rule: str
    line: int | None
    text: str
    because: tuple[str, ...]
    enforce: bool
    reviewer: str | None
    reason: str | None
    policy: str
    campaign: str | None = None

    def to_fields(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "action": self.action, "rule": self.rule, "line": self.line, "text": self.text,
            "because": list(self.because), "enforce": self.enforce, "reviewer": self.reviewer,
            "reason": self.reason, "policy": self.policy, "campaign": self.campaign,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Campaign:
    """Accounts that are linked as one operation, as a line of `stillwatch campaigns` says."""

    id: str
    accounts: tuple[str, ...]
    risk: float
    intents: Mapping[str, float]
    flagged: bool
    links: frozenset[str]
    """Kinds of what links them."""


@dataclass(frozen=True, slots=True)
class Case:
    """What rules judge: a verdict, the present decision on its account, and the campaigns that the
    account is in, each with how many of its accounts are confirmed."""

    verdict: Verdict
    decision: Decision | None = None
    campaigns: tuple[tuple[Campaign, int], ...] = ()

    @property
    def ruled(self) -> Ruled:
        return ruled(self.decision)


def ruled(decision: Decision | None) -> Ruled:
    """How the present decision on an account counts."""
    if decision is None or decision.state != "counts":
        return "none"
    if decision.verdict == "confirm":
        return "confirmed"
    return "rejected" if decision.verdict == "reject" else "none"
