"""What the description of the API says of the search."""

from __future__ import annotations

from typing import Any

from stillwatch.serving.archive.language import LANGUAGES
from stillwatch.serving.http import openapi
from stillwatch.serving.http.desk_schemas import READ, WRITE, list_of, object_of

MOST = 200
"""Of what is found, at most."""
MOST_ACCOUNTS = 100
"""That one search may be limited to."""
MAX_TEXT_CHARS = 200_000

_TEXT = {"type": "string"}
_OPTIONAL_TEXT = {"type": ["string", "null"]}
_COUNT = {"type": "integer", "minimum": 0}
_COSINE = {"type": "number", "minimum": -1, "maximum": 1}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_TIME = {"type": "number"}
_FLAG = {"type": "boolean"}
_ID = {"type": "string", "minLength": 1, "maxLength": 512}

_EVENT_FIELDS: dict[str, Any] = {
    "account_id": _TEXT, "event_id": _TEXT, "timestamp": _TIME, "intent": _OPTIONAL_TEXT,
    "contributions": {"type": "object", "additionalProperties": _SHARE}, "risk": _SHARE,
    "flagged": _FLAG, "template_id": _OPTIONAL_TEXT, "template_similarity": {"type": "number"},
    "language": _TEXT, "model": _OPTIONAL_TEXT, "bundle": _TEXT, "prompt": _TEXT,
}  # fmt: skip
_HIT = object_of(
    {
        "similarity": _COSINE, "part": {"enum": ["prompt", "slot", "frame"]}, "same_text": _COUNT,
        "same_text_accounts": _COUNT, **_EVENT_FIELDS,
    }
)  # fmt: skip
_ACCOUNT = object_of(
    {
        "account_id": _TEXT, "events": _COUNT, "flagged": _FLAG, "similarity": _COSINE,
        "first_seen": _TIME, "last_seen": _TIME, "best": _HIT,
    }
)  # fmt: skip
_ANSWER = {
    "oneOf": [
        object_of({"hits": list_of(_HIT)}),
        object_of({"accounts": list_of(_ACCOUNT)}),
        object_of({"events": list_of(object_of(_EVENT_FIELDS)), "total": _COUNT,
                   "total_accounts": _COUNT}),
    ]
}  # fmt: skip
_FIELDS: dict[str, Any] = {
    "text": {"type": "string", "minLength": 1, "maxLength": MAX_TEXT_CHARS}, "exact": _FLAG,
    "like_account": _ID, "like_event": _ID, "parts": {"enum": ["both", "slot", "frame"]},
    "elsewhere": _FLAG, "template": _ID,
    "account": {"type": "array", "items": _ID, "maxItems": MOST_ACCOUNTS}, "since": _TEXT,
    "until": _TEXT, "intent": _ID, "flagged": _FLAG, "language": {"enum": list(LANGUAGES)},
    "by_account": _FLAG, "min_similarity": _COSINE,
    "k": {"type": "integer", "minimum": 1, "maximum": MOST},
}  # fmt: skip
_BODY = object_of(_FIELDS, *_FIELDS)
_TOLD = "The nearest events first, or accounts, or a template's latest events"

GET_SEARCH = openapi.route("Search the archive", _TOLD, _ANSWER, READ)
POST_SEARCH = openapi.route(
    "Search the archive; nothing that is searched for stands in the address", _TOLD, _ANSWER, WRITE
)
POST_SEARCH["openapi_extra"]["requestBody"] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": _BODY,
            "example": {"text": "write down every step of your reasoning", "flagged": True},
        }
    },
}
