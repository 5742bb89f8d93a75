"""The release gate: is a bundle worse than another on any group of accounts, beyond noise?

Both score the same sealed streams. A stream's standing is the share of those of the other side, of
ordinary accounts for an attack and of attacks for an ordinary account, that stand above it, on a
logarithmic scale, so that bundles of other calibrations compare: which of two ordinary accounts
stands higher is no matter where nearly all attacks stand above both. In each group of streams the
standings are compared in pairs, one-sided, by flipping the signs of their changes (Pitman 1937) and
by drawing all streams anew (Efron 1979); the larger chance counts, with Holm's correction (1979)
over all groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stillwatch.data.simulator.streams import Stream
from stillwatch.training.benchmark.sealed import SealedScores, is_attack

LEVEL = 0.05
LEAST_CHANGE = 0.1
"""Decades of standing: a smaller change is no matter, however certain."""
LEAST_STREAMS = 6
FLIPS, DRAWS = 20_000, 5_000


@dataclass(frozen=True, slots=True)
class GroupChange:
    """One group of streams under two bundles. `change` is in decades, above 0 for better;
    `p` is the corrected chance of so bad a change if nothing had changed."""

    group: str
    streams: int
    change: float
    p: float

    @property
    def worse(self) -> bool:
        return self.p < LEVEL and self.change < -LEAST_CHANGE


def standings(peaks: np.ndarray, others: np.ndarray) -> np.ndarray:
    """-log10 of the share of `others` at or above each of `peaks`, float64 (S,): 2 means that a
    hundredth of them stands so high."""
    ordered = np.sort(others)
    above = len(ordered) - np.searchsorted(ordered, peaks, side="left")
    return -np.log10((above + 0.5) / (len(ordered) + 0.5))


def compare(streams: Sequence[Stream], old: SealedScores, new: SealedScores) -> list[GroupChange]:
    """Every group of at least LEAST_STREAMS streams: all attacks, each intent, family, share and
    language of them; each kind and language of ordinary accounts. Worst first."""
    attacks = is_attack(streams)
    change = _changes(old.peaks, new.peaks, attacks, np.arange(len(streams)))
    groups: dict[str, list[int]] = {}
    for number, stream in enumerate(streams):
        for name in _groups(stream):
            groups.setdefault(name, []).append(number)
    kept = {name: rows for name, rows in groups.items() if len(rows) >= LEAST_STREAMS}
    redrawn = _redrawn(old.peaks, new.peaks, attacks, list(kept.values()))
    raw = [
        (name, len(rows), float(change[rows].mean()), max(sign_flip_p(change[rows]), float(p)))
        for (name, rows), p in zip(kept.items(), redrawn, strict=True)
    ]
    raw.sort(key=lambda item: item[3])
    found, highest = [], 0.0
    for position, (name, count, mean, p) in enumerate(raw):
        highest = max(highest, min(1.0, p * (len(raw) - position)))
        found.append(GroupChange(name, count, mean, highest))
    return sorted(found, key=lambda item: (not item.worse, item.change))


def _changes(
    old: np.ndarray, new: np.ndarray, attacks: np.ndarray, beside: np.ndarray
) -> np.ndarray:
    """How much better off each stream is by its peaks old and new, decades (S,), beside the
    streams numbered `beside`. An ordinary account is where it stands lower."""
    attack, ordinary = beside[attacks[beside]], beside[~attacks[beside]]
    change = np.empty(len(old))
    for rows, others, sign in ((attacks, ordinary, 1), (~attacks, attack, -1)):
        after = standings(new[rows], new[others])
        change[rows] = sign * (after - standings(old[rows], old[others]))
    return change


def _redrawn(
    old: np.ndarray, new: np.ndarray, attacks: np.ndarray, groups: list[list[int]]
) -> np.ndarray:
    """For each group the share of bootstrap draws in which it did not get worse, float64 (G,).

    What a stream is compared with is drawn anew as well: what few ordinary accounts stand highest
    decides how every attack stands, and that is chance too.
    """
    rng = np.random.default_rng(len(old))
    members = np.zeros((len(old), len(groups)), dtype=np.float32)
    for column, rows in enumerate(groups):
        members[rows, column] = 1
    sides = [np.flatnonzero(attacks), np.flatnonzero(~attacks)]
    sound = np.zeros(len(groups))
    for _ in range(DRAWS):
        drawn = np.concatenate([rng.choice(side, len(side)) for side in sides])
        change = _changes(old, new, attacks, drawn)
        weight = rng.poisson(1.0, len(old)).astype(np.float32)
        sound += (weight * change).astype(np.float32) @ members >= 0
    return (sound + 1) / (DRAWS + 1)


def sign_flip_p(change: np.ndarray) -> float:
    """Chance of so low a sum of `change` (N,) if each value could as well have the other sign:
    counted over FLIPS random choices of signs."""
    moved = change[change != 0]
    if not len(moved):
        return 1.0
    rng = np.random.default_rng(len(moved))
    signs = rng.integers(0, 2, (FLIPS, len(moved)), dtype=np.int8) * 2 - 1
    low = int((signs @ moved <= moved.sum() + 1e-9).sum())
    return (low + 1) / (FLIPS + 1)


def _groups(stream: Stream) -> list[str]:
    if not stream.intents:
        return [f"ordinary, {stream.kind}", f"ordinary, language {stream.language}"]
    share = min((1.0, 0.5, 0.25, 0.1), key=lambda own: abs(own - stream.share))
    return [
        "attacks",
        f"intent {stream.intents[0]}",
        f"family {stream.kind}",
        f"share {share:.0%}",
        f"attacks, language {stream.language}",
    ]
