"""What the description of the API says of the TAXII routes."""

from __future__ import annotations

from typing import Any

from stillwatch.serving.http import openapi

MEDIA = "application/taxii+json;version=2.1"

_TEXT = {"type": "string"}
_CODES = (
    "unauthenticated", "forbidden_role", "not_found", "invalid_request", "not_ready", "internal",
    "store_unavailable",
)  # fmt: skip
_STIX = {
    "type": "object", "required": ["type", "id"],
    "properties": {"type": _TEXT, "id": _TEXT, "spec_version": _TEXT},
}  # fmt: skip
_RECORD = {
    "type": "object", "required": ["id", "date_added", "version", "media_type"],
    "properties": {"id": _TEXT, "date_added": _TEXT, "version": _TEXT, "media_type": _TEXT},
    "additionalProperties": False,
}  # fmt: skip
_COLLECTION = {
    "type": "object", "required": ["id", "title", "can_read", "can_write", "media_types"],
    "properties": {
        "id": _TEXT, "title": _TEXT, "can_read": {"const": True}, "can_write": {"const": False},
        "media_types": {"type": "array", "items": _TEXT},
    },
    "additionalProperties": False,
}  # fmt: skip
_FILTERS = [
    {"name": name, "in": "query", "required": False, "description": text, "schema": _TEXT}
    for name, text in (
        ("added_after", "Only what came after this timestamp."),
        ("match[id]", "Ids with commas between them."),
        ("match[type]", "Types with commas between them."),
        ("match[version]", "last, first, all or timestamps."),
        ("match[spec_version]", "2.1 is all there is."),
    )
]


def _envelope(items: dict[str, Any], name: str = "objects") -> dict[str, Any]:
    return {
        "type": "object", "required": ["more"], "additionalProperties": False,
        "properties": {
            "more": {"type": "boolean"}, "next": _TEXT, name: {"type": "array", "items": items},
        },
    }  # fmt: skip


def _route(
    summary: str, answer: str, schema: dict[str, Any], filtered: bool = False
) -> dict[str, Any]:
    return openapi.route(
        summary, answer, schema, _CODES, media_type=MEDIA,
        parameters=_FILTERS if filtered else None,
    )  # fmt: skip


DISCOVERY = _route(
    "TAXII discovery", "The API root",
    {
        "type": "object", "required": ["title", "default", "api_roots"],
        "properties": {
            "title": _TEXT, "default": _TEXT, "api_roots": {"type": "array", "items": _TEXT},
        },
    },
)  # fmt: skip
API_ROOT = _route(
    "The API root", "What it speaks",
    {
        "type": "object", "required": ["title", "versions", "max_content_length"],
        "properties": {
            "title": _TEXT, "versions": {"type": "array", "items": _TEXT},
            "max_content_length": {"type": "integer"},
        },
    },
)  # fmt: skip
COLLECTIONS = _route(
    "The collections", "There is one",
    {
        "type": "object", "required": ["collections"],
        "properties": {"collections": {"type": "array", "items": _COLLECTION}},
    },
)  # fmt: skip
COLLECTION = _route("A collection", "What it is", _COLLECTION)
MANIFEST = _route(
    "What a collection holds", "Ids and versions, a page of them", _envelope(_RECORD), True
)
OBJECTS = _route(
    "The objects of a collection", "STIX 2.1 objects, a page of them", _envelope(_STIX), True
)
OBJECT = _route("An object of a collection", "It alone", _envelope(_STIX))
VERSIONS = _route("The versions of an object", "The last one", _envelope(_TEXT, "versions"))
