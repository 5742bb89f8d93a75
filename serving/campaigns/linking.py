"""Looks for campaigns in an archive, again and again, each time reading only what is new.

What is held between two looks are hashes, times and ids of accounts (`CampaignIndex`), and readings
of communities that have not changed. Once events have left the archive, by an erasure or because
their time was over, nothing of this may be used any more: whoever looks begins anew with a linker,
and a process, that has never seen them.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from stillwatch.data.errors import BundleError
from stillwatch.data.events import Event
from stillwatch.model.campaigns.finder import Campaign, CampaignFinder
from stillwatch.model.campaigns.index import CampaignIndex
from stillwatch.model.campaigns.risk import CampaignCalibration
from stillwatch.model.detector import Detector
from stillwatch.serving.archive.feed import ArchiveFeed, State
from stillwatch.serving.campaigns.records import Run
from stillwatch.serving.campaigns.store import CampaignStore, Looked, Outdated

CHUNK = 1000
"""Events that are read at a time."""

Load = Callable[[Path], Detector]
"""The detector of the bundle in a folder."""
Templates = Callable[[Detector], bool]
"""Brings the site's live templates to a detector; whether that changed anything."""


class Order(NamedTuple):
    """What to look with: the bundle in use, by its folder and id, and what it knows of
    campaigns."""

    bundle: Path
    bundle_id: str
    calibration: CampaignCalibration


class Linker:
    """Looks for the campaigns of one archive, for one thread."""

    def __init__(
        self, feed: ArchiveFeed, store: CampaignStore, load: Load, templates: Templates,
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._feed = feed
        self._store = store
        self._load = load
        self._templates = templates
        self._clock = clock
        self._detector: Detector | None = None
        self._calibration = ""
        """As JSON: compared as what it says, not as what it has worked out."""
        self._finder: CampaignFinder | None = None
        self._index = CampaignIndex()
        self._numbers = array("q")
        """The archive's number of each event of the index."""
        self._state: State | None = None
        self._stored = False
        """Whether the store holds what a look with all of the above found."""

    def look(self, order: Order) -> Run:
        """Read what is new, find campaigns and store them. What fails leaves the last campaigns
        as they are: StoreError, BundleError, and Outdated once events have left the archive, after
        which this linker is of no use any more."""
        began, started = self._clock(), time.perf_counter()
        known = len(self._index)
        self._read_new()
        fresh = len(self._index) - known
        detector = self._detector_of(order)

        def looked() -> Looked:
            seconds = time.perf_counter() - started
            return Looked(began, seconds, len(self._index), fresh, order.bundle_id, not known)

        if self._stored and not fresh:
            return self._store.note(looked())
        found = self._find(detector, order)
        run = self._store.replace(looked(), found, lambda: self._feed.state() == self._state)
        self._stored = True
        return run

    def _read_new(self) -> None:
        while True:
            last = self._numbers[-1] if self._numbers else 0
            arrivals = self._feed.after(last, CHUNK)
            self._state = self._state or arrivals.state
            if arrivals.state != self._state:
                raise Outdated
            if not arrivals.events:
                return
            for number, event in arrivals.events:
                self._index.add([event])
                self._numbers.append(number)
            if len(self._index) != len(self._numbers):
                # One archive never has an event twice.
                raise Outdated

    def _detector_of(self, order: Order) -> Detector:
        detector = self._detector
        if detector is None or detector.bundle_id != order.bundle_id:
            detector = self._load(order.bundle)
            if detector.bundle_id != order.bundle_id:
                raise BundleError(
                    f"campaigns must be judged by the bundle in use, {order.bundle_id}, however: "
                    f"its folder holds {detector.bundle_id} now; reload the bundle"
                )
            self._detector, self._finder = detector, None
        if self._templates(detector):
            # Readings that are kept were made without them.
            self._finder = None
        calibration = order.calibration.model_dump_json()
        if self._calibration != calibration:
            self._calibration, self._finder = calibration, None
        if self._finder is None:
            self._stored = False
        return detector

    def _find(self, detector: Detector, order: Order) -> list[Campaign]:
        if self._finder is None:
            self._finder = CampaignFinder(detector, self._index, self._fetch, order.calibration)
        return self._finder.find(self._store.previous())

    def _fetch(self, places: Sequence[int]) -> list[Event]:
        numbers = [self._numbers[place] for place in places]
        found = self._feed.events(numbers)
        if len(found) < len(set(numbers)):
            raise Outdated
        return [found[number] for number in numbers]
