"""Times every page of the desk over a large archive, through the app as it is served.

Prompts and vectors are made as benchmarks/search.py makes them, with what the pages read besides:
accounts of which one has a tenth of all prompts (at most 100,000), networks, payments and clients
that some share, flags, templates near and far, frames, a hundred days. The state store holds every
flagged account; decisions, an undone one in ten, fill the audit log. A writer adds prompts all the
while, ten times a second, so that no figure rests on an archive that stands still.

Each page is asked for RUNS times after WARM more, one after the other, by an analyst who is logged
in: milliseconds until the last byte, p50 and worst, and the middle of the processor time that the
app's own threads took, which a busy machine does not change by much; None where the system does
not tell it. What the client, the writer and the archive's own work take is not in it. With
--archive the archive is made in that folder, or taken from there if it holds as many prompts.

Left out: the network, a browser's own work, the encoding of the real texts.
Run: python benchmarks/pages.py [--events 1000000] [--texts 3000] [--runs 20] [--archive DIR]
     [--corpora DIR] [--json FILE]
"""

from __future__ import annotations

import os

# Before anything imports the libraries that read them.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import argparse
import itertools
import json
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import uvicorn
from _machine import machine, tell
from search import Made, real_texts

from stillwatch.data.events import DEFAULT_INTENTS, Event
from stillwatch.model.detector import FRAME, SLOT, Detector, text_key
from stillwatch.serving import state
from stillwatch.serving.archive import Batch, PromptArchive, Row, encoder_id
from stillwatch.serving.desk import Desk
from stillwatch.serving.http.app import create_app
from stillwatch.serving.http.auth import new_key
from stillwatch.serving.http.server import listen
from stillwatch.serving.http.settings import KeyEntry, ServeSettings
from stillwatch.serving.pages import Workplace
from stillwatch.serving.pages.tokens import to_pick, to_token
from stillwatch.serving.scorer import Scorer
from stillwatch.serving.state import Kept, Standing
from stillwatch.serving.stores.base import StateStore, Write
from stillwatch.serving.stores.sqlite import SqliteStore
from stillwatch.serving.verdict import Evidence, Verdict

BATCH = 1024
HUNDRED_DAYS_S = 100 * 86_400.0
LARGEST, MOST_OF_LARGEST = "account-largest", 100_000
EVENTS_AN_ACCOUNT = 20
FLAGGED_SHARE = 0.03
DECISIONS = 2000
FRAMES = 50
WARM = 2
APPENDED = 50
"""Prompts that the writer adds at a time."""
AIM_MS = 300.0
NOT_OF_PAGES = ("MainThread", "writer", "archive", "archive-build")
"""Threads that ask for pages, or that write beside them."""


