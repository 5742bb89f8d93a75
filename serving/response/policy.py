"""A policy: rules in order, the first that fits an account gives the advice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from stillwatch.data.errors import ConfigError
from stillwatch.serving.response.advice import (
    NO_RULE,
    REJECTED_ACCOUNT,
    Action,
    Advice,
    Campaign,
    Case,
)
from stillwatch.serving.response.conditions import Condition, DecisionIs

Scope = Literal["account", "campaign"]
DEFAULT = "default"
"""Names the policy that comes with the package."""
MAX_BYTES = 256 * 1024
"""Longest file of a policy."""


class PolicyError(ConfigError):
    """Every fault of a policy's file, one line each. It names lines and rules."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `line` is where it begins in the file, `text` its lines as they stand there.

    A campaign rule fits an account by any campaign that it is in; the decision that it may ask for
    is that on the account itself, so that nobody is touched for a neighbour's sake alone.
    """

    name: str
    advice: Action
    scope: Scope
    when: tuple[Condition, ...]
    enforce: bool
    reviewer: str | None
    reason: str | None
    line: int
    text: str

    @property
    def needs_confirmation(self) -> bool:
        """Whether it fits only accounts that a reviewer has confirmed."""
        return DecisionIs("confirmed") in self.when

    def fits(self, case: Case) -> tuple[tuple[str, ...], str | None] | None:
        """Why it fits, and by which campaign; None if it does not."""
        if self.scope == "account":
            told = self._holds(case, None, 0)
            return (told, None) if told is not None else None
        for campaign, confirmed in case.campaigns:
            told = self._holds(case, campaign, confirmed)
            if told is not None:
                return told, campaign.id
        return None

    def _holds(
        self, case: Case, campaign: Campaign | None, confirmed: int
    ) -> tuple[str, ...] | None:
        told = []
        for condition in self.when:
            why = condition.holds(case, campaign, confirmed)
            if why is None:
                return None
            told.append(why)
        return tuple(told)


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules in order. `sha256` is that of the file, `name` what messages call it."""

    rules: tuple[Rule, ...]
    sha256: str
    name: str

    @property
    def enforces(self) -> bool:
        """Whether any rule is enforced."""
        return any(rule.enforce for rule in self.rules)

    @property
    def asks_for_decisions(self) -> bool:
        """Whether any rule fits by what reviewers decided."""
        return any(isinstance(one, DecisionIs) for rule in self.rules for one in rule.when)

    def advise(self, case: Case) -> Advice:
        """What the first rule that fits says; observe if none does. An account that a reviewer
        has rejected is observed whatever the rules say."""
        if case.ruled == "rejected":
            assert case.decision is not None
            return self.observe(REJECTED_ACCOUNT, f"rejected by decision {case.decision.id}")
        for rule in self.rules:
            found = rule.fits(case)
            if found is not None:
                because, campaign = found
                return Advice(
                    rule.advice, rule.name, rule.line, rule.text, because, rule.enforce,
                    rule.reviewer, rule.reason, self.sha256, campaign,
                )  # fmt: skip
        return self.observe(NO_RULE, "no rule fits")

    def still_enforces(self, rule: str, action: Action) -> bool:
        """Whether a rule of this name enforces this action now."""
        return any(one.enforce and (one.name, one.advice) == (rule, action) for one in self.rules)

    def observe(self, rule: str, why: str) -> Advice:
        """Advice that no rule of the file gives."""
        return Advice("observe", rule, None, "", (why,), False, None, None, self.sha256)


def load_policy(path: Path | None) -> Policy:
    """The policy in a file, None is the one of the package. Raises PolicyError with all that is
    wrong."""
    from stillwatch.serving.response.reading import read_policy

    if path is None:
        content = resources.files("stillwatch.serving.response").joinpath("default.yaml")
        return read_policy(content.read_bytes(), DEFAULT)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise PolicyError(
            [f"the policy must be a readable file, however: {error.strerror}; correct the path"]
        ) from None
    return read_policy(data, path.name)


def named_policy(name: str | Path) -> Policy:
    """As `load_policy`, where the word `default` is the one of the package."""
    return load_policy(None if str(name) == DEFAULT else Path(name))


class PolicyFile:
    """A policy that is read again when its file changes. A faulty one is refused whole and the
    old one stays."""

    def __init__(self, name: str | Path) -> None:
        """Raises PolicyError: a service does not start with a policy that cannot be meant."""
        self._path = None if str(name) == DEFAULT else Path(name)
        self._stamp = self._look()
        self.current = named_policy(name)
        self.faults: tuple[str, ...] = ()
        """Of the file as it is now, if it was refused."""

    def refresh(self) -> bool:
        """Take over the file if it changed; whether anything did, a refusal too."""
        stamp = self._look()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            self.current, self.faults = load_policy(self._path), ()
        except PolicyError as error:
            self.faults = tuple(error.lines)
        return True

    def _look(self) -> tuple[int, int, int] | None:
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except OSError:
            return (0, 0, 0)
        return found.st_mtime_ns, found.st_size, found.st_ino


def rules_of(policy: Policy) -> Iterator[tuple[str, ...]]:
    """Each rule as cells of a table: line, rule, scope, advice, who enforces it."""
    for rule in policy.rules:
        by = f"by {rule.reviewer}" if rule.enforce else "advice only"
        yield str(rule.line), rule.name, rule.scope, rule.advice, by
