"""The campaigns that the last run found, the runs, and what reviewers ruled on members.

One process finds campaigns, another shows them; both have this store open. A run replaces all
campaigns in one transaction: whoever reads sees one run's.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from stillwatch.model.campaigns.finder import Campaign
from stillwatch.serving.campaigns.changes import changes_of, sources_of
from stillwatch.serving.campaigns.records import (
    Change,
    MemberRuling,
    Membership,
    Run,
    Stored,
    Summary,
    Tie,
    change_fields,
)
from stillwatch.serving.campaigns.tables import Tables
from stillwatch.serving.stores.base import id_bytes, id_text

RUNS_KEPT = 1000
IN_LIST = 500
_PLACE = np.dtype("<i4")


class Outdated(Exception):  # noqa: N818 - it names what happened
    """What a run looked at is not there any more: nothing of it was stored."""


@dataclass(frozen=True, slots=True)
class Looked:
    """A run before it is stored; times in seconds. `unchanged` says that nothing was new, so that
    campaigns stay as they are."""

    time: float
    seconds: float
    events: int
    fresh: int
    bundle: str
    rebuilt: bool


class CampaignStore:
    """Safe to share between threads and processes. Every method raises StoreError."""

    def __init__(self, tables: Tables) -> None:
        """Use `open`."""
        self._tables = tables

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The store in a desk's folder, new or not."""
        return cls(Tables(folder))

    def close(self) -> None:
        """Closing twice does nothing."""
        self._tables.close()

    def replace(
        self, looked: Looked, found: Sequence[Campaign], check: Callable[[], bool] = lambda: True
    ) -> Run:
        """Put what a run found in the place of what the last one did. `check` is asked when nobody
        else can write any more; if it says False, Outdated is raised and nothing stored."""
        with self._tables.writing() as connection:
            if not check():
                raise Outdated
            previous = [stored.to_campaign() for stored in _all(connection)]
            summaries = {own.campaign_id: own for own in _summaries(connection)}
            sources = sources_of(found, previous)
            changes = changes_of(found, previous, sources, looked.time)
            for table in ("campaigns", "members", "ties"):
                connection.execute(f"DELETE FROM {table}")
            for place, campaign in enumerate(found):
                old = summaries.get(campaign.campaign_id)
                change = changes.get(campaign.campaign_id) or (old.change if old else None)
                lineage = _lineage(campaign, summaries, sources)
                _insert(connection, place, campaign, change, lineage)
            return _note_run(connection, looked, len(found), sum(one.flagged for one in found))

    def note(self, looked: Looked) -> Run:
        """A run that found nothing new: the campaigns stay."""
        with self._tables.writing() as connection:
            count, flagged = connection.execute(
                "SELECT count(*), COALESCE(sum(flagged), 0) FROM campaigns"
            ).fetchone()
            return _note_run(connection, looked, count, flagged)

    def last_run(self) -> Run | None:
        """The latest, None before the first."""
        found = self.runs(1)
        return found[0] if found else None

    def runs(self, limit: int = 100) -> list[Run]:
        """The latest first."""
        with self._tables.reading() as connection:
            rows = connection.execute(
                "SELECT id, time, seconds, events, fresh, campaigns, flagged, bundle, rebuilt "
                "FROM runs ORDER BY id DESC LIMIT ?", (limit,),
            ).fetchall()  # fmt: skip
        return [Run(*row)._replace(rebuilt=bool(row[-1])) for row in rows]

    def previous(self) -> list[Campaign]:
        """All campaigns of the last run, as the next one is to know them."""
        with self._tables.reading() as connection:
            return [stored.to_campaign() for stored in _all(connection)]

    def every(self) -> list[Stored]:
        """All campaigns of the last run, with what was ruled on them."""
        with self._tables.reading() as connection:
            return _all(connection, ruled=True)

    def page(
        self, page: int = 0, size: int = 50, flagged: bool | None = None
    ) -> tuple[list[Summary], int]:
        """A page, counted from 0, of the campaigns, flagged ones first, then by their risk; and
        how many there are in all."""
        where = "" if flagged is None else f"WHERE flagged = {int(flagged)}"
        with self._tables.reading() as connection:
            (total,) = connection.execute(f"SELECT count(*) FROM campaigns {where}").fetchone()
            found = _summaries(connection, f"{where} ORDER BY place LIMIT ? OFFSET ?",
                               (size, page * size))  # fmt: skip
        return found, total

    def get(self, campaign_id: str) -> Stored:
        """One campaign; KeyError."""
        with self._tables.reading() as connection:
            summary = _summary(connection, campaign_id)
            return _stored(connection, summary)

    def heir(self, campaign_id: str) -> str | None:
        """The campaign that one which is no more has become a part of, None if there is none."""
        with self._tables.reading() as connection:
            every = _summaries(connection)
        return next((own.campaign_id for own in every if campaign_id in own.was), None)

    def of_account(self, account_id: str) -> list[Summary]:
        """Campaigns that an account is in."""
        with self._tables.reading() as connection:
            return _summaries(
                connection,
                "WHERE id IN (SELECT campaign FROM members WHERE account = ?) ORDER BY place",
                (id_bytes(account_id),),
            )

    def members_among(self, account_ids: Iterable[str]) -> dict[str, set[str]]:
        """Which of some accounts each campaign has."""
        found: dict[str, set[str]] = {}
        names = [id_bytes(name) for name in account_ids]
        with self._tables.reading() as connection:
            for start in range(0, len(names), IN_LIST):
                part = names[start : start + IN_LIST]
                marks = ",".join("?" * len(part))
                for campaign, account in connection.execute(
                    f"SELECT campaign, account FROM members WHERE account IN ({marks})", part
                ):
                    found.setdefault(campaign, set()).add(id_text(account))
        return found

    def excluded(self) -> dict[str, set[str]]:
        """Accounts that were taken out of each campaign that is there."""
        with self._tables.reading() as connection:
            found = {}
            for summary in _summaries(connection):
                rulings = _rulings(connection, summary)
                out = {name for name, own in rulings.items() if own.verdict == "excluded"}
                if out:
                    found[summary.campaign_id] = out
        return found

    def rule(
        self, entry: int, campaign_id: str, account_id: str, verdict: Membership, reason: str,
        reviewer: str, time: float, decision: int | None,
    ) -> None:  # fmt: skip
        """Keep a ruling that entry `entry` of the audit log tells of."""
        row = (entry, campaign_id, id_bytes(account_id), verdict, reason, reviewer, time, decision)
        with self._tables.writing() as connection:
            connection.execute(
                "INSERT INTO rulings (entry, campaign, account, verdict, reason, reviewer, time, "
                "decision) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row,
            )  # fmt: skip

    def undo(self, entry: int, account_id: str, undone: int) -> None:
        """Mark a ruling as undone by entry `undone` of the audit log."""
        with self._tables.writing() as connection:
            connection.execute(
                "UPDATE rulings SET undone = ? WHERE entry = ? AND account = ? AND undone IS NULL",
                (undone, entry, id_bytes(account_id)),
            )

    def ruling(self, entry: int, account_id: str) -> MemberRuling:
        """One that stands; KeyError."""
        with self._tables.reading() as connection:
            row = connection.execute(
                f"{_RULINGS} WHERE entry = ? AND account = ? AND undone IS NULL",
                (entry, id_bytes(account_id)),
            ).fetchone()
        if row is None:
            raise KeyError(entry)
        return _ruling(row)

    def erase(self, account_id: str) -> bool:
        """Leave nothing of an account, on return in no byte of the file; whether anything was
        there. To be called once the archive has let go of it: a run that began before stores
        nothing any more."""
        name = id_bytes(account_id)
        with self._tables.writing() as connection:
            homes = [row[0] for row in connection.execute(
                "SELECT DISTINCT campaign FROM members WHERE account = ?", (name,)
            )]  # fmt: skip
            gone = connection.execute("DELETE FROM members WHERE account = ?", (name,)).rowcount
            for campaign in homes:
                connection.execute(
                    "UPDATE campaigns SET accounts = accounts - 1 WHERE id = ?", (campaign,)
                )
            # An event may be named by a link of a campaign that its account is no member of.
            for campaign, number, events in connection.execute(
                "SELECT campaign, number, events FROM ties"
            ).fetchall():
                kept = [pair for pair in json.loads(events) if pair[0] != account_id]
                if len(kept) != len(json.loads(events)):
                    connection.execute(
                        "UPDATE ties SET events = ? WHERE campaign = ? AND number = ?",
                        (json.dumps(kept), campaign, number),
                    )
            gone += connection.execute("DELETE FROM rulings WHERE account = ?", (name,)).rowcount
        self._tables.purge()
        return bool(gone)


