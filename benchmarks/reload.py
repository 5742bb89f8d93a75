"""Replaces the bundle of a running service under load: does any request fail, does any verdict mix
two bundles, is any corrupted bundle taken over?

A service in a process of its own (uvicorn, its default settings, a store in memory) scores the
streams of four clients that send one event after the other, while an administrator has it take
over one of two bundles and the other in turn, each once the one before has given some verdicts,
and then corrupted ones. Every answer must be 200, or 429, upon which the event is sent again:
after a swap each account is read anew from its latest events, which is more work than the same
clients make otherwise. Every verdict must have the risk that the bundle it names gives for the
account's history; every corrupted bundle must be refused. Latencies are those of the clients,
without reloads first.

Bundles and encoder are those of the tests: they load in milliseconds, so that swaps are many. What
a bundle of the released size takes to load is measured apart, without an encoder to open.
Run: python benchmarks/reload.py [--swaps 500] [--corrupted 300] [--seed 0] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from _machine import machine  # noqa: E402

from stillwatch.data.events import Event, event_to_fields  # noqa: E402
from stillwatch.model.bundle import Bundle, load_bundle, released_bundle  # noqa: E402
from stillwatch.model.detector import Detector  # noqa: E402
from stillwatch.model.encoder import TextVectors  # noqa: E402
from stillwatch.serving.http.server import listen, run  # noqa: E402
from stillwatch.serving.http.settings import ServeSettings  # noqa: E402
from stillwatch.serving.scorer import Scorer  # noqa: E402
from stillwatch.serving.stores import open_store  # noqa: E402
from tests.spoil import spoil  # noqa: E402
from tests.support import TinyEncoder, make_events, tiny_bundle, tiny_scorer  # noqa: E402

CLIENTS = 4
STREAMS, EACH = 8, 40
"""Histories that accounts repeat: no longer than what a store keeps for a replay."""
VERDICTS_BETWEEN = 4
"""Verdicts that a bundle has given before the next swap."""
RETRY_S = 0.1
TOLERANCE = 1e-4
START_S = 120.0


class RememberingEncoder(TinyEncoder):
    """The tests' encoder, which is slow for what it is, with its results kept."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[str, TextVectors] = {}

    def encode(self, texts: Sequence[str]) -> list[TextVectors]:
        return [
            self._known.get(text) or self._known.setdefault(text, self._one(text)) for text in texts
        ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--swaps", type=int, default=500)
    parser.add_argument("--corrupted", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    figures = {"machine": machine(), **measure(options.swaps, options.corrupted, options.seed)}
    print_figures(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    bad = figures["failed"] or figures["wrong_verdicts"] or figures["corrupted"]["accepted"]
    sys.exit(1 if bad or figures["swaps"]["done"] < options.swaps else 0)


def serve(folder: Path) -> None:
    """The service; its port is written to a file once it listens."""
    scorer = Scorer(Detector(load_bundle(folder / "a"), RememberingEncoder()))
    scorer.store = open_store("memory://")
    settings = ServeSettings(
        auth="off", bundle=folder / "a", bundle_folder=folder / "bundles", bundle_poll_s=0.2,
        dead_letters=folder / "dead.jsonl",
    )  # fmt: skip
    with listen("127.0.0.1", 0) as listener:
        (folder / ".port").write_text(str(listener.getsockname()[1]))
        (folder / ".port").rename(folder / "port")
        run(settings, scorer, listener)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[tuple[int, int]]:
    """Process id and port of a service."""
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, __file__, "--serve", folder], stdout=log, stderr=log
        )
    try:
        until = time.monotonic() + START_S
        while not (folder / "port").exists():
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"the service did not start: {(folder / 'log').read_text()}")
            time.sleep(0.05)
        yield process.pid, int((folder / "port").read_text())
        process.terminate()
        process.wait(30)
    finally:
        process.kill()
        process.wait()


