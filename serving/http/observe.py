"""The outermost layer: each request's log line, metrics, id and safe headers; faults end here."""

from __future__ import annotations

import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stillwatch.serving.http import problems
from stillwatch.serving.http.logs import fault_fields, get_logger
from stillwatch.serving.http.metrics import Metrics

ID_HEADER = "X-Request-ID"
UNKNOWN_ROUTE = "unknown"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SAFE_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


class BrokenOff(Exception):  # noqa: N818 - it names what happened
    """An answer that failed halfway; says nothing of why."""


class Observe:
    """Wraps an app. What it tells of a request is its route's template, never its path."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        given = Headers(scope=scope).get(ID_HEADER, "")
        request_id = given if _SAFE_ID.fullmatch(given) else secrets.token_hex(8)
        status = 0
        code: str | None = None

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message.setdefault("headers", [])
                headers = MutableHeaders(scope=message)
                headers[ID_HEADER] = request_id
                for name, value in _SAFE_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, observed)
        except Exception as error:
            get_logger().error("a request failed", request_id=request_id, **fault_fields(error))
            if status:
                raise BrokenOff from None
            response = problems.respond(problems.internal(), scope["path"])
            scope[problems.CODE] = "internal"
            await response(scope, receive, observed)
        finally:
            code = scope.get(problems.CODE)
            self._tell(scope, status, time.perf_counter() - started, request_id, code)

    def _tell(
        self, scope: Scope, status: int, seconds: float, request_id: str, code: str | None
    ) -> None:
        route = getattr(scope.get("route"), "path", None) or UNKNOWN_ROUTE
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._metrics.requests.labels(route, method, str(status)).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        if code is not None:
            self._metrics.refused.labels(code).inc()
        get_logger().info(
            "request",
            route=route,
            method=method,
            status=status,
            ms=round(seconds * 1000, 2),
            events=scope.get("stillwatch.events", 0),
            key=scope.get("stillwatch.key_id"),
            request_id=request_id,
            code=code,
        )
