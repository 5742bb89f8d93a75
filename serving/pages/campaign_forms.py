"""Rulings on a campaign's accounts, and a campaign as a file."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import time

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from stillwatch.data.intelligence import SharedCampaign, Tlp
from stillwatch.serving.campaigns import Stored
from stillwatch.serving.desk import Refused
from stillwatch.serving.desk.decisions import Overtaken
from stillwatch.serving.http.problems import Problem
from stillwatch.serving.pages.campaign_members import Members
from stillwatch.serving.pages.campaign_pages import PATH
from stillwatch.serving.pages.decision_forms import OLD, expected_of
from stillwatch.serving.pages.display import iso, name, one_line, when
from stillwatch.serving.pages.exporting import defused
from stillwatch.serving.pages.guard import Posted, PostedForm, see_other
from stillwatch.serving.pages.sessions import Notice
from stillwatch.serving.pages.site import RULINGS, Site
from stillwatch.serving.pages.tokens import from_token
from stillwatch.serving.sharing import Shelf
from stillwatch.serving.verdict import DIGITS, json_line

WAITED_S = 2.0
"""For all of a campaign to be confirmed; the page tells of the rest."""
EXPORTED = "campaign.exported"
COLUMNS = (
    "campaign_id", "account_id", "state", "prompts", "first_seen", "last_seen", "risk", "flagged",
    "links",
)  # fmt: skip
MEDIA_TYPES = {
    "csv": "text/csv; charset=utf-8", "jsonl": "application/x-ndjson",
    "stix": "application/stix+json; version=2.1",
}  # fmt: skip
_ENDINGS = {"csv": "csv", "jsonl": "jsonl", "stix": "json"}
SHARED_AS = Tlp.AMBER
"""Figures of a campaign are for those who can act on them."""


def add(routes: APIRouter, site: Site) -> None:
    """`/desk/campaigns/…/confirm`, `/members/…`, `/rulings/…`, `/share` and `/export/…`."""

    @routes.post(f"{PATH}/{{campaign_id}}/confirm")
    async def confirm_all(campaign_id: str, posted: PostedForm) -> Response:
        form = posted.form
        intents = [one for one in form.every("intent") if one in site.intents]
        task = await site.confirming.begin(
            campaign_id, form.get("reason"), _reviewer(posted), intents,
            expected_of(form.get("seen", OLD) or OLD),
        )  # fmt: skip
        await asyncio.wait([task], timeout=WAITED_S)
        if task.done():
            done = task.result()
            told = f"{done.done:,} accounts of {campaign_id} are confirmed."
            if done.late:
                told += f" {done.late:,} were decided or taken out meanwhile and are left so."
        else:
            told = f"{campaign_id} is being confirmed; this page tells how far it is."
        posted.session.notice = Notice(told)
        return see_other(f"{PATH}/{campaign_id}")

    @routes.post(f"{PATH}/{{campaign_id}}/members/{{token}}")
    async def rule(campaign_id: str, token: str, posted: PostedForm) -> Response:
        account_id, reason = from_token(token), posted.form.get("reason")
        verdict, reviewer = posted.form.get("verdict"), _reviewer(posted)
        rulings = site.confirming.rulings
        if verdict == "exclude":
            await run_in_threadpool(rulings.exclude, campaign_id, account_id, reason, reviewer)
            told = f"{name(account_id)} is taken out of {campaign_id}."
        elif verdict == "confirm":
            seen = (await site.verdicts([account_id])).get(account_id)
            expected = expected_of(posted.form.get("expected", OLD))
            try:
                await run_in_threadpool(
                    rulings.confirm, campaign_id, account_id, reason, reviewer, seen, (), expected
                )
            except Overtaken as error:
                raise Refused(f"{error}; {_standing(error)}") from None
            told = f"{name(account_id)} is confirmed."
        else:
            raise Problem(
                "invalid_request", "A ruling must be to confirm or to exclude, however: another."
            )
        await site.job.took_over()
        posted.session.notice = Notice(told)
        return see_other(_back(campaign_id, posted))

    @routes.post(f"{PATH}/{{campaign_id}}/rulings/{{number}}/{{token}}/undo")
    async def undo(campaign_id: str, number: int, token: str, posted: PostedForm) -> Response:
        account_id = from_token(token)
        try:
            await run_in_threadpool(
                site.confirming.rulings.undo, number, account_id, _reviewer(posted),
                posted.form.get("reason"),
            )  # fmt: skip
        except Overtaken as error:
            raise Refused(f"{error}; {_standing(error)}") from None
        await site.job.took_over()
        posted.session.notice = Notice(f"The ruling on {name(account_id)} is undone.")
        return see_other(_back(campaign_id, posted))

    @routes.post(f"{PATH}/{{campaign_id}}/share")
    async def share(campaign_id: str, posted: PostedForm) -> Response:
        def told() -> None:
            figures = _figures(site.campaigns.get(campaign_id))
            Shelf(site.desk).share_campaign(figures, _reviewer(posted), posted.form.get("reason"))

        await run_in_threadpool(told)
        posted.session.notice = Notice(f"Peers can read the figures of {campaign_id}.")
        return see_other(f"{PATH}/{campaign_id}")

    @routes.post(f"{PATH}/{{campaign_id}}/export/{{kind}}")
    async def export(campaign_id: str, kind: str, posted: PostedForm) -> Response:
        if kind not in MEDIA_TYPES:
            raise KeyError(kind)

        def write() -> Response:
            stored = site.campaigns.get(campaign_id)
            if kind == "stix":
                content = _stix(site, stored, _reviewer(posted))
            else:
                content = _csv(site, stored) if kind == "csv" else json_line(stored.to_fields())
                # Told before it leaves.
                site.desk.record(
                    EXPORTED, _reviewer(posted),
                    {"campaign": campaign_id, "format": kind, "accounts": len(stored.accounts)},
                )  # fmt: skip
            return Response(
                content,
                media_type=MEDIA_TYPES[kind],
                headers={
                    "Content-Disposition": f'attachment; filename="{campaign_id}.{_ENDINGS[kind]}"'
                },
            )

        return await run_in_threadpool(write)


def _reviewer(posted: Posted) -> str:
    return posted.session.caller.key_id


def _standing(error: Overtaken) -> str:
    """What stands instead of what was shown."""
    one = error.present
    if one is None:
        return "no decision stands now"
    by, ruling = name(one.reviewer), RULINGS[one.verdict]
    return f"it is {ruling} now, {when(one.time)} by {by}: {one_line(one.reason)}"


def _back(campaign_id: str, posted: Posted) -> str:
    """The page of members that the form was on."""
    page, show = posted.form.get("page"), posted.form.get("show")
    page = page if page.isascii() and page.isdigit() else "0"
    show = show if show.isascii() and show.isalpha() else ""
    return f"{PATH}/{campaign_id}?show={show}&page={page}#members"


def _csv(site: Site, stored: Stored) -> bytes:
    """Its accounts, one a line, all cells quoted and defused."""
    members = Members(stored, site.archive, site.decided.present())
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for one in members.of(list(stored.accounts.values())):
        cells = (
            stored.summary.campaign_id, one.account_id, one.state, one.events,
            None if one.first is None else iso(one.first),
            None if one.last is None else iso(one.last), round(one.risk, DIGITS), one.flagged,
            " ".join(one.kinds),
        )  # fmt: skip
        writer.writerow([defused(cell) for cell in cells])
    return out.getvalue().encode("utf-8-sig", "replace")


def _figures(stored: Stored) -> SharedCampaign:
    """What another provider may know of it: no account and no prompt."""
    own = stored.summary
    return SharedCampaign(
        own.campaign_id, dict(own.intents), own.first_seen, own.last_seen, len(stored.members),
        own.events, time.time(), tlp=SHARED_AS,
    )  # fmt: skip


def _stix(site: Site, stored: Stored, reviewer: str) -> bytes:
    made = Shelf(site.desk).export(SHARED_AS, reviewer, [], [_figures(stored)])
    return (json.dumps(made.bundle, indent=1) + "\n").encode()
