"""The template library: the bundle's and the site's own, what they hit, how they come and go."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from stillwatch.data.errors import ConfigError, InputError
from stillwatch.model.encoder import Encoder
from stillwatch.model.templates import MAX_TEXT_CHARS, Template
from stillwatch.serving.desk import Proposal, Refused, Revoked, SiteTemplate
from stillwatch.serving.desk.records import told_share
from stillwatch.serving.desk.site_templates import KEPT_DAYS, MOST_DAYS, SIMILARITY
from stillwatch.serving.pages.guard import AdminForm, PostedForm, ReadSession, see_other
from stillwatch.serving.pages.selection import picked
from stillwatch.serving.pages.sessions import Notice, Session
from stillwatch.serving.pages.site import Site
from stillwatch.serving.pages.tallies import TemplateTally
from stillwatch.serving.pages.tokens import from_token
from stillwatch.serving.verdict import visible

NONE = TemplateTally(0, 0, 0, None)
HIT_DAYS = (30, 90)
"""Of hits that a template's page may show, the first unless another is asked for."""
SHOWN_HITS, SHOWN_ACCOUNTS = 50, 20
ORDERS = ("hits", "false", "age", "id")
STATES = ("bundle", "quarantined", "live", "expired", "revoked")
PATH = "/desk/templates/{name}"
_NUMBER = re.compile(r"[0-9]+")


@dataclass(frozen=True, slots=True)
class Row:
    """A template of the library. `site` is its own record if it is the site's."""

    template: Template
    state: str
    tally: TemplateTally
    age_days: int | None
    site: SiteTemplate | None


def add(routes: APIRouter, site: Site) -> None:
    """`/desk/templates` and below."""

    @routes.get("/desk/templates")
    async def library(request: Request, session: ReadSession) -> Response:
        chosen = {
            name: request.query_params.get(name, "")
            for name in ("text", "intent", "state", "order")
        }

        def build() -> Response:
            rows = _rows(site)
            found = _chosen(rows, chosen)
            return site.page(
                "templates.html.j2", session, title="Templates", rows=found, total=len(rows),
                chosen=chosen, similarity=SIMILARITY, states=STATES,
            )  # fmt: skip

        return await run_in_threadpool(build)

    @routes.get("/desk/templates/new")
    async def new(session: ReadSession) -> Response:
        return _form(site, session, None, "", [])

    @routes.post("/desk/templates/propose")
    async def propose(posted: PostedForm) -> Response:
        """From ticked prompts, or from prompts that were pasted, a blank line between two."""

        def build() -> Response:
            pasted = [part for part in posted.form.get("prompts").split("\n\n") if part.strip()]
            events = [] if pasted else picked(site, posted.form)
            prompts = pasted or [event.prompt for event in events]
            # Whose a pasted prompt is nobody knows.
            first = [event.account_id for event in events[:1]]
            if len(prompts) == 1:
                return _form(site, posted.session, None, prompts[0][:MAX_TEXT_CHARS], first)
            try:
                proposal, places = site.desk.templates.propose_from(prompts)
            except InputError as error:
                # What they share is too little: whoever adds it has to write it.
                told = f"{str(error)[:1].upper()}{str(error)[1:]}."
                return _form(site, posted.session, None, prompts[0][:MAX_TEXT_CHARS], first, told)
            shared = [events[place].account_id for place in places] if events else []
            return _form(site, posted.session, proposal, proposal.text, shared)

        return await run_in_threadpool(build)

    @routes.post("/desk/templates")
    async def add_one(posted: PostedForm) -> Response:
        form = posted.form

        def work() -> SiteTemplate:
            accounts = [from_token(token) for token in form.every("account")]
            if len(site.archive.account_numbers(accounts)) < len(set(accounts)):
                raise Refused(
                    "a template must be made of prompts that are there, however: an account of "
                    "theirs was erased, or is past its time; begin again from others"
                )
            return site.desk.templates.add(
                form.get("text"), form.get("intent"), form.get("source").strip() or "desk",
                posted.session.caller.key_id, form.get("expires") or None, form.get("reason"),
                accounts,
            )  # fmt: skip

        template = await run_in_threadpool(work)
        posted.session.notice = Notice(
            f"{template.id} waits in quarantine. Replay it, then let it go live."
        )
        return see_other(f"/desk/templates/{template.id}")

    @routes.get(PATH)
    async def one(request: Request, name: str, session: ReadSession) -> Response:
        asked = request.query_params.get("days")
        days = next((one for one in HIT_DAYS if str(one) == asked), HIT_DAYS[0])

        def build() -> Response:
            row = next((row for row in _rows(site) if row.template.id == name), None)
            if row is None:
                raise KeyError(name)
            hits = site.archive.template_hits(name, days, SHOWN_HITS, SIMILARITY)
            return site.page(
                "template.html.j2", session, title=name, row=row, hits=hits, days=days,
                every_days=HIT_DAYS, similarity=SIMILARITY,
                accounts=site.desk.templates.accounts_of(name), shown_accounts=SHOWN_ACCOUNTS,
            )  # fmt: skip

        return await run_in_threadpool(build)

    @routes.post(f"{PATH}/replay")
    async def replay(name: str, posted: PostedForm) -> Response:
        encoder = _encoder(site)
        found = await run_in_threadpool(
            site.desk.templates.replay, name, encoder, posted.session.caller.key_id
        )
        verdict = "It may go live." if found.passes else "It may not go live."
        hit = f"it hits {told_share(found.share)} of the ordinary prompts"
        posted.session.notice = Notice(f"{name} is replayed: {hit}. {verdict}")
        return see_other(f"/desk/templates/{name}")

    @routes.post(f"{PATH}/approve")
    async def approve(name: str, posted: PostedForm) -> Response:
        encoder = _encoder(site)
        await run_in_threadpool(
            site.desk.templates.approve, name, encoder, posted.session.caller.key_id,
            posted.form.get("reason"),
        )  # fmt: skip
        await site.keeper.refresh()
        posted.session.notice = Notice(f"{name} is live.")
        return see_other(f"/desk/templates/{name}")

    @routes.post(f"{PATH}/revoke")
    async def revoke(name: str, posted: PostedForm) -> Response:
        def work() -> Revoked:
            return site.desk.templates.revoke(
                name, posted.session.caller.key_id, posted.form.get("reason"),
                posted.form.get("undo") == "yes",
            )  # fmt: skip

        found = await run_in_threadpool(work)
        await site.keeper.refresh()
        posted.session.notice = Notice(_revoked(found))
        return see_other(f"/desk/templates/{name}")

    @routes.post("/desk/sources/revoke")
    async def revoke_source(posted: AdminForm) -> Response:
        def work() -> Revoked:
            return site.desk.templates.revoke_source(
                posted.form.get("source").strip(), posted.session.caller.key_id,
                posted.form.get("reason"), posted.form.get("undo") == "yes",
            )  # fmt: skip

        found = await run_in_threadpool(work)
        await site.keeper.refresh()
        posted.session.notice = Notice(_revoked(found))
        return see_other("/desk/templates")