_SUMMARY = "SELECT id, accounts, flagged, fields FROM campaigns"
_RULINGS = "SELECT entry, campaign, account, verdict, reason, reviewer, time, decision FROM rulings"


def _summaries(
    connection: sqlite3.Connection, clauses: str = "ORDER BY place", values: Sequence[Any] = ()
) -> list[Summary]:
    rows = connection.execute(f"{_SUMMARY} {clauses}", values).fetchall()
    return [_to_summary(*row) for row in rows]


def _summary(connection: sqlite3.Connection, campaign_id: str) -> Summary:
    found = _summaries(connection, "WHERE id = ?", (campaign_id,))
    if not found:
        raise KeyError(campaign_id)
    return found[0]


def _to_summary(campaign_id: str, accounts: int, flagged: int, content: str) -> Summary:
    fields = json.loads(content)
    change = fields.pop("change")
    return Summary(
        campaign_id=campaign_id,
        accounts=accounts,
        flagged=bool(flagged),
        reasons=tuple((name, value, share) for name, value, share in fields.pop("reasons")),
        was=tuple(fields.pop("was")),
        lineage=tuple(fields.pop("lineage")),
        change=change and Change(**{**change, "of": tuple(change["of"])}),
        **fields,
    )


def _all(connection: sqlite3.Connection, ruled: bool = False) -> list[Stored]:
    return [_stored(connection, summary, ruled) for summary in _summaries(connection)]


