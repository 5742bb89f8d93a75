"""Measures `stillwatch score` on simulated logs: speed against sentence-transformers, and memory.

1. 4,000 events without repeated prompts, one thread: events a second of `stillwatch score`, from
   start of the process to its end, and prompts a second of sentence-transformers (fp32, its
   defaults) on the same prompts, model loaded, in turn.
2. 1,000,000 events of 50,000 accounts and 50,000 distinct prompts: time and highest resident
   memory of the `stillwatch score` process.

Left out of the times: writing of the logs; sentence-transformers' loading, not Stillwatch's.
Run: python benchmarks/score.py [--events 1000000] [--rounds 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from stillwatch.data.simulator.benchlog import distinct_events, repeated_events
from stillwatch.data.writers import write_events

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ.update(ONE_THREAD)
    # First, while this process is small: a child's highest memory counts what it was forked from.
    memory = measure_memory(options.events)
    speed = compare_speed(options.rounds)
    figures = {"machine": machine(), "speed": speed, "memory": memory}
    print_figures(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def compare_speed(rounds: int) -> dict[str, Any]:
    import torch
    from sentence_transformers import SentenceTransformer

    from stillwatch.model.sentence import find_model

    torch.set_num_threads(1)
    events = distinct_events(4000, seed=3)
    reference = SentenceTransformer(str(find_model("all-MiniLM-L6-v2")), device="cpu")
    reference.encode(["warm up"] * 8)
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        log, output = Path(folder) / "log.jsonl", Path(folder) / "out.jsonl"
        write_events(log, events)
        for _ in range(rounds):
            ours.append(len(events) / run_score(log, output, "--threads", "1"))
            started = time.perf_counter()
            reference.encode([event.prompt for event in events], show_progress_bar=False)
            theirs.append(len(events) / (time.perf_counter() - started))
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {
        "events": len(events),
        "stillwatch_events_per_s": float(np.median(ours)),
        "sentence_transformers_prompts_per_s": float(np.median(theirs)),
        "ratio_median": float(np.median(ratios)),
        "ratio_range": [min(ratios), max(ratios)],
    }


def run_score(log: Path, output: Path, *options: str) -> float:
    """Seconds that the command took."""
    program = Path(sys.executable).with_name("stillwatch")
    started = time.perf_counter()
    subprocess.run([program, "score", log, "--output", output, *options], check=True)
    return time.perf_counter() - started


def measure_memory(count: int) -> dict[str, Any]:
    accounts, prompts = max(count // 20, 1), max(count // 20, 1)
    with tempfile.TemporaryDirectory() as folder:
        log, output = Path(folder) / "log.jsonl.zst", Path(folder) / "out.jsonl"
        write_events(log, repeated_events(count, accounts, prompts, seed=4))
        seconds = run_score(log, output)
        lines = sum(1 for _ in output.open())
    peak_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {
        "events": count,
        "accounts": lines,
        "distinct_prompts": prompts,
        "seconds": seconds,
        "peak_resident_mib": peak_kib / 1024,
    }


def machine() -> dict[str, Any]:
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")), platform.processor(),
    )  # fmt: skip
    version = platform.python_version()
    return {"cpu": model, "cores": os.cpu_count(), "python": version, "threads": 1}


def print_figures(figures: dict[str, Any]) -> None:
    speed, memory = figures["speed"], figures["memory"]
    print(f"machine: {figures['machine']}")
    print(
        f"{speed['events']} events without repeats, one thread, median of rounds:\n"
        f"  stillwatch             {speed['stillwatch_events_per_s']:8.1f} events/s\n"
        f"  sentence-transformers  {speed['sentence_transformers_prompts_per_s']:8.1f} prompts/s\n"
        f"  ratio                  {speed['ratio_median']:8.2f} "
        f"({speed['ratio_range'][0]:.2f} to {speed['ratio_range'][1]:.2f})"
    )
    print(
        f"{memory['events']:,} events, {memory['accounts']:,} accounts, "
        f"{memory['distinct_prompts']:,} distinct prompts:\n"
        f"  {memory['seconds']:.0f} s, "
        f"highest resident memory {memory['peak_resident_mib']:.0f} MiB"
    )


if __name__ == "__main__":
    main()
