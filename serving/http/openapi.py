"""What the description of the API says of each route, written by hand.

The bodies are read by our own strict reader, not by models: a model's refusal would repeat the
body. So nothing of this is derived; the tests hold answers against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from stillwatch.serving.http.problems import KINDS, MEDIA_TYPE
from stillwatch.serving.http.schemas import SCHEMAS

DESCRIPTION = """\
Stillwatch scores the prompt streams of an LLM API. Send each request to the watched API as an
event; the answer is the verdict on its account. An event counts once: sent again with the same
event_id it changes nothing, so a request that failed can be repeated.

Bodies are JSON of at most the limit set (1 MiB unless the site says otherwise), plain or with
Content-Encoding gzip or zstd. Every refusal is a problem document whose code is stable."""

_EXAMPLE_EVENT = {
    "event_id": "r-1", "account_id": "acme/7", "timestamp": "2026-03-01T09:00:00Z",
    "prompt": "Where is my parcel?",
}  # fmt: skip
_EXAMPLE_INFER = {
    "inputs": [
        {"name": name, "datatype": "BYTES", "shape": [1], "data": [text]}
        for name, text in (
            ("account_id", "acme/7"), ("event_id", "r-1"), ("prompt", "Where is my parcel?")
        )
    ]
}  # fmt: skip

_SECURED: list[dict[str, list[str]]] = [{"bearer": []}, {"api_key": []}]
_KEYED = ("unauthenticated", "forbidden_role")
_BODY = (
    "invalid_json", "invalid_encoding", "invalid_length", "body_timeout", "body_too_large",
    "batch_too_large", "unsupported_media_type", "unsupported_encoding", "invalid_request",
)  # fmt: skip
SCORING = (
    *_KEYED, *_BODY, "forbidden_account", "invalid_timeout", "invalid_event", "overloaded",
    "internal", "store_unavailable", "draining", "deadline_exceeded",
)  # fmt: skip
"""Codes with which any route that scores events may refuse."""

_HEADERS: Mapping[int, dict[str, str]] = {
    401: {"WWW-Authenticate": "How to authenticate."},
    429: {"Retry-After": "Seconds after which to come back."},
    503: {"Retry-After": "Seconds after which to come back."},
}


def ref(name: str) -> dict[str, str]:
    """A reference to one of the schemas."""
    return {"$ref": f"#/components/schemas/{name}"}


def route(
    summary: str,
    answer: str,
    schema: dict[str, Any] | None,
    codes: tuple[str, ...] = (),
    *,
    media_type: str = "application/json",
    body: str | None = None,
    example: dict[str, Any] | None = None,
    parameters: list[dict[str, Any]] | None = None,
    secured: bool = True,
) -> dict[str, Any]:
    """Arguments of a route's decorator: what it answers, with which codes it refuses, which of
    the SCHEMAS its body has."""
    content = {media_type: {"schema": schema if schema is not None else {"type": "string"}}}
    extra: dict[str, Any] = {
        "security": _SECURED if secured else [],
        "responses": {"200": {"description": answer, "content": content}, **_refusals(codes)},
    }
    if body is not None:
        media: dict[str, Any] = {"schema": ref(body)}
        if example is not None:
            media["example"] = example
        extra["requestBody"] = {"required": True, "content": {"application/json": media}}
    if parameters:
        extra["parameters"] = parameters
    return {"summary": summary, "openapi_extra": extra}


def _refusals(codes: tuple[str, ...]) -> dict[str, Any]:
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys(codes):
        by_status.setdefault(KINDS[code].status, []).append(code)
    found = {}
    for status, own in sorted(by_status.items()):
        problem: dict[str, Any] = {
            "description": "; ".join(f"{code}: {KINDS[code].title}" for code in own),
            "content": {
                MEDIA_TYPE: {
                    "schema": {
                        "allOf": [
                            ref("Problem"),
                            {"properties": {"code": {"enum": own}, "status": {"const": status}}},
                        ]
                    }
                }
            },
        }
        if status in _HEADERS:
            problem["headers"] = {
                name: {"description": text, "schema": {"type": "string"}}
                for name, text in _HEADERS[status].items()
            }
        found[str(status)] = problem
    return found


def install(app: FastAPI) -> None:
    """Make the app's description the one written here."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title, version=app.version, description=app.description,
                routes=app.routes,
            )  # fmt: skip
            for path in schema["paths"].values():
                for operation in path.values():
                    # What FastAPI adds for every parameter is not what is answered.
                    _drop_defaults(operation["responses"])
            components = schema.setdefault("components", {})
            components["schemas"] = dict(SCHEMAS)
            components["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer"},
                "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            }
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]


def _drop_defaults(responses: dict[str, Any]) -> None:
    validation = responses.get("422", {}).get("content", {}).get("application/json")
    if validation is not None:
        del responses["422"]["content"]["application/json"]
        if not responses["422"]["content"]:
            del responses["422"]
    success = responses.get("200", {}).get("content", {})
    if len(success) > 1 and success.get("application/json", {}).get("schema") == {}:
        del success["application/json"]


TIMEOUT_PARAMETER = {
    "name": "X-Request-Timeout", "in": "header", "required": False,
    "description": "Seconds within which the request must be begun, or nothing of it is scored.",
    "schema": {"type": "number", "minimum": 0.01, "maximum": 3600},
}  # fmt: skip

POST_EVENTS = route(
    "Score events", "One verdict an event, in the order given", ref("Verdicts"), SCORING,
    body="Events", example=_EXAMPLE_EVENT, parameters=[TIMEOUT_PARAMETER],
)  # fmt: skip
GET_ACCOUNT = route(
    "An account's verdict", "The verdict as it stands", ref("Verdict"),
    (*_KEYED, "forbidden_account", "unknown_account", "overloaded", "internal",
     "store_unavailable", "draining"),
)  # fmt: skip
HEALTHZ = route("The process lives", "It lives", ref("Health"), secured=False)
READYZ = route(
    "The service can score", "It can", ref("Health"),
    ("overloaded", "not_ready", "store_unavailable", "draining"), secured=False,
)  # fmt: skip
METRICS = route(
    "Metrics for Prometheus", "Its text format", None, ("unauthenticated",),
    media_type="text/plain",
)  # fmt: skip
SERVER_METADATA = route("Server metadata", "Name and version", ref("ServerMetadata"), secured=False)
LIVE = route("The process lives", "It lives", ref("Live"), secured=False)
_NOT_READY = ("overloaded", "not_ready", "store_unavailable", "draining")
READY = route("The service can score", "It can", ref("Ready"), _NOT_READY, secured=False)
MODEL_METADATA = route("Model metadata", "Inputs and outputs", ref("ModelMetadata"), secured=False)
MODEL_READY = route("The model can score", "It can", ref("Ready"), _NOT_READY, secured=False)
INFER = route(
    "Score events as tensors", "Verdicts as tensors", ref("InferResponse"),
    (*SCORING, "binary_unsupported", "dead_letter"), body="InferRequest", example=_EXAMPLE_INFER,
    parameters=[TIMEOUT_PARAMETER],
)  # fmt: skip
