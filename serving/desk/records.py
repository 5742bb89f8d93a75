"""What the desk gives back. Times are seconds since the epoch, similarities cosines.

Reasons, reviewers' names and account ids are text from outside: whoever shows one makes it safe.
No record holds a prompt, but a site template its own text, and a proposal the frame it is about.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, Self

from stillwatch.data.errors import ConfigError, InputError, StoreError
from stillwatch.model.templates import Template

Ruling = Literal["confirm", "reject", "needs_more"]
"""What a reviewer says of a flagged account: it attacks, it does not, or too little is known."""
DecisionState = Literal["counts", "pending", "undone"]
"""`pending`: a confirmation that a second reviewer has still to make."""
Cause = Literal["new", "second", "more", "changed"]
"""Why a flagged account is to be reviewed: nobody has decided on it; a second reviewer has to;
more was wanted; it was rejected, and its risk or evidence has changed since."""
TemplateState = Literal["quarantined", "live", "expired", "revoked"]

SITE_FAMILY = "site"


class Refused(InputError):  # noqa: N818 - it names what happened, as the others do
    """What was asked contradicts what is there: undone twice, a template that hits too much."""


class AuditError(StoreError):
    """The audit log is not what its anchor says it was: nothing is written until it is seen to."""


class Shown(NamedTuple):
    """One event of the evidence as it was shown, without its prompt."""

    event_id: str
    intent: str
    contribution: float
    template_id: str | None
    similarity: float


class Undone(NamedTuple):
    """Who took a decision back, when and why."""

    time: float
    reviewer: str
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What a reviewer decided on an account, and what was shown then.

    `id` is its entry in the audit log. `intents` are what a confirmed account is after. What was
    not shown is None or empty. `needs_second` tells whether it was made under the two-person rule.
    """

    id: int
    account_id: str
    verdict: Ruling
    reason: str
    reviewer: str
    time: float
    intents: tuple[str, ...]
    risk: float | None
    threshold: float | None
    flagged: bool | None
    events: int | None
    bundle: str | None
    evidence: tuple[Shown, ...]
    needs_second: bool
    state: DecisionState
    undone: Undone | None

    def to_fields(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "id": self.id, "account_id": self.account_id, "verdict": self.verdict,
            "reason": self.reason, "reviewer": self.reviewer, "time": self.time,
            "intents": list(self.intents), "risk": self.risk, "threshold": self.threshold,
            "flagged": self.flagged, "events": self.events, "bundle": self.bundle,
            "evidence": [shown._asdict() for shown in self.evidence],
            "needs_second": self.needs_second, "state": self.state,
            "undone": self.undone and self.undone._asdict(),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Head:
    """The state of the audit log: how many entries, and the last one's hash, 64 hex digits."""

    count: int
    hash: str

    def __str__(self) -> str:
        return f"{self.hash}:{self.count}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """What `str` gave; ConfigError for anything else."""
        found = re.fullmatch(r"([0-9a-f]{64}):(0|[1-9][0-9]{0,17})", text)
        if found is None:
            raise ConfigError(
                "a head must be HASH:COUNT, 64 hex digits and a number, however: it is not; give "
                "what `stillwatch audit head` printed"
            )
        return cls(int(found[2]), found[1])


class Entry(NamedTuple):
    """One entry of the audit log, numbered from 1."""

    number: int
    time: float
    actor: str
    action: str
    fields: Mapping[str, Any]
    hash: str

    def to_fields(self) -> dict[str, Any]:
        """As JSON."""
        return self._asdict()


class EntryPage(NamedTuple):
    """Entries of the audit log, the latest first, and how many there are in all."""

    entries: list[Entry]
    total: int


@dataclass(frozen=True, slots=True)
class Verification:
    """What a check of the audit log found: `findings` are sentences, none if it is intact.
    `behind` entries are not anchored yet: a process ended before it could, which is no fault."""

    head: Head
    findings: tuple[str, ...]
    behind: int = 0

    @property
    def intact(self) -> bool:
        return not self.findings


@dataclass(frozen=True, slots=True)
class Replay:
    """What a template would have hit in the ordinary traffic of the last `days`: prompts of
    accounts that are neither flagged nor confirmed, near to it by at least `similarity`.
    `examples` are (account id, event id) of some, the nearest first."""

    similarity: float
    days: float
    prompts: int
    accounts: int
    hit_prompts: int
    hit_accounts: int
    most: float
    """The highest share of prompts that it may hit."""
    least: int
    """The fewest ordinary prompts that can tell."""
    time: float
    examples: tuple[tuple[str, str], ...] = ()

    @property
    def share(self) -> float:
        """Share of the ordinary prompts that it would have hit."""
        return self.hit_prompts / self.prompts if self.prompts else 0.0

    @property
    def account_share(self) -> float:
        """Share of the ordinary accounts."""
        return self.hit_accounts / self.accounts if self.accounts else 0.0

    @property
    def passes(self) -> bool:
        """Whether it may go live."""
        return self.prompts >= self.least and self.share <= self.most

    def to_fields(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "similarity": self.similarity, "days": self.days, "prompts": self.prompts,
            "accounts": self.accounts, "hit_prompts": self.hit_prompts,
            "hit_accounts": self.hit_accounts, "share": self.share,
            "account_share": self.account_share, "most": self.most, "least": self.least,
            "passes": self.passes, "time": self.time,
            "examples": [list(example) for example in self.examples],
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class SiteTemplate:
    """A template that this site has added. `expires` is an ISO date: from that day on, UTC, it is
    not searched. `replay` is the last one."""

    id: str
    text: str
    intent: str
    language: str
    source: str
    state: TemplateState
    added: float
    added_by: str
    changed: float
    changed_by: str
    reason: str
    """Of the last change of its state."""
    expires: str
    replay: Replay | None

    def to_template(self) -> Template:
        """As the detector searches it."""
        return Template(
            self.id, SITE_FAMILY, self.intent, self.language, self.text, self.source,
            iso_day(self.added), self.expires,
        )  # fmt: skip

    def to_fields(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "id": self.id, "text": self.text, "intent": self.intent, "language": self.language,
            "source": self.source, "state": self.state, "added": self.added,
            "added_by": self.added_by, "changed": self.changed, "changed_by": self.changed_by,
            "reason": self.reason, "expires": self.expires,
            "replay": self.replay and self.replay.to_fields(),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Proposal:
    """The longest frame that most of some prompts share, `{slot}` where they differ: `shared` of
    `prompts`, by `words` words. It is a part of customers' prompts."""

    text: str
    words: int
    shared: int
    prompts: int
    language: str


@dataclass(frozen=True, slots=True)
class Revoked:
    """Templates that are revoked now, confirmations whose evidence named one of them, and whether
    these were undone."""

    templates: tuple[SiteTemplate, ...]
    decisions: tuple[Decision, ...]
    undone: bool


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What became of the site's templates that were made of an erased account's prompts, by their
    ids. `blanked`, made of no other account's, are revoked and without text; `shared` hold words
    that prompts of other accounts have in common with its own. Of `unrecorded` templates, whoever
    they are of, nobody noted whose prompts they were made of: they are as they were."""

    blanked: tuple[str, ...]
    shared: tuple[str, ...]
    unrecorded: int


@dataclass(frozen=True, slots=True)
class Exported:
    """A folder of labelled logs: accounts and events in it, and decided accounts of which the
    archive holds nothing any more."""

    attacking: int
    ordinary: int
    events: int
    missing: int


@dataclass(frozen=True, slots=True)
class Erased:
    """An erasure that is done: what left the archive, and whether the state store let go of the
    account too."""

    events: int
    texts: int
    states: bool
    entry: int
    templates: Forgotten


class Erasure(NamedTuple):
    """The last erasure of an account: when it was begun and by whom, and when it was done, None
    if it is not."""

    begun: float
    reviewer: str
    reason: str
    done: float | None
    entry: int
    templates: Forgotten


def told_share(share: float) -> str:
    """A share in percent; a small one by as many digits as tell it from ordinary.MOST_SHARE."""
    return f"{share:.2%}" if share >= 0.01 else f"{share:.4%}"


def iso_day(time: float) -> str:
    """The date of a time, UTC."""
    return datetime.fromtimestamp(time, UTC).date().isoformat()
