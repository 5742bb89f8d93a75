"""Decisions: on one account, on several at once, and taken back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from stillwatch.serving.desk import Decision, Refused, Ruling
from stillwatch.serving.desk.decisions import Overtaken
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
OLD = "?"
"""In place of a decision's id, of a page that does not tell which it showed."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One decision that a form asks for: on the verdict that its page showed under the name
    `shown`, beside the present decision of this id, None for none."""

    verdict: Verdict
    shown: str
    expected: int | None


def add(routes: APIRouter, site: Site) -> None:
    """`/desk/accounts/…/decide`, `/desk/decide` and `/desk/decisions/…/undo`."""

    @routes.post("/desk/accounts/{token}/decide")
    async def decide(request: Request, token: str, posted: PostedForm) -> Response:
        form = posted.form
        # The dialog of the queue is one form for all rows: each tells where to post it to.
        expected = form.get("expected", request.query_params.get("expected", OLD))
        asked = _asked(posted, from_token(token), form.get("shown"), expected)
        made, late = await run_in_threadpool(_decide, site, posted, [asked])
        if late:
            return await run_in_threadpool(_again, site, posted, [asked], made, late)
        posted.session.notice = _notice(made[0])
        if posted.form.get("back") == "queue":
            return see_other(HOME)
        return see_other(f"/desk/accounts/{token}")

    @routes.post("/desk/decide")
    async def decide_all(posted: PostedForm) -> Response:
        chosen = [from_token(token) for token in posted.form.every("account")]
        if not chosen:
            raise Refused("a decision must be on an account, however: none was ticked; tick some")

        # All of them before the first, so that a page that is too old decides nothing.
        asked = [_of_row(posted, one) for one in dict.fromkeys(chosen)]
        made, late = await run_in_threadpool(_decide, site, posted, asked)
        if late:
            return await run_in_threadpool(_again, site, posted, asked, made, late)
        word = RULINGS[_ruling(posted.form)]
        accounts = "account" if len(made) == 1 else "accounts"
        posted.session.notice = Notice(f"{len(made)} {accounts} {word}.")
        return see_other(HOME)

    @routes.post("/desk/decisions/{number}/undo")
    async def undo(number: int, posted: PostedForm) -> Response:
        reviewer = posted.session.caller.key_id
        try:
            decision = await run_in_threadpool(
                site.desk.undo, number, reviewer, posted.form.get("reason")
            )
        except Overtaken as error:
            raise Refused(str(error)) from None
        posted.session.notice = Notice(f"The decision on {name(decision.account_id)} is undone.")
        if posted.form.get("back") == "queue":
            return see_other(HOME)
        return see_other(f"/desk/accounts/{to_token(decision.account_id)}")


def _of_row(posted: Posted, account_id: str) -> Asked:
    form, token = posted.form, to_token(account_id)
    shown, expected = form.get(f"shown.{token}"), form.get(f"expected.{token}", OLD)
    return _asked(posted, account_id, shown, expected)


def _asked(posted: Posted, account_id: str, shown: str, expected: str) -> Asked:
    """What the page of a form has shown of an account. Refused."""
    verdict = posted.session.shown.get(shown)
    if verdict is None or verdict.account_id != account_id:
        raise _too_old()
    return Asked(verdict, shown, expected_of(expected))


def expected_of(field: str) -> int | None:
    """The id of the decision that a form's page showed, None for none. Refused."""
    if field == "":
        return None
    if field.isascii() and field.isdigit() and len(field) < 16:
        return int(field)
    raise _too_old()


def _too_old() -> Refused:
    return Refused(
        "a decision must be on a verdict that was shown, however: the page is too old; look at "
        "the account again"
    )


def _decide(
    site: Site, posted: Posted, asked: Sequence[Asked]
) -> tuple[list[Decision], list[Overtaken]]:
    """Decisions that were made, and what kept others from it. Nothing is decided if something was
    decided meanwhile on any of the accounts; what comes to that while these are decided on, one by
    one, is left alone."""
    form = posted.form
    ruling = _ruling(form)
    late: list[Overtaken] = []
    for one in asked:
        try:
            site.desk.check_present(one.verdict.account_id, one.expected)
        except Overtaken as error:
            late.append(error)
    if late:
        return [], late
    made = []
    for one in asked:
        try:
            decision = site.desk.decide(
                one.verdict.account_id, ruling, form.get("reason"), posted.session.caller.key_id,
                one.verdict, _named(site, form) if ruling == "confirm" else (), one.expected,
            )  # fmt: skip
        except Overtaken as error:
            late.append(error)
        else:
            made.append(decision)
    return made, late


def _again(
    site: Site, posted: Posted, asked: Sequence[Asked], made: Sequence[Decision],
    late: Sequence[Overtaken],
) -> Response:  # fmt: skip
    """What stands on the accounts that are still to be decided on, and the form once more."""
    present = site.desk.all_present()
    done = {one.account_id for one in made}
    left = [one for one in asked if one.verdict.account_id not in done]
    rows = [(one.verdict, one.shown, present.get(one.verdict.account_id)) for one in left]
    return site.page(
        "decide.html.j2", posted.session, 409, title="Decided meanwhile", rows=rows, unknown=0,
        made=len(made), word=RULINGS[_ruling(posted.form)],
        late={one.account_id: one for one in late}, reason=posted.form.get("reason"),
        named=_named(site, posted.form),
    )  # fmt: skip


def _named(site: Site, form: Form) -> list[str]:
    return [intent for intent in form.every("intent") if intent in site.intents]


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
