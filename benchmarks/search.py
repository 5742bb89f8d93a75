"""Measures the archive: search by meaning over many prompts, beside appends, and its start.

Vectors are made around those of real texts (the corpora's, encoded by the released encoder): each
is a real one turned towards a direction made half of another text and half of noise, so far that
its cosine is that of a real text with its nearest other one, drawn from the texts themselves.
Queries are made the same way and are not in the archive.

1. Fill: prompts through `add` and the background's own work, then the training of the index.
2. Start: a new process opens the archive; time and resident memory, before and after.
3. Search, one thread: the nearest ten of a vector, unfiltered and filtered, and of a text with its
   encoding; recall against exact search over all vectors as they were made, in fp32.
4. The same while events are appended in batches, ten a second; how long appends take, and how
   long it takes until what was appended last is found.

5. The erasure of one account: its rows, and every file written anew.

With --keep the archive is made in that folder, or taken from there, with the figures of its fill,
if it was made before by the same options.

Left out of the times: encoding of the real texts, but for the search of a text.
Run: python benchmarks/search.py [--prompts 1000000] [--texts 6000] [--queries 500]
     [--append-s 30] [--rate 500] [--keep DIR] [--corpora DIR] [--json FILE]
"""

from __future__ import annotations

import os

# Before anything imports the libraries that read them.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _machine import machine, tell

from stillwatch.data.corpora import read_corpora
from stillwatch.data.events import DEFAULT_INTENTS, Event
from stillwatch.model.detector import SLOT, Detector, text_key
from stillwatch.model.encoder import Encoder
from stillwatch.model.text import normalise
from stillwatch.serving.archive import Batch, Filters, PromptArchive, Row, encoder_id

NEAREST = 10
BATCH = 1024
FIRST_TIME = 1.75e9
SECONDS_APART = 5.0
ACCOUNTS = 2000
LONGEST_CHARS = 1500


