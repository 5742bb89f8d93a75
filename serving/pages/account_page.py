"""An account: its risk over time, what it rests on, its stream, whom it is linked to."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from stillwatch.model.templates import Template
from stillwatch.serving.archive.results import ArchivedEvent, Timeline
from stillwatch.serving.desk.decisions import cause_of
from stillwatch.serving.pages import display, wording
from stillwatch.serving.pages.display import Piece
from stillwatch.serving.pages.guard import ReadSession, see_other
from stillwatch.serving.pages.links import links_of
from stillwatch.serving.pages.queue_page import _page as page_number
from stillwatch.serving.pages.sessions import Session
from stillwatch.serving.pages.site import Site
from stillwatch.serving.pages.tokens import from_token, to_token
from stillwatch.serving.verdict import Evidence, Verdict

STREAM_PAGE = 25
MOST_HOURS = 2000
"""Points of a chart, the latest."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One event of the evidence, its prompt beside its nearest template, differing words told.
    Without `event` the archive has it no more."""

    evidence: Evidence
    event: ArchivedEvent | None
    template: Template | None
    left: list[Piece]
    right: list[Piece]


def add(routes: APIRouter, site: Site) -> None:
    """`/desk/account`, `/desk/accounts/…` and `/desk/events/…`."""

    @routes.get("/desk/account")
    async def go_to(request: Request, session: ReadSession) -> Response:
        """To an account by its id, for those who come from elsewhere."""
        return see_other(f"/desk/accounts/{to_token(request.query_params.get('id', '').strip())}")

    @routes.get("/desk/accounts/{token}")
    async def account(request: Request, token: str, session: ReadSession) -> Response:
        account_id = from_token(token)
        verdict = (await site.verdicts([account_id])).get(account_id)
        number = page_number(request.query_params.get("page", ""))
        return await run_in_threadpool(_page, site, session, account_id, verdict, number)

    @routes.get("/desk/events/{account}/{event}")
    async def one_event(
        request: Request, account: str, event: str, session: ReadSession
    ) -> Response:
        part = page_number(request.query_params.get("part", ""))

        def build() -> Response:
            found = site.archive.event(from_token(account), from_token(event))
            templates = site.templates()
            start = part * display.PART_CHARS
            text = found.prompt[start : start + display.PART_CHARS]
            template = templates.get(found.template or "")
            left, right = wording.compare(found.prompt, template.text) if template else ([], [])
            return site.page(
                "event.html.j2", session, title="Prompt", event=found, part=part, text=text,
                parts_count=-(-len(found.prompt) // display.PART_CHARS), template=template,
                left=left, right=right,
                frame=site.archive.text(found.frame) if found.frame else "",
            )  # fmt: skip

        return await run_in_threadpool(build)


def _page(
    site: Site, session: Session, account_id: str, verdict: Verdict | None, number: int
) -> Response:
    stream = site.archive.events(account_id, number, STREAM_PAGE)
    # Before the history: what comes between the two is shown, and refuses a decision without it.
    present = site.desk.present(account_id)
    history = site.desk.decisions(account_id)
    erasure = site.desk.erasure(account_id)
    if verdict is None and not stream.total:
        if erasure is not None and erasure.done is not None:
            return site.page(
                "erased.html.j2", session, 404, title=display.name(account_id),
                account_id=account_id, erasure=erasure, decisions=history,
            )  # fmt: skip
        if erasure is None and not history:
            raise KeyError(account_id)
    responder = site.service.responder
    look = site.looks.of(session.caller.key_id, [account_id]).get(account_id)
    if verdict is not None:
        site.looks.note(session.caller.key_id, verdict)
    templates = site.templates()
    evidence = verdict.evidence if verdict else ()
    shown = [_shown(site, account_id, item, templates) for item in evidence]
    timeline = site.archive.timeline(account_id)
    return site.page(
        "account.html.j2", session,
        title=display.name(account_id), account_id=account_id, verdict=verdict,
        shown=session.shown.put(verdict) if verdict else "", look=look, evidence=shown,
        evidence_ids={item.event_id for item in evidence},
        charts=_charts(timeline, verdict.threshold if verdict else site.threshold),
        timeline=timeline, stream=stream, page=number, templates=templates,
        pages=-(-stream.total // STREAM_PAGE), decisions=history,
        present=present, cause=cause_of(verdict, present) if verdict else None,
        links=links_of(site.archive, site.tallies, account_id), erasure=erasure,
        erasing=site.erasures.running(account_id),
        advice=responder.advise(verdict) if responder and verdict else None,
        enforced=responder.standing(account_id) if responder else None,
        campaigns=site.campaigns.of_account(account_id),
    )  # fmt: skip


def _shown(site: Site, account_id: str, item: Evidence, templates: dict[str, Template]) -> Shown:
    event = None
    with suppress(KeyError):
        event = site.archive.event(account_id, item.event_id)
    template = templates.get(item.template_id or "")
    prompt = event.prompt if event else item.excerpt
    if template is None:
        return Shown(item, event, None, [Piece("same", display.one_line(prompt))], [])
    left, right = wording.compare(prompt, template.text)
    return Shown(item, event, template, left, right)


def _charts(timeline: Timeline, threshold: float | None) -> list[dict[str, Any]]:
    """What the charts draw: all have the same hours, ascending."""
    cut = slice(-MOST_HOURS, None)
    hours = timeline.hours[cut]
    if not hours:
        return []
    drawn = (
        ("Risk", "line", timeline.risk, 1, threshold),
        ("Prompts by hour", "bars", timeline.events, None, None),
        ("Share under a shared frame", "line", timeline.framed, 1, None),
    )
    return [
        {"label": label, "kind": kind, "x": hours, "y": y[cut], "max": most, "limit": limit}
        for label, kind, y, most, limit in drawn
    ]
