"""What the description of the API says of the desk's routes."""

from __future__ import annotations

from typing import Any

from stillwatch.serving.http import openapi
from stillwatch.serving.http.problems import KINDS, MEDIA_TYPE

OVERTAKEN = "decision_overtaken"
OVERTAKEN_KIND = KINDS[OVERTAKEN]

_TEXT = {"type": "string"}
_OPTIONAL_TEXT = {"type": ["string", "null"]}
_REASON = {"type": "string", "minLength": 1, "maxLength": 2000}
_COUNT = {"type": "integer", "minimum": 0}
_NUMBER = {"type": "number"}
_DAYS = {"type": "number", "exclusiveMinimum": 0, "maximum": 3660}
_FLAG = {"type": "boolean"}
_RULING = {"enum": ["confirm", "reject", "needs_more"]}


def object_of(properties: dict[str, Any], *optional: str) -> dict[str, Any]:
    """An object of these properties and no others."""
    return {
        "type": "object", "properties": properties, "additionalProperties": False,
        "required": [name for name in properties if name not in optional],
    }  # fmt: skip


def list_of(items: dict[str, Any]) -> dict[str, Any]:
    """A list of such items."""
    return {"type": "array", "items": items}


_DECISION = object_of(
    {
        "id": {"type": "integer", "minimum": 1},
        "account_id": _TEXT,
        "verdict": _RULING,
        "reason": _TEXT,
        "reviewer": _TEXT,
        "time": _NUMBER,
        "intents": list_of(_TEXT),
        "risk": {"type": ["number", "null"]},
        "threshold": {"type": ["number", "null"]},
        "flagged": {"type": ["boolean", "null"]},
        "events": {"type": ["integer", "null"]},
        "bundle": _OPTIONAL_TEXT,
        "evidence": list_of(
            object_of(
                {
                    "event_id": _TEXT, "intent": _TEXT, "contribution": _NUMBER,
                    "template_id": _OPTIONAL_TEXT, "similarity": _NUMBER,
                }
            )
        ),
        "needs_second": _FLAG,
        "state": {"enum": ["counts", "pending", "undone"]},
        "undone": {
            "anyOf": [
                {"type": "null"},
                object_of({"time": _NUMBER, "reviewer": _TEXT, "reason": _TEXT}),
            ]
        },
    }
)  # fmt: skip
_OVERTAKEN = object_of(
    {
        "type": _TEXT, "title": _TEXT, "status": {"const": OVERTAKEN_KIND.status},
        "code": {"const": OVERTAKEN}, "detail": _TEXT,
        "present": {"anyOf": [{"type": "null"}, _DECISION]},
    }
)  # fmt: skip
_REPLAY = object_of(
    {
        "similarity": _NUMBER, "days": _NUMBER, "prompts": _COUNT, "accounts": _COUNT,
        "hit_prompts": _COUNT, "hit_accounts": _COUNT, "share": _NUMBER, "account_share": _NUMBER,
        "most": _NUMBER, "least": _COUNT, "passes": _FLAG, "time": _NUMBER,
        "examples": list_of({"type": "array", "items": _TEXT, "minItems": 2, "maxItems": 2}),
    }
)  # fmt: skip
_TEMPLATE = object_of(
    {
        "id": _TEXT, "text": _TEXT, "intent": _TEXT, "language": _TEXT, "source": _TEXT,
        "state": {"enum": ["quarantined", "live", "expired", "revoked"]}, "added": _NUMBER,
        "added_by": _TEXT, "changed": _NUMBER, "changed_by": _TEXT, "reason": _TEXT,
        "expires": {"type": "string", "format": "date"},
        "replay": {"anyOf": [{"type": "null"}, _REPLAY]},
    }
)  # fmt: skip
_REVOKED = object_of(
    {"templates": list_of(_TEMPLATE), "decisions": list_of(_DECISION), "undone": _FLAG}
)

