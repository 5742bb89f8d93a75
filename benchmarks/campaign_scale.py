"""Linking a million events of a hundred thousand accounts: time, memory, growth, and what runs on
a few more events cost.

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
from stillwatch.model.campaigns.finder import Campaign, CampaignFinder
from stillwatch.model.campaigns.index import CampaignIndex
from stillwatch.model.campaigns.risk import CampaignCalibration
from stillwatch.model.detector import Detector
from stillwatch.model.encoder import Encoder, TextVectors
from stillwatch.training.benchmark.campaign_world import WorldPlan, compose_world, world_materials

EVENTS_EACH = 10.2
"""Events of an ordinary account of at most LONGEST, about."""
LONGEST = 20
NEW_EVENTS = (10_000, 1_000)
"""One run on so many more events, and one on so many after it."""
CHECKED_EVENTS = 200_000
"""Up to so many what the runs on new events find is compared with what a full one does, which takes
as long again."""


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
    seen = len(events) - sum(NEW_EVENTS)
    index = CampaignIndex()
    start = time.perf_counter()
    index.add(events[:seen])
    added = time.perf_counter() - start
    finder = CampaignFinder(
        detector, index, lambda numbers: [events[n] for n in numbers], calibration
    )
    first = finder.find()
    whole = time.perf_counter() - start
    encoding, encoder.seconds = encoder.seconds, 0.0
    found, later = first, []
    for count in NEW_EVENTS:
        start = time.perf_counter()
        index.add(events[seen : seen + count])
        found = finder.find(found)
        seconds = time.perf_counter() - start - encoder.seconds
        later.append({
            "new_events": count,
            "encoding_s": round(encoder.seconds, 1),
            "beyond_encoding_s": round(seconds, 2),
            "share_of_a_full_run": round(seconds / (whole - encoding), 4),
        })  # fmt: skip
        encoder.seconds = 0.0
        seen += count
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
        "incremental": later,
        **({"same_as_a_full_run": _same(events, found, detector, calibration)}
           if len(events) <= CHECKED_EVENTS else {}),
    }  # fmt: skip


def _same(
    events: list[Event], found: list[Campaign], detector: Detector,
    calibration: CampaignCalibration,
) -> bool:  # fmt: skip
    """Whether a run on all events at once, after these campaigns, gives the same ones."""
    index = CampaignIndex()
    index.add(events)
    whole = CampaignFinder(
        detector, index, lambda numbers: [events[n] for n in numbers], calibration
    ).find(found)
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
