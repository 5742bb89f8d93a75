"""Decisions: on one account, on several at once, and taken back."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from stillwatch.serving.desk import Decision, Refused, Ruling
from stillwatch.serving.http.problems import Problem
from stillwatch.serving.pages.display import name
from stillwatch.serving.pages.guard import HOME, Form, Posted, PostedForm, see_other
from stillwatch.serving.pages.sessions import Notice
from stillwatch.serving.pages.site import RULINGS, Site
from stillwatch.serving.pages.tokens import from_token, to_token
from stillwatch.serving.verdict import Verdict

WORDS: dict[str, Ruling] = {
    "confirm": "confirm", "reject": "reject", "needs_more": "needs_more",
}  # fmt: skip


def add(routes: APIRouter, site: Site) -> None:
    """`/desk/accounts/…/decide`, `/desk/decide` and `/desk/decisions/…/undo`."""

    @routes.post("/desk/accounts/{token}/decide")
    async def decide(token: str, posted: PostedForm) -> Response:
        account_id = from_token(token)
        verdict = _seen(posted, account_id, "shown")
        decision = await run_in_threadpool(_decide, site, posted, verdict)
        posted.session.notice = _notice(decision)
        if posted.form.get("back") == "queue":
            return see_other(HOME)
        return see_other(f"/desk/accounts/{token}")

    @routes.post("/desk/decide")
    async def decide_all(posted: PostedForm) -> Response:
        chosen = [from_token(token) for token in posted.form.every("account")]
        if not chosen:
            raise Refused("a decision must be on an account, however: none was ticked; tick some")

        # All of them before the first, so that a page that is too old decides nothing.
        seen = [_seen(posted, one, f"shown.{to_token(one)}") for one in chosen]
        for verdict in seen:
            await run_in_threadpool(_decide, site, posted, verdict)
        word = RULINGS[_ruling(posted.form)]
        accounts = "account" if len(seen) == 1 else "accounts"
        posted.session.notice = Notice(f"{len(seen)} {accounts} {word}.")
        return see_other(HOME)

    @routes.post("/desk/decisions/{number}/undo")
    async def undo(number: int, posted: PostedForm) -> Response:
        reviewer = posted.session.caller.key_id
        decision = await run_in_threadpool(
            site.desk.undo, number, reviewer, posted.form.get("reason")
        )
        posted.session.notice = Notice(f"The decision on {name(decision.account_id)} is undone.")
        if posted.form.get("back") == "queue":
            return see_other(HOME)
        return see_other(f"/desk/accounts/{to_token(decision.account_id)}")


def _seen(posted: Posted, account_id: str, field: str) -> Verdict:
    """The verdict that the page of a form has shown. Refused."""
    verdict = posted.session.shown.get(posted.form.get(field))
    if verdict is None or verdict.account_id != account_id:
        raise Refused(
            "a decision must be on a verdict that was shown, however: the page is too old; look at "
            "the account again"
        )
    return verdict


def _decide(site: Site, posted: Posted, verdict: Verdict) -> Decision:
    form = posted.form
    ruling = _ruling(form)
    named = [intent for intent in form.every("intent") if intent in site.intents]
    return site.desk.decide(
        verdict.account_id, ruling, form.get("reason"), posted.session.caller.key_id, verdict,
        named if ruling == "confirm" else (),
    )  # fmt: skip


def _ruling(form: Form) -> Ruling:
    ruling = WORDS.get(form.get("verdict"))
    if ruling is None:
        raise Problem(
            "invalid_request", "A decision must be to confirm, reject or ask for more, however: "
            "it is another.",
        )  # fmt: skip
    return ruling


def _notice(decision: Decision) -> Notice:
    told = f"{name(decision.account_id)} is {RULINGS[decision.verdict]}"
    if decision.state == "pending":
        told += ", once a second reviewer confirms it too"
    return Notice(f"{told}.", decision.id)
