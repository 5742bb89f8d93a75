"""What was enforced, over HTTP, and the way to undo it."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from stillwatch.serving.http import desk_api, openapi
from stillwatch.serving.http.auth import ALL_ACCOUNTS
from stillwatch.serving.http.problems import Problem
from stillwatch.serving.http.requests import MAX_ID_CHARS, JsonResponse
from stillwatch.serving.response.advice import ACTIONS
from stillwatch.serving.response.ledger import Applied, Ledger
from stillwatch.serving.response.responder import Responder

MAX_LISTED = 1000

_TEXT = {"type": "string"}
_NUMBER = {"type": "number"}
_READ = (
    "unauthenticated", "forbidden_role", "forbidden_account", "not_found", "invalid_request",
    "internal", "not_ready", "store_unavailable",
)  # fmt: skip
_WRITE = (
    *_READ, "invalid_json", "invalid_encoding", "invalid_length", "body_timeout",
    "body_too_large", "unsupported_media_type", "unsupported_encoding",
)  # fmt: skip


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object", "properties": properties, "additionalProperties": False,
        "required": list(properties),
    }  # fmt: skip


_SHOWN = _object(
    {
        "event_id": _TEXT, "intent": _TEXT, "contribution": _NUMBER,
        "template_id": {"type": ["string", "null"]}, "similarity": _NUMBER,
    }
)  # fmt: skip
_ACTION = _object(
    {
        "id": {"type": "integer", "minimum": 1},
        "account_id": _TEXT,
        "action": {"enum": list(ACTIONS)},
        "rule": _TEXT,
        "line": {"type": ["integer", "null"]},
        "text": _TEXT,
        "because": {"type": "array", "items": _TEXT},
        "policy": _TEXT,
        "reviewer": _TEXT,
        "reason": _TEXT,
        "decision": {"type": "integer", "minimum": 1},
        "time": _NUMBER,
        "risk": _NUMBER,
        "threshold": _NUMBER,
        "flagged": {"type": "boolean"},
        "events": {"type": "integer", "minimum": 0},
        "bundle": _TEXT,
        "evidence": {"type": "array", "items": _SHOWN},
        "undone": {
            "anyOf": [
                {"type": "null"},
                _object({"time": _NUMBER, "reviewer": _TEXT, "reason": _TEXT}),
            ]
        },
        "automatic": {"type": "boolean"},
    }
)
GET_ACTIONS = openapi.route(
    "What was enforced, the latest first", "Undone actions too, unless active is true",
    _object({"actions": {"type": "array", "items": _ACTION}}), _READ,
)  # fmt: skip
POST_UNDO = openapi.route(
    "Undo an action: what stood before it stands again", "The action, undone", _ACTION, _WRITE
)
POST_UNDO["openapi_extra"]["requestBody"] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": _object({"reason": {"type": "string", "minLength": 1, "maxLength": 2000}})
        }
    },
}


def router(responder: Responder) -> APIRouter:
    """`/v1/actions`; without a desk each of them says so."""
    routes = APIRouter(tags=["response"])

    def ledger() -> Ledger:
        if responder.ledger is None:
            raise Problem("not_found", "The desk must be configured, however: it is not.")
        return responder.ledger

    @routes.get("/v1/actions", **GET_ACTIONS)
    async def get_actions(
        caller: desk_api.Analyst,
        account_id: Annotated[str | None, Query(min_length=1, max_length=MAX_ID_CHARS)] = None,
        active: bool = False,
        limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 100,
    ) -> Response:
        if account_id is not None:
            caller.check([account_id])
        own = ledger()

        def listed() -> list[Applied]:
            own.refresh()
            standing = {one.id for one in own.active().values()} if active else set()
            return [
                one
                for one in own.actions(account_id)
                if (not active or one.id in standing) and caller.may_speak_of(one.account_id)
            ]

        found = (await asyncio.to_thread(listed))[:limit]
        return JsonResponse({"actions": [one.to_fields() for one in found]})

    @routes.post("/v1/actions/{action_id}/undo", **POST_UNDO)
    async def post_undo(
        request: Request, caller: desk_api.Analyst, action_id: desk_api.Number
    ) -> Response:
        fields = await desk_api._fields(request, {"reason": str})
        own = ledger()

        def found() -> Applied:
            own.refresh()
            return own.action(action_id)

        action = await desk_api._asked(found)
        if caller.accounts != ALL_ACCOUNTS and not caller.may_speak_of(action.account_id):
            # Whether there is one is not told.
            raise desk_api._unknown()
        undone = await desk_api._asked(lambda: own.undo(action_id, caller.key_id, fields["reason"]))
        # So that whoever asks next meets what stands now.
        await responder.try_refresh()
        return JsonResponse(undone.to_fields())

    return routes
