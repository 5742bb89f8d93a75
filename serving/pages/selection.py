"""What becomes of ticked prompts: a file, a template, decisions on their accounts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from stillwatch.serving.archive.results import ArchivedEvent
from stillwatch.serving.desk import Refused
from stillwatch.serving.pages import exporting
from stillwatch.serving.pages.guard import Form, PostedForm
from stillwatch.serving.pages.site import Site
from stillwatch.serving.pages.tokens import from_pick, from_token

MOST_PICKED = 1000
EXPORTED = "prompts.exported"
MEDIA_TYPES = {"jsonl": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}


def add(routes: APIRouter, site: Site) -> None:
    """`/desk/selection/…`."""

    @routes.post("/desk/selection/{kind}")
    async def export(kind: str, posted: PostedForm) -> Response:
        if kind not in MEDIA_TYPES:
            raise KeyError(kind)
        events = await run_in_threadpool(picked, site, posted.form)

        def write() -> Response:
            content = exporting.to_csv(events) if kind == "csv" else exporting.to_jsonl(events)
            # Told before it leaves; by numbers alone, for the log outlives an erasure.
            site.desk.record(
                EXPORTED, posted.session.caller.key_id,
                {"format": kind, "events": len(events),
                 "accounts": len({event.account_id for event in events})},
            )  # fmt: skip
            return Response(
                content,
                media_type=MEDIA_TYPES[kind],
                headers={"Content-Disposition": f'attachment; filename="prompts.{kind}"'},
            )

        return await run_in_threadpool(write)

    @routes.post("/desk/selected/accounts")
    async def accounts(posted: PostedForm) -> Response:
        chosen = [from_token(token) for token in posted.form.every("account")]
        chosen += [from_pick(pick)[0] for pick in posted.form.every("pick")]
        chosen = list(dict.fromkeys(chosen))
        if not 0 < len(chosen) <= MOST_PICKED:
            raise _wrong_count()
        verdicts = await site.verdicts(chosen)

        def build() -> Response:
            decisions = site.desk.all_present()
            session = posted.session
            rows = [
                (verdict, session.shown.put(verdict), decisions.get(name))
                for name, verdict in verdicts.items()
            ]
            return site.page(
                "decide.html.j2", session, title="Decide", rows=rows,
                unknown=len(chosen) - len(verdicts),
            )  # fmt: skip

        return await run_in_threadpool(build)


def picked(site: Site, form: Form) -> Sequence[ArchivedEvent]:
    """The events that a form ticks, as far as they are still there. Refused for none."""
    picks = list(dict.fromkeys(form.every("pick")))
    if not 0 < len(picks) <= MOST_PICKED:
        raise _wrong_count()
    found = []
    for pick in picks:
        with suppress(KeyError):
            found.append(site.archive.event(*from_pick(pick)))
    if not found:
        raise KeyError("picked")
    return found


def _wrong_count() -> Refused:
    return Refused(
        f"1 to {MOST_PICKED:,} prompts must be ticked for this, however: none or more are; tick "
        "some"
    )