class Made:
    """Makes prompts and unit vectors float32 (N, D) around real ones; the same for a seed."""

    def __init__(self, texts: list[str], vectors: np.ndarray) -> None:
        self.texts = texts
        self.vectors = vectors
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -1.0)
        self.nearest = np.clip(cosines.max(axis=1), 0.0, 0.995)

    def batch(self, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the real texts (N,) and vectors around theirs."""
        rng = np.random.default_rng(seed)
        base, other = rng.integers(0, len(self.vectors), (2, count))
        noise = rng.standard_normal((count, self.vectors.shape[1])).astype(np.float32)
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        centre = self.vectors[base]
        away = noise + self.vectors[other]
        away -= (away * centre).sum(axis=1, keepdims=True) * centre
        away /= np.linalg.norm(away, axis=1, keepdims=True)
        cosine = rng.choice(self.nearest, count)[:, None]
        made = cosine * centre + np.sqrt(1 - cosine**2) * away
        return base, np.ascontiguousarray(made, dtype=np.float32)

    def rows(self, first: int, base: np.ndarray, vectors: np.ndarray, encoder: str) -> Batch:
        rows, by_key = [], {}
        for place, text in enumerate(base.tolist()):
            number = first + place
            prompt = f"{self.texts[text]} #{number}"
            event = Event(
                f"e{number}", f"account-{number * 7919 % ACCOUNTS}",
                FIRST_TIME + SECONDS_APART * number, prompt, model="m",
            )  # fmt: skip
            slot = normalise(prompt)
            contribution = (0.9, 0.05, 0.05) if number % 3 else (0.05, 0.05, 0.9)
            rows.append(
                Row(event, "", slot, 0.2, number % 20 == 0, contribution, f"T{text % 50}", 0.4)
            )
            by_key[text_key(SLOT, slot)] = vectors[place]
        return Batch(rows, by_key, DEFAULT_INTENTS, "benchmark", encoder)


class Exact:
    """The true nearest of some queries among all that was seen."""

    def __init__(self, queries: np.ndarray) -> None:
        self.queries = queries
        self.best = np.full((len(queries), NEAREST), -np.inf, np.float32)
        self.numbers = np.full((len(queries), NEAREST), -1, np.int64)

    def see(self, first: int, vectors: np.ndarray) -> None:
        both = np.concatenate([self.best, self.queries @ vectors.T], axis=1)
        seen = np.arange(first, first + len(vectors))
        numbers = np.concatenate(
            [self.numbers, np.broadcast_to(seen, (len(self.queries), len(seen)))], axis=1
        )
        top = np.argpartition(-both, NEAREST - 1, axis=1)[:, :NEAREST]
        self.best = np.take_along_axis(both, top, axis=1)
        self.numbers = np.take_along_axis(numbers, top, axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=1_000_000)
    parser.add_argument("--texts", type=int, default=6000)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--append-s", type=float, default=30.0)
    parser.add_argument("--rate", type=int, default=500)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--corpora", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure-start", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure_start:
        print(json.dumps(measure_start(options.measure_start)))
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(options, options.keep or Path(folder) / "archive", Path(folder))
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def measure(options: argparse.Namespace, folder: Path, scratch: Path) -> dict[str, Any]:
    detector = Detector.load()
    encoder, name = detector.encoder, encoder_id(detector)
    made = Made(*real_texts(encoder, options.texts, options.corpora))
    _, queries = made.batch(options.queries, seed=10**6)
    exact = Exact(queries)
    figures: dict[str, Any] = {
        "machine": machine(threads=1),
        "prompts": options.prompts,
        "real_texts": len(made.texts),
        "nearest_cosine_of_real_texts": quantiles(made.nearest),
    }
    figures["fill"] = fill(folder, made, exact, options.prompts, encoder.dimensions, name)
    figures["size"] = sizes(folder)
    figures["start"] = start_apart(folder)
    archive = PromptArchive.open(folder, encoder.dimensions, encoder=encoder, encoder_id=name)
    try:
        figures["search"] = search(archive, made, exact, options.prompts)
    finally:
        archive.close()
    if options.keep:
        # What follows changes the archive.
        folder = Path(shutil.copytree(folder, scratch / "copy"))
    archive = PromptArchive.open(folder, encoder.dimensions, encoder=encoder, encoder_id=name)
    try:
        figures["search_beside_appends"] = append(archive, made, queries, options, name)
        figures["erasure"] = erase(archive)
    finally:
        archive.close()
    return figures


def real_texts(encoder: Encoder, count: int, corpora: Path | None) -> tuple[list[str], np.ndarray]:
    every = [
        prompt.text
        for source in read_corpora(corpora, limit=400, longest=LONGEST_CHARS)
        for prompt in source.prompts
    ]
    distinct = list(dict.fromkeys(normalise(text) for text in every))
    rng = np.random.default_rng(0)
    chosen = [distinct[n] for n in rng.permutation(len(distinct))[:count]]
    tell(f"encoding {len(chosen)} real texts")
    return chosen, np.stack([item.vector for item in encoder.encode(chosen)])


def fill(
    folder: Path, made: Made, exact: Exact, count: int, dimensions: int, encoder: str
) -> dict[str, Any]:
    """Through the door that scoring uses, the background's work done in turn."""
    archive = PromptArchive.open(folder, dimensions, encoder_id=encoder, background=False)
    try:
        if archive.status().events:
            for first in range(0, count, BATCH):
                exact.see(first, made.batch(min(BATCH, count - first), seed=first)[1])
            return dict(json.loads(_filled(folder).read_text()))
        spent = 0.0
        for first in range(0, count, BATCH):
            base, vectors = made.batch(min(BATCH, count - first), seed=first)
            exact.see(first, vectors)
            batch = made.rows(first, base, vectors, encoder)
            started = time.perf_counter()
            archive.add(batch)
            archive.flush()
            spent += time.perf_counter() - started
            if first // BATCH % 100 == 0:
                tell(f"{first + len(base):,} prompts, {(first + len(base)) / spent:,.0f} a second")
        started = time.perf_counter()
        archive.rebuild()
        trained = time.perf_counter() - started
        status = archive.status()
    finally:
        archive.close()
    figures = {
        "events_per_s": round(count / spent, 1),
        "training_s": round(trained, 1),
        "lists": status.lists,
        "probes": status.probes,
        "recall_at_10_told_by_the_index": status.recall,
    }
    _filled(folder).write_text(json.dumps(figures))
    return figures


def _filled(folder: Path) -> Path:
    """Where the figures of the fill are kept beside an archive that is kept."""
    return folder.with_name(f"{folder.name}.fill.json")


def sizes(folder: Path) -> dict[str, float]:
    def total(pattern: str) -> float:
        return round(sum(path.stat().st_size for path in folder.glob(pattern)) / 2**20, 1)

    return {"index_mib": total("index/*"), "tables_mib": total("archive.db*")}


def start_apart(folder: Path) -> dict[str, Any]:
    """In a process of its own, three times."""
    runs = [
        json.loads(
            subprocess.run(
                [sys.executable, __file__, "--measure-start", folder], check=True,
                capture_output=True,
            ).stdout
        )
        for _ in range(3)
    ]  # fmt: skip
    return {"runs": runs, "open_s": sorted(run["open_s"] for run in runs)[1]}


def measure_start(folder: Path) -> dict[str, Any]:
    before = resident_mib()
    started = time.perf_counter()
    archive = PromptArchive.open(folder, 384)
    opened = time.perf_counter() - started
    try:
        vector = np.random.default_rng(0).standard_normal(384).astype(np.float32)
        started = time.perf_counter()
        archive.search(vector)
        first = time.perf_counter() - started
        return {
            "open_s": round(opened, 2),
            "first_search_ms": round(first * 1e3, 1),
            "resident_before_mib": before,
            "resident_mib": resident_mib(),
            "events": archive.status().events,
        }
    finally:
        archive.close()


def search(archive: PromptArchive, made: Made, exact: Exact, count: int) -> dict[str, Any]:
    last = FIRST_TIME + SECONDS_APART * count
    span = SECONDS_APART * count
    kinds: dict[str, Callable[[np.ndarray], Any]] = {
        "vector": lambda v: archive.search(v, NEAREST, each=1),
        "one_account": lambda v: archive.search(v, NEAREST, Filters(accounts=("account-7",))),
        "latest_tenth": lambda v: archive.search(v, NEAREST, Filters(since=last - span / 10)),
        "latest_half": lambda v: archive.search(v, NEAREST, Filters(since=last - span / 2)),
        "flagged_of_an_intent": lambda v: archive.search(
            v, NEAREST, Filters(flagged=True, intents=("output_harvesting",))
        ),
        "by_account": lambda v: archive.accounts(v, NEAREST),
    }
    figures: dict[str, Any] = {}
    for name, run in kinds.items():
        tell(f"searching: {name}")
        figures[name] = latencies(run, exact.queries)
    found = 0
    for vector, numbers in zip(exact.queries, exact.numbers, strict=True):
        hits = archive.search(vector, NEAREST, each=1)
        found += len({hit.event.event_id for hit in hits} & {f"e{n}" for n in numbers})
    figures["recall_at_10"] = round(found / exact.numbers.size, 4)
    rng = np.random.default_rng(5)
    texts = [made.texts[n] for n in rng.integers(0, len(made.texts), 200)]
    figures["text_with_its_encoding"] = latencies(lambda t: archive.search(t, NEAREST), texts)
    return figures


def append(
    archive: PromptArchive, made: Made, queries: np.ndarray, options: argparse.Namespace,
    encoder: str,
) -> dict[str, Any]:  # fmt: skip
    """Search without a pause while another thread appends at a steady rate."""
    tell("searching beside appends")
    each, times, late = options.rate // 10, [], []
    batches = []
    for number in range(int(options.append_s * 10)):
        base, vectors = made.batch(each, seed=2 * 10**6 + number)
        batches.append(made.rows(10**8 + number * each, base, vectors, encoder))
    key, vector = next(iter(batches[-1].vectors.items()))
    wanted = next(row.event.event_id for row in batches[-1].rows if row.text_keys[1] == key)
    ended = threading.Event()
    spans: dict[str, float] = {}

    def run() -> None:
        started = time.perf_counter()
        for number, batch in enumerate(batches):
            due = started + number / 10
            time.sleep(max(due - time.perf_counter(), 0))
            before = time.perf_counter()
            late.append(before - due)
            archive.add(batch)
            times.append(time.perf_counter() - before)
        last = time.perf_counter()
        spans["appending"] = last - started + 0.1
        while wanted not in {hit.event.event_id for hit in archive.search(vector, 3)}:
            time.sleep(0.01)
        spans["until_found"] = time.perf_counter() - last
        ended.set()

    thread = threading.Thread(target=run)
    thread.start()
    found = latencies(lambda v: archive.search(v, NEAREST), _until(ended, queries), warm=0)
    thread.join()
    return {
        **found,
        "appended_per_s": round(len(batches) * each / spans["appending"], 1),
        "latest_start_of_an_append_ms": round(max(late) * 1e3, 1),
        "append_ms": milliseconds(times),
        "last_one_found_after_s": round(spans["until_found"], 2),
    }


def erase(archive: PromptArchive) -> dict[str, Any]:
    tell("erasing an account")
    started = time.perf_counter()
    removed = archive.erase("account-77")
    return {"events": removed.events, "seconds": round(time.perf_counter() - started, 1)}


def _until(ended: threading.Event, queries: np.ndarray) -> Iterator[np.ndarray]:
    while not ended.is_set():
        for query in queries:
            if ended.is_set():
                return
            yield query


def latencies(run: Callable[[Any], Any], queries: Any, warm: int = 20) -> dict[str, Any]:
    """Times by the clock, and those that the processor spent on it: on a machine that others use
    too, the clock counts their work."""
    times, spent = [], []
    for number, query in enumerate(queries):
        if number < warm:
            run(query)
        started, before = time.perf_counter(), time.thread_time()
        run(query)
        times.append(time.perf_counter() - started)
        spent.append(time.thread_time() - before)
    cpu = {f"processor_{name}": value for name, value in milliseconds(spent).items()}
    return {"searches": len(times), **milliseconds(times), **cpu}


def milliseconds(times: list[float]) -> dict[str, float]:
    values = np.array(times) * 1e3
    return {f"p{share}_ms": round(float(np.percentile(values, share)), 2) for share in (50, 95, 99)}


def quantiles(values: np.ndarray) -> dict[str, float]:
    return {f"q{s}": round(float(np.percentile(values, s)), 3) for s in (5, 25, 50, 75, 95)}


def resident_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(x.split()[1]) for x in lines if x.startswith("VmRSS")) / 1024, 1)


if __name__ == "__main__":
    main()
