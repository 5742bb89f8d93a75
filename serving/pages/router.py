"""All routes of the pages."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from stillwatch.serving.http.problems import Problem
from stillwatch.serving.pages import (
    account_page,
    audit_page,
    campaign_forms,
    campaign_pages,
    decision_forms,
    login,
    model_page,
    queue_page,
    records_forms,
    search_page,
    selection,
    template_pages,
)
from stillwatch.serving.pages.assets import CACHED
from stillwatch.serving.pages.guard import HOME, page_route, see_other
from stillwatch.serving.pages.site import Site

PARTS = (
    login.add, queue_page.add, campaign_pages.add, campaign_forms.add, account_page.add,
    decision_forms.add, search_page.add, selection.add, template_pages.add, model_page.add,
    audit_page.add, records_forms.add,
)  # fmt: skip


def pages_router(site: Site) -> APIRouter:
    """Everything under /desk."""
    routes = APIRouter(route_class=page_route(site), include_in_schema=False)

    @routes.get("/desk")
    async def home() -> Response:
        return see_other(HOME)

    @routes.get("/desk/assets/{name}")
    async def asset(request: Request, name: str) -> Response:
        found = site.assets.get(name)
        if found is None:
            raise Problem("not_found", "The path must be one of the pages', however: another.")
        response = Response(found.content, media_type=found.media_type)
        if request.query_params.get("v") == found.version:
            response.headers["Cache-Control"] = CACHED
        return response

    for add in PARTS:
        add(routes, site)
    return routes
