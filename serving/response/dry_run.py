"""A dry run: whom a policy would have touched in past traffic.

A verdict is judged after each event, as a service would have done, and an account counts by the
hardest advice that it ever had: what touches a customer for an hour has touched it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from stillwatch.data.events import Label
from stillwatch.serving.desk.records import Decision
from stillwatch.serving.response.advice import RANK, TOUCHING, Action, Advice, Campaign, Case
from stillwatch.serving.response.campaigns import Campaigns
from stillwatch.serving.response.policy import Policy
from stillwatch.serving.verdict import Verdict

Known = Literal["ordinary", "attacking", "unlabelled"]
CONFIDENCE = 0.95


@dataclass(slots=True)
class Judged:
    """What became of one account. `after` events it had its hardest advice for the first time,
    of `events` in all; `last` is what it is advised at the end."""

    account_id: str
    advice: Advice
    after: int
    events: int
    last: Action

    @property
    def since(self) -> int:
        """Events from the one on that brought the advice."""
        return self.events - self.after + 1


@dataclass(frozen=True, slots=True)
class Row:
    """Accounts under one rule's advice. `share` is of all accounts, `events` from the one on that
    brought the advice, `still` how many stand under it at the end."""

    action: Action
    rule: str
    enforce: bool
    accounts: int
    share: float
    events: int
    still: int
    known: Mapping[Known, int]


@dataclass(frozen=True, slots=True)
class Rate:
    """Ordinary accounts that would have been touched, of all that the labels name, and the
    Clopper-Pearson interval of their share."""

    touched: int
    accounts: int
    low: float
    high: float


class DryRun:
    """A policy over a log, its decisions and campaigns as they are known now."""

    def __init__(
        self,
        policy: Policy,
        decisions: Mapping[str, Decision] | None = None,
        campaigns: Sequence[Campaign] = (),
    ) -> None:
        self.policy = policy
        self._decisions = decisions or {}
        self._campaigns = Campaigns(campaigns, self._decisions)
        self._judged: dict[str, Judged] = {}

    def see(self, verdicts: Iterable[Verdict]) -> None:
        """Judge verdicts, each as it stood after an event, in order."""
        for verdict in verdicts:
            name = verdict.account_id
            case = Case(verdict, self._decisions.get(name), self._campaigns.of(name))
            advice = self.policy.advise(case)
            held = self._judged.get(name)
            if held is None:
                self._judged[name] = Judged(
                    name, advice, verdict.events, verdict.events, advice.action
                )
                continue
            held.events, held.last = verdict.events, advice.action
            if RANK[advice.action] > RANK[held.advice.action]:
                held.advice, held.after = advice, verdict.events

    @property
    def accounts(self) -> int:
        return len(self._judged)

    @property
    def events(self) -> int:
        return sum(one.events for one in self._judged.values())

    def judged(self) -> list[Judged]:
        """Accounts by the hardness of their advice, the hardest first."""
        return sorted(self._judged.values(), key=lambda one: -RANK[one.advice.action])

    def rows(self, known: Mapping[str, Known] | None = None) -> list[Row]:
        """One row for each advice and rule that any account is under, the hardest first."""
        groups: dict[tuple[Action, str], list[Judged]] = {}
        for one in self.judged():
            groups.setdefault((one.advice.action, one.advice.rule), []).append(one)
        return [
            Row(
                action, rule, any(one.advice.enforce for one in found), len(found),
                len(found) / self.accounts, sum(one.since for one in found),
                sum(one.last == action for one in found), _counts(found, known or {}),
            )
            for (action, rule), found in groups.items()
        ]  # fmt: skip

    def ordinary_touched(
        self, known: Mapping[str, Known], actions: frozenset[Action] = TOUCHING
    ) -> Rate:
        """How many ordinary accounts of the log would have had one of some actions."""
        own = [one for one in self._judged.values() if known.get(one.account_id) == "ordinary"]
        touched = sum(one.advice.action in actions for one in own)
        return Rate(touched, len(own), *_interval(touched, len(own)))


def known_accounts(labels: Iterable[Label]) -> dict[str, Known]:
    """What labels say of accounts; those of a campaign are what it is."""
    found: dict[str, Known] = {}
    for label in labels:
        accounts = (label.id,) if label.subject == "account" else label.accounts
        for name in accounts:
            found[name] = "attacking" if label.intents else "ordinary"
    return found


def _counts(judged: Sequence[Judged], known: Mapping[str, Known]) -> dict[Known, int]:
    found: dict[Known, int] = {"ordinary": 0, "attacking": 0, "unlabelled": 0}
    for one in judged:
        found[known.get(one.account_id, "unlabelled")] += 1
    return found


def _interval(found: int, of: int) -> tuple[float, float]:
    if not of:
        return 0.0, 1.0
    from scipy.special import betaincinv

    tail = (1 - CONFIDENCE) / 2
    low = float(betaincinv(found, of - found + 1, tail)) if found else 0.0
    high = float(betaincinv(found + 1, of - found, 1 - tail)) if found < of else 1.0
    return low, high
