"""The job of the service that has campaigns looked for: when, with what, and what became of it."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from prometheus_client import Counter, Gauge, Histogram

from stillwatch.model.campaigns.risk import CampaignCalibration
from stillwatch.serving.campaigns.linking import Load, Order
from stillwatch.serving.campaigns.records import Run
from stillwatch.serving.campaigns.worker import Answer, Failed, Left, Place, load_bundle, work
from stillwatch.serving.http.bundles import in_thread
from stillwatch.serving.http.logs import fault_fields, get_logger
from stillwatch.serving.http.service import Service

if TYPE_CHECKING:
    # It opens the pages' own things, and they know this job.
    from stillwatch.serving.pages.workplace import Workplace

FIRST_S = 20.0
"""After the start: requests come first."""
RETRY_S = 5.0
"""After a worker has died; twice as long each time, up to the time between two looks."""
RESTARTS = 5
"""Of the worker in one turn, because events left the archive."""
STOP_S = 1.0

Standing = Literal["off", "uncalibrated", "on"]
Calibrate = Callable[[Any], CampaignCalibration | None]
"""What a detector's bundle knows of campaigns, None if nothing."""


class WorkerDied(Exception):  # noqa: N818 - it names what happened
    """The worker ended without an answer."""


class Trouble(NamedTuple):
    """Why there has been no good look since `time`."""

    time: float
    told: str


def calibration_of(detector: Any) -> CampaignCalibration | None:
    """What the manifest says."""
    if detector is None:
        return None
    found: CampaignCalibration | None = detector.bundle.manifest.campaigns
    return found


