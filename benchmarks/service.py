"""The HTTP service beside the scorer in process, below and above capacity.

1. Throughput: the same events, none repeated, through `Scorer.update` in process and through
   `POST /v1/events` in batches of 32 from 4 connections, both with the SQLite store and as many
   encoder threads as there are cores, in turn, round by round. The clients share the cores. The
   service lets requests wait for THROUGHPUT_WAIT_S, as one would who sends batches.
2. Single events with one encoder thread: capacity, 32 connections that wait for their answers.
   Then, with the settings as they come, latency at half of that capacity, arriving at random
   (Poisson), and at twice of it: how fast the excess is refused, and what the good ones wait.

Left out: loading. Prompts have 45 tokens on average.
Run: python benchmarks/service.py [--events 1500] [--seconds 30] [--rounds 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from stillwatch.data.events import Event, event_to_fields
from stillwatch.data.simulator.benchlog import distinct_events
from stillwatch.serving.scorer import Scorer
from stillwatch.serving.stores import open_store

BATCH, CONNECTIONS = 32, 4
WARM_UP = 64
THROUGHPUT_WAIT_S = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--events", type=int, default=1500)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    threads = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with serving(folder, threads, THROUGHPUT_WAIT_S) as url:
            throughput = compare(url, folder, options.events, options.rounds, threads)
    with (
        tempfile.TemporaryDirectory() as name,
        serving(Path(name), 1, THROUGHPUT_WAIT_S) as url,
    ):
        events = fresh_events(100_000)
        asyncio.run(post_all(url, take(events, WARM_UP), 1, 1))
        started = time.perf_counter()
        count = asyncio.run(post_all(url, take(events, options.events), 1, 8 * CONNECTIONS))
        capacity = count / (time.perf_counter() - started)
    with tempfile.TemporaryDirectory() as name, serving(Path(name), 1) as url:
        asyncio.run(post_all(url, take(events, WARM_UP), 1, 1))
        below = asyncio.run(offer(url, events, capacity / 2, options.seconds))
        above = asyncio.run(offer(url, events, capacity * 2, options.seconds))
    figures = {
        "machine": {
            "cores": os.cpu_count(), "threads": threads, "python": platform.python_version()
        },
        "throughput": throughput,
        "single_events_per_s": capacity,
        "half_of_capacity": below,
        "twice_capacity": above,
    }  # fmt: skip
    show(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


@contextmanager
def serving(folder: Path, threads: int, max_wait_s: float | None = None) -> Iterator[str]:
    """The URL of a service in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).with_name("stillwatch")
    environment = {
        **os.environ, "STILLWATCH_SERVE_THREADS": str(threads),
        "STILLWATCH_SERVE_LOG_LEVEL": "warning",
        "STILLWATCH_SERVE_DEAD_LETTERS": str(folder / "dead.jsonl"),
    }  # fmt: skip
    if max_wait_s is not None:
        environment["STILLWATCH_SERVE_MAX_WAIT_S"] = str(max_wait_s)
    command = [str(program), "serve", "--no-auth", "--port", str(port)]
    command += ["--store", f"sqlite:///{folder / 'served.sqlite'}"]
    process = subprocess.Popen(command, env=environment)
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while True:
            try:
                if httpx.get(f"{url}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the service must start within a minute, however: it did not")
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def compare(url: str, folder: Path, count: int, rounds: int, threads: int) -> dict[str, Any]:
    """Events a second in process and over HTTP, of different events of the same kind."""
    scorer = Scorer.from_bundle(
        threads=threads, store=open_store(f"sqlite:///{folder / 'own.sqlite'}")
    )
    events = fresh_events(2 * count * rounds + 2 * WARM_UP)
    scorer.update(take(events, WARM_UP))
    asyncio.run(post_all(url, take(events, WARM_UP), BATCH, CONNECTIONS))
    inside, outside = [], []
    for _ in range(rounds):
        own, theirs = take(events, count), take(events, count)
        started = time.perf_counter()
        for position in range(0, count, BATCH):
            scorer.update(own[position : position + BATCH])
        inside.append(count / (time.perf_counter() - started))
        started = time.perf_counter()
        asyncio.run(post_all(url, theirs, BATCH, CONNECTIONS))
        outside.append(count / (time.perf_counter() - started))
    scorer.close()
    ratios = [served / own for served, own in zip(outside, inside, strict=True)]
    return {
        "events": count,
        "in_process_events_per_s": float(np.median(inside)),
        "http_events_per_s": float(np.median(outside)),
        "ratio_median": float(np.median(ratios)),
        "ratio_range": [min(ratios), max(ratios)],
    }