class Plan(NamedTuple):
    """How many events there are, and what each of them is."""

    events: int
    first_time: float
    detector: Detector
    made: Made

    @property
    def accounts(self) -> int:
        return max(self.events // EVENTS_AN_ACCOUNT, 10)

    def account(self, number: int) -> str:
        if number % 10 == 3 and number < 10 * MOST_OF_LARGEST:
            return LARGEST
        return f"account-{number * 7919 % self.accounts}"

    def flagged(self, account: str) -> bool:
        own = account.removeprefix("account-")
        return own == "largest" or int(own) % 100 < 100 * FLAGGED_SHARE

    def batch(self, first: int, count: int, encoder: str) -> Batch:
        base, vectors = self.made.batch(count, seed=first)
        templates = self.detector.templates.templates
        apart = HUNDRED_DAYS_S / self.events
        rows, by_key = [], {}
        for place, text in enumerate(base.tolist()):
            number = first + place
            account = self.account(number)
            own = number * 7919 % self.accounts
            prompt = f"{self.made.texts[text]} #{number}"
            frame = f"frame {text % FRAMES}: answer in full" if number % 4 == 0 else ""
            # Some accounts share what they pay with, many a network, most a library.
            event = Event(
                f"e{number}", account, self.first_time + apart * number, prompt, model="m",
                network=f"n{own // 3}", payment=f"p{own // 2}" if own % 2 else f"own{own}",
                client=f"library {own % 5}" if own % 10 else f"tool {own // 50}",
            )  # fmt: skip
            flagged = self.flagged(account)
            risk = 0.5 + (number % 1000) / 2000 if flagged else (number % 400) / 1000
            strong = number % 3
            contribution = tuple(0.9 if at == strong else 0.05 for at in range(3))
            template = templates[number * 31 % len(templates)].id
            similarity = 0.75 if number % 20 == 0 else 0.4
            rows.append(
                Row(event, frame, prompt, risk, flagged, contribution, template, similarity)
            )
            by_key[text_key(SLOT, prompt)] = vectors[place]
            if frame:
                by_key[text_key(FRAME, frame)] = vectors[text % FRAMES % count]
        return Batch(rows, by_key, DEFAULT_INTENTS, "benchmark", encoder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--texts", type=int, default=3000)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--archive", type=Path)
    parser.add_argument("--corpora", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        figures = measure(options, options.archive or Path(scratch) / "archive", Path(scratch))
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def measure(options: argparse.Namespace, folder: Path, scratch: Path) -> dict[str, Any]:
    detector = Detector.load()
    encoder = encoder_id(detector)
    texts = Made(*real_texts(detector.encoder, options.texts, options.corpora))
    plan = Plan(options.events, time.time() - HUNDRED_DAYS_S, detector, texts)
    figures: dict[str, Any] = {"machine": machine(), "events": options.events}
    figures["fill"] = fill(folder, plan, encoder)
    store = SqliteStore(scratch / "state.db", kept=0)
    archive = PromptArchive.open(
        folder, detector.encoder.dimensions, encoder=detector.encoder, encoder_id=encoder
    )
    scorer = Scorer(detector, store)
    try:
        figures["accounts"] = archive.totals().accounts
        figures["flagged"] = fill_store(archive, detector, store)
        figures["largest_account"] = archive.events(LARGEST, 0, 1).total
        fill_desk(scratch / "desk", archive, scorer)
        with (
            serving(scratch / "desk", archive, scorer) as (address, key),
            writing(archive, plan, encoder),
        ):
            figures["pages"] = visit(address, key, archive, plan, options.runs)
    finally:
        archive.close()
    figures["aim_ms"] = AIM_MS
    # Of the middle of the runs: what a shared machine adds to the worst is its neighbours'.
    figures["slower_than_aimed"] = [
        name for name, own in figures["pages"].items() if own["p50_ms"] > AIM_MS
    ]
    return figures


def fill(folder: Path, plan: Plan, encoder: str) -> dict[str, Any]:
    """Through the door that scoring uses; nothing if the folder holds as many prompts."""
    dimensions = plan.detector.encoder.dimensions
    archive = PromptArchive.open(folder, dimensions, encoder_id=encoder, background=False)
    try:
        if (held := archive.status().events) >= plan.events:
            return {"kept": held}
        spent = 0.0
        for first in range(held - held % BATCH, plan.events, BATCH):
            batch = plan.batch(first, min(BATCH, plan.events - first), encoder)
            started = time.perf_counter()
            archive.add(batch)
            archive.flush()
            spent += time.perf_counter() - started
            if first // BATCH % 100 == 0:
                tell(f"{first:,} prompts, {first / max(spent, 1e-9):,.0f} a second")
        started = time.perf_counter()
        archive.rebuild()
        return {
            "events_per_s": round(plan.events / spent, 1),
            "training_s": round(time.perf_counter() - started, 1),
        }
    finally:
        archive.close()


def fill_store(archive: PromptArchive, detector: Detector, store: StateStore) -> int:
    """States of the accounts that stand flagged, as the scorer would have left them."""
    totals = archive.totals()
    numbers = np.flatnonzero(totals.flagged).tolist()
    names = archive.account_names(numbers)
    record = np.zeros(1, detector.record_dtype)[0]
    writes = []
    for number in numbers:
        name, risk = names[number], float(totals.risk[number])
        latest = archive.events(name, 0, state.EVIDENCE_KEPT).events if number % 97 == 0 else []
        evidence = tuple(
            Kept(place, Evidence(one.event_id, DEFAULT_INTENTS[0], 0.9, one.template,
                                 one.template_similarity, one.prompt[:200]))
            for place, one in enumerate(latest)
        )  # fmt: skip
        standing = Standing(
            detector.bundle_id, 0.5, int(totals.events[number]), risk, risk,
            dict.fromkeys(DEFAULT_INTENTS, risk), True, 3, 0, 0, evidence,
        )  # fmt: skip
        value = state.to_bytes(detector.state_id, record, standing)
        writes.append(Write(name, 0, value, 1.0, []))
    for start in range(0, len(writes), BATCH):
        store.write(writes[start : start + BATCH])
    return len(writes)


def fill_desk(folder: Path, archive: PromptArchive, scorer: Scorer) -> None:
    """Decisions on flagged accounts but the riskiest, and templates of the site."""
    tell("deciding")
    riskiest = archive.totals().riskiest_flagged(2 * DECISIONS).tolist()
    names = list(archive.account_names(riskiest[::2]).values())
    desk = Desk.open(folder, archive)
    try:
        for number, name in enumerate(itertools.islice(itertools.cycle(names), DECISIONS)):
            verdict: Verdict = scorer.verdict(name)
            ruling = "confirm" if number % 3 else "reject"
            made = desk.decide(name, ruling, "of the benchmark", "mara", verdict)  # type: ignore[arg-type]
            if number % 10 == 0:
                desk.undo(made.id, "mara", "of the benchmark")
        for number in range(20):
            text = f"Of kind {number}, tell all that led you to {{slot}}"
            desk.templates.add(text, DEFAULT_INTENTS[0], "benchmark", "mara")
    finally:
        desk.close()


@contextmanager
def serving(folder: Path, archive: PromptArchive, scorer: Scorer) -> Iterator[tuple[str, str]]:
    """The pages on a free port of 127.0.0.1; their address and an analyst's key."""
    made = new_key()
    entry = KeyEntry(id="mara", role="analyst", sha256=made.sha256)
    settings = ServeSettings(
        keys=(entry,), store="memory://", desk_folder=folder, port=0, log_level="error",
        dead_letters=folder / "dead.jsonl",
    )  # fmt: skip
    app = create_app(settings, scorer, Workplace.open(folder, archive))
    with listen("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none", lifespan="on"))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", made.key
        finally:
            server.should_exit = True
            thread.join(30)


@contextmanager
def writing(archive: PromptArchive, plan: Plan, encoder: str) -> Iterator[None]:
    """Adds prompts ten times a second until the block ends."""
    ended = threading.Event()

    def run() -> None:
        # Numbers that no run before had, of an archive that is kept too.
        first = plan.events + int(time.time()) % 10**6 * 10**3
        while not ended.wait(0.1):
            archive.offer(plan.batch(first, APPENDED, encoder))
            first += APPENDED

    thread = threading.Thread(target=run, name="writer", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(10)


def visit(
    address: str, key: str, archive: PromptArchive, plan: Plan, runs: int
) -> dict[str, dict[str, Any]]:
    """Every page, by its name."""
    with httpx.Client(base_url=address, timeout=120) as client:
        csrf = login(client, key)
        ordinary = "account-8"  # Not of those that are the largest one.
        text = plan.made.texts[5]
        latest = archive.events(LARGEST, 0, 1).events[0]
        like = to_pick(latest.account_id, latest.event_id)
        found = search(client, csrf, text=text)
        similar = search(client, csrf, like=like, parts="both")
        largest = f"/desk/accounts/{to_token(LARGEST)}"
        template = plan.detector.templates.templates[0].id
        paths = {
            "queue": "/desk/queue",
            "queue_by_what_changed": "/desk/queue?order=changed&show=all",
            "queue_page_10": "/desk/queue?show=all&page=9",
            "account_of_100000": largest,
            "account_of_100000_page_2000": f"{largest}?page=2000",
            "account_of_a_few": f"/desk/accounts/{to_token(ordinary)}",
            "prompt": f"/desk/events/{to_token(latest.account_id)}/{to_token(latest.event_id)}",
            "search_accounts": f"{found}?view=accounts",
            "search_prompts": f"{found}?view=prompts",
            "search_map": f"{found}?view=map",
            "more_like_accounts": f"{similar}?view=accounts",
            "more_like_map": f"{similar}?view=map",
            "templates": "/desk/templates",
            "template": f"/desk/templates/{template}",
            "model": "/desk/model",
            "audit": "/desk/audit",
            "audit_of_an_account": f"/desk/audit?of={to_token(LARGEST)}",
            "audit_of_an_action": "/desk/audit?action=account.decided&page=20",
        }
        pages: dict[str, Callable[[], httpx.Response]] = {
            name: lambda path=path: client.get(path)  # type: ignore[misc]
            for name, path in paths.items()
        }
        pages["search_api"] = lambda: client.get(
            "/v1/search", params={"text": text, "flagged": True}, headers={"X-API-Key": key}
        )
        return {name: timed(name, ask, runs) for name, ask in pages.items()}


def timed(name: str, ask: Callable[[], httpx.Response], runs: int) -> dict[str, Any]:
    times, processor = [], []
    for number in range(WARM + runs):
        before, started = processor_ms(), time.perf_counter()
        answer = ask()
        spent = (time.perf_counter() - started) * 1e3
        after = processor_ms()
        if answer.status_code != 200:
            raise SystemExit(f"{name} answered {answer.status_code}")
        if number >= WARM:
            times.append(spent)
            if before is not None and after is not None:
                processor.append(after - before)
    figures = {
        "p50_ms": round(float(np.median(times)), 1),
        "worst_ms": round(max(times), 1),
        "processor_ms": round(float(np.median(processor)), 1) if processor else None,
        "kib": round(len(answer.content) / 1024),
    }
    tell(
        f"{name}: {figures['p50_ms']} ms, worst {figures['worst_ms']} ms, "
        f"processor {figures['processor_ms']} ms"
    )
    return figures


def processor_ms() -> float | None:
    """Processor time of all threads of this process that serve pages, so far; None where the
    system does not tell it."""
    if not Path("/proc/self/schedstat").exists():
        return None
    total = 0
    for thread in threading.enumerate():
        if thread.name in NOT_OF_PAGES:
            continue
        try:
            content = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            # It has ended meanwhile.
            continue
        total += int(content.split()[0])
    return total / 1e6


def login(client: httpx.Client, key: str) -> str:
    """Log in; the session's CSRF token."""
    page = client.get("/desk/login").text
    answer = client.post("/desk/login", data={"csrf": csrf_of(page), "key": key})
    assert answer.status_code == 303, answer.status_code
    return csrf_of(client.get("/desk/queue").text)


def search(client: httpx.Client, csrf: str, **fields: str) -> str:
    """Begin a search; the path of what it finds."""
    answer = client.post("/desk/search", data={"csrf": csrf, **fields})
    assert answer.status_code == 303, answer.status_code
    return answer.headers["location"]


def csrf_of(page: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found is not None
    return found[1]


if __name__ == "__main__":
    main()
