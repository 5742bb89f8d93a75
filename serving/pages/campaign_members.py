"""A campaign's accounts with how each of them stands: their prompts, risk, rulings, decisions."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stillwatch.serving.archive import PromptArchive
from stillwatch.serving.campaigns import CampaignStore, MemberRuling, Stored, Summary
from stillwatch.serving.desk import Decision, Desk

STATES = ("excluded", "confirmed", "waiting", "rejected", "more", "open")
"""What became of a member: taken out of the campaign; else by the present decision on it."""
_OF_VERDICT = {"confirm": "confirmed", "reject": "rejected", "needs_more": "more"}


@dataclass(frozen=True, slots=True)
class Member:
    """One account. `events`, `first` and `last` are of all its prompts in the archive, None if it
    has none there; `risk` and `flagged` after the latest. `kinds` are links that tie it."""

    account_id: str
    state: str
    ruling: MemberRuling | None
    decision: Decision | None
    events: int
    first: float | None
    last: float | None
    risk: float
    flagged: bool
    kinds: tuple[str, ...]


class Decided:
    """The present decision on every account, read again when the audit log has grown."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._lock = threading.Lock()
        self._count = -1
        self._present: Mapping[str, Decision] = {}

    def present(self) -> Mapping[str, Decision]:
        """StoreError."""
        with self._lock:
            count = self._desk.head().count
            if count != self._count:
                self._present, self._count = self._desk.all_present(), count
            return self._present


def state_of(ruling: MemberRuling | None, decision: Decision | None) -> str:
    """One of STATES."""
    if ruling is not None and ruling.verdict == "excluded":
        return "excluded"
    if decision is None:
        return "open"
    if decision.state == "pending":
        return "waiting"
    return _OF_VERDICT[decision.verdict]


def tallies(
    store: CampaignStore, decided: Mapping[str, Decision], shown: Sequence[Summary]
) -> dict[str, dict[str, int]]:
    """How many accounts of some campaigns are in each state but `open`, by campaign."""
    within = store.members_among(decided)
    excluded = store.excluded()
    found = {}
    for summary in shown:
        name = summary.campaign_id
        out = excluded.get(name, set())
        counts: dict[str, int] = {"excluded": len(out)} if out else {}
        for account in within.get(name, set()) - out:
            state = state_of(None, decided[account])
            counts[state] = counts.get(state, 0) + 1
        found[name] = {state: counts[state] for state in STATES if state in counts}
    return found


class Members:
    """The accounts of one campaign."""

    def __init__(
        self, stored: Stored, archive: PromptArchive, decided: Mapping[str, Decision]
    ) -> None:
        self.stored = stored
        self._archive = archive
        self._decided = decided
        self.states = {
            name: state_of(stored.rulings.get(name), decided.get(name))
            for name in stored.accounts.values()
        }

    def counts(self) -> dict[str, int]:
        """How many are in each state, in the order of STATES."""
        every = list(self.states.values())
        return {state: every.count(state) for state in STATES if state in every}

    def rows(self, state: str, page: int, size: int) -> tuple[list[Member], int]:
        """A page, counted from 0, of those in a state, empty for all; and how many they are."""
        chosen = [name for name, own in self.states.items() if not state or own == state]
        part = chosen[page * size : (page + 1) * size]
        return self.of(part), len(chosen)

    def of(self, names: Sequence[str]) -> list[Member]:
        """These."""
        totals = self._archive.totals()
        numbers = self._archive.account_numbers(names)
        places = {name: place for place, name in self.stored.accounts.items()}
        ties = [(tie.kind, frozenset(tie.places)) for tie in self.stored.ties]
        found = []
        for name in names:
            number = numbers.get(name, -1)
            there = 0 <= number < len(totals.events) and bool(totals.events[number])
            place = places[name]
            found.append(
                Member(
                    name, self.states[name], self.stored.rulings.get(name),
                    self._decided.get(name), int(totals.events[number]) if there else 0,
                    float(totals.first[number]) if there else None,
                    float(totals.last[number]) if there else None,
                    float(totals.risk[number]) if there else 0.0,
                    bool(totals.flagged[number]) if there else False,
                    tuple(dict.fromkeys(kind for kind, own in ties if place in own)),
                )
            )  # fmt: skip
        return found

    def events(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Accounts of which the archive has prompts; of each prompt its account's position among
        these int64 (T,) and its time float64 (T,), seconds since the epoch."""
        numbers = self._archive.account_numbers(self.stored.accounts.values())
        rows = self._archive.rows
        names = list(numbers)
        size = int(rows.account.max(initial=0)) + 1
        position = np.full(size, -1, dtype=np.int64)
        for place, name in enumerate(names):
            if numbers[name] < size:
                position[numbers[name]] = place
        owner = position[rows.account]
        own = owner >= 0
        return names, owner[own], rows.time[own]