@dataclass
class Load:
    """What the clients saw. `expected` is a risk by bundle, history and number of events."""

    expected: dict[tuple[str, int, int], float]
    statuses: Counter[int | str] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    bundles: Counter[str] = field(default_factory=Counter)
    """Verdicts by the bundle that gave them."""
    wrong: int = 0
    stop: bool = False

    async def client(self, http: httpx.AsyncClient, number: int, events: Sequence[Event]) -> None:
        """Sends whole histories of ever new accounts until it is told to stop."""
        count = 0
        while not self.stop:
            history = (number + count * CLIENTS) % STREAMS
            name = f"client-{number}-{count}"
            count += 1
            for event in events:
                if event.account_id == f"a{history}" and not self.stop:
                    while not await self.sent(http, replace(event, account_id=name), history):
                        await asyncio.sleep(RETRY_S)

    async def sent(self, http: httpx.AsyncClient, event: Event, history: int) -> bool:
        """False if it should be sent again."""
        started = time.perf_counter()
        try:
            answer = await http.post("/v1/events", json=event_to_fields(event))
        except httpx.HTTPError as error:
            self.statuses[type(error).__name__] += 1
            return True
        self.latencies_ms.append((time.perf_counter() - started) * 1000)
        self.statuses[answer.status_code] += 1
        if answer.status_code == 200:
            (verdict,) = answer.json()["verdicts"]
            self.bundles[verdict["bundle"]] += 1
            risk = self.expected[verdict["bundle"], history, verdict["events"]]
            self.wrong += not abs(verdict["risk"] - risk) <= TOLERANCE
        return answer.status_code != 429


@contextlib.asynccontextmanager
async def load(
    http: httpx.AsyncClient, expected: dict[tuple[str, int, int], float], events: Sequence[Event]
) -> AsyncIterator[Load]:
    """Clients at work while the block runs."""
    own = Load(expected)
    clients = [asyncio.create_task(own.client(http, n, events)) for n in range(CLIENTS)]
    try:
        yield own
    finally:
        own.stop = True
        await asyncio.gather(*clients)


