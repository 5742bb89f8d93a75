"""The bundle that decides: which one it is, reload on request, and a watched folder.

A bundle is read and checked in a thread of its own, so that neither the event loop nor the
scorer waits for it; the gate's thread puts it in place between two batches.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from prometheus_client import Counter

from stillwatch.data.errors import BundleError, ConfigError
from stillwatch.model.bundle import released_bundle
from stillwatch.serving.http import openapi
from stillwatch.serving.http.auth import Caller, require
from stillwatch.serving.http.logs import fault_fields, get_logger
from stillwatch.serving.http.problems import Problem, retry_after
from stillwatch.serving.http.requests import JsonResponse, read_object
from stillwatch.serving.http.service import Service
from stillwatch.serving.reload import BundleFolder, Candidate, Change, Reloader, Watch

T = TypeVar("T")

RELOADED = "bundle.reloaded"
WATCHER = "watcher"
"""Stands in the logs in the place of a key's id."""
_CODES = ("unauthenticated", "forbidden_role")
GET_BUNDLE = openapi.route(
    "The bundle that decides", "It, and the last one that was refused", openapi.ref("Bundle"),
    (*_CODES, "internal"),
)  # fmt: skip
POST_RELOAD = openapi.route(
    "Take over another bundle", "Its id and that of the one before", openapi.ref("BundleChange"),
    (*_CODES, "invalid_json", "invalid_encoding", "invalid_length", "body_timeout",
     "body_too_large", "unsupported_media_type", "unsupported_encoding", "invalid_request",
     "reload_running", "bundle_not_found", "bundle_refused", "overloaded", "internal", "draining"),
    body="BundleReload", example={"path": "2026-03-01"},
)  # fmt: skip
POST_RELOAD["openapi_extra"]["requestBody"]["required"] = False