def _stored(connection: sqlite3.Connection, summary: Summary, ruled: bool = True) -> Stored:
    name = (summary.campaign_id,)
    members = connection.execute(
        "SELECT place, account FROM members WHERE campaign = ? ORDER BY place", name
    ).fetchall()
    ties = connection.execute(
        "SELECT kind, detail, events, places FROM ties WHERE campaign = ? ORDER BY number", name
    ).fetchall()
    return Stored(
        summary,
        {place: id_text(account) for place, account in members},
        tuple(
            Tie(
                kind, detail, tuple((pair[0], pair[1]) for pair in json.loads(events)),
                tuple(np.frombuffer(places, _PLACE).tolist()),
            )
            for kind, detail, events, places in ties
        ),
        _rulings(connection, summary) if ruled else {},
    )  # fmt: skip


def _rulings(connection: sqlite3.Connection, summary: Summary) -> dict[str, MemberRuling]:
    """The latest ruling on each account that stands, made on the campaign or on one that it goes
    on from."""
    names = (summary.campaign_id, *summary.lineage)
    rows = connection.execute(
        f"{_RULINGS} WHERE campaign IN ({','.join('?' * len(names))}) AND undone IS NULL "
        "ORDER BY entry", names,
    ).fetchall()  # fmt: skip
    return {(found := _ruling(row)).account_id: found for row in rows}


def _ruling(row: Sequence[Any]) -> MemberRuling:
    entry, campaign, account, *others = row
    return MemberRuling(entry, campaign, id_text(account), *others)


def _lineage(
    campaign: Campaign, known: Mapping[str, Summary], sources: Mapping[str, str]
) -> list[str]:
    """Ids under which rulings were made that hold for a campaign too."""
    name = campaign.campaign_id
    direct = {name, *campaign.was, *([sources[name]] if name in sources else [])}
    inherited = {old for own in direct if own in known for old in known[own].lineage}
    return sorted((direct | inherited) - {name})


def _insert(
    connection: sqlite3.Connection, place: int, campaign: Campaign, change: Change | None,
    lineage: Sequence[str],
) -> None:  # fmt: skip
    name = campaign.campaign_id
    fields = {
        "risk": campaign.risk, "intents": campaign.intents, "threshold": campaign.threshold,
        "events": campaign.events, "first_seen": campaign.first_seen,
        "last_seen": campaign.last_seen, "bundle": campaign.bundle, "reasons": campaign.reasons,
        "kinds": Counter(link.kind for link in campaign.links), "was": campaign.was,
        "lineage": list(lineage), "change": change_fields(change),
    }  # fmt: skip
    connection.execute(
        "INSERT INTO campaigns (id, place, flagged, accounts, fields) VALUES (?, ?, ?, ?, ?)",
        (name, place, int(campaign.flagged), len(campaign.accounts), json.dumps(fields)),
    )
    places = {account: number for number, account in enumerate(campaign.accounts)}
    connection.executemany(
        "INSERT INTO members (campaign, place, account) VALUES (?, ?, ?)",
        [(name, number, id_bytes(account)) for account, number in places.items()],
    )
    connection.executemany(
        "INSERT INTO ties (campaign, number, kind, detail, events, places) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        [
            (
                name, number, link.kind, link.detail, json.dumps(link.events),
                np.array([places[one] for one in link.accounts if one in places], _PLACE).tobytes(),
            )
            for number, link in enumerate(campaign.links)
        ],
    )  # fmt: skip


def _note_run(connection: sqlite3.Connection, looked: Looked, campaigns: int, flagged: int) -> Run:
    run = Run(
        0, looked.time, looked.seconds, looked.events, looked.fresh, campaigns, flagged,
        looked.bundle, looked.rebuilt,
    )  # fmt: skip
    number = connection.execute(
        "INSERT INTO runs (time, seconds, events, fresh, campaigns, flagged, bundle, rebuilt) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)", run[1:],
    ).lastrowid  # fmt: skip
    assert number is not None
    connection.execute("DELETE FROM runs WHERE id <= ?", (number - RUNS_KEPT,))
    return run._replace(id=number)