def measure(swaps: int, corrupted: int, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bundles").mkdir()
        bundles = [tiny_bundle(folder / own, seed=number) for number, own in enumerate("ab")]
        for own in "ab":
            shutil.copytree(folder / own, folder / "bundles" / own)
        events = make_events(STREAMS, EACH, seed)
        expected = {
            (bundle.id, int(verdict.account_id[1:]), verdict.events): verdict.risk
            for bundle in bundles
            for verdict in tiny_scorer(bundle).update(events)
        }
        with running(folder) as (process, port):
            found = asyncio.run(
                under_load(folder, process, port, expected, events, swaps, corrupted, seed)
            )
    return {**found, "released_size_load_s": released_load_s()}


async def under_load(
    folder: Path, process: int, port: int, expected: dict[tuple[str, int, int], float],
    events: Sequence[Event], swaps: int, corrupted: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
        async with load(http, expected, events) as calm:
            await asyncio.sleep(5)
        before = memory_of(process)
        async with load(http, expected, events) as swapping:
            reloads = await swap(http, swapping, swaps)
        after = memory_of(process)
        async with load(http, expected, events) as refusing:
            refused = await refuse(http, folder, corrupted, seed)
    loads = (calm, swapping, refusing)
    requests = sum((own.statuses for own in loads), Counter[int | str]())
    return {
        "requests": requests.total(),
        "failed": requests.total() - requests[200] - requests[429],
        "refused_early": requests[429],
        "statuses": {str(status): count for status, count in requests.items()},
        "wrong_verdicts": sum(own.wrong for own in loads),
        "swaps": {**reloads, "verdicts_by_bundle": sorted(swapping.bundles.values())},
        "corrupted": refused,
        "latency_ms": {
            name: quantiles(own.latencies_ms)
            for name, own in zip(("calm", "swapping", "refusing"), loads, strict=True)
        },
        "resident_mib": {"before_swaps": before[0], "after_swaps": after[0]},
        "threads": {"before_swaps": before[1], "after_swaps": after[1]},
    }


async def swap(http: httpx.AsyncClient, seen: Load, count: int) -> dict[str, Any]:
    done, seconds = 0, []
    names = ["b", "a"]
    await take_over(http, "a")
    while done < count:
        started = time.perf_counter()
        change = (await take_over(http, names[done % 2])).raise_for_status().json()
        if change["bundle"] == change["previous"]:
            raise SystemExit("a swap changed nothing")
        seconds.append((time.perf_counter() - started) * 1000)
        done += 1
        enough = seen.bundles[change["bundle"]] + VERDICTS_BETWEEN
        while seen.bundles[change["bundle"]] < enough:
            await asyncio.sleep(0.005)
    return {"done": done, "reload_ms": quantiles(seconds)}


async def take_over(http: httpx.AsyncClient, name: str) -> httpx.Response:
    """The answer for a bundle, once the watcher is not loading one."""
    while True:
        answer = await http.post("/v1/bundle/reload", json={"path": name})
        if answer.status_code != 409:
            return answer


async def refuse(http: httpx.AsyncClient, folder: Path, count: int, seed: int) -> dict[str, Any]:
    serving = (await http.get("/v1/bundle")).json()["bundle"]
    sound = "b" if load_bundle(folder / "a").id == serving else "a"
    accepted = []
    refused = 0
    for number in range(count):
        # Hidden until it is spoilt, so that nobody takes over what is still sound.
        spoilt = Path(shutil.copytree(folder / sound, folder / "bundles" / f".{number}"))
        way = spoil(spoilt, number, seed)
        spoilt = spoilt.rename(folder / "bundles" / str(number))
        answer = await take_over(http, str(number))
        if answer.status_code == 422 and answer.json()["code"] == "bundle_refused":
            refused += 1
        else:
            accepted.append(f"{number} {way}: {answer.status_code}")
        shutil.rmtree(spoilt)
    if (await http.get("/v1/bundle")).json()["bundle"] != serving:
        accepted.append("another bundle serves")
    return {"refused": refused, "accepted": accepted}


def released_load_s() -> dict[str, float]:
    """Seconds to verify the released bundle and to make its detector, the encoder being there."""
    started = time.perf_counter()
    bundle: Bundle = load_bundle(released_bundle())
    verified = time.perf_counter()
    Detector(bundle, RememberingEncoder())
    return {"verify": verified - started, "detector": time.perf_counter() - verified}


def memory_of(process: int) -> tuple[float, int]:
    """Resident MiB and threads."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["VmRSS"].split()[0]) / 1024, int(fields["Threads"])


def quantiles(values: Sequence[float]) -> dict[str, float]:
    found = np.quantile(values or [np.nan], [0.5, 0.99, 1.0])
    return dict(zip(("p50", "p99", "max"), (round(float(v), 2) for v in found), strict=True))


def print_figures(figures: dict[str, Any]) -> None:
    swaps, corrupted = figures["swaps"], figures["corrupted"]
    print(f"machine: {figures['machine']}")
    print(
        f"{figures['requests']:,} requests, {figures['failed']} failed, "
        f"{figures['refused_early']} refused early and sent again, "
        f"{figures['wrong_verdicts']} verdicts not of the bundle they name"
    )
    print(f"{swaps['done']} swaps: {swaps['reload_ms']} ms, of {swaps['verdicts_by_bundle']}")
    print(f"corrupted: {corrupted['refused']} refused, accepted: {corrupted['accepted'] or 'none'}")
    for name, found in figures["latency_ms"].items():
        print(f"latency, {name:9}: {found} ms")
    print(f"resident MiB {figures['resident_mib']}, threads {figures['threads']}")
    print(f"released bundle without its encoder: {figures['released_size_load_s']} s")


if __name__ == "__main__":
    main()