class Bundles:
    """Reloads of one app, one at a time. All of it runs in the event loop but what is said to."""

    def __init__(self, service: Service) -> None:
        settings = service.settings
        self._service = service
        self._reloader = Reloader(service.scorer, settings.threads)  # type: ignore[arg-type]
        folder = settings.bundle_folder
        self._watch = Watch(BundleFolder(folder)) if folder is not None else None
        self._reload: asyncio.Task[Change] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._readable = True
        self._reloads = Counter(
            "stillwatch_bundle_reloads", "Bundles read again: taken, the same, or refused.",
            ("result",), registry=service.metrics.registry,
        )  # fmt: skip

    async def start(self) -> None:
        """Take the newest good bundle of the watched folder, before requests are, and watch it."""
        if self._watch is None:
            return
        while await self.look(settled=False):
            pass
        self._watcher = asyncio.create_task(self._keep_looking())

    async def stop(self) -> None:
        """Give up what is being loaded, and watch no longer."""
        tasks = [task for task in (self._watcher, self._reload) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def running(self) -> bool:
        """Whether a bundle is being loaded."""
        return self._reload is not None and not self._reload.done()

    async def reload(self, path: Path, by: str) -> Change:
        """Take over the bundle in `path`. Raises Problem: one is being loaded already, or this one
        was refused. Once begun it is finished, whether its caller waits or not."""
        if self.running:
            raise Problem(
                "reload_running",
                "One bundle must be loaded after the other, however: one is being loaded.",
                headers=retry_after(1),
            )
        self._reload = asyncio.create_task(self._take_over(path, by))
        # What nobody waits for any more is in the log; it need not be asked for.
        self._reload.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._reload)

    async def reload_named(self, name: str, by: str) -> Change:
        """As `reload`, by a path from bundle_folder. Raises Problem, for one that leads out of it
        and one that leads nowhere alike."""
        if self._watch is None:
            raise _not_found("bundle_folder must be set to name a bundle in it, however: it is not")
        find, folder = self._watch.folder.find, name
        try:
            path = await in_thread(lambda: find(folder))
        except ConfigError as error:
            raise _not_found(str(error)) from None
        return await self.reload(path, by)

    async def reload_configured(self, by: str) -> Change:
        """As `reload`: the newest of the watched folder, also one that was refused before; if
        there is none, the bundle of the settings."""
        candidate = None
        if self._watch is not None:
            with suppress(OSError):
                found = await in_thread(self._watch.folder.candidates)
                candidate = found[0] if found else None
        if candidate is not None:
            return await self._try(candidate, by)
        return await self.reload(self._service.settings.bundle or released_bundle(), by)

    async def look(self, settled: bool = True) -> bool:
        """Try what is new in the watched folder. Whether the next one should be tried at once."""
        if self._watch is None or self.running:
            return False
        watch = self._watch
        try:
            candidate = await in_thread(lambda: watch.next(settled))
        except OSError as error:
            if self._readable:
                get_logger().warning("the bundle folder cannot be read", **fault_fields(error))
            self._readable = False
            return False
        self._readable = True
        if candidate is None:
            return False
        try:
            await self._try(candidate, WATCHER)
        except Problem as problem:
            # Any other reason passes: it is tried again at the next look.
            return problem.code == "bundle_refused"
        return False

    def to_fields(self) -> dict[str, Any]:
        """What an operator is told."""
        scorer, refusal = self._service.scorer, self._reloader.refusal
        # A scripted scorer has none; read once, so that all of it is of one bundle.
        detector: Any = getattr(scorer, "detector", None)
        thresholds = detector.bundle.manifest.thresholds.model_dump() if detector else None
        return {
            "bundle": detector.bundle_id if detector else scorer.bundle_id,
            "loaded_at": _time(self._reloader.loaded_at),
            "intents": list(detector.intents if detector else scorer.intents),
            "thresholds": thresholds,
            "watched": self._watch is not None,
            "reloading": self.running,
            "last_refusal": refusal
            and {"folder": refusal.folder, "reason": refusal.reason, "at": _time(refusal.at)},
        }

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(self._service.settings.bundle_poll_s)
            try:
                await self.look()
            except Exception as error:
                # It goes on watching, whatever happens.
                get_logger().error("the bundle folder was not watched", **fault_fields(error))

    async def _try(self, candidate: Candidate, by: str) -> Change:
        assert self._watch is not None
        try:
            change = await self.reload(candidate.path, by)
        except Problem as problem:
            if problem.code == "bundle_refused":
                self._watch.refused(candidate)
            raise
        self._watch.taken(candidate)
        return change

    async def _take_over(self, path: Path, by: str) -> Change:
        try:
            detector = await in_thread(lambda: self._reloader.load(path))
        except BundleError as error:
            self._reloads.labels("refused").inc()
            reason = str(error)
            get_logger().warning("a bundle was refused", by=by, reason=reason)
            raise Problem("bundle_refused", _sentence(reason)) from None

        def put_in_place() -> Change:
            change = self._reloader.take_over(detector)
            if change.bundle != change.previous:
                self._service.bundle_changed()
            return change

        change = await self._service.gate.call(put_in_place)
        taken = change.bundle != change.previous
        self._reloads.labels("taken" if taken else "same").inc()
        get_logger().info(
            "a bundle was taken over" if taken else "the bundle is the same",
            by=by, bundle=change.bundle, previous=change.previous,
        )  # fmt: skip
        if taken:
            await self._record(change, by)
        return change

    async def _record(self, change: Change, by: str) -> None:
        """Note in the audit log, if there is one, which bundle decides from now on. That the log
        cannot be written changes nothing about that."""
        record = self._service.record
        if record is None:
            return
        fields = {"bundle": change.bundle, "previous": change.previous}
        try:
            await in_thread(lambda: record(RELOADED, by, fields))
        except Exception as error:
            get_logger().error("a reload was not noted in the audit log", **fault_fields(error))


def router(bundles: Bundles) -> APIRouter:
    """`/v1/bundle` and `/v1/bundle/reload`."""
    routes = APIRouter(tags=["operation"])

    @routes.get("/v1/bundle", dependencies=[Depends(require("analyst", "admin"))], **GET_BUNDLE)
    async def bundle() -> Response:
        return JsonResponse(bundles.to_fields())

    @routes.post("/v1/bundle/reload", **POST_RELOAD)
    async def reload(
        request: Request, caller: Annotated[Caller, Depends(require("admin"))]
    ) -> Response:
        if await request.body():
            fields = await read_object(request)
            if set(fields) != {"path"} or not isinstance(fields["path"], str):
                raise Problem(
                    "invalid_request",
                    "The body must be {path: text} or missing, however: another object.",
                )
            change = await bundles.reload_named(fields["path"], caller.key_id)
        else:
            change = await bundles.reload_configured(caller.key_id)
        return JsonResponse(change._asdict())

    return routes


def in_thread(function: Callable[[], T]) -> asyncio.Future[T]:
    """What `function` gives, run in a thread of its own: a disk that never answers keeps neither
    the loop's pool busy nor the process alive."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(function())
        except BaseException as error:
            answer.set_exception(error)

    answer.set_running_or_notify_cancel()
    threading.Thread(target=run, name="reload", daemon=True).start()
    return asyncio.wrap_future(answer)


def _not_found(reason: str) -> Problem:
    return Problem("bundle_not_found", _sentence(reason))


def _sentence(reason: str) -> str:
    return f"{reason[:1].upper()}{reason[1:]}."


def _time(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
