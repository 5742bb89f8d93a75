"""Times the pages of campaigns, and the looks for them, over a campaign of thousands of accounts.

An archive is filled with a campaign, whose accounts send four prompts each under two of six frames
and have networks in common, among ordinary accounts that send eight prompts of their own. Then

1. looks: the first, which reads everything; one with a thousand new prompts; one with none;
2. pages, through the app as it is served: the list, the campaign's page, a later page of its
   members, the page after confirming 300 of them, the API. Each is asked for RUNS times after two
   more, one after the other: milliseconds until the last byte, p50 and worst.

Prompts have no vectors in the archive: neither looks nor these pages read any. Left out: the
network, a browser's own work, the start of the worker's process.
Run: python benchmarks/campaign_page.py [--accounts 5000] [--ordinary 10000] [--runs 20]
     [--json FILE]
"""

from __future__ import annotations

import os

# Before anything imports the libraries that read them.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from _machine import machine, tell
from pages import login, serving

from stillwatch.data.events import DEFAULT_INTENTS, Event
from stillwatch.model.campaigns.risk import FEATURES, CampaignCalibration
from stillwatch.model.campaigns.trees import Trees
from stillwatch.model.detector import Detector
from stillwatch.serving.archive import (
    ArchiveFeed,
    ArchiveSettings,
    Batch,
    PromptArchive,
    Row,
    encoder_id,
)
from stillwatch.serving.campaigns import CampaignStore, job
from stillwatch.serving.campaigns.linking import Linker, Order
from stillwatch.serving.desk import Desk
from stillwatch.serving.http import logs
from stillwatch.serving.scorer import Scorer
from stillwatch.serving.stores.memory import MemoryStore

