"""What calibrating at a site does for detection there: sealed streams read by the released
detector as it comes, and after `stillwatch calibrate` has seen half of the ordinary accounts.

    python benchmarks/calibrated.py --json benchmarks/calibrated.json

The other half of the ordinary accounts, of the same products and sources, and all attacking ones
are the test. Recall is of attacking accounts at the risk that a share of the tested ordinary ones
reached, and at the bundle's own threshold before and after. Takes some minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _machine import machine, tell

from stillwatch.data.events import Event
from stillwatch.data.simulator.streams import Stream
from stillwatch.model.bundle import load_bundle, released_bundle
from stillwatch.serving.calibrate import calibrate
from stillwatch.serving.cli import judge_log
from stillwatch.serving.scorer import Scorer
from stillwatch.training.benchmark.sealed import (
    AT_THRESHOLD,
    SealedPlan,
    SealedScores,
    compose_sealed,
    is_attack,
    score_sealed,
    sealed_figures,
)
from stillwatch.training.metrics import recall_at

PLAN = SealedPlan(ordinary=1500, longest=60)
RATES = (0.003, 0.01, 0.02, 0.05, 0.1)
MAX_FPR = 0.01
CHUNK_EVENTS = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--bundle", type=Path, default=released_bundle())
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    options = parser.parse_args()
    streams = compose_sealed(PLAN)
    ordinary = [stream for stream in streams if not stream.intents]
    half = len(ordinary) // 2
    tested = [*(stream for stream in streams if stream.intents), *ordinary[half:]]
    attacks = is_attack(tested)
    figures: dict[str, Any] = {
        "machine": machine(os.cpu_count()),
        "bundle": load_bundle(options.bundle).id,
        "attacking accounts": int(attacks.sum()),
        "ordinary accounts": int((~attacks).sum()),
        "calibrating accounts": half,
    }
    plain = score_sealed(judge_log, options.bundle, tested)
    figures["as it comes"] = _figures("as it comes", tested, plain)
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        scorer = Scorer.from_bundle(options.bundle, threads=os.cpu_count() or 1)
        made = calibrate(scorer, _Log(ordinary[:half]).chunks, bundle, MAX_FPR)
        found = score_sealed(judge_log, bundle, tested)
    figures["calibrated"] = {
        "rate asked for": MAX_FPR,
        "threshold set": made.threshold.enter,
        **_figures("calibrated", tested, found),
    }
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


class _Log:
    """Streams as one log, in order of time."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        every = (event for stream in streams for event in stream.events)
        self.events = sorted(every, key=lambda event: event.timestamp)

    @contextmanager
    def chunks(self, label: str) -> Iterator[Iterator[list[Event]]]:
        tell(label)
        starts = range(0, len(self.events), CHUNK_EVENTS)
        yield (self.events[start : start + CHUNK_EVENTS] for start in starts)


def _figures(name: str, streams: Sequence[Stream], scores: SealedScores) -> dict[str, Any]:
    attacks = is_attack(streams)
    recalls = {
        f"{rate:.1%}": recall_at(scores.peaks[attacks], scores.peaks[~attacks], rate)
        for rate in RATES
    }
    found = sealed_figures(streams, scores)
    tell(f"{name}: " + ", ".join(f"{recall:.3f} at {rate}" for rate, recall in recalls.items()))
    tell(f"{name}, at its threshold: {found[AT_THRESHOLD]}")
    return {"recall at rates": recalls, **found}


if __name__ == "__main__":
    main()
