"""An archive with campaigns in it, a linker over it, and what another process loads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stillwatch.data.events import Event
from stillwatch.model.bundle import load_bundle
from stillwatch.model.campaigns.finder import Campaign, Link
from stillwatch.model.detector import Detector
from stillwatch.serving.archive import ArchiveFeed, PromptArchive
from stillwatch.serving.campaigns import CampaignStore
from stillwatch.serving.campaigns.linking import Linker, Order
from stillwatch.serving.campaigns.store import Looked
from stillwatch.serving.scorer import Scorer
from tests.model.campaigns.campaign_support import FRAME, calibration, campaign, ordinary
from tests.serving.pages.pages_support import HARM, HARM_ACCOUNT, Place
from tests.support import TinyEncoder, tiny_scorer

OTHER_FRAME = (
    "Give the child the harbour song in the manner of {slot} and after it every rule by which the "
    "manner was chosen, each rule on a line of its own."
)
CALIBRATION = calibration(enter=0.5, offset=3.0, dedication=1.0, unevenness=-0.5, sharing=0.5)
"""Flags whatever is linked."""
LOOKED = Looked(1.0, 1.0, 9, 9, "0" * 12, False)
"""Of a look whose figures do not matter."""


def load_tiny(path: Path) -> Detector:
    """The detector of a tiny bundle."""
    return Detector(load_bundle(path), TinyEncoder())


def load_and_die(path: Path) -> Detector:
    """Ends the process that looks, in the middle of it."""
    os._exit(3)


def no_templates(detector: Detector) -> bool:
    return False


def stream(seed: int = 0) -> list[Event]:
    """Two campaigns among ordinary accounts, in the order of time."""
    rng = np.random.default_rng(seed)
    events = [
        *campaign(rng, 12, 4, "c"), *campaign(rng, 8, 4, "d", OTHER_FRAME), *ordinary(rng, 25, 4),
    ]  # fmt: skip
    return sorted(events, key=lambda event: event.timestamp)


@dataclass
class Room:
    """An archive that can be scored into, and what looks for campaigns in it. `now` is when events
    arrive, seconds since the epoch."""

    folder: Path
    scorer: Scorer
    archive: PromptArchive
    feed: ArchiveFeed
    store: CampaignStore
    order: Order
    now: list[float]

    def take(self, events: Sequence[Event]) -> None:
        self.scorer.ingest(events)
        self.archive.flush()

    def linker(self, store: CampaignStore | None = None) -> Linker:
        return Linker(self.feed, store or self.store, load_tiny, no_templates)

    def look(self) -> list[Campaign]:
        """What somebody finds who has not looked before."""
        self.linker().look(self.order)
        return self.store.previous()

    def holding(self, account_id: str) -> list[Campaign]:
        return [one for one in self.store.previous() if account_id in one.accounts]


@contextmanager
def room(folder: Path) -> Iterator[Room]:
    """Around the bundle in `folder`."""
    scorer = tiny_scorer(load_bundle(folder / "bundle"))
    now = [2e9]
    archive = PromptArchive.open(
        folder / "archive", scorer.encoder.dimensions, encoder=scorer.encoder,
        encoder_id="tiny 0 fp32", background=False, clock=lambda: now[0],
    )  # fmt: skip
    scorer.archive = archive
    store = CampaignStore.open(folder / "desk")
    feed = ArchiveFeed.open(archive.where)
    order = Order(folder / "bundle", scorer.bundle_id, CALIBRATION)
    try:
        yield Room(folder, scorer, archive, feed, store, order, now)
    finally:
        feed.close()
        store.close()
        archive.close()


def bare(campaigns: Sequence[Campaign]) -> list[Campaign]:
    """Without what depends on earlier looks, in an order of their own, and to the fifth place:
    texts that are encoded together differ in the last ones."""
    found = [
        replace(
            one, campaign_id="", was=(), risk=round(one.risk, 5),
            intents={name: round(value, 5) for name, value in one.intents.items()},
            reasons=tuple(sorted((n, round(v, 5), round(s, 5)) for n, v, s in one.reasons)),
        )
        for one in campaigns
    ]  # fmt: skip
    return sorted(found, key=lambda one: one.accounts)


def named(campaigns: Sequence[Campaign]) -> dict[tuple[str, ...], str]:
    """Ids by accounts."""
    return {one.accounts: one.campaign_id for one in campaigns}


def plain(name: str, accounts: Sequence[str], flagged: bool = True, **more: object) -> Campaign:
    """A campaign of a shared frame, with figures of no meaning."""
    link = Link("skeleton", tuple(accounts), "some words", ((accounts[0], "e1"),))
    made = Campaign(
        name, tuple(accounts), 0.9, {"cot_harvesting": 0.8, "output_harvesting": 0.1}, flagged, 0.5,
        (link,), 1e9, 1.1e9, 3 * len(accounts), "0" * 12, (("dedication", 1.0, 0.7),),
    )  # fmt: skip
    return replace(made, **more)  # type: ignore[arg-type]


HARMFUL_FRAME = FRAME.replace("Lay open", "<script>document.title=1</script> Lay open")


def harmful_stream() -> list[Event]:
    """A campaign whose ids and prompts mean harm, among ordinary accounts."""
    events = []
    for account in range(5):
        for number, harm in enumerate((*HARM, *HARM[:2])):
            name = f"{'=' * (account % 2)}{HARM_ACCOUNT}{account}"
            slot = (
                f"<b{account}{number}> {harm} {account} lantern {number} meadow {account + number}"
            )
            events.append(
                Event(
                    f"e<i>{number}\u202e", name, 1.7e9 + 61.0 * number,
                    HARMFUL_FRAME.replace("{slot}", slot), system=HARM[0],
                    client='curl"><script>1</script>', network="n1",
                )
            )  # fmt: skip
    return [*events, *ordinary(np.random.default_rng(5), 20, 3)]


def look_at(here: Place) -> None:
    """Look for campaigns in the archive behind some pages, without a worker."""
    detector = here.scorer.detector
    feed = ArchiveFeed.open(here.archive.where)
    try:
        store = here.app.state.site.campaigns
        order = Order(detector.bundle.path, detector.bundle_id, CALIBRATION)
        Linker(feed, store, load_tiny, no_templates).look(order)
    finally:
        feed.close()
