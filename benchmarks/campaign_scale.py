"""Linking a million events of a hundred thousand accounts: time, memory, growth, and what the
incremental run costs.

    python benchmarks/campaign_scale.py --json benchmarks/campaign_scale.json
    python benchmarks/campaign_scale.py --events 100000

Encoding is timed apart from everything else: a service has encoded what it links already.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _machine import machine, tell

from stillwatch.data.events import Event
from stillwatch.data.simulator.campaigns import CampaignPlan
from stillwatch.model.campaigns.finder import CampaignFinder
from stillwatch.model.campaigns.index import CampaignIndex
from stillwatch.model.campaigns.risk import CampaignCalibration
from stillwatch.model.detector import Detector
from stillwatch.model.encoder import Encoder, TextVectors
from stillwatch.training.benchmark.campaign_world import WorldPlan, compose_world, world_materials

EVENTS_EACH = 10.2
"""Events of an ordinary account of at most LONGEST, about."""
LONGEST = 20
NEW_EVENTS = 10_000
CHECKED_EVENTS = 200_000
"""Up to so many the incremental run is compared with a full one, which takes as long again."""


class TimedEncoder:
    """An encoder and the seconds it took."""

    def __init__(self, encoder: Encoder) -> None:
        self.name, self.dimensions = encoder.name, encoder.dimensions
        self.seconds = 0.0
        self._encoder = encoder

    def encode(self, texts: Sequence[str]) -> list[TextVectors]:
        start = time.perf_counter()
        found = self._encoder.encode(texts)
        self.seconds += time.perf_counter() - start
        return found


def main() -> int:
    options = _options()
    result: dict[str, Any] = {"machine": machine(options.threads), "runs": []}
    for count in (options.events // 10, options.events):
        tell(f"composing {count:,} events")
        events = _events(options, count)
        result["runs"].append(_run(events, options))
        tell(json.dumps(result["runs"][-1]))
    small, large = (run["beyond_encoding_s"] for run in result["runs"])
    sizes = [run["events"] for run in result["runs"]]
    result["growth"] = {
        "events": round(sizes[1] / sizes[0], 2), "seconds": round(large / small, 2)
    }  # fmt: skip
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return 0


def _events(options: argparse.Namespace, count: int) -> list[Event]:
    share = count / 1_000_000
    plans = tuple(
        CampaignPlan(max(round(accounts * share), 10), 4, 0.2)
        for accounts in (5000, 2000, 1000, 500, 200, 200)
    )
    lone = round((count - 4 * sum(plan.accounts for plan in plans)) / EVENTS_EACH * 0.8)
    plan = WorldPlan(plans, lone, 2.0 * share, 0, 300, LONGEST)
    events = compose_world(plan, world_materials(options.corpora, 0)).events()
    return events[:count]


def _run(events: list[Event], options: argparse.Namespace) -> dict[str, Any]:
    detector = Detector.load(options.bundle, threads=options.threads)
    calibration = detector.bundle.manifest.campaigns
    if calibration is None:
        raise SystemExit("the bundle must be calibrated for campaigns, however: it is not")
    encoder = TimedEncoder(detector.encoder)
    detector.encoder = encoder
    old, new = events[:-NEW_EVENTS], events[-NEW_EVENTS:]
    index = CampaignIndex()
    start = time.perf_counter()
    index.add(old)
    added = time.perf_counter() - start
    finder = CampaignFinder(
        detector, index, lambda numbers: [events[n] for n in numbers], calibration
    )
    first = finder.find()
    whole = time.perf_counter() - start
    encoding, encoder.seconds = encoder.seconds, 0.0

    start = time.perf_counter()
    index.add(new)
    found = finder.find(first)
    again = time.perf_counter() - start
    return {
        "events": len(events),
        "accounts": len(index.accounts),
        "shingling_s": round(added, 1),
        "linking_and_reading_s": round(whole - added - encoding, 1),
        "encoding_s": round(encoding, 1),
        "beyond_encoding_s": round(whole - encoding, 1),
        "groups": len(first),
        "flagged": sum(one.flagged for one in first),
        "peak_resident_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "incremental": {
            "new_events": len(new),
            "seconds": round(again, 1),
            "of_it_encoding_s": round(encoder.seconds, 1),
            "share_of_a_full_run": round(again / whole, 3),
            **({"same_as_a_full_run": _same(events, found, first, detector, calibration)}
               if len(events) <= CHECKED_EVENTS else {}),
        },
    }  # fmt: skip


def _same(
    events: list[Event], found: list[Any], previous: list[Any], detector: Detector,
    calibration: CampaignCalibration,
) -> bool:  # fmt: skip
    """Whether a run on all events at once gives the same campaigns."""
    index = CampaignIndex()
    index.add(events)
    whole = CampaignFinder(
        detector, index, lambda numbers: [events[n] for n in numbers], calibration
    ).find(previous)
    return [one.to_fields() for one in whole] == [one.to_fields() for one in found]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--corpora", type=Path)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
