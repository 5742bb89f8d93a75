"""The audit log: who did what and when, whether it is as it was left, and its head to keep."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from stillwatch.data.errors import StoreError
from stillwatch.serving.desk import AuditError, Head, Verification
from stillwatch.serving.pages import display
from stillwatch.serving.pages.guard import PostedForm, ReadSession, see_other
from stillwatch.serving.pages.queue_page import _page as page_number
from stillwatch.serving.pages.site import Site
from stillwatch.serving.pages.tokens import from_token

PATH = "/desk/audit"
PAGE = 50
FILTERS = ("action", "actor", "account")
AT_ONCE = 5000
"""Entries that are checked while a page is waited for; a longer log is checked when asked."""
MOST_LISTED = 6
"""Items of a list that are told one by one."""


class Checked(NamedTuple):
    """What a check of the log found, and when; `against` is the head that it was held against
    beside its own anchor."""

    time: float
    found: Verification
    against: Head | None


class Shown(NamedTuple):
    """A field of an entry: its name and value on one line, with what it leads to."""

    name: str
    value: str
    account: str | None = None
    template: str | None = None


class Checks:
    """The latest check of one desk's log."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._latest: Checked | None = None

    def latest(self) -> Checked | None:
        """The latest, made now if the log has grown since and is short enough; None if it never
        was made. StoreError."""
        count = self._site.desk.head().count
        known = self._latest.found.head.count if self._latest else -1
        if count != known and count <= AT_ONCE:
            return self.make(None)
        return self._latest

    def make(self, against: Head | None) -> Checked:
        """Check all of it now. StoreError."""
        found = self._site.desk.verify(against)
        self._latest = Checked(time.time(), found, against)
        return self._latest


def add(routes: APIRouter, site: Site) -> None:
    """`/desk/audit` and its check."""
    checks = Checks(site)

    @routes.get(PATH)
    async def audit(request: Request, session: ReadSession) -> Response:
        chosen = {name: request.query_params.get(name, "").strip() for name in FILTERS}
        number = page_number(request.query_params.get("page", ""))
        # A page of an account leads here by its token: an id may hold what no address can.
        chosen["of"] = "" if chosen["account"] else request.query_params.get("of", "")
        account = from_token(chosen["of"]) if chosen["of"] else chosen["account"] or None

        def build() -> Response:
            found = site.desk.find_entries(
                number, PAGE, chosen["action"] or None, chosen["actor"] or None, account
            )  # fmt: skip
            return site.page(
                "audit.html.j2", session, title="Audit", chosen=chosen, total=found.total,
                account=account,
                rows=[(entry, shown(entry.fields)) for entry in found.entries],
                actions=site.desk.actions(), page=number, pages=-(-found.total // PAGE),
                head=_anchored(site), last=site.desk.head(), checked=checks.latest(),
            )  # fmt: skip

        return await run_in_threadpool(build)

    @routes.post(f"{PATH}/verify")
    async def verify(posted: PostedForm) -> Response:
        given = posted.form.get("head").strip()
        against = Head.parse(given) if given else None
        await run_in_threadpool(checks.make, against)
        return see_other(PATH)


def shown(fields: Mapping[str, Any]) -> list[Shown]:
    """An entry's fields as they are told, none that says nothing."""
    found = []
    for name, value in fields.items():
        if value in (None, "", [], {}):
            continue
        text = display.one_line(_told(value))
        account = value if name == "account_id" and isinstance(value, str) else None
        template = value if name == "template" and isinstance(value, str) else None
        found.append(Shown(name.replace("_", " "), text, account, template))
    return found


def _told(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        if len(value) > MOST_LISTED or any(isinstance(one, list | dict) for one in value):
            return f"{len(value)} items"
        return ", ".join(map(_told, value))
    if isinstance(value, dict):
        return json.dumps({name: own for name, own in value.items() if name != "examples"})
    return str(value)


def _anchored(site: Site) -> Head | None:
    """The head that is anchored, None if there is none that can be read: the check tells why."""
    try:
        return site.desk.anchored()
    except (AuditError, StoreError):
        return None
