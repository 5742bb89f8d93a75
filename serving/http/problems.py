"""Refusals: every one is a problem document (RFC 9457) with a stable code.

A problem says what must hold and what kind of thing was found. It never repeats a value of the
request: any of them can turn out to be a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from stillwatch.data.errors import InputError, StoreError
from stillwatch.data.events import InvalidEvent
from stillwatch.data.strict_json import InvalidJson

MEDIA_TYPE = "application/problem+json"
CODE = "stillwatch.code"
"""Where a request's scope holds the code of the problem it was answered with."""
STORE_RETRY_S = 1.0
"""When to come back after the state store did not answer."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a code stands for: its status and its title."""

    status: int
    title: str


KINDS: Mapping[str, Kind] = {
    "invalid_json": Kind(400, "The body is no strict JSON object"),
    "invalid_encoding": Kind(400, "The compressed body cannot be read"),
    "invalid_length": Kind(400, "The stated length of the body cannot be read"),
    "invalid_timeout": Kind(400, "The stated time limit cannot be read"),
    "unauthenticated": Kind(401, "A valid key is needed"),
    "forbidden_role": Kind(403, "The key's role may not do this"),
    "forbidden_account": Kind(403, "The key is bound to other accounts"),
    "forbidden_host": Kind(403, "The service was called by a name that is not its own"),
    "forbidden_form": Kind(403, "The form did not come from a page of its session"),
    "not_found": Kind(404, "There is no such page"),
    "unknown_account": Kind(404, "The account was never seen"),
    "method_not_allowed": Kind(405, "The method is not supported here"),
    "reload_running": Kind(409, "A bundle is being loaded already"),
    "decision_overtaken": Kind(409, "Another decision stands by now"),
    "body_timeout": Kind(408, "The body did not arrive in time"),
    "body_too_large": Kind(413, "The body is too large"),
    "batch_too_large": Kind(413, "There are more events than can be taken at once"),
    "unsupported_media_type": Kind(415, "The content type is not supported"),
    "unsupported_encoding": Kind(415, "The content encoding is not supported"),
    "binary_unsupported": Kind(415, "Binary tensors are not supported"),
    "bundle_not_found": Kind(422, "The path names no bundle that may be loaded"),
    "bundle_refused": Kind(422, "The bundle was refused; the one before it serves on"),
    "invalid_event": Kind(422, "An event is malformed"),
    "invalid_request": Kind(422, "The request is malformed"),
    "dead_letter": Kind(422, "An event could not be scored and was set aside"),
    "overloaded": Kind(429, "More is waiting than can be scored in time"),
    "internal": Kind(500, "The service failed"),
    "not_ready": Kind(503, "The service is not ready"),
    "store_unavailable": Kind(503, "The state store does not answer"),
    "draining": Kind(503, "The service is stopping"),
    "deadline_exceeded": Kind(504, "The request could not be begun in time"),
}
"""Every code of a problem. Codes are never renamed: callers decide by them."""

_OF_STATUS = {404: "not_found", 405: "method_not_allowed", 415: "unsupported_media_type"}
_DETAIL_OF_STATUS = {
    404: "The path must be one that the API describes, however: another; see /docs.",
    405: "The method must be one that the path allows, however: another; see the Allow header.",
}


class Problem(Exception):  # noqa: N818 - it is named as the document that it becomes
    """A refusal. `detail` must hold no value of the request; `members` are added as they are."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.kind = KINDS[code]
        self.headers = dict(headers or {})
        self.members = dict(members or {})

    def to_fields(self) -> dict[str, Any]:
        """The document."""
        return {
            "type": f"urn:stillwatch:problem:{self.code}",
            "title": self.kind.title,
            "status": self.kind.status,
            "code": self.code,
            "detail": self.detail,
            **self.members,
        }


def retry_after(seconds: float) -> dict[str, str]:
    """The header that says when to come back, in whole seconds, at least one."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def internal() -> Problem:
    """What a caller is told of a fault of ours: nothing."""
    return Problem("internal", "The service failed; its log has the kind and place of the fault.")


def problem_of(error: Exception) -> Problem | None:
    """The problem that an error of ours stands for; None if it is a fault."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, InvalidEvent):
        return Problem("invalid_event", _sentence(error.reason))
    if isinstance(error, InvalidJson):
        reason = error.reason.replace("a line must", "the body must")
        return Problem("invalid_json", _sentence(reason))
    if isinstance(error, InputError):
        return Problem("invalid_request", "The request must be well-formed, however: it is not.")
    if isinstance(error, StoreError):
        return Problem(
            "store_unavailable",
            "The state store must answer, however: it does not; try again, nothing is lost.",
            headers=retry_after(STORE_RETRY_S),
        )
    return None


def respond(problem: Problem, path: str) -> Response:
    """The response for a problem. Under /v2 it has the `error` of the Open Inference Protocol."""
    fields = problem.to_fields()
    if path == "/v2" or path.startswith("/v2/"):
        fields["error"] = problem.detail
    return JSONResponse(fields, problem.kind.status, problem.headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Make every refusal of the app a problem document."""

    async def own(request: Request, error: Exception) -> Response:
        return answer(request, problem_of(error) or internal())

    async def framework(request: Request, error: Exception) -> Response:
        return answer(request, _of_framework(error))

    def answer(request: Request, problem: Problem) -> Response:
        request.scope[CODE] = problem.code
        return respond(problem, request.scope["path"])

    for type_ in (Problem, InputError, StoreError):
        app.add_exception_handler(type_, own)
    app.add_exception_handler(HTTPException, framework)
    app.add_exception_handler(RequestValidationError, framework)


def _of_framework(error: Exception) -> Problem:
    if isinstance(error, RequestValidationError):
        # Its errors hold the input.
        return Problem(
            "invalid_request", "Parameters must be as the API describes, however: one is not."
        )
    assert isinstance(error, HTTPException)
    code = _OF_STATUS.get(error.status_code)
    if code is None:
        return internal() if error.status_code >= 500 else _malformed()
    detail = _DETAIL_OF_STATUS.get(error.status_code, f"{KINDS[code].title}.")
    return Problem(code, detail, headers=error.headers)


def _malformed() -> Problem:
    return Problem("invalid_request", "The request must be well-formed, however: it is not.")


def _sentence(reason: str) -> str:
    return reason[:1].upper() + reason[1:] + "."
