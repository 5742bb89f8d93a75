"""The app: its parts put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version as version_of

from fastapi import FastAPI, Request
from fastapi.responses import Response

from stillwatch.serving.campaigns.job import CampaignJob
from stillwatch.serving.campaigns.judged import all_judged
from stillwatch.serving.http import (
    bundles,
    campaign_api,
    desk_api,
    docs,
    events,
    health,
    inference,
    litellm,
    openapi,
    problems,
    search_api,
    taxii,
)
from stillwatch.serving.http.batches import Scores
from stillwatch.serving.http.body import BodyLimits
from stillwatch.serving.http.dead_letters import DeadLetters
from stillwatch.serving.http.gate import Gate
from stillwatch.serving.http.logs import get_logger
from stillwatch.serving.http.metrics import Metrics
from stillwatch.serving.http.observe import Observe
from stillwatch.serving.http.requests import ClientGone
from stillwatch.serving.http.service import Service
from stillwatch.serving.http.settings import ServeSettings
from stillwatch.serving.pages import Site, Workplace, pages_router
from stillwatch.serving.response import api as response_api
from stillwatch.serving.response.responder import Responder
from stillwatch.serving.sharing import Shelf

CLIENT_GONE = 499
"""The status in logs and metrics of a request whose caller has gone."""

ROUTERS = (health.router, events.router, inference.router, litellm.router, docs.router)
"""Every door: each makes its routes from the Service."""


def create_app(
    settings: ServeSettings, scorer: Scores, workplace: Workplace | None = None
) -> FastAPI:
    """The service around a scorer, which it closes when it stops. `app.state.gate` is its Gate.
    With a workplace, which it closes too, it has the analyst's pages."""
    version = version_of("stillwatch")
    metrics = Metrics(version)
    gate = Gate(
        scorer,
        DeadLetters(settings.dead_letters),
        metrics,
        max_batch=settings.max_batch,
        max_queue=settings.max_queue,
        max_wait_s=settings.max_wait_s,
        deadline_s=settings.deadline_s,
    )
    service = Service(settings, scorer, gate, metrics, version)
    service.bundle_changed()
    responder = Responder(
        settings.policy, workplace.desk if workplace is not None else None, settings.desk_folder,
        scorer, gate,
    )  # fmt: skip
    service.responder = responder
    reloads = bundles.Bundles(service)
    desk = workplace.desk if workplace is not None else None
    keeper = desk_api.TemplateKeeper(service, desk) if desk is not None else None
    site: Site | None = None
    job: CampaignJob | None = None
    if workplace is not None and keeper is not None:
        service.after_bundle = keeper.bundle_changed
        service.record = workplace.desk.record
        job = CampaignJob(service, workplace)
        found = workplace.campaigns
        job.on_change = lambda: responder.know(all_judged(found))
        site = Site(workplace, service, keeper, job)
        if rebuilt := workplace.archive.rebuilt:
            metrics.index_rebuilds.inc(rebuilt)
            get_logger().warning(
                "the archive's index was lost or damaged: it is made from the tables",
                events=workplace.archive.rows.count,
            )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        gate.start()
        service.draining = False
        await reloads.start()
        if keeper is not None:
            await keeper.start()
        await responder.start()
        if job is not None:
            await job.start()
        yield
        service.draining = True
        if job is not None:
            await job.stop()
        await responder.stop()
        await reloads.stop()
        if keeper is not None:
            await keeper.stop()
        if site is not None:
            await site.close()
        # What waits may take its share of the time to stop; the requests have had theirs.
        if await asyncio.to_thread(gate.close, settings.drain_s / 4):
            scorer.close()
        else:
            get_logger().warning("the scorer did not end in time; its store was left open")
        if workplace is not None:
            workplace.close()

    app = FastAPI(
        title="Stillwatch",
        version=version,
        description=openapi.DESCRIPTION,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.gate = gate
    app.state.service = service
    app.state.bundles = reloads
    app.state.authenticator = settings.authenticator()
    problems.install(app)

    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=CLIENT_GONE)

    app.add_exception_handler(ClientGone, gone)
    for make in ROUTERS:
        app.include_router(make(service))
    app.include_router(bundles.router(reloads))
    app.include_router(desk_api.router(service, desk, keeper))
    app.include_router(search_api.router(desk))
    app.state.shelf = shelf = Shelf(desk) if desk is not None else None
    app.include_router(taxii.router(shelf))
    app.include_router(response_api.router(responder))
    app.state.campaigns = job
    app.include_router(campaign_api.router(job))
    if site is not None:
        app.state.site = site
        app.include_router(pages_router(site))
    openapi.install(app)
    # The last one added is the outermost.
    app.state.bodies = limits = BodyLimits(
        settings.body_limit_bytes, settings.body_timeout_s, settings.body_limit_bytes * 256
    )
    app.add_middleware(limits.middleware)
    app.add_middleware(Observe, metrics=metrics)
    return app
