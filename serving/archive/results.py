"""What a search is limited to and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from stillwatch.serving.verdict import DIGITS

Part = Literal["prompt", "slot", "frame"]
"""What of an event agreed with what was searched for: its whole prompt, word for word, its slot,
or its frame."""


@dataclass(frozen=True, slots=True)
class Filters:
    """Which events count. Empty or None means any.

    `since` (included) and `until` (not) are seconds since the epoch of the event's own time.
    `intents` are those for which an event speaks most strongly, by at least `contribution`.
    `flagged` is whether its account stood flagged after it. `languages` are guesses, see
    `language.py`. `templates` are ids of nearest templates, near by at least
    `template_similarity`, a cosine.
    """

    accounts: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None
    intents: tuple[str, ...] = ()
    contribution: float = 0.0
    flagged: bool | None = None
    languages: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    template_similarity: float = -1.0


ANY = Filters()


@dataclass(frozen=True, slots=True)
class ArchivedEvent:
    """An event as it was archived. `risk` in [0, 1] and `flagged` are its account's after it;
    `contributions` in [0, 1] are the event's own; `language` is a guess."""

    id: int
    event_id: str
    account_id: str
    time: float
    arrival: float
    prompt: str
    system: str
    model: str | None
    platform: str | None
    network: str | None
    payment: str | None
    client: str | None
    session_id: str | None
    intent: str | None
    contributions: Mapping[str, float]
    risk: float
    flagged: bool
    template: str | None
    template_similarity: float
    language: str
    bundle: str
    frame: int
    slot: int

    def to_fields(self) -> dict[str, Any]:
        """As JSON: what is told of it where it was found, its prompt whole."""
        return {
            "account_id": self.account_id,
            "event_id": self.event_id,
            "timestamp": self.time,
            "intent": self.intent,
            "contributions": dict(self.contributions),
            "risk": round(self.risk, DIGITS),
            "flagged": self.flagged,
            "template_id": self.template,
            "template_similarity": round(self.template_similarity, DIGITS),
            "language": self.language,
            "model": self.model,
            "bundle": self.bundle,
            "prompt": self.prompt,
        }


@dataclass(frozen=True, slots=True)
class Hit:
    """An event that was found. `similarity` is a cosine, 1 for the same words; `same_text` is the
    number of events of the search that hold the matched text, `same_text_accounts` of their
    accounts: a repeated text is told once, by its latest events."""

    event: ArchivedEvent
    similarity: float
    part: Part
    same_text: int
    same_text_accounts: int

    def to_fields(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "similarity": round(self.similarity, DIGITS),
            "part": self.part,
            "same_text": self.same_text,
            "same_text_accounts": self.same_text_accounts,
            **self.event.to_fields(),
        }


@dataclass(frozen=True, slots=True)
class AccountHits:
    """Who else asked this: an account's events that are near enough. `best` is the nearest."""

    account_id: str
    events: int
    flagged: bool
    """Whether it stood flagged after one of them."""
    similarity: float
    first: float
    last: float
    best: Hit

    def to_fields(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "account_id": self.account_id,
            "events": self.events,
            "flagged": self.flagged,
            "similarity": round(self.similarity, DIGITS),
            "first_seen": self.first,
            "last_seen": self.last,
            "best": self.best.to_fields(),
        }


class EventPage(NamedTuple):
    """Events of an account, latest first, and how many it has in all."""

    events: list[ArchivedEvent]
    total: int


class TemplateHits(NamedTuple):
    """Events near to a template, latest first, and how many there are in all, of how many
    accounts."""

    events: list[ArchivedEvent]
    total: int
    accounts: int


class Timeline(NamedTuple):
    """An account by the hour: starts of hours with events, seconds since the epoch, ascending;
    its highest risk in each, its events, and the share of them that was written under a frame."""

    hours: list[float]
    risk: list[float]
    events: list[int]
    framed: list[float]


@dataclass(frozen=True, slots=True)
class Removed:
    """What an erasure or the retention took away."""

    events: int
    texts: int


@dataclass(frozen=True, slots=True)
class Status:
    """How an archive is. `queued_bytes` are accepted and not searchable yet; `retrying` rows were
    not accepted and are held in memory until they are; `dropped` rows are lost, for no room was
    left even there; `damaged_bytes` of the queue could not be read, `refused` batches not be
    written. `without_vector` texts are found by their words alone. `trouble` is what went wrong
    last, None if it has passed."""

    events: int
    texts: int
    without_vector: int
    indexed: int
    """Texts in the trained index; the others are compared one by one."""
    lists: int
    probes: int
    recall: float | None
    """Share of the ten nearest texts that the index found, measured when it was built."""
    generation: int
    building: bool
    queued_bytes: int
    retrying: int
    dropped: int
    damaged_bytes: int
    refused: int
    rebuilt: int
    """Times that index files were lost or damaged and the index was made from the tables."""
    table_bytes: int
    trouble: str | None
