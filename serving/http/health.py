"""For whoever runs the service: whether it lives, whether it is ready, and its metrics."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from fastapi.responses import Response

from stillwatch.serving.http import openapi
from stillwatch.serving.http.auth import ROLES, require
from stillwatch.serving.http.metrics import CONTENT_TYPE
from stillwatch.serving.http.requests import JsonResponse
from stillwatch.serving.http.service import Service


def router(service: Service) -> APIRouter:
    """`/healthz`, `/readyz` and `/metrics`."""
    routes = APIRouter(tags=["operation"])
    guards = [] if service.settings.metrics_open else [Depends(require(*ROLES))]

    @routes.get("/healthz", **openapi.HEALTHZ)
    async def healthz() -> Response:
        return JsonResponse({"status": "ok"})

    @routes.get("/readyz", **openapi.READYZ)
    async def readyz() -> Response:
        await service.check_ready()
        return JsonResponse({"status": "ready", "bundle": service.scorer.bundle_id})

    @routes.get("/metrics", dependencies=guards, **openapi.METRICS)
    async def metrics() -> Response:
        return Response(service.metrics.render(), media_type=CONTENT_TYPE)

    return routes
