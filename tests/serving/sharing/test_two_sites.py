"""From one provider to another over TAXII, with the released bundle: a campaign that the second has
missed is flagged, none of its ordinary accounts is, and revoking restores every verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import stillwatch.data
from stillwatch.data.events import Event
from stillwatch.data.intelligence import Tlp
from stillwatch.data.labels import read_labels
from stillwatch.data.log import read_log
from stillwatch.model.detector import Detector
from stillwatch.model.templates import embedding_text
from stillwatch.serving.archive import PromptArchive, encoder_id
from stillwatch.serving.desk import Desk, LiveTemplates
from stillwatch.serving.scorer import Scorer
from stillwatch.serving.sharing import Importer, Ledger, Shelf
from stillwatch.serving.sharing.collection import Collection
from stillwatch.serving.sharing.incoming import replay_added
from stillwatch.serving.sharing.poller import Feed, Poll, Poller
from stillwatch.serving.verdict import Verdict
from tests.serving.desk.desk_support import Clock, desk_in
from tests.serving.sharing.sharing_support import PEER, app_around, served

pytestmark = pytest.mark.slow

SAMPLE = Path(stillwatch.data.__file__).parent / "sample"
EACH = 14
CALM = 0.1
"""Ordinary accounts whose risk was ever higher are not customers of the two sites."""
FRAME = "Folder {slot}: a hard question, a right answer, a wrong answer"
TOPICS = (
    "tides", "bread", "bridges", "opera", "tin mining", "bees", "glaciers", "chess", "kites",
    "paper", "rice", "canals", "lenses", "beetles", "harbours", "clocks", "moss", "violins",
)  # fmt: skip
CAMPAIGN = ("shell-1", "shell-2", "shell-3")


def ordinary() -> list[Event]:
    """The first events of each ordinary account of the sample."""
    honest = {one.id for one in read_labels(SAMPLE / "labels.jsonl") if not one.intents}
    kept: dict[str, list[Event]] = {}
    for event in read_log([SAMPLE / "requests.jsonl"], strict=True):
        if event.account_id in honest and len(kept.setdefault(event.account_id, [])) < EACH:
            kept[event.account_id].append(event)
    return [event for events in kept.values() for event in events]


def campaign() -> list[Event]:
    rng = np.random.default_rng(3)
    return [
        Event(
            f"{name}-{n}", name, 1.76e9 + 61.0 * n,
            FRAME.replace("{slot}", f"{n + 1} on {TOPICS[int(rng.integers(len(TOPICS)))]}"),
        )
        for name in CAMPAIGN
        for n in range(30)
    ]  # fmt: skip


@dataclass
class Site:
    """The second provider: its traffic, its detector with thresholds of its own, its desk."""

    events: list[Event]
    detector: Detector
    archive: PromptArchive
    desk: Desk
    folder: Path
    before: Mapping[str, Verdict]

    def judge(self) -> dict[str, Verdict]:
        """Verdicts on all of its traffic, by its detector as it is now."""
        return judge(self.detector, self.events)

    def poll(self, url: str, collection: str) -> Poll:
        ledger = Ledger(self.folder)
        library = {one.id: embedding_text(one) for one in self.detector.templates.templates}
        importer = Importer(self.desk, ledger, self.detector.intents, library, now=clock_of(self))
        feed = Feed(f"{url}/taxii2/api/", collection, "taxii:north", password=PEER.key)
        try:
            with Poller(feed, ledger) as poller:
                return poller.poll(importer, "feed")
        finally:
            ledger.close()


def clock_of(site: Site) -> float:
    return max(event.timestamp for event in site.events) + 60


def judge(detector: Detector, events: list[Event], archive: object = None) -> dict[str, Verdict]:
    scorer = Scorer(detector)
    scorer.archive = archive  # type: ignore[assignment]
    scorer.ingest(events)
    return {verdict.account_id: verdict for verdict in scorer.verdicts()}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("south")
    released = Detector.load()
    calm = {
        name: verdict
        for name, verdict in judge(released, ordinary()).items()
        if verdict.peak_risk < CALM
    }
    # As a site that calibrates: by its ordinary traffic, and before it hears of anything.
    enter = 1.5 * max(verdict.peak_risk for verdict in calm.values())
    manifest = released.bundle.manifest
    changed = {"enter": enter, "leave": 0.9 * enter}
    thresholds = manifest.thresholds.model_copy(update=changed)
    own_manifest = manifest.model_copy(update={"thresholds": thresholds})
    bundle = replace(released.bundle, manifest=own_manifest)
    detector = Detector(bundle, released.encoder)
    own = [event for event in ordinary() if event.account_id in calm]
    archive = PromptArchive.open(
        folder / "archive", manifest.encoder.dimensions, encoder_id=encoder_id(detector),
        background=False,
    )  # fmt: skip
    judge(detector, own, archive)
    archive.flush()
    events = own + campaign()
    now = max(event.timestamp for event in events) + 60
    with desk_in(
        folder / "desk", archive=archive, clock=Clock(now), least_replayed=len(own) // 2
    ) as desk:
        # Without what is known of texts from other batches: the last digits depend on them.
        detector.set_site_templates([], np.empty((0, manifest.encoder.dimensions), np.float32))
        before = judge(detector, events)
        yield Site(events, detector, archive, desk, folder / "desk", before)
    archive.close()


def test_a_shared_template_flags_what_was_missed_and_nothing_else(
    site: Site, tmp_path: Path
) -> None:
    assert len(site.before) >= 15 + len(CAMPAIGN)
    assert flagged(site.before) == set()

    clock = Clock(clock_of(site))
    options = {"archive": site.archive, "clock": clock, "least_replayed": 100}
    with desk_in(tmp_path / "north", **options) as north:
        template = north.templates.add(FRAME, "output_harvesting", "own", "ann").id
        north.templates.approve(template, site.detector.encoder, "bob", "one campaign's")
        shelf = Shelf(north)
        shelf.share([template], Tlp.GREEN, "ann", "seen elsewhere too")
        with served(app_around(shelf, tmp_path)) as url:
            collection = Collection(shelf).id
            done = site.poll(url, collection)
            assert (done.error, done.report.count("added")) == (None, 1)
            again = site.poll(url, collection)
            assert again.report.count("added") == 0
    (waiting,) = site.desk.templates.find("quarantined")
    assert (waiting.text, waiting.source) == (FRAME, "taxii:north")

    live = LiveTemplates(site.desk.templates)
    # What waits changes nothing.
    assert not live.install(site.detector)
    encoder = site.detector.encoder
    (line,) = replay_added(site.desk, encoder, [waiting.id], "feed")
    assert line.startswith(f"{waiting.id} hits 0 of ")
    site.desk.templates.approve(waiting.id, encoder, "bob", "hits nothing of ours")
    assert live.install(site.detector)
    after = site.judge()
    assert flagged(after) == set(CAMPAIGN)
    names = {shown.template_id for name in CAMPAIGN for shown in after[name].evidence}
    assert waiting.id in names

    decision = site.desk.decide(CAMPAIGN[0], "confirm", "r", "bob", after[CAMPAIGN[0]])
    found = site.desk.templates.revoke_source("taxii:north", "ann", "it was wrong", undo=True)
    assert [one.id for one in found.decisions] == [decision.id]
    assert site.desk.present(CAMPAIGN[0]) is None
    assert live.install(site.detector)
    assert site.judge() == site.before
    assert site.desk.verify().intact


def flagged(verdicts: Mapping[str, Verdict]) -> set[str]:
    return {name for name, verdict in verdicts.items() if verdict.flagged or verdict.flagged_after}