def _form(
    site: Site, session: Session, proposal: Proposal | None, text: str, accounts: Sequence[str],
    problem: str = "",
) -> Response:  # fmt: skip
    """`accounts` are those of whose prompts the text is."""
    matches = site.detector.search_templates(text, 3) if text and site.detector else []
    return site.page(
        "template_new.html.j2", session, title="New template", proposal=proposal, text=text,
        problem=problem, matches=matches, kept_days=KEPT_DAYS, most_days=MOST_DAYS,
        accounts=list(dict.fromkeys(accounts)),
    )  # fmt: skip


def _rows(site: Site) -> list[Row]:
    own = {template.id: template for template in site.desk.templates.find()}
    rejected = [
        name for name, decision in site.desk.all_present().items() if decision.verdict == "reject"
    ]
    tallies = site.tallies.templates(rejected)
    today = datetime.now(UTC).date()
    return [
        Row(
            template, own[name].state if name in own else "bundle", tallies.get(name, NONE),
            _age(template.created, today), own.get(name),
        )
        for name, template in site.templates().items()
    ]  # fmt: skip


def _chosen(rows: Sequence[Row], chosen: dict[str, str]) -> list[Row]:
    found = [
        row
        for row in rows
        if chosen["intent"] in ("", row.template.intent) and chosen["state"] in ("", row.state)
    ]
    if wanted := visible(chosen["text"]).casefold():
        found = [
            row
            for row in found
            if wanted in f"{row.template.id} {row.template.source} {row.template.text}".casefold()
        ]
    if chosen["order"] == "false":
        return sorted(found, key=lambda row: (-row.tally.false_hits, -row.tally.hits))
    if chosen["order"] == "age":
        return sorted(found, key=lambda row: row.age_days or 0)
    if chosen["order"] == "id":
        return sorted(found, key=lambda row: _natural(row.template.id))
    return sorted(
        found, key=lambda row: (row.site is None, -row.tally.hits, _natural(row.template.id))
    )


def _natural(name: str) -> tuple[str, int]:
    digits = _NUMBER.search(name)
    return _NUMBER.sub("", name), int(digits[0]) if digits else 0


def _age(created: str, today: date) -> int | None:
    try:
        return (today - date.fromisoformat(created)).days
    except ValueError:
        return None


def _encoder(site: Site) -> Encoder:
    detector = site.detector
    if detector is None:
        raise ConfigError(
            "a replay must have a bundle's encoder, however: the scorer has none; serve a bundle"
        )
    encoder: Encoder = detector.encoder
    return encoder


def _revoked(found: Revoked) -> str:
    names = ", ".join(template.id for template in found.templates[:5])
    count = len(found.decisions)
    told = f"Revoked: {names}. "
    if not count:
        return told + "No confirmation rests on it."
    rests = "1 confirmation rests" if count == 1 else f"{count} confirmations rest"
    return told + f"{rests} on it, {'undone now' if found.undone else 'left as they are'}."
