"""Campaigns over HTTP: those that the last look found, flagged ones first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Path, Query
from fastapi.responses import Response

from stillwatch.serving.campaigns.job import CampaignJob
from stillwatch.serving.campaigns.records import CHANGES
from stillwatch.serving.campaigns.store import CampaignStore
from stillwatch.serving.http import openapi
from stillwatch.serving.http.auth import ALL_ACCOUNTS, Caller, require
from stillwatch.serving.http.desk_api import asked
from stillwatch.serving.http.problems import Problem
from stillwatch.serving.http.requests import JsonResponse

T = TypeVar("T")

MAX_LISTED = 500
MAX_OFFSET = 1_000_000

_TEXT: dict[str, Any] = {"type": "string"}
_TIME = {"type": "string", "format": "date-time"}
_COUNT = {"type": "integer", "minimum": 0}
_NUMBER = {"type": "number"}
_FLAG = {"type": "boolean"}
_TEXTS = {"type": "array", "items": _TEXT}
_PROBABILITIES = {
    "type": "object",
    "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1},
}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object", "properties": properties, "additionalProperties": False,
        "required": list(properties),
    }  # fmt: skip


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [{"type": "null"}, schema]}


_CHANGE = _or_null(
    _object(
        {
            "kind": {"enum": list(CHANGES)}, "time": _NUMBER, "accounts": {"type": "integer"},
            "of": _TEXTS,
        }
    )
)  # fmt: skip
_HEAD = {
    "campaign_id": _TEXT, "risk": _NUMBER, "intents": _PROBABILITIES, "flagged": _FLAG,
    "first_seen": _TIME, "last_seen": _TIME, "bundle": _TEXT, "threshold": _NUMBER,
    "events": _COUNT, "was": _TEXTS, "change": _CHANGE,
}  # fmt: skip
_SUMMARY = _object(
    {**_HEAD, "accounts": _COUNT, "links": {"type": "object", "additionalProperties": _COUNT}}
)
_CAMPAIGN = _object(
    {
        **_HEAD,
        "accounts": _TEXTS,
        "excluded": _TEXTS,
        "links": {
            "type": "array",
            "items": _object({"kind": _TEXT, "accounts": _TEXTS, "detail": _TEXT}),
        },
        "reasons": {
            "type": "array",
            "items": _object({"feature": _TEXT, "value": _NUMBER, "logit": _NUMBER}),
        },
    }
)
_RUN = _object(
    {
        "id": {"type": "integer", "minimum": 1}, "time": _NUMBER, "seconds": _NUMBER,
        "events": _COUNT, "fresh": _COUNT, "campaigns": _COUNT, "flagged": _COUNT,
        "bundle": _TEXT, "rebuilt": _FLAG,
    }
)  # fmt: skip
_CODES = (
    "unauthenticated", "forbidden_role", "forbidden_account", "not_found", "invalid_request",
    "internal", "store_unavailable",
)  # fmt: skip
GET_CAMPAIGNS = openapi.route(
    "Campaigns, flagged ones first, then by risk",
    "A part of them, how many there are in all, the last look for them, and why there has been "
    "none since, if there should have been",
    _object(
        {
            "campaigns": {"type": "array", "items": _SUMMARY}, "total": _COUNT,
            "standing": {"enum": ["off", "uncalibrated", "on"]}, "run": _or_null(_RUN),
            "trouble": {"type": ["string", "null"]},
        }
    ),
    _CODES,
)  # fmt: skip
GET_CAMPAIGN = openapi.route(
    "One campaign", "As a line of `stillwatch campaigns`; accounts that a reviewer took out are "
    "told apart", _CAMPAIGN, _CODES,
)  # fmt: skip

Analyst = Annotated[Caller, Depends(require("analyst", "admin"))]
CampaignId = Annotated[str, Path(pattern=r"^c-[0-9a-f]{12}$")]


def router(job: CampaignJob | None) -> APIRouter:
    """`/v1/campaigns`; without a desk each of them says so."""
    routes = APIRouter(tags=["campaigns"])

    async def ask(caller: Caller, question: Callable[[CampaignStore], T]) -> T:
        if job is None:
            raise Problem("not_found", "The desk must be configured, however: it is not.")
        if caller.accounts != ALL_ACCOUNTS:
            # A campaign is of many accounts: told in part it would be another.
            raise Problem(
                "forbidden_account",
                "The key must be for all accounts, however: it is bound to some.",
            )
        store = job.store
        return await asked(lambda: question(store))

    @routes.get("/v1/campaigns", **GET_CAMPAIGNS)
    async def campaigns(
        caller: Analyst,
        flagged: bool | None = None,
        limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 100,
        page: Annotated[int, Query(ge=0, le=MAX_OFFSET)] = 0,
    ) -> Response:
        found, total = await ask(caller, lambda store: store.page(page, limit, flagged))
        run = await ask(caller, lambda store: store.last_run())
        assert job is not None
        return JsonResponse(
            {
                "campaigns": [one.to_fields() for one in found], "total": total,
                "standing": job.standing, "run": run and run.to_fields(),
                "trouble": job.trouble and job.trouble.told,
            }
        )  # fmt: skip

    @routes.get("/v1/campaigns/{campaign_id}", **GET_CAMPAIGN)
    async def campaign(caller: Analyst, campaign_id: CampaignId) -> Response:
        return JsonResponse((await ask(caller, lambda store: store.get(campaign_id))).to_fields())

    return routes
