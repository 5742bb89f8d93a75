"""A bundle, tested as it serves on materials that nothing is ever trained on.

The streams are composed of sources, wrappers, products and trades that are sealed: they stand in
the package, so that the test needs no corpora, and `train` never reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from stillwatch.data.corpora import Source
from stillwatch.data.events import Event
from stillwatch.data.simulator.attacks import compose_harvest
from stillwatch.data.simulator.content import Wrapper
from stillwatch.data.simulator.materials import ROLE_INTENT, Materials, load_sealed
from stillwatch.data.simulator.ordinary import compose_ordinary, compose_twin
from stillwatch.data.simulator.streams import SHARES, Stream
from stillwatch.training.metrics import threshold_at

RATE = 0.01
"""False-positive rate of the figures: some hundreds of ordinary accounts say nothing of less."""
TOP_EVIDENCE = 5
AT_THRESHOLD = "flagged at the bundle's threshold"
"""Of the figures, by name."""


class Judged(Protocol):
    """What a scorer says of one account; serving's Verdict is one."""

    @property
    def risk(self) -> float: ...
    @property
    def peak_risk(self) -> float: ...
    @property
    def flagged_after(self) -> int | None: ...
    @property
    def truncated(self) -> int: ...
    @property
    def evidence(self) -> Sequence[Any]: ...


Judge = Callable[[Path, Iterable[Event]], Mapping[str, Judged]]
"""Scores a log with the bundle in a folder: what is known of each account at its end."""


@dataclass(frozen=True)
class SealedPlan:
    """How many streams, and of how many events at most."""

    ordinary: int = 900
    longest: int = 120
    bare_repeats: int = 2
    shares: tuple[float, ...] = SHARES
    seed: int = 3


REGRESSION = SealedPlan(ordinary=500, longest=60)
"""The smaller test that each released bundle leaves a record of."""


@dataclass(frozen=True)
class SealedScores:
    """What a bundle said of S streams: highest risks float64 (S,), attack prompts seen when first
    flagged (None if never), and whether each of the top events of evidence is an attack prompt."""

    peaks: np.ndarray
    prompts_to_flag: list[int | None]
    evidence: list[list[bool]]


def compose_sealed(plan: SealedPlan, materials: Materials | None = None) -> list[Stream]:
    """Every sealed wrapper and attack source in every share, and ordinary accounts, every other
    one of them built as an attacking one is."""
    materials = materials or load_sealed()
    rng = np.random.default_rng([plan.seed, 61])
    bare = [s for s in materials.sources if s.role in ROLE_INTENT] * plan.bare_repeats
    cores: list[Wrapper | Source] = [*materials.wrappers, *bare]
    streams = [
        compose_harvest(rng, materials, f"a{number}-{share:g}", core, share, plan.longest)
        for number, core in enumerate(cores)
        for share in plan.shares
    ]
    rng = np.random.default_rng([plan.seed, 62])
    for number in range(plan.ordinary):
        if number % 2:
            streams.append(compose_twin(rng, materials, f"o{number}", plan.longest))
        else:
            streams.append(compose_ordinary(rng, materials, f"o{number}", longest=plan.longest))
    return streams


def score_sealed(judge: Judge, bundle: Path, streams: Sequence[Stream]) -> SealedScores:
    """Run the streams' events through a bundle. Streams are accounts of their own."""
    judged = judge(bundle, (event for stream in streams for event in stream.events))
    found = [judged[stream.account_id] for stream in streams]
    prompts: list[int | None] = []
    evidence: list[list[bool]] = []
    for stream, one in zip(streams, found, strict=True):
        after = one.flagged_after
        prompts.append(None if after is None else int(stream.attack[:after].sum()))
        attacks = {e.event_id for e, a in zip(stream.events, stream.attack, strict=True) if a}
        evidence.append([item.event_id in attacks for item in one.evidence[:TOP_EVIDENCE]])
    return SealedScores(np.array([one.peak_risk for one in found]), prompts, evidence)


def is_attack(streams: Sequence[Stream]) -> np.ndarray:
    """bool (S,)."""
    return np.array([bool(stream.intents) for stream in streams])


def sealed_threshold(streams: Sequence[Stream], scores: SealedScores, rate: float = RATE) -> float:
    """The risk above which at most `rate` of the sealed ordinary accounts ever came."""
    return threshold_at(scores.peaks[~is_attack(streams)], rate)


def sealed_figures(streams: Sequence[Stream], scores: SealedScores) -> dict[str, Any]:
    """Recall at RATE by family, share and language; false positives by kind and language;
    evidence and attack prompts to the first flag at the bundle's own threshold."""
    threshold = sealed_threshold(streams, scores)
    above = scores.peaks > threshold
    attacks = is_attack(streams)
    flagged = [n for n, p in enumerate(scores.prompts_to_flag) if p is not None]
    pure = [n for n in range(len(streams)) if attacks[n] and streams[n].share > 0.99]
    prompts = [p for n in pure if (p := scores.prompts_to_flag[n]) is not None]
    diluted = [n for n in flagged if attacks[n] and streams[n].share < 0.3]
    top = [hit for n in diluted for hit in scores.evidence[n]]
    return {
        "rate": RATE,
        "threshold": threshold,
        "ordinary accounts": int((~attacks).sum()),
        "attacking accounts": int(attacks.sum()),
        "recall": float(above[attacks].mean()),
        "recall by family": _by(streams, above, attacks, lambda s: s.kind),
        "recall by share": _by(
            streams, above, attacks, lambda s: f"{min(SHARES, key=lambda x: abs(x - s.share)):g}"
        ),
        "recall by language": _by(streams, above, attacks, lambda s: s.language),
        "false positives by kind": _by(streams, above, ~attacks, lambda s: s.kind),
        "false positives by language": _by(streams, above, ~attacks, lambda s: s.language),
        AT_THRESHOLD: {
            "attacking accounts": int(sum(attacks[n] for n in flagged)),
            "ordinary accounts": int(sum(not attacks[n] for n in flagged)),
            "median attack prompts of pure streams": float(np.median(prompts)) if prompts else None,
            "top evidence of streams with a tenth or a quarter": len(top),
            "of it attack prompts": int(sum(top)),
        },
    }


def _by(
    streams: Sequence[Stream],
    above: np.ndarray,
    wanted: np.ndarray,
    group: Callable[[Stream], str],
) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for number in np.flatnonzero(wanted):
        own = found.setdefault(group(streams[int(number)]), {"accounts": 0, "above": 0})
        own["accounts"] += 1
        own["above"] += int(above[number])
    return dict(sorted(found.items()))
