"""Search: similar prompts, who else asked them, and a map of what was found.

What is searched for stays in the session: addresses hold no prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from stillwatch.serving.archive.results import AccountHits, Hit
from stillwatch.serving.pages import display
from stillwatch.serving.pages.guard import PostedForm, ReadSession, see_other
from stillwatch.serving.pages.projection import Projection, project
from stillwatch.serving.pages.queries import FILTER_FIELDS, Query, to_query
from stillwatch.serving.pages.sessions import Session
from stillwatch.serving.pages.site import Site
from stillwatch.serving.pages.tokens import SEPARATOR, from_pick, to_token

VIEWS = ("accounts", "prompts", "map")
MOST = {"accounts": 50, "prompts": 100, "map": 400}
NEAR = 0.4
"""A cosine from which on an account is told to have asked the like: the nearest come first."""
EACH = 3
"""Events that are told of one text."""
COLOURS = 7
"""Accounts that have a colour of their own on a map; the others share one."""


@dataclass(frozen=True, slots=True)
class Line:
    """A hit as a row of the list, in which much stands several times. Nothing here is escaped
    yet. `account` and `event` are their tokens."""

    hit: Hit
    account: str
    event: str
    name: str
    flagged: bool

    @property
    def pick(self) -> str:
        return f"{self.account}{SEPARATOR}{self.event}"


@dataclass(frozen=True, slots=True)
class Point:
    """A hit on the map: x to the right, y up, in [0, 1]; numbers of its colours."""

    hit: Hit
    x: float
    y: float
    account: int
    intent: int


def add(routes: APIRouter, site: Site) -> None:
    """`/desk/search` and `/desk/search/…`."""

    @routes.get("/desk/search")
    async def blank(request: Request, session: ReadSession) -> Response:
        fields = {name: request.query_params.get(name, "") for name in FILTER_FIELDS}
        return site.page(
            "search.html.j2", session, title="Search", query=None, fields=fields, view="",
            name="", account_hits=[], lines=[], points=[], projection=None, legend=[], like=None,
            flagged=frozenset(),
        )  # fmt: skip

    @routes.post("/desk/search")
    async def search(posted: PostedForm) -> Response:
        pick = posted.form.get("like")
        like = from_pick(pick) if pick else None
        query = await run_in_threadpool(to_query, posted.form.single(), like)
        return see_other(f"/desk/search/{posted.session.searches.put(query)}")

    @routes.get("/desk/search/{name}")
    async def results(request: Request, name: str, session: ReadSession) -> Response:
        query = session.searches.get(name)
        if query is None:
            raise KeyError(name)
        view = request.query_params.get("view", "")
        view = view if view in VIEWS else VIEWS[0]
        return await run_in_threadpool(_page, site, session, name, query, view)


def find(site: Site, query: Query, k: int, each: int = EACH) -> list[Hit]:
    """The `k` nearest events of a query."""
    archive = site.archive
    if query.like is not None:
        return archive.more_like(*query.like, k, query.filters, query.parts, query.elsewhere, each)
    if query.exact:
        return archive.exact(query.text, k, query.filters)
    vector = query.meaning(archive.meaning)
    return archive.search(query.text, k, query.filters, each, vector)


def _page(site: Site, session: Session, name: str, query: Query, view: str) -> Response:
    hits: list[Hit] = []
    account_hits: list[AccountHits] = []
    points: list[Point] = []
    projection: Projection | None = None
    legend: list[tuple[str, int]] = []
    if view == "accounts":
        account_hits = _by_account(site, query)
    else:
        hits = find(site, query, MOST[view], 1 if view == "map" else EACH)
    if view == "map":
        projection, points, legend = _map(site, hits)
        hits = [point.hit for point in points]
    like = site.archive.event(*query.like) if query.like is not None else None
    chosen = dict(query.fields)
    shown = {hit.event.account_id for hit in hits} | {one.account_id for one in account_hits}
    flagged = site.tallies.flagged_among(shown)
    return site.page(
        "search.html.j2", session, title="Search", query=query,
        fields={field: chosen.get(field, "") for field in FILTER_FIELDS}, view=view, name=name,
        account_hits=account_hits, lines=_lines(hits, flagged), points=points,
        projection=projection, legend=legend, like=like, flagged=flagged,
    )  # fmt: skip


def _by_account(site: Site, query: Query) -> list[AccountHits]:
    archive, most, filters = site.archive, MOST["accounts"], query.filters
    if query.like is not None:
        return archive.accounts_like(*query.like, most, filters, query.parts, query.elsewhere)
    if query.exact:
        return archive.accounts_exact(query.text, most, filters)
    vector = query.meaning(archive.meaning)
    return archive.accounts(query.text, most, filters, NEAR, vector=vector)


def _lines(hits: Sequence[Hit], flagged: Collection[str]) -> list[Line]:
    # Many hits are of few accounts.
    accounts = {hit.event.account_id for hit in hits}
    known = {one: (to_token(one), display.name(one), one in flagged) for one in accounts}
    lines = []
    for hit in hits:
        account, name, stands = known[hit.event.account_id]
        lines.append(Line(hit, account, to_token(hit.event.event_id), name, stands))
    return lines


def _map(site: Site, hits: Sequence[Hit]) -> tuple[Projection, list[Point], list[tuple[str, int]]]:
    """Hits in two dimensions, by the vectors of their slots, and the accounts with most of them."""
    vectors = site.archive.vectors({hit.event.slot for hit in hits})
    shown = [hit for hit in hits if hit.event.slot in vectors]
    if not shown:
        return project(np.empty((0, 2), np.float32)), [], []
    projection = project(np.stack([vectors[hit.event.slot] for hit in shown]))
    most = Counter(hit.event.account_id for hit in shown).most_common(COLOURS)
    accounts = {account_id: number for number, (account_id, _) in enumerate(most)}
    intents = {intent: number for number, intent in enumerate(site.intents)}
    points = [
        Point(
            hit, round(float(x), 4), round(float(y), 4),
            accounts.get(hit.event.account_id, COLOURS),
            intents.get(hit.event.intent or "", len(intents)),
        )
        for hit, (x, y) in zip(shown, projection.places, strict=True)
    ]  # fmt: skip
    return projection, points, most
