"""The API's description as one page, made on the server: no script, nothing from outside."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from typing import Any

import jinja2
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from stillwatch.serving.http.problems import KINDS
from stillwatch.serving.http.service import Service


def router(service: Service) -> APIRouter:
    """`/docs` and `/openapi.json`."""
    routes = APIRouter()
    files = resources.files(__package__)
    style = (files / "docs.css").read_text(encoding="utf-8")
    template = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True
    ).from_string((files / "docs.html.j2").read_text(encoding="utf-8"))
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )

    @routes.get("/docs", include_in_schema=False)
    async def page(request: Request) -> Response:
        description: dict[str, Any] = request.app.openapi()
        text = template.render(
            style=style,
            api=description,
            kinds=KINDS,
            pretty=lambda value: json.dumps(value, indent=2, ensure_ascii=False),
        )
        return HTMLResponse(
            text, headers={"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}
        )

    @routes.get("/openapi.json", include_in_schema=False)
    async def description(request: Request) -> Response:
        return JSONResponse(request.app.openapi())

    return routes
