"""What an account costs: bytes, resident memory at many accounts, and time for one more event.

1. Time of one event whose texts are known, so without the encoder: `Detector.score` in all, its
   part from known texts to risks (features and classifier), which leaves out normalising and
   splitting the prompt, and the classifier's own step; for an account's 100th and its 100,000th
   event. The same prompts in turn, of many languages; young and old account in turn within one
   run; medians.
2. Bytes of an account's state, and of an event that is kept for a replay, over accounts that were
   scored.
3. Resident memory and bytes at many accounts, in the memory store and in SQLite, each filled in a
   process of its own. Its states are copies of those of 2, each a copy of its own; no event is
   kept for a replay. Then time of reading and writing one account among them.

Goals: 0.5 ms from known texts to risks, old at most 1.2 times young.
Run: python benchmarks/state.py [--accounts 1000000] [--history 100000] [--json FILE]
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from _machine import machine

from stillwatch.data.events import Event
from stillwatch.data.simulator.benchlog import repeated_events
from stillwatch.model.detector import Detector
from stillwatch.model.runtime import ClassifierStep
from stillwatch.model.stream import EventTexts
from stillwatch.serving.scorer import Scorer
from stillwatch.serving.stores import KEPT_EVENTS
from stillwatch.serving.stores.base import Counted, StateStore, Write
from stillwatch.serving.stores.memory import MemoryStore
from stillwatch.serving.stores.sqlite import SqliteStore

YOUNG = 100
PROMPTS = 64
GOAL_MS, GOAL_RATIO = 0.5, 1.2
_AT_ONCE = 1000


def measure_step(detector: Detector, history: int, rounds: int) -> dict[str, Any]:
    prompts = [event.prompt for event in repeated_events(PROMPTS, PROMPTS, PROMPTS, seed=5)]

    def event(number: int) -> Event:
        return Event(f"e{number}", "account", 1.7e9 + 20.0 * number, prompts[number % PROMPTS])

    record = np.zeros(1, dtype=detector.record_dtype)
    records: dict[str, tuple[np.ndarray, int]] = {}
    for number in range(history - 1):
        if number == YOUNG - 1:
            records["young"] = record.copy(), number
        detector.score([event(number)], [0], record)
    records["old"] = record, history - 1
    taken: dict[str, list[float]] = {"young": [], "old": []}
    from_texts: dict[str, list[float]] = {"young": [], "old": []}
    read_at = 0.0

    def note(_account: str, _texts: EventTexts) -> None:
        nonlocal read_at
        read_at = time.perf_counter()

    detector.observe = note
    for turn in range(rounds):
        # Each goes first as often as the other.
        for name in ("young", "old") if turn % 2 else ("old", "young"):
            before, number = records[name]
            copy, own = before.copy(), event(number + turn)
            started = time.perf_counter()
            detector.score([own], [0], copy)
            ended = time.perf_counter()
            taken[name].append(1000 * (ended - started))
            from_texts[name].append(1000 * (ended - read_at))
    detector.observe = None
    found = {name: _milliseconds(times) for name, times in taken.items()}
    return {
        "events": {"young": YOUNG, "old": history},
        "score_one_event_ms": found,
        "of_it_from_texts_to_risks_ms": {
            name: _milliseconds(times) for name, times in from_texts.items()
        },
        "old_to_young": found["old"]["p50"] / found["young"]["p50"],
        "classifier_step_alone_ms": _milliseconds(_steps(detector, record["classifier"], rounds)),
        "rounds": rounds,
    }


def _steps(detector: Detector, state: np.ndarray, rounds: int) -> list[float]:
    manifest = detector.bundle.manifest
    step = ClassifierStep(
        detector.bundle.content["classifier.onnx"], len(manifest.features),
        len(manifest.intents), tuple(manifest.classifier_state),
    )  # fmt: skip
    features = np.random.default_rng(0).normal(size=(1, len(manifest.features)))
    features = features.astype(np.float32)
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        step.run(features, state)
        times.append(1000 * (time.perf_counter() - started))
    return times


def measure_states(detector: Detector) -> tuple[dict[str, Any], list[bytes]]:
    """Sizes, and the states of 50 accounts with some 40 events each."""
    store = MemoryStore(kept=KEPT_EVENTS)
    Scorer(detector, store).ingest(repeated_events(2000, 50, 400, seed=6))
    names = list(store.accounts())
    states = [held.value for held in store.read(names, []).held if held]
    kept = [len(event) for name in names for event in store.replay(name)]
    sizes = {
        "record_bytes": detector.record_dtype.itemsize,
        "state_bytes_median": statistics.median(map(len, states)),
        "state_bytes_most": max(map(len, states)),
        "kept_event_bytes_median": statistics.median(kept),
    }
    return sizes, states


def fill(kind: str, folder: str, states: Sequence[bytes], accounts: int) -> dict[str, Any]:
    """Runs in a process of its own, so that its memory is that of one store."""
    gc.collect()
    before = _resident_mib()
    path = Path(folder) / "state.db"
    store: StateStore = MemoryStore() if kind == "memory" else SqliteStore(path)
    started = time.perf_counter()
    for first in range(0, accounts, _AT_ONCE):
        numbers = range(first, min(first + _AT_ONCE, accounts))
        store.write([_write(number, states) for number in numbers])
    seconds = time.perf_counter() - started
    after = _resident_mib()
    times = _milliseconds(_read_and_write(store, accounts))
    store.close()
    held = path.stat().st_size if kind == "sqlite" else (after - before) * 2**20
    return {
        "accounts": accounts,
        "seconds_to_fill": seconds,
        "resident_mib": after,
        "resident_mib_when_empty": before,
        "resident_mib_highest": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "bytes_per_account": held / accounts,
        "read_and_write_one_ms": times,
    }


def _write(number: int, states: Sequence[bytes]) -> Write:
    # A copy: otherwise all accounts would share the memory of a few.
    value = bytes(bytearray(states[number % len(states)]))
    return Write(f"account {number}", 0, value, 0.1, [Counted(_digest(number), b"")])


def _digest(number: int) -> bytes:
    return hashlib.blake2b(b"%d" % number, digest_size=16).digest()


def _read_and_write(store: StateStore, accounts: int) -> list[float]:
    rng, times = np.random.default_rng(1), []
    for turn, number in enumerate(rng.integers(0, accounts, 300).tolist()):
        name, digest = f"account {number}", _digest(accounts + turn)
        started = time.perf_counter()
        (held,) = store.read([name], [digest]).held
        assert held is not None
        store.write([Write(name, held.version, held.value, 0.1, [Counted(digest, b"")])])
        times.append(1000 * (time.perf_counter() - started))
    return times


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _milliseconds(times: Sequence[float]) -> dict[str, float]:
    return {"p50": statistics.median(times), "p99": float(np.quantile(times, 0.99))}


def print_figures(figures: dict[str, Any]) -> None:
    step, sizes = figures["step"], figures["sizes"]
    print(f"machine: {figures['machine']}")
    for name, times in step["score_one_event_ms"].items():
        part = step["of_it_from_texts_to_risks_ms"][name]
        print(
            f"event {step['events'][name]:>7,} of an account, texts known: "
            f"{times['p50']:.3f} ms (p99 {times['p99']:.3f}), of it from texts to risks "
            f"{part['p50']:.3f} ms (p99 {part['p99']:.3f})"
        )
    print(
        f"old to young {step['old_to_young']:.3f}; classifier step alone "
        f"{step['classifier_step_alone_ms']['p50']:.3f} ms"
    )
    print(
        f"state of an account: {sizes['state_bytes_median']:,.0f} bytes, at most "
        f"{sizes['state_bytes_most']:,}; an event kept: {sizes['kept_event_bytes_median']:,.0f}"
    )
    for kind in ("memory", "sqlite"):
        found = figures[kind]
        print(
            f"{found['accounts']:,} accounts in {kind}: {found['bytes_per_account']:,.0f} bytes "
            f"each, {found['resident_mib']:,.0f} MiB resident "
            f"({found['resident_mib_when_empty']:,.0f} when empty), one read and written in "
            f"{found['read_and_write_one_ms']['p50']:.2f} ms"
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--accounts", type=int, default=1_000_000)
    parser.add_argument("--history", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3000)
    parser.add_argument("--bundle", type=Path, help="instead of the released one")
    parser.add_argument("--folder", type=Path, help="where the SQLite file is made for a while")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    if options.history <= YOUNG:
        parser.error(f"--history must be more than {YOUNG}")
    detector = Detector.load(options.bundle)
    sizes, states = measure_states(detector)
    figures: dict[str, Any] = {
        "machine": machine(threads=1),
        "step": measure_step(detector, options.history, options.rounds),
        "sizes": sizes,
    }
    for kind in ("memory", "sqlite"):
        with (
            tempfile.TemporaryDirectory(dir=options.folder) as folder,
            ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
        ):
            figures[kind] = pool.submit(fill, kind, folder, states, options.accounts).result()
    print_figures(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    step = figures["step"]
    fast = step["of_it_from_texts_to_risks_ms"]["old"]["p50"] <= GOAL_MS
    return 0 if fast and step["old_to_young"] <= GOAL_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
