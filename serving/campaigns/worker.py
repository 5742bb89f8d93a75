"""The process that looks for campaigns: its time and its interpreter's lock are nobody else's.

It takes an order, looks, says what came of it, and waits for the next. Where events have left the
archive it ends, so that the memory that held something of them goes back to the machine.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import ExitStack, closing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from stillwatch.data.errors import StillwatchError
from stillwatch.model.detector import Detector
from stillwatch.serving.campaigns.linking import Linker, Load, Order, Templates
from stillwatch.serving.campaigns.records import Run
from stillwatch.serving.campaigns.store import Outdated

NICE = 10
"""Added to its niceness: whoever answers requests comes first."""


class Place(NamedTuple):
    """Where a worker finds what it works on: a desk's folder, and what `PromptArchive.open` was
    given. `load` must be a function that another process can import."""

    folder: Path
    archive: str
    load: Load


class Failed(NamedTuple):
    """A look that failed: a sentence for whoever looks at the pages, the error's type and its
    place in our code. No prompt is in any of them."""

    told: str
    error: str
    place: str


class Left(NamedTuple):
    """Events have left the archive: the worker has ended, and another has to begin."""


Answer = Run | Failed | Left


def load_bundle(path: Path) -> Detector:
    """A detector of a bundle, on one thread."""
    from stillwatch.model.golden import load_detector

    return load_detector(path, 1)


def work(orders: Connection, place: Place, log_level: str = "warning") -> None:
    """Until there are no more orders, or nobody who could give them."""
    from stillwatch.serving.http import logs

    os.nice(NICE)
    # Whoever is at the terminal stops the service, and the service stops this.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    logs.configure(log_level)
    with ExitStack() as resources:
        linker: Linker | None = None
        while True:
            try:
                order: Order | None = orders.recv()
            except EOFError:
                return
            if order is None:
                return
            answer: Answer
            try:
                linker = linker or _linker(place, resources)
                answer = linker.look(order)
            except Outdated:
                answer = Left()
            except Exception as error:
                told = str(error) if isinstance(error, StillwatchError) else type(error).__name__
                fields = logs.fault_fields(error)
                answer = Failed(told, fields["error"], fields["place"])
            try:
                orders.send(answer)
            except OSError:
                return
            if isinstance(answer, Left):
                return


def _linker(place: Place, resources: ExitStack) -> Linker:
    """Opened at the first order, so that what fails is told as any look that fails."""
    from stillwatch.serving.archive.feed import ArchiveFeed
    from stillwatch.serving.campaigns.store import CampaignStore

    with ExitStack() as opening:
        feed = opening.enter_context(closing(ArchiveFeed.open(place.archive)))
        store = opening.enter_context(closing(CampaignStore.open(place.folder)))
        templates = _site_templates(place.folder, opening)
        linker = Linker(feed, store, place.load, templates)
        resources.push(opening.pop_all())
    return linker


def _site_templates(folder: Path, resources: ExitStack) -> Templates:
    from stillwatch.serving.desk import Desk, LiveTemplates

    desk = resources.enter_context(closing(Desk.open(folder, read_only=True)))
    install: Callable[[Detector], bool] = LiveTemplates(desk.templates).install
    return install
