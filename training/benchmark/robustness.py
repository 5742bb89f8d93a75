"""What an attacker's evasions do to a bundle's recall, on sealed material, as it serves.

Rows one to four of what the system must withstand: payloads anywhere in a prompt and at any share
of a stream, and encodings. Every figure is the recall at the risk that lets RATE of the sealed
ordinary accounts through, none of them changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stillwatch.data.simulator.attacks import compose_harvest
from stillwatch.data.simulator.evasions import (
    EVASIONS,
    TOKEN_POSITIONS,
    evade,
    place_payload,
    replay,
    split_payload,
)
from stillwatch.data.simulator.materials import Materials, load_passages, load_sealed
from stillwatch.data.simulator.streams import Stream
from stillwatch.training.benchmark.sealed import (
    Judge,
    SealedPlan,
    compose_sealed,
    is_attack,
    score_sealed,
)
from stillwatch.training.metrics import threshold_at

RATE = 0.1
"""Of sealed ordinary accounts above the risk that counts as found: at a lower rate so little of
the sealed attacks is found that no share of it could be told."""
LOW_SHARES = (0.5, 0.25, 0.1, 0.05, 0.02, 0.01)
STREAMS = 86
"""Streams of each evasion: one of each sealed wrapper there is, up to so many."""
LONG_STREAMS = 30
"""Streams of each payload position and low share"""
LONG_PROMPTS = 12
"""and prompts of those: thousands of tokens a prompt are dear to encode."""
LONGEST = 24


def robustness(
    judge: Judge, bundle: Path, progress: Callable[[str], None], plan: SealedPlan | None = None
) -> dict[str, Any]:
    """Recall under each evasion, payload position and share, as `results.json` has it."""
    materials = load_sealed()
    streams = compose_sealed(plan or SealedPlan(longest=60, shares=(1.0,), ordinary=600), materials)
    ordinary = [s for s in streams if not s.intents]
    progress(f"robustness: scoring {len(ordinary):,} ordinary accounts")
    at = threshold_at(score_sealed(judge, bundle, ordinary).peaks, RATE)
    clean = _pure(materials, STREAMS)
    base = _recall(judge, bundle, clean, at)
    rows: list[dict[str, Any]] = []
    changes: dict[str, Callable[[np.random.Generator, Stream], Stream]] = {
        name: _evader(name) for name in EVASIONS
    }
    changes["split over two events"] = split_payload
    changes["replayed events"] = replay
    for name, change in changes.items():
        progress(f"robustness: {name}")
        rng = np.random.default_rng([7, len(rows)])
        found = _recall(judge, bundle, [change(rng, stream) for stream in clean], at)
        rows.append({"name": name, "streams": len(clean), "recall": found, "clean": base})
    passages = load_passages()
    positions = []
    for tokens in TOKEN_POSITIONS:
        progress(f"robustness: payload after {tokens} tokens")
        rng = np.random.default_rng([8, tokens])
        moved = [
            place_payload(rng, _first(s, LONG_PROMPTS), tokens, passages)
            for s in clean[:LONG_STREAMS]
        ]
        found = _recall(judge, bundle, moved, at)
        positions.append({"tokens": tokens, "streams": len(moved), "recall": found})
    shares = []
    for share in LOW_SHARES:
        progress(f"robustness: {share:.0%} of the stream")
        diluted = _pure(materials, LONG_STREAMS, share)
        found = _recall(judge, bundle, diluted, at)
        shares.append({"share": share, "streams": len(diluted), "recall": found})
    return {
        "rate": RATE,
        "clean_recall": base,
        "evasions": rows,
        "positions": positions,
        "shares": shares,
    }


def _evader(name: str) -> Callable[[np.random.Generator, Stream], Stream]:
    return lambda rng, stream: evade(rng, stream, name)


def _pure(materials: Materials, count: int, share: float = 1.0) -> list[Stream]:
    """One stream of each of `count` wrappers, of as many attack prompts at every share."""
    rng = np.random.default_rng([9, round(share * 100)])
    step = max(1, len(materials.wrappers) // count)
    chosen = materials.wrappers[::step][:count]
    longest = max(16, round(LONGEST / share)) if share < 1 else LONGEST
    return [
        compose_harvest(rng, materials, f"r{number}", wrapper, share, longest)
        for number, wrapper in enumerate(chosen)
    ]


def _first(stream: Stream, count: int) -> Stream:
    return replace(
        stream,
        events=stream.events[:count],
        attack=stream.attack[:count],
        labels=stream.labels[:count],
        origins=stream.origins[:count],
    )


def _recall(judge: Judge, bundle: Path, streams: Sequence[Stream], at: float) -> float:
    scores = score_sealed(judge, bundle, streams)
    return float((scores.peaks[is_attack(streams)] > at).mean())