READ = (
    "unauthenticated", "forbidden_role", "forbidden_account", "not_found", "invalid_request",
    "internal", "not_ready", "store_unavailable",
)  # fmt: skip
WRITE = (
    *READ, "invalid_json", "invalid_encoding", "invalid_length", "body_timeout",
    "body_too_large", "unsupported_media_type", "unsupported_encoding",
)  # fmt: skip
"""Codes with which what reads a body, and what reads none, may refuse."""


def _post(
    summary: str, answer: str, schema: dict[str, Any], body: dict[str, Any], *codes: str
) -> dict[str, Any]:
    route = openapi.route(summary, answer, schema, (*WRITE, *codes))
    route["openapi_extra"]["requestBody"] = {
        "required": True, "content": {"application/json": {"schema": body}},
    }  # fmt: skip
    return route


GET_DECISIONS = openapi.route(
    "Decisions, the latest first", "Undone ones too", object_of({"decisions": list_of(_DECISION)}),
    READ,
)  # fmt: skip
POST_DECISION = _post(
    "Decide on an account as its verdict stands", "The decision", _DECISION,
    object_of(
        {
            "account_id": {"type": "string", "minLength": 1, "maxLength": 512}, "verdict": _RULING,
            "reason": _REASON, "intents": list_of(_TEXT),
            "expected": {
                "type": ["integer", "null"],
                "description": "Id of the decision that the reviewer saw as the present one, null "
                "for none. If another stands by now nothing is changed and the answer is 409. Left "
                "out, it is decided whatever stands.",
            },
        },
        "intents", "expected",
    ),
    "unknown_account", "overloaded", "draining",
)  # fmt: skip
POST_UNDO = _post(
    "Take the present decision on an account back", "The decision, undone", _DECISION,
    object_of({"reason": _REASON}),
)  # fmt: skip
for _route in (POST_DECISION, POST_UNDO):
    _route["openapi_extra"]["responses"]["409"] = {
        "description": f"{OVERTAKEN}: {OVERTAKEN_KIND.title}, told as `present`",
        "content": {MEDIA_TYPE: {"schema": _OVERTAKEN}},
    }
GET_TEMPLATES = openapi.route(
    "Templates of the site, the latest first", "All, or those in a state",
    object_of({"templates": list_of(_TEMPLATE)}), READ,
)  # fmt: skip
GET_TEMPLATE = openapi.route("A template of the site", "It", _TEMPLATE, READ)
POST_TEMPLATE = _post(
    "Put a template into quarantine", "The template", _TEMPLATE,
    object_of(
        {
            "text": {"type": "string", "minLength": 1, "maxLength": 4000}, "intent": _TEXT,
            "source": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$"},
            "expires": {"type": "string", "format": "date"},
            "reason": {"type": "string", "maxLength": 2000},
        },
        "source", "expires", "reason",
    ),
)  # fmt: skip
POST_PROPOSE = _post(
    "What some prompts have in common", "A frame with {slot}",
    object_of({"text": _TEXT, "words": _COUNT, "shared": _COUNT, "prompts": _COUNT,
             "language": _TEXT}),
    object_of({"prompts": {**list_of(_TEXT), "minItems": 2}}),
)  # fmt: skip
POST_REVOKE_SOURCE = _post(
    "Revoke everything that came from a source",
    "What is revoked, and confirmations that rested on it", _REVOKED,
    object_of({"source": _TEXT, "reason": _REASON, "undo": _FLAG}, "undo"),
)  # fmt: skip
POST_REPLAY = _post(
    "What a template would have hit in ordinary traffic", "Shares of prompts and accounts",
    _REPLAY, object_of({"days": _DAYS}, "days"),
)  # fmt: skip
POST_APPROVE = _post(
    "Let a template go live, after a replay", "The template", _TEMPLATE,
    object_of({"reason": _REASON, "days": _DAYS}, "days"),
)  # fmt: skip
POST_REVOKE = _post(
    "Revoke a template", "What is revoked, and confirmations that rested on it", _REVOKED,
    object_of({"reason": _REASON, "undo": _FLAG}, "undo"),
)  # fmt: skip
