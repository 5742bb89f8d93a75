"""What the description of the API says of the LiteLLM doors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stillwatch.serving.http import openapi

_KEYED = ("unauthenticated", "forbidden_role")
_BODY = (
    "invalid_json", "invalid_encoding", "invalid_length", "unsupported_media_type",
    "unsupported_encoding", "invalid_request", "internal",
)  # fmt: skip
_SCORING = (
    "body_timeout", "body_too_large", "overloaded", "not_ready", "store_unavailable", "draining",
    "deadline_exceeded",
)  # fmt: skip
_ANY_OBJECT = {"type": "object"}


def _with_body(route: dict[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    route["openapi_extra"]["requestBody"] = {
        "required": True,
        "content": {"application/json": {"schema": schema}},
    }
    return route


GUARDRAIL = _with_body(
    openapi.route(
        "LiteLLM's guardrail",
        "NONE lets the request pass, BLOCKED refuses it: an account that the policy blocks, on a "
        "decision, never a score",
        {
            "type": "object",
            "properties": {
                "action": {"enum": ["NONE", "BLOCKED"]},
                "blocked_reason": {"type": "string"},
            },
            "required": ["action"],
            "additionalProperties": False,
        },
        (*_KEYED, *_BODY),
    ),
    {
        "type": "object",
        "properties": {
            "input_type": {"enum": ["request", "response"]},
            "request_data": _ANY_OBJECT,
            "litellm_call_id": {},
            "structured_messages": {},
            "texts": {},
        },
        "required": ["input_type", "request_data"],
    },
)
LOGS = _with_body(
    openapi.route(
        "LiteLLM's log",
        "How many calls count, and which do not",
        {
            "type": "object",
            "properties": {
                "accepted": {"type": "integer", "minimum": 0},
                "rejected": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "position": {"type": "integer", "minimum": 0},
                            "code": {
                                "enum": ["invalid_event", "no_account", "not_served", "dead_letter"]
                            },
                            "detail": {"type": "string"},
                        },
                        "required": ["position", "code", "detail"],
                        "additionalProperties": False,
                    },
                },
            },
            "required": ["accepted", "rejected"],
            "additionalProperties": False,
        },
        (*_KEYED, *_BODY, *_SCORING),
    ),
    {"anyOf": [{"type": "array"}, _ANY_OBJECT]},
)
