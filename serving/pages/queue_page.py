"""The queue: accounts to review, by their risk or by what has changed since the last look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from stillwatch.serving.desk import Cause, Decision
from stillwatch.serving.desk.decisions import cause_of
from stillwatch.serving.pages.guard import HOME, ReadSession
from stillwatch.serving.pages.looks import Look
from stillwatch.serving.pages.sessions import Session
from stillwatch.serving.pages.site import Site, strongest
from stillwatch.serving.verdict import Verdict, visible

PAGE = 50
MOST_FLAGGED = 1000
"""Flagged accounts that are looked at, the riskiest."""
LIKELY = 0.5
"""An intent of at least this probability, or the likeliest one, is an account's."""
PERIODS = {"24h": 86_400.0, "7d": 7 * 86_400.0, "30d": 30 * 86_400.0}
FIELDS = ("show", "intent", "since", "account", "order")


@dataclass(frozen=True, slots=True)
class Row:
    """One account of the queue. `shown` names the verdict as it is shown here; `fresh` events and
    `rise` of the risk are since the reviewer's last look."""

    verdict: Verdict
    shown: str
    cause: Cause | None
    decision: Decision | None
    look: Look | None
    first: float | None
    last: float | None

    @property
    def fresh(self) -> int:
        return self.verdict.events - (self.look.events if self.look else 0)

    @property
    def rise(self) -> float:
        return self.verdict.risk - (self.look.risk if self.look else 0.0)

    @property
    def newly_flagged(self) -> bool:
        return self.look is not None and not self.look.flagged and self.verdict.flagged

    @property
    def intents(self) -> Sequence[tuple[str, float]]:
        return strongest(self.verdict)


def add(routes: APIRouter, site: Site) -> None:
    """`/desk/queue`."""

    @routes.get(HOME)
    async def queue(request: Request, session: ReadSession) -> Response:
        chosen = {name: request.query_params.get(name, "") for name in FIELDS}
        number = _page(request.query_params.get("page", ""))
        site.look_for_unarchived()
        flagged = await run_in_threadpool(site.tallies.flagged, MOST_FLAGGED)
        names = list(dict.fromkeys([*flagged.names, *sorted(site.unarchived)]))
        names = names[:MOST_FLAGGED]
        events = await run_in_threadpool(site.tallies.events_of, names)
        verdicts = await site.recent_verdicts.of(names, events)

        def build() -> Response:
            rows = _rows(site, session, [one for one in verdicts.values() if one.flagged])
            found = _chosen(rows, chosen, site)
            shown = [
                replace(row, shown=session.shown.put(row.verdict))
                for row in found[number * PAGE : (number + 1) * PAGE]
            ]
            return site.page(
                "queue.html.j2", session, title="Queue", rows=shown, total=len(found),
                flagged=len(rows), left_out=max(flagged.total - MOST_FLAGGED, 0),
                chosen=chosen, page=number, pages=-(-len(found) // PAGE),
                to_review=sum(row.cause is not None for row in rows),
            )  # fmt: skip

        return await run_in_threadpool(build)


def _rows(site: Site, session: Session, verdicts: Sequence[Verdict]) -> list[Row]:
    ids = [verdict.account_id for verdict in verdicts]
    decisions = site.desk.all_present()
    looks = site.looks.of(session.caller.key_id, ids)
    times = site.tallies.times_of(ids)
    rows = []
    for verdict in verdicts:
        name = verdict.account_id
        first, last, _ = times.get(name, (None, None, 0))
        decision = decisions.get(name)
        cause = cause_of(verdict, decision)
        rows.append(Row(verdict, "", cause, decision, looks.get(name), first, last))
    return rows


def _chosen(rows: Sequence[Row], chosen: dict[str, str], site: Site) -> list[Row]:
    found = list(rows)
    if chosen["show"] == "decided":
        found = [row for row in found if row.decision is not None]
    elif chosen["show"] != "all":
        found = [row for row in found if row.cause is not None]
    if chosen["intent"] in site.intents:
        found = [row for row in found if _is_after(row, chosen["intent"])]
    if chosen["since"] in PERIODS:
        latest = max((row.last for row in rows if row.last is not None), default=0.0)
        # Of the archive's own time: a log that is read late is as old as its last event.
        found = [row for row in found if (row.last or 0.0) >= latest - PERIODS[chosen["since"]]]
    if wanted := visible(chosen["account"]).casefold():
        found = [row for row in found if wanted in visible(row.verdict.account_id).casefold()]
    if chosen["order"] == "changed":
        return sorted(found, key=lambda row: (-row.newly_flagged, -row.rise, -row.fresh))
    if chosen["order"] == "latest":
        return sorted(found, key=lambda row: -(row.last or 0.0))
    return sorted(found, key=lambda row: -row.verdict.risk)


def _is_after(row: Row, intent: str) -> bool:
    likeliest = row.intents[0][0] if row.intents else None
    return intent == likeliest or row.verdict.intents.get(intent, 0.0) >= LIKELY


def _page(text: str) -> int:
    return min(int(text), 10_000) if text.isascii() and text.isdigit() and len(text) < 6 else 0