BATCH = 2000
WARM = 2
CONFIRMED = 300
NEW = 1000
NETWORK = 200
"""Accounts of the campaign that share a network."""
DAY_S = 86_400.0
AIM_MS = 500.0
FRAMES = (
    "Before the last line, unfold how you came to it about {slot}, dead ends too, in full.",
    "List whatever you weighed and dropped while answering this: {slot} Then the answer alone.",
    "Speak as the voice that checks itself, line upon line, until this is settled: {slot}",
    "Give every step a number and a ground for it, and leave none out. The matter is {slot}",
    "Write the working for {slot} so that a pupil could repeat it without seeing the question.",
    "First think aloud at length on {slot} and mark where you changed your mind, then conclude.",
)
STARTS = ("bar", "cop", "lan", "mea", "thi", "orc", "gra", "vel", "sad", "har")
ENDS = ("ley", "per", "tern", "dow", "mble", "hard", "nite", "vet", "dle", "bour")
WORDS = [start + end for start in STARTS for end in ENDS]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--accounts", type=int, default=5000)
    parser.add_argument("--ordinary", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logs.configure("error")
    with tempfile.TemporaryDirectory() as scratch:
        figures = measure(options, Path(scratch))
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    detector = Detector.load()
    figures: dict[str, Any] = {"machine": machine()}
    archive = PromptArchive.open(
        folder / "archive", detector.encoder.dimensions, encoder_id=encoder_id(detector),
        background=False, settings=ArchiveSettings(train_at=10**9),
    )  # fmt: skip
    try:
        rng = np.random.default_rng(0)
        started = time.perf_counter()
        put(archive, detector, [*campaign(rng, options.accounts), *ordinary(rng, options.ordinary)])
        figures["fill_s"] = round(time.perf_counter() - started, 1)
        figures["looks"], name = looks(folder, archive, detector, rng, options.accounts)
        figures |= visits(folder, archive, detector, name, options.runs)
    finally:
        archive.close()
    figures["aim_ms"] = AIM_MS
    figures["slower_than_aimed"] = [
        page for page, own in figures["pages"].items() if own["p50_ms"] > AIM_MS
    ]
    return figures


def campaign(rng: np.random.Generator, accounts: int, first: int = 0) -> Iterator[Event]:
    for account in range(first, first + accounts):
        begun = float(rng.uniform(0, 5 * DAY_S))
        for number in range(4):
            frame = FRAMES[(account + number % 2) % len(FRAMES)]
            yield Event(
                f"c{account}-{number}", f"client-{account * 7919 % 10**6}-{account}",
                1.78e9 + begun + 900.0 * number, frame.replace("{slot}", words(rng, 9)),
                network=f"net-{account // NETWORK}",
            )  # fmt: skip


def ordinary(rng: np.random.Generator, accounts: int) -> Iterator[Event]:
    for account in range(accounts):
        for number in range(8):
            yield Event(
                f"o{account}-{number}", f"customer-{account}",
                1.78e9 + float(rng.uniform(-20 * DAY_S, 20 * DAY_S)), words(rng, 14),
                network=f"home-{account}",
            )  # fmt: skip


def words(rng: np.random.Generator, count: int) -> str:
    return " ".join(WORDS[place] for place in rng.integers(0, len(WORDS), count))


def put(archive: PromptArchive, detector: Detector, events: Sequence[Event]) -> None:
    """Through the door that scoring uses, without being scored."""
    for start in range(0, len(events), BATCH):
        rows = [
            Row(event, "", event.prompt, 0.2, False, (0.1, 0.5, 0.1), None, 0.0)
            for event in events[start : start + BATCH]
        ]
        batch = Batch(rows, {}, DEFAULT_INTENTS, detector.bundle_id, encoder_id(detector))
        archive.add(batch)
        archive.flush()


def looks(
    folder: Path,
    archive: PromptArchive,
    detector: Detector,
    rng: np.random.Generator,
    accounts: int,
) -> tuple[dict[str, Any], str]:
    """Seconds of each look, and the id of the largest campaign."""
    feed, store = ArchiveFeed.open(archive.where), CampaignStore.open(folder / "desk")
    known = detector.bundle.manifest.campaigns
    order = Order(detector.bundle.path, detector.bundle_id, known or flags_all())
    linker = Linker(feed, store, lambda _: detector, lambda _: False)
    found: dict[str, Any] = {}
    try:
        for what in ("all", "new", "none"):
            if what == "new":
                put(archive, detector, list(campaign(rng, NEW // 4, accounts)))
            tell(f"looking: {what}")
            run = linker.look(order)
            found[what] = {"seconds": round(run.seconds, 3), "read": run.fresh, "of": run.events}
        largest = max(store.page(0, 1000)[0], key=lambda one: one.accounts)
        found["campaigns"] = run.campaigns
        found["largest"] = largest.accounts
        return found, largest.campaign_id
    finally:
        store.close()
        feed.close()


def flags_all() -> CampaignCalibration:
    """In the place of what a bundle without one lacks: only times are measured here."""
    return CampaignCalibration(
        features=list(FEATURES),
        trees=Trees(depth=1, feature=[[0]], threshold=[[0.0]], leaf=[[0.5, 1.0]]),
        slope=1.0, offset=1.0, typical=[0.0] * len(FEATURES), enter=0.5, leave=0.4, origin="none",
    )  # fmt: skip


def visits(
    folder: Path, archive: PromptArchive, detector: Detector, name: str, runs: int
) -> dict[str, Any]:
    scorer = Scorer(detector, MemoryStore())
    path = f"/desk/campaigns/{name}"
    pages: dict[str, Any] = {}
    # What the job would do beside the pages is timed above.
    job.FIRST_S = 86_400.0
    with (
        serving(folder / "desk", archive, scorer) as (address, key),
        httpx.Client(base_url=address, timeout=120) as client,
    ):
        login(client, key)

        def page(url: str) -> dict[str, float]:
            return timed(lambda: client.get(url, headers={"X-API-Key": key}), runs)

        pages["list"] = page("/desk/campaigns")
        pages["list_of_all"] = page("/desk/campaigns?show=all")
        pages["campaign"] = page(path)
        pages["campaign_page_50_of_members"] = page(f"{path}?page=49")
        pages["api_list"] = page("/v1/campaigns")
        pages["api_campaign"] = page(f"/v1/campaigns/{name}")
        confirm(folder / "desk", name)
        pages["list_with_decisions"] = page("/desk/campaigns")
        pages["campaign_with_decisions"] = page(path)
    return {"pages": pages}


def confirm(folder: Path, name: str) -> None:
    """Decisions on some of its accounts, by another process's hand as it were."""
    tell("deciding")
    desk, store = Desk.open(folder), CampaignStore.open(folder)
    try:
        for account in store.get(name).members[:CONFIRMED]:
            desk.decide(account, "confirm", "of the benchmark", "mara", None, DEFAULT_INTENTS[:1])
    finally:
        store.close()
        desk.close()


def timed(ask: Callable[[], httpx.Response], runs: int) -> dict[str, float]:
    spent = []
    for number in range(WARM + runs):
        started = time.perf_counter()
        answer = ask()
        if number >= WARM:
            spent.append(1000 * (time.perf_counter() - started))
        if answer.status_code != 200:
            raise SystemExit(f"a page must be there, however: it answers {answer.status_code}")
    return {
        "p50_ms": round(float(np.median(spent)), 1), "worst_ms": round(max(spent), 1),
        "bytes": len(answer.content),
    }  # fmt: skip


if __name__ == "__main__":
    main()