class CampaignJob:
    """One service's job. All of it runs in the event loop, the looks in a process of their own."""

    def __init__(
        self, service: Service, workplace: Workplace, load: Load = load_bundle,
        calibrate: Calibrate = calibration_of,
    ) -> None:  # fmt: skip
        """`load` is what the worker opens bundles with."""
        self.every_s = service.settings.campaigns_every_s
        self.store = workplace.campaigns
        self.trouble: Trouble | None = None
        self.on_change: Callable[[], None] | None = None
        """Called in a thread when campaigns, or who is in them, are others."""
        self._service = service
        self.load = load
        self.calibrate = calibrate
        self._workplace = workplace
        self._process: SpawnProcess | None = None
        self._orders: Connection | None = None
        self._dead = 0
        """Workers that have died since the last good look."""
        self._looking = asyncio.Lock()
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        registry = service.metrics.registry
        self._runs = Counter(
            "stillwatch_campaign_runs", "Looks for campaigns: stored, or failed.", ("result",),
            registry=registry,
        )  # fmt: skip
        self._deaths = Counter(
            "stillwatch_campaign_worker_deaths", "Times that the worker died.", registry=registry
        )
        self._seconds = Histogram(
            "stillwatch_campaign_run_seconds", "Time of a look for campaigns.",
            buckets=(0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600), registry=registry,
        )  # fmt: skip
        self._flagged = Gauge(
            "stillwatch_campaigns_flagged", "Campaigns that stand flagged.", registry=registry
        )

    @property
    def standing(self) -> Standing:
        """Whether campaigns are looked for, and if not, why."""
        if not self.every_s:
            return "off"
        return "on" if self.calibrate(self._detector) is not None else "uncalibrated"

    @property
    def pid(self) -> int | None:
        """Of the worker, if one runs."""
        process = self._process
        return process.pid if process is not None and process.is_alive() else None

    async def start(self) -> None:
        """Look every now and then. What the last look of an earlier service found counts until
        then."""
        await self.took_over()
        if self.every_s:
            if self.standing == "uncalibrated":
                get_logger().info("no campaigns are looked for: the bundle is not calibrated")
            self._task = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Look no more. A look that is under way is broken off; it has stored all or nothing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.to_thread(self._end)

    def hasten(self) -> None:
        """Look soon: an account was erased, say."""
        self._wanted.set()

    async def look(self) -> Run | None:
        """Look now; None if it failed, or if there is nothing to look with."""
        async with self._looking:
            detector = self._detector
            calibration = self.calibrate(detector)
            if detector is None or calibration is None:
                return None
            order = Order(detector.bundle.path.resolve(), detector.bundle_id, calibration)
            answer = await self._ask(order)
        if isinstance(answer, Run):
            await self._took(answer)
            return answer
        self._failed(answer.told)
        get_logger().error("campaigns were not looked for", error=answer.error, place=answer.place)
        return None

    @property
    def _detector(self) -> Any:
        return getattr(self._service.scorer, "detector", None)

    async def took_over(self) -> None:
        """To be called when campaigns, or rulings on their accounts, are others."""
        if self.on_change is not None:
            try:
                await asyncio.to_thread(self.on_change)
            except Exception as error:
                get_logger().error("campaigns were not taken over", **fault_fields(error))

    def _failed(self, told: str) -> None:
        self._runs.labels("failed").inc()
        self.trouble = Trouble(self.trouble.time if self.trouble else time.time(), told)

    async def _took(self, run: Run) -> None:
        self.trouble = None
        self._runs.labels("stored").inc()
        self._seconds.observe(run.seconds)
        self._flagged.set(run.flagged)
        await self.took_over()
        get_logger().info(
            "campaigns were looked for", events=run.events, fresh=run.fresh,
            campaigns=run.campaigns, flagged=run.flagged, seconds=round(run.seconds, 2),
        )  # fmt: skip

    async def _ask(self, order: Order) -> Run | Failed:
        """What the worker says. WorkerDied."""
        for _ in range(RESTARTS):
            answer = await self._answer(order)
            if not isinstance(answer, Left):
                return answer
            await asyncio.to_thread(self._end)
        return Failed("events leave the archive faster than they can be read", "Left", "outside")

    async def _answer(self, order: Order) -> Answer:
        if self._process is not None and not self._process.is_alive():
            # While nobody waited for it.
            self._died(0.0)
            await asyncio.to_thread(self._end)
        if self._process is None:
            await asyncio.to_thread(self._begin)
        orders = self._orders
        assert orders is not None
        try:
            await asyncio.to_thread(orders.send, order)
            answer: Answer = await in_thread(orders.recv)
            return answer
        except (EOFError, OSError):
            await asyncio.to_thread(self._end)
            raise WorkerDied from None

    def _begin(self) -> None:
        place = Place(self._workplace.folder, self._workplace.archive.where, self.load)
        # Spawned: what a fork takes along of threads and open databases is not to be used.
        context = multiprocessing.get_context("spawn")
        self._orders, theirs = context.Pipe()
        self._process = context.Process(
            target=work, args=(theirs, place, self._service.settings.log_level),
            name="stillwatch-campaigns", daemon=True,
        )  # fmt: skip
        self._process.start()
        # So that the pipe ends with the worker.
        theirs.close()

    def _end(self) -> None:
        """End the worker, in the middle of a look or not."""
        process, orders = self._process, self._orders
        self._process = self._orders = None
        if process is None:
            return
        process.terminate()
        process.join(STOP_S)
        if process.is_alive():
            process.kill()
            process.join(STOP_S)
        # Not before: somebody may be waiting for an answer.
        if orders is not None:
            with suppress(OSError):
                orders.close()

    async def turn(self) -> float:
        """Look, and say after how many seconds to look again. Never raises."""
        try:
            await self.look()
            self._dead = 0
        except WorkerDied:
            self._dead += 1
            wait = min(RETRY_S * 2 ** (self._dead - 1), self.every_s)
            self._died(wait)
            self._failed("the process that looks for campaigns has died")
            return wait
        except Exception as error:
            # It goes on, whatever happens.
            self._failed(type(error).__name__)
            get_logger().error("campaigns were not looked for", **fault_fields(error))
        return self.every_s

    async def _keep(self) -> None:
        wait = min(FIRST_S, self.every_s)
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), wait)
            self._wanted.clear()
            wait = await self.turn()

    def _died(self, wait: float) -> None:
        self._deaths.inc()
        get_logger().error("the campaigns' worker died and is started again", after_s=wait)