def fresh_events(count: int) -> Iterator[Event]:
    """Events with prompts that were not seen before, at the present time."""
    now = time.time()
    tag = random.randrange(10**9)
    for number, event in enumerate(distinct_events(count, seed=tag % 2**31)):
        yield replace(event, event_id=f"{tag}-{number}", timestamp=now)


def take(events: Iterator[Event], count: int) -> list[Event]:
    return [event for event, _ in zip(events, range(count), strict=False)]


async def post_all(url: str, events: Sequence[Event], size: int, connections: int) -> int:
    """Post all, `size` at a time from so many connections; a refused batch comes again."""
    batches = iter([events[at : at + size] for at in range(0, len(events), size)])

    async def work(client: httpx.AsyncClient) -> None:
        for batch in batches:
            body = json.dumps({"events": [event_to_fields(event) for event in batch]})
            while (await post(client, body)).status_code == 429:
                await asyncio.sleep(0.01)

    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        await asyncio.gather(*(work(client) for _ in range(connections)))
    return len(events)


async def post(client: httpx.AsyncClient, body: str) -> httpx.Response:
    answer = await client.post(
        "/v1/events", content=body, headers={"Content-Type": "application/json"}
    )
    if answer.status_code not in (200, 429):
        raise SystemExit(f"every answer must be 200 or 429, however: {answer.status_code}")
    return answer


async def offer(url: str, events: Iterator[Event], rate: float, seconds: float) -> dict[str, Any]:
    """Single events at a mean rate, whatever becomes of the ones before (open loop)."""
    good: list[float] = []
    refused: list[float] = []
    rng = random.Random(0)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=200)

    async def one(client: httpx.AsyncClient, body: str) -> None:
        started = time.perf_counter()
        answer = await post(client, body)
        took_ms = 1000 * (time.perf_counter() - started)
        (good if answer.status_code == 200 else refused).append(took_ms)

    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
        tasks = []
        due = start = time.perf_counter()
        while due - start < seconds:
            due += rng.expovariate(rate)
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            (event,) = take(events, 1)
            tasks.append(asyncio.create_task(one(client, json.dumps(event_to_fields(event)))))
        await asyncio.gather(*tasks)
    return {
        "offered_per_s": rate, "good": len(good), "refused": len(refused),
        "good_ms": quantiles(good), "refused_ms": quantiles(refused),
    }  # fmt: skip


def quantiles(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    p50, p99 = np.quantile(values, [0.5, 0.99])
    return {"p50": float(p50), "p99": float(p99), "max": max(values)}


def show(figures: dict[str, Any]) -> None:
    through, below, above = (
        figures[name] for name in ("throughput", "half_of_capacity", "twice_capacity")
    )
    print(f"machine: {figures['machine']}")
    print(
        f"in process {through['in_process_events_per_s']:.0f} events/s, over HTTP "
        f"{through['http_events_per_s']:.0f}: ratio {through['ratio_median']:.2f} "
        f"({through['ratio_range'][0]:.2f} to {through['ratio_range'][1]:.2f}); goal 0.7"
    )
    print(f"single events: {figures['single_events_per_s']:.0f}/s")
    for name, found in (("half of capacity", below), ("twice capacity", above)):
        good, refused = found["good_ms"], found["refused_ms"]
        print(
            f"{name}: {found['good']} good, p50 {good['p50']:.0f} ms, p99 {good['p99']:.0f} ms "
            f"({good['p99'] / good['p50']:.1f} times p50)"
        )
        if refused:
            print(
                f"  {found['refused']} refused (429), p50 {refused['p50']:.0f} ms, p99 "
                f"{refused['p99']:.0f} ms, longest {refused['max']:.0f} ms"
            )
    ratio = above["good_ms"]["p99"] / below["good_ms"]["p99"]
    print(f"p99 of good ones, at twice of capacity against at half: {ratio:.1f}; goal 2")


if __name__ == "__main__":
    main()
