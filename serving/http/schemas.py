"""The shapes of bodies and answers, as JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stillwatch.data.events import MAX_INTEGER, TIME_END
from stillwatch.serving.http.problems import KINDS

_PROBABILITY = {"type": "number", "minimum": 0, "maximum": 1}
_TEXT = {"type": "string"}
_ID = {"type": "string", "minLength": 1, "maxLength": 512, "pattern": r"\S"}
_COUNT = {"type": ["integer", "null"], "minimum": -MAX_INTEGER, "maximum": MAX_INTEGER}
_OPTIONAL_TEXT = {"type": ["string", "null"]}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(
    properties: Mapping[str, Any], optional: tuple[str, ...] = (), closed: bool = False
) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "object", "properties": dict(properties)}
    if required := [name for name in properties if name not in optional]:
        found["required"] = required
    if closed:
        found["additionalProperties"] = False
    return found


def _nullable(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"anyOf": [_object(properties, closed=True), {"type": "null"}]}


def _tensor(datatypes: list[str], data: dict[str, Any]) -> dict[str, Any]:
    return _object(
        {
            "name": _TEXT,
            "datatype": {"enum": datatypes},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            "data": data,
            "parameters": {"type": "object"},
        },
        ("parameters",),
    )


_EVENT = _object(
    {
        "event_id": {
            "type": ["string", "null"], "maxLength": 512,
            "description": "Counts once. Without it, it is derived from account, time and prompt.",
        },
        "account_id": {**_ID, "description": "The authenticated key or organisation."},
        "timestamp": {
            "anyOf": [
                {"type": "number", "minimum": 0, "exclusiveMaximum": TIME_END},
                {"type": "number", "minimum": 1e11, "exclusiveMaximum": TIME_END * 1000},
                {"type": "string", "format": "date-time"},
                {"type": "null"},
            ],
            "description": "Epoch seconds or milliseconds, or ISO 8601; without it, the time of "
            "arrival. A time too far ahead is replaced by the time of arrival.",
        },
        "prompt": _TEXT,
        "system": _OPTIONAL_TEXT,
        "turns": {
            "type": ["array", "null"], "items": _object({"role": _TEXT, "text": _TEXT}),
            "description": "Earlier messages of the conversation, oldest first.",
        },
        **dict.fromkeys(
            ("model", "platform", "network", "payment", "client", "session_id"), _OPTIONAL_TEXT
        ),
        "temperature": {"type": ["number", "null"]},
        "max_tokens": _COUNT,
        "n": _COUNT,
        "logprobs": {"type": ["boolean", "null"]},
    },
    ("event_id", "timestamp", "system", "turns", "model", "platform", "network", "payment",
     "client", "session_id", "temperature", "max_tokens", "n", "logprobs"),
)  # fmt: skip

SCHEMAS: Mapping[str, dict[str, Any]] = {
    "Event": {
        **_EVENT,
        "description": "One request to the watched API. Unknown fields are kept.",
    },
    "Events": {
        "anyOf": [
            _ref("Event"),
            _object(
                {
                    "events": {
                        "type": "array",
                        "items": _ref("Event"),
                        "minItems": 1,
                        "maxItems": 1000,
                    }
                },
                closed=True,
            ),
        ],
        "description": "One event, or up to 1,000. If one of them is malformed, none is scored.",
    },
    "Evidence": _object(
        {
            "event_id": _TEXT,
            "intent": _TEXT,
            "contribution": _PROBABILITY,
            "template_id": _OPTIONAL_TEXT,
            "similarity": {"type": "number"},
            "excerpt": _TEXT,
        },
        closed=True,
    ),
    "Verdict": _object(
        {
            "account_id": _TEXT,
            "events": {"type": "integer", "minimum": 0},
            "risk": _PROBABILITY,
            "peak_risk": _PROBABILITY,
            "intents": {"type": "object", "additionalProperties": _PROBABILITY},
            "flagged": {"type": "boolean"},
            "threshold": _PROBABILITY,
            "flagged_after": {"type": ["integer", "null"], "minimum": 1},
            "evidence": {"type": "array", "items": _ref("Evidence")},
            "bundle": _TEXT,
            "truncated": {"type": "integer", "minimum": 0},
            "advice": _ref("Advice"),
        },
        ("advice",),
    ),
    "Advice": {
        **_object(
            {
                "action": {"enum": ["observe", "throttle", "challenge", "review", "block"]},
                "rule": _TEXT,
                "line": {"type": ["integer", "null"], "minimum": 1},
                "text": _TEXT,
                "because": {"type": "array", "items": _TEXT},
                "enforce": {"type": "boolean"},
                "reviewer": _OPTIONAL_TEXT,
                "reason": _OPTIONAL_TEXT,
                "policy": _TEXT,
                "campaign": _OPTIONAL_TEXT,
            },
            closed=True,
        ),
        "description": "What the site's policy says of the account, if it has one: rule, line and "
        "text are where it says so. Advice is not action: see /v1/actions for what is enforced.",
    },
    "DeadLetter": {
        **_object(
            {
                "event_id": _TEXT,
                "error": _object({"code": {"const": "dead_letter"}}, closed=True),
            },
            closed=True,
        ),
        "description": "In the place of a verdict: the event failed each time it was tried. It is "
        "set aside in a file at the service, with its prompt, and is not counted.",
    },
    "Verdicts": _object(
        {"verdicts": {"type": "array", "items": {"anyOf": [_ref("Verdict"), _ref("DeadLetter")]}}},
        closed=True,
    ),
    "Problem": {
        **_object(
            {
                "type": {"type": "string", "format": "uri"},
                "title": _TEXT,
                "status": {"type": "integer"},
                "code": {"enum": list(KINDS)},
                "detail": _TEXT,
                "position": {
                    "type": "integer",
                    "minimum": 0,
                    "description": "Which event is malformed, counted from 0.",
                },
                "error": {**_TEXT, "description": "Under /v2: the same as detail."},
            },
            ("position", "error"),
        ),
        "description": "A refusal (RFC 9457). The code is stable.",
    },
    "Health": _object({"status": _TEXT, "bundle": _TEXT}, ("bundle",), closed=True),
    "Bundle": _object(
        {
            "bundle": _TEXT,
            "loaded_at": {"type": "string", "format": "date-time"},
            "intents": {"type": "array", "items": _TEXT},
            "thresholds": _nullable(
                {
                    "enter": _PROBABILITY,
                    "leave": _PROBABILITY,
                    "max_fpr": _PROBABILITY,
                    "ordinary_accounts": {"type": "integer"},
                    "origin": _TEXT,
                }
            ),
            "watched": {"type": "boolean"},
            "reloading": {"type": "boolean"},
            "last_refusal": _nullable(
                {"folder": _TEXT, "reason": _TEXT, "at": {"type": "string", "format": "date-time"}}
            ),
        },
        closed=True,
    ),
    "BundleReload": {
        **_object({"path": {**_TEXT, "description": "From bundle_folder."}}, closed=True),
        "description": "Without a body the newest bundle of bundle_folder is read again; if there "
        "is none, the bundle that the settings name.",
    },
    "BundleChange": {
        **_object({"bundle": _TEXT, "previous": _TEXT}, closed=True),
        "description": "Ids; the same twice if the bundle that was read serves already.",
    },
    "Live": _object({"live": {"const": True}}, closed=True),
    "Ready": _object({"name": _TEXT, "ready": {"const": True}}, ("name",), closed=True),
    "ServerMetadata": _object(
        {"name": _TEXT, "version": _TEXT, "extensions": {"type": "array", "items": _TEXT}},
        closed=True,
    ),
    "TensorMetadata": _object(
        {
            "name": _TEXT,
            "datatype": _TEXT,
            "shape": {"type": "array", "items": {"type": "integer"}},
        },
        closed=True,
    ),
    "ModelMetadata": _object(
        {
            "name": _TEXT,
            "versions": {"type": "array", "items": _TEXT},
            "platform": _TEXT,
            "inputs": {"type": "array", "items": _ref("TensorMetadata")},
            "outputs": {"type": "array", "items": _ref("TensorMetadata")},
            "parameters": _object({"intents": {"type": "array", "items": _TEXT}}),
        },
        closed=True,
    ),
    "InferRequest": {
        **_object(
            {
                "id": {"type": "string", "maxLength": 512},
                "parameters": {"type": "object"},
                "inputs": {
                    "type": "array",
                    "items": _tensor(["BYTES", "FP64"], {"type": "array"}),
                },
                "outputs": {
                    "type": "array",
                    "items": _object(
                        {
                            "name": {"enum": ["risk", "flagged", "intents", "bundle"]},
                            "parameters": {"type": "object"},
                        },
                        ("parameters",),
                    ),
                },
            },
            ("id", "parameters", "outputs"),
        ),
        "description": "Tensors of one length, up to 1,000: account_id, event_id and prompt "
        "(BYTES), and where known timestamp (FP64) and system (BYTES). JSON data only.",
    },
    "InferResponse": _object(
        {
            "model_name": _TEXT,
            "model_version": _TEXT,
            "id": _TEXT,
            "outputs": {
                "type": "array",
                "items": _tensor(["FP32", "BOOL", "BYTES"], {"type": "array"}),
            },
        },
        ("id",),
        closed=True,
    ),
}
