"""Kills a scorer, or its Redis, with SIGKILL at random moments: is anything lost or counted twice?

A child process scores batches of events over a store on disk and acknowledges each on a pipe. It
is killed at a random moment, half of the times while it writes, and started again; for Redis,
every other kill hits the server, and the scorer goes on. What was not acknowledged is sent again,
as a client would, and mixed with a share of what was. After every restart the store must hold
every acknowledged event, and the batch that was under way wholly or not at all; at the end each
account must count exactly its distinct events, and have the risk that a scorer gives it which
nobody kills.

By default the released bundle with a stand-in for the encoder, so that most of the time is spent
in the store; with --bundle that bundle and its own encoder. A killed process loses no pages that
the system holds: what a power cut does is not shown here.
Run: python benchmarks/crash.py [--kills 200] [--store sqlite|redis] [--seed 0] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
from _machine import machine

from stillwatch.data.errors import StoreError
from stillwatch.data.events import Event, event_to_fields, parse_event
from stillwatch.model.bundle import load_bundle, released_bundle
from stillwatch.model.detector import Detector
from stillwatch.model.encoder import TextVectors
from stillwatch.serving.scorer import Scorer, event_digest
from stillwatch.serving.stores import open_store
from stillwatch.serving.stores.base import Write

ACCOUNTS = 12
LONGEST_LIFE_S = 0.5
"""A kill comes at a random moment within this time from the last restart."""
LONGEST_WRITE_S = 0.006
"""A kill aimed at a write comes within this time from its beginning."""
DEADLINE_S = 60.0
REPLAYED = 0.3
"""Part of the batches into which acknowledged events are mixed."""
TOLERANCE = 1e-6
"""Of risks: the order of summation may differ with the events of a batch."""


class StandInEncoder:
    """A random vector for each text: as good as any where only the store matters."""

    name = "stand-in"

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions

    def encode(self, texts: Sequence[str]) -> list[TextVectors]:
        found = []
        for text in texts:
            rng = np.random.default_rng(zlib.crc32(text.encode("utf-8", "replace")))
            vector = rng.standard_normal((1, self.dimensions)).astype(np.float32)
            found.append(TextVectors(vector / np.linalg.norm(vector), len(text.split()), False))
        return found


def load(bundle: Path | None) -> Detector:
    """A bundle with its encoder, or the released one with the stand-in."""
    if bundle is not None:
        return Detector.load(bundle)
    found = load_bundle(released_bundle())
    return Detector(found, StandInEncoder(found.manifest.encoder.dimensions))


class RedisServer:
    """Debian's redis-server on a free port of this machine, as durable as it can be."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        self._options = options
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def installed() -> bool:
        return shutil.which("redis-server") is not None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Starts it, on the port it had before, and waits until it has loaded what it holds."""
        for _ in range(5):
            port = self.port or _free_port()
            command = [
                "redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "",
                "--dir", str(self._folder), "--appendonly", "yes", "--appendfsync", "always",
                "--logfile", str(self._folder / "redis.log"), *self._options,
            ]  # fmt: skip
            self._process = subprocess.Popen(command)
            deadline = time.monotonic() + DEADLINE_S
            while self._process.poll() is None and time.monotonic() < deadline:
                if _pong(port):
                    self.port = port
                    return
                time.sleep(0.01)
            # Another process may have taken the port meanwhile.
            self.end(signal.SIGKILL)
        raise RuntimeError("redis-server must start, however: it does not; see its log")

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(DEADLINE_S)
            self._process = None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _pong(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False


class Child:
    """A process that scores batches over a store and acknowledges each when it is written."""

    def __init__(self, url: str, bundle: Path | None = None) -> None:
        command = [sys.executable, __file__, "--child", url]
        command += ["--bundle", str(bundle)] if bundle else []
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self._read = b""

    def send(self, batch: Sequence[Event]) -> None:
        assert self._process.stdin is not None
        line = json.dumps([event_to_fields(event) for event in batch]).encode() + b"\n"
        # Pipes take only so much at once.
        while line:
            line = line[self._process.stdin.write(line) :]

    def answer(self, deadline: float) -> str | None:
        """The next line; None if none comes until then, empty if the child is gone."""
        assert self._process.stdout is not None
        while b"\n" not in self._read:
            left = max(deadline - time.monotonic(), 0)
            if not select.select([self._process.stdout], [], [], left)[0]:
                return None
            part = os.read(self._process.stdout.fileno(), 4096)
            if not part:
                return ""
            self._read += part
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    def expect(self, *allowed: str) -> str:
        """The next line but for those that announce a write."""
        found: str | None = "writing"
        while found == "writing":
            found = self.answer(time.monotonic() + DEADLINE_S)
        if found not in allowed:
            raise RuntimeError(f"the scorer must answer {allowed}, however: {found!r}")
        return found

    def end(self, how: signal.Signals = signal.SIGKILL) -> None:
        """What it has answered before it died can still be read."""
        self._process.send_signal(how)
        self._process.wait(DEADLINE_S)
        assert self._process.stdin is not None
        self._process.stdin.close()

    def close(self) -> None:
        if self._process.poll() is None:
            self.end()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def child(url: str, bundle: Path | None) -> None:
    store = open_store(url)
    write = store.write

    def announced(writes: Sequence[Write]) -> None:
        print("writing", flush=True)
        write(writes)

    store.write = announced  # type: ignore[method-assign]
    scorer = Scorer(load(bundle), store)
    print("ready", flush=True)
    for line in sys.stdin.buffer:
        try:
            scorer.update([parse_event(fields) for fields in json.loads(line)])
        except StoreError:
            print("refused", flush=True)
        else:
            print("done", flush=True)


@dataclass
class Figures:
    """What happened, and what went wrong: the last four must be 0."""

    kills_of_scorer: int = 0
    kills_of_server: int = 0
    kills_in_a_batch: int = 0
    written_but_not_acknowledged: int = 0
    """Batches that a kill came upon between the store's and the client's knowledge of them."""
    refused: int = 0
    batches: int = 0
    events: int = 0
    sent_again: int = 0
    lost: int = 0
    counted_twice: int = 0
    torn_batches: int = 0
    wrong_risks: int = 0

    @property
    def sound(self) -> bool:
        return not (self.lost or self.counted_twice or self.torn_batches or self.wrong_risks)


class Trial:
    """One run of kills and restarts over one store."""

    def __init__(self, store: str, kills: int, seed: int, folder: Path, bundle: Path | None):
        self._kills = kills
        self._rng = random.Random(seed)
        self._bundle = bundle
        self._server = RedisServer(folder) if store == "redis" else None
        self._sqlite_url = f"sqlite:///{folder / 'crash.db'}"
        self._acknowledged: list[Event] = []
        self._known: set[str] = set()
        self._looked_for = 0
        self._under_way: list[Event] = []
        self._ready_at = 0.0
        self.figures = Figures()

    @property
    def _url(self) -> str:
        return self._server.url if self._server else self._sqlite_url

    def run(self) -> Figures:
        if self._server:
            self._server.start()
        scorer: Child | None = None
        try:
            for number in range(self._kills):
                scorer = scorer or self._started()
                self._feed(scorer, time.monotonic() + self._rng.uniform(0, LONGEST_LIFE_S))
                if self._server and number % 2:
                    self._kill_server(scorer)
                    self._look()
                else:
                    self._kill_scorer(scorer)
                    scorer = None
            scorer = scorer or self._started()
            if self._under_way:
                scorer.send(self._under_way)
                scorer.expect("done")
                self._acknowledge()
            self._judge()
        finally:
            if scorer:
                scorer.close()
            if self._server:
                self._server.end()
        return self.figures

    def _started(self) -> Child:
        scorer = Child(self._url, self._bundle)
        try:
            scorer.expect("ready")
            # It has opened, so mended, the store by itself.
            self._look()
        except BaseException:
            scorer.close()
            raise
        return scorer

    def _feed(self, scorer: Child, until: float) -> None:
        """Batch by batch, each when the one before it was acknowledged: their order is known.
        Returns when it is time to kill."""
        aimed = self._rng.random() < 0.5
        while True:
            self._under_way = self._under_way or self._batch()
            scorer.send(self._under_way)
            deadline = time.monotonic() + DEADLINE_S if aimed else until
            while (answer := scorer.answer(deadline)) == "writing":
                if aimed and time.monotonic() >= until:
                    deadline = time.monotonic() + self._rng.uniform(0, LONGEST_WRITE_S)
            if answer is None:
                return
            if answer != "done":
                raise RuntimeError(f"the scorer must be done with a batch, however: {answer!r}")
            self._acknowledge()

    def _batch(self) -> list[Event]:
        first, size = self.figures.events, self._rng.randint(1, 40)
        batch = []
        for number in range(first, first + size):
            account = f"account {self._rng.randrange(ACCOUNTS)}"
            prompt = f"Explain item {self._rng.randrange(40)} of the catalogue in two sentences."
            batch.append(Event(f"e{number}", account, 1.7e9 + number, prompt))
        self.figures.events += size
        self.figures.batches += 1
        if self._acknowledged and self._rng.random() < REPLAYED:
            again = self._rng.choices(self._acknowledged, k=self._rng.randint(1, 20))
            self.figures.sent_again += len(again)
            for event in again:
                batch.insert(self._rng.randint(0, len(batch)), event)
        return batch

    def _acknowledge(self) -> None:
        new = self._new()
        self._acknowledged += new
        self._known.update(event.event_id for event in new)
        self._under_way = []

    def _new(self) -> list[Event]:
        """Those of the batch under way that were never acknowledged."""
        return [event for event in self._under_way if event.event_id not in self._known]

    def _kill_scorer(self, scorer: Child) -> None:
        scorer.end(signal.SIGKILL)
        self.figures.kills_of_scorer += 1
        if scorer.expect("done", "") == "done":
            self._acknowledge()
        else:
            self.figures.kills_in_a_batch += 1
            self.figures.sent_again += len(self._under_way)
        scorer.close()

    def _kill_server(self, scorer: Child) -> None:
        assert self._server is not None
        self._server.end(signal.SIGKILL)
        self.figures.kills_of_server += 1
        at_once = self._rng.random() < 0.5
        if at_once:
            self._server.start()
        answer = scorer.expect("done", "refused")
        if not at_once:
            self._server.start()
        if answer == "done":
            self._acknowledge()
        else:
            self.figures.refused += 1
            self.figures.kills_in_a_batch += 1
            self.figures.sent_again += len(self._under_way)

    def _look(self) -> None:
        """Whether the store holds what was acknowledged, and the batch under way whole or not."""
        expected = self._acknowledged[self._looked_for :]
        self._looked_for = len(self._acknowledged)
        new = self._new()
        store = open_store(self._url)
        try:
            found = store.read([], [event_digest(event) for event in (*expected, *new)]).seen
        finally:
            store.close()
        self.figures.lost += sum(event_digest(event) not in found for event in expected)
        there = sum(event_digest(event) in found for event in new)
        self.figures.written_but_not_acknowledged += there > 0
        self.figures.torn_batches += there not in (0, len(new))

    def _judge(self) -> None:
        expected = Counter(event.account_id for event in self._acknowledged)
        undisturbed = Scorer(load(self._bundle))
        undisturbed.ingest(self._acknowledged)
        scorer = Scorer(undisturbed.detector, open_store(self._url))
        try:
            digests = {event_digest(event) for event in self._acknowledged}
            self.figures.lost += len(digests) - len(scorer.store.read([], list(digests)).seen)
            for verdict in scorer.verdicts():
                surplus = verdict.events - expected.pop(verdict.account_id, 0)
                self.figures.lost += max(-surplus, 0)
                self.figures.counted_twice += max(surplus, 0)
                risk = undisturbed.verdict(verdict.account_id).risk
                self.figures.wrong_risks += abs(verdict.risk - risk) > TOLERANCE
            self.figures.lost += expected.total()
        finally:
            scorer.close()


def run(store: str, kills: int, seed: int, folder: Path, bundle: Path | None = None) -> Figures:
    """Kills in an empty folder over the store `sqlite` or `redis`."""
    return Trial(store, kills, seed, folder, bundle).run()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--store", choices=["sqlite", "redis"], default="sqlite")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bundle", type=Path, help="a bundle, to be run with its own encoder")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.bundle)
        return 0
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        figures = run(options.store, options.kills, options.seed, Path(folder), options.bundle)
    result = {
        "store": options.store,
        "kills": options.kills,
        "seed": options.seed,
        "encoder": "the bundle's own" if options.bundle else "stand-in",
        **asdict(figures),
        "seconds": round(time.monotonic() - started, 1),
        "machine": machine(),
    }
    for name, value in result.items():
        print(f"{name.replace('_', ' '):32} {value}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if figures.sound else 1


if __name__ == "__main__":
    sys.exit(main())
