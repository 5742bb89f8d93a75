"""The plain API: events in, account lines out."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from starlette.convertors import PathConvertor, register_url_convertor

from stillwatch.serving.http import openapi
from stillwatch.serving.http.auth import Caller, require
from stillwatch.serving.http.batches import Outcome
from stillwatch.serving.http.problems import Problem
from stillwatch.serving.http.requests import (
    MAX_ID_CHARS,
    JsonResponse,
    read_object,
    score,
    to_events,
)
from stillwatch.serving.http.service import Service
from stillwatch.serving.verdict import Verdict


class AnyText(PathConvertor):
    """A path's rest as it is: Starlette's own stops at a line end."""

    regex = r"[\s\S]*"


register_url_convertor("any", AnyText())


def router(service: Service) -> APIRouter:
    """`/v1/events` and `/v1/accounts`."""
    routes = APIRouter(tags=["events"])

    @routes.post("/v1/events", **openapi.POST_EVENTS)
    async def post_events(
        request: Request, caller: Annotated[Caller, Depends(require("scorer", "admin"))]
    ) -> Response:
        service.gate.check_room()
        fields = await read_object(request)
        records: object = [fields]
        if "events" in fields:
            if len(fields) > 1 or not isinstance(fields["events"], list):
                raise Problem(
                    "invalid_request",
                    "The body must be one event or {events: [...]} and nothing else, however: "
                    "another object.",
                )
            records = fields["events"]
        assert isinstance(records, list)
        outcomes = await score(request, service, caller, to_events(service, records))
        return JsonResponse({"verdicts": [_line(service, outcome) for outcome in outcomes]})

    @routes.get("/v1/accounts/{account_id:any}", **openapi.GET_ACCOUNT)
    async def get_account(
        account_id: str,
        caller: Annotated[Caller, Depends(require("scorer", "analyst", "admin"))],
    ) -> Response:
        caller.check([account_id])
        try:
            if not 0 < len(account_id) <= MAX_ID_CHARS:
                raise KeyError
            verdict = await service.gate.verdict(account_id)
        except KeyError:
            raise Problem(
                "unknown_account", "The account must have been seen, however: it never was."
            ) from None
        return JsonResponse(_line(service, verdict))

    return routes


def _line(service: Service, outcome: Outcome) -> dict[str, Any]:
    """An account line, with the policy's advice if the site has a policy."""
    fields = outcome.to_fields()
    if service.responder is not None and isinstance(outcome, Verdict):
        advice = service.responder.advise(outcome)
        if advice is not None:
            fields["advice"] = advice.to_fields()
    return fields
