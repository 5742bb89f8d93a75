"""Measures `stillwatch score` on simulated logs: speed against sentence-transformers, and memory.

1. 4,000 events without repeated prompts, one thread: events a second of `stillwatch score`, from
   start of the process to its end, and prompts a second of sentence-transformers (fp32 with its
   defaults, and bf16 in batches of 32) on the same prompts, model loaded, in turn; then the same
   command on 4,000 events with real repetition, half of them prompts that came before.
2. One event through the scorer in process against `SentenceTransformer.encode` of its prompt, in
   turn: medians, one thread.
3. Cold start: from the start of a process without torch to the first verdict, with a complete
   bundle and the files in the page cache.
4. 1,000,000 events of 50,000 accounts and 50,000 distinct prompts: time and highest resident
   memory of the `stillwatch score` process.

Left out of the times: writing of the logs; sentence-transformers' loading, not Stillwatch's.
Run: python benchmarks/score.py [--events 1000000] [--rounds 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _machine import machine

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
    figures = {
        "machine": machine(threads=1),
        "speed": compare_speed(options.rounds),
        "single": compare_single(),
        "cold_start_s": cold_starts(options.rounds),
        "memory": memory,
    }
    print_figures(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def compare_speed(rounds: int) -> dict[str, Any]:
    import torch

    reference = sentence_transformers()
    events = distinct_events(4000, seed=3)
    prompts = [event.prompt for event in events]
    found: dict[str, list[float]] = {"stillwatch": [], "fp32": [], "bf16": [], "repeated": []}
    with tempfile.TemporaryDirectory() as folder:
        log, output = Path(folder) / "log.jsonl", Path(folder) / "out.jsonl"
        again = Path(folder) / "again.jsonl"
        write_events(log, events)
        write_events(again, repeated_events(4000, 200, 2000, seed=5))
        for _ in range(rounds):
            found["stillwatch"].append(len(events) / run_score(log, output, "--threads", "1"))
            started = time.perf_counter()
            reference.encode(prompts, show_progress_bar=False)
            found["fp32"].append(len(events) / (time.perf_counter() - started))
            started = time.perf_counter()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                reference.encode(prompts, batch_size=32, show_progress_bar=False)
            found["bf16"].append(len(events) / (time.perf_counter() - started))
            found["repeated"].append(4000 / run_score(again, output, "--threads", "1"))
    speed: dict[str, Any] = {"events": len(events)}
    speed |= {f"{name}_per_s": float(np.median(values)) for name, values in found.items()}
    for name in ("fp32", "bf16"):
        ratios = [a / b for a, b in zip(found["stillwatch"], found[name], strict=True)]
        speed[f"ratio_{name}"] = float(np.median(ratios))
        speed[f"ratio_{name}_range"] = [min(ratios), max(ratios)]
    return speed


def compare_single(count: int = 200) -> dict[str, float]:
    from stillwatch.serving.scorer import Scorer

    reference, scorer = sentence_transformers(), Scorer.from_bundle()
    ours, theirs = [], []
    for event in distinct_events(count, seed=6):
        started = time.perf_counter()
        scorer.update([event])
        middle = time.perf_counter()
        reference.encode(event.prompt, show_progress_bar=False)
        ours.append(middle - started)
        theirs.append(time.perf_counter() - middle)
    own, other = 1000 * float(np.median(ours)), 1000 * float(np.median(theirs))
    return {"stillwatch_p50_ms": own, "fp32_p50_ms": other, "ratio": own / other}


FIRST_VERDICT = """
import sys
from pathlib import Path
from stillwatch.data.events import Event
from stillwatch.serving.scorer import Scorer
scorer = Scorer.from_bundle(Path(sys.argv[1]))
scorer.update([Event("e1", "a1", 1.79e9, "Where is my parcel?")])
assert "torch" not in sys.modules
"""


def cold_starts(rounds: int) -> float:
    """Median seconds to the first verdict."""
    program = Path(sys.executable).with_name("stillwatch")
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "complete"
        subprocess.run([program, "export", "--output", bundle], check=True, capture_output=True)
        found = []
        for _ in range(rounds + 1):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", FIRST_VERDICT, bundle], check=True)
            found.append(time.perf_counter() - started)
    return float(np.median(found[1:]))


def sentence_transformers() -> Any:
    import torch
    from sentence_transformers import SentenceTransformer

    from stillwatch.model.sentence import find_model

    torch.set_num_threads(1)
    reference = SentenceTransformer(str(find_model("all-MiniLM-L6-v2")), device="cpu")
    reference.encode(["warm up"] * 8)
    return reference


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


def print_figures(figures: dict[str, Any]) -> None:
    speed, memory = figures["speed"], figures["memory"]
    print(f"machine: {figures['machine']}")
    print(f"{speed['events']} events without repeats, one thread, a second, median of rounds:")
    print(f"  stillwatch score           {speed['stillwatch_per_s']:8.1f}")
    for name in ("fp32", "bf16"):
        low, high = speed[f"ratio_{name}_range"]
        print(
            f"  sentence-transformers {name} {speed[f'{name}_per_s']:8.1f}: Stillwatch is "
            f"{speed[f'ratio_{name}']:.2f} times as fast ({low:.2f} to {high:.2f})"
        )
    print(f"half of the prompts repeated: stillwatch score {speed['repeated_per_s']:.1f}")
    single = figures["single"]
    print(
        f"one event, p50: scorer {single['stillwatch_p50_ms']:.1f} ms, sentence-transformers "
        f"{single['fp32_p50_ms']:.1f} ms, ratio {single['ratio']:.2f}; goal 0.33"
    )
    print(f"cold start to the first verdict: {figures['cold_start_s']:.1f} s; goal 3")
    print(
        f"{memory['events']:,} events, {memory['accounts']:,} accounts, "
        f"{memory['distinct_prompts']:,} distinct prompts:\n"
        f"  {memory['seconds']:.0f} s, "
        f"highest resident memory {memory['peak_resident_mib']:.0f} MiB"
    )


if __name__ == "__main__":
    main()
