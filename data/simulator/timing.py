"""When the requests of a stream are made. Times are seconds since the epoch."""

from __future__ import annotations

import numpy as np

START_S = 1_775_000_000.0
"""First of April 2026, about: simulated logs begin within two months after it."""
PACES = ("human", "machine", "burst", "product")


def request_times(rng: np.random.Generator, count: int, pace: str) -> np.ndarray:
    """`count` times in order, float64. human: sittings by day; machine: steady around the clock;
    burst: few dense batches; product: a busy day's rhythm."""
    start = START_S + rng.uniform(0, 60 * 86400)
    if pace == "machine":
        gaps = rng.lognormal(
            np.log(rng.choice([2, 8, 30, 120, 600])), rng.uniform(0.05, 0.8), count
        )
        return start + np.cumsum(gaps)
    if pace == "burst":
        gaps = rng.lognormal(np.log(rng.uniform(0.3, 4)), 0.5, count)
        pauses = rng.random(count) < rng.uniform(0.005, 0.05)
        gaps[pauses] += rng.lognormal(np.log(4 * 3600), 1.0, int(pauses.sum()))
        return start + np.cumsum(gaps)
    if pace == "human":
        gaps = rng.lognormal(np.log(rng.uniform(30, 150)), 0.9, count)
        pauses = rng.random(count) < rng.uniform(0.1, 0.35)
        gaps[pauses] += rng.lognormal(np.log(20 * 3600), 1.0, int(pauses.sum()))
        return _by_day(start + np.cumsum(gaps), rng, 15)
    if pace == "product":
        gaps = rng.exponential(rng.choice([10, 60, 300, 1200]), count)
        return _by_day(start + np.cumsum(gaps), rng, int(rng.integers(10, 24)))
    raise ValueError(f"pace must be one of {PACES}, however: {pace}")


def _by_day(times: np.ndarray, rng: np.random.Generator, open_hours: int) -> np.ndarray:
    """Stretch the clock so that nothing falls outside the day's open hours."""
    opening_s = rng.integers(0, 24) * 3600
    open_s = open_hours * 3600
    elapsed = times - times[0]
    days, within = np.divmod(elapsed, open_s)
    return np.asarray(np.floor(times[0] / 86400) * 86400 + opening_s + days * 86400 + within)
