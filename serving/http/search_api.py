"""Search over HTTP: similar prompts in the archive, who sent them, and when.

GET takes its question from the address, POST from a body: what stands in an address may be written
down by whatever lies between.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi import Query as Parameter
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stillwatch.data.errors import InputError
from stillwatch.data.events import InvalidEvent, parse_time
from stillwatch.serving.archive import Filters, PromptArchive
from stillwatch.serving.archive.language import LANGUAGES
from stillwatch.serving.archive.results import Part
from stillwatch.serving.desk import Desk
from stillwatch.serving.desk.site_templates import SIMILARITY
from stillwatch.serving.http import search_schemas as described
from stillwatch.serving.http.auth import ALL_ACCOUNTS, Caller, require
from stillwatch.serving.http.desk_api import asked
from stillwatch.serving.http.problems import Problem
from stillwatch.serving.http.requests import MAX_ID_CHARS, JsonResponse, read_object

_ALL_DAYS = 1e6
"""The filters say which days are meant."""
PARTS: dict[str, tuple[Part, ...]] = {
    "both": ("slot", "frame"), "slot": ("slot",), "frame": ("frame",),
}  # fmt: skip

Analyst = Annotated[Caller, Depends(require("analyst", "admin"))]
Id = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARS)]


class Question(BaseModel):
    """One search: for a `text`, by its words alone if `exact`; for what is like an event, named by
    `like_account` and `like_event`; or, without either, for a template's latest events. The rest
    says which events count."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)

    text: Annotated[str, Field(min_length=1, max_length=described.MAX_TEXT_CHARS)] | None = None
    exact: bool = False
    like_account: Id | None = None
    like_event: Id | None = None
    parts: Annotated[str, Field(pattern="^(both|slot|frame)$")] = "both"
    elsewhere: bool = False
    template: Id | None = None
    account: Annotated[list[Id], Field(max_length=described.MOST_ACCOUNTS)] = []
    since: str | None = None
    until: str | None = None
    intent: Id | None = None
    flagged: bool | None = None
    language: Annotated[str, Field(pattern=f"^({'|'.join(LANGUAGES)})$")] | None = None
    by_account: bool = False
    min_similarity: Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)] = 0.6
    k: Annotated[int, Field(ge=1, le=described.MOST)] = 10


def router(desk: Desk | None) -> APIRouter:
    """`/v1/search`; without a desk, whose archive it is, it says so."""
    routes = APIRouter(tags=["desk"])

    async def answer(caller: Caller, question: Question) -> Response:
        if caller.accounts != ALL_ACCOUNTS:
            # What is similar is other customers' text.
            raise Problem(
                "forbidden_account",
                "The key must be for all accounts, however: it is bound to some.",
            )
        if desk is None or desk.archive is None:
            raise Problem("not_found", "The desk must be configured, however: it is not.")
        archive = desk.archive
        return JsonResponse(await asked(lambda: _found(archive, question)))

    @routes.get("/v1/search", **described.GET_SEARCH)
    async def get_search(caller: Analyst, question: Annotated[Question, Parameter()]) -> Response:
        return await answer(caller, question)

    @routes.post("/v1/search", **described.POST_SEARCH)
    async def post_search(request: Request, caller: Analyst) -> Response:
        fields = await read_object(request)
        try:
            question = Question.model_validate(fields, strict=True)
        except ValidationError:
            # Its errors hold the input.
            raise Problem(
                "invalid_request",
                "The body must be a search as the API describes it, however: it is another object.",
            ) from None
        return await answer(caller, question)

    return routes


def _found(archive: PromptArchive, question: Question) -> dict[str, Any]:
    """The answer's fields. InputError, KeyError, StoreError."""
    filters, k, text = _filters(question), question.k, question.text
    like = (question.like_account, question.like_event)
    if (like[0] is None) != (like[1] is None) or (text is not None and like[0] is not None):
        raise InputError(
            "a search must be for a text or for what is like one event, however: the request names "
            "both or half of one; give text, or like_account and like_event"
        )
    if question.by_account and (text is None or question.exact):
        raise InputError(
            "by_account must go with a text that is searched by meaning, however: it does not"
        )
    if text is not None and question.by_account:
        found = archive.accounts(text, k, filters, question.min_similarity)
        return {"accounts": [one.to_fields() for one in found]}
    if text is not None:
        hits = (archive.exact if question.exact else archive.search)(text, k, filters)
        return {"hits": [hit.to_fields() for hit in hits]}
    if like[0] is not None and like[1] is not None:
        parts = PARTS[question.parts]
        hits = archive.more_like(like[0], like[1], k, filters, parts, question.elsewhere)
        return {"hits": [hit.to_fields() for hit in hits]}
    if question.template is None:
        raise InputError(
            "a search must be for something, however: there is none of text, like_event and "
            "template; give one"
        )
    near = archive.template_hits(question.template, _ALL_DAYS, k, SIMILARITY, filters)
    return {
        "events": [event.to_fields() for event in near.events],
        "total": near.total,
        "total_accounts": near.accounts,
    }


def _filters(question: Question) -> Filters:
    return Filters(
        accounts=tuple(question.account),
        since=_moment("since", question.since),
        until=_moment("until", question.until),
        intents=(question.intent,) if question.intent else (),
        flagged=question.flagged,
        languages=(question.language,) if question.language else (),
        templates=(question.template,) if question.template else (),
    )


def _moment(name: str, value: str | None) -> float | None:
    """Seconds since the epoch."""
    if value is None:
        return None
    try:
        return parse_time(float(value) if value.replace(".", "", 1).isdecimal() else value)
    except (InvalidEvent, ValueError):
        raise InputError(
            f"{name} must be a time, however: it is none; write it as 2026-11-01T08:30:00Z or in "
            "seconds since the epoch"
        ) from None
