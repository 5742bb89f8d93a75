"""What ordinary traffic looked like when a bundle was calibrated: quantiles and counts, no text.

A calibrated bundle carries it, so that later traffic can be compared with the very traffic that
the thresholds were set by. The same class holds the traffic it is compared with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stillwatch.data.errors import BundleError

TRAFFIC_FILE = "traffic.json"
QUANTILES = 501
"""Of each value: of what they tell, a share of 1 in 500 is the least."""
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Columns:
    """N events of some traffic, each array (N,): risk of the account after each, contribution to
    its likeliest intent, similarity to its nearest template, time in seconds since the epoch,
    whether under a frame. How many events there are of each language and likeliest intent."""

    risk: np.ndarray
    contribution: np.ndarray
    similarity: np.ndarray
    time: np.ndarray
    framed: np.ndarray
    accounts: np.ndarray
    """int64 (N,), any numbers that tell accounts apart."""
    languages: Mapping[str, int]
    intents: Mapping[str, int]


class Traffic(BaseModel):
    """`numbers`: quantiles of each value at even steps from least to most. `means`: of the same.
    `counts`: events by language, likeliest intent and whether under a frame."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    start: float
    end: float
    events: int = Field(gt=0)
    accounts: int = Field(gt=0)
    numbers: dict[str, list[float]]
    means: dict[str, float]
    counts: dict[str, dict[str, int]]

    @property
    def framed_share(self) -> float:
        """Of events under a frame."""
        return self.counts["framed"].get("framed", 0) / max(sum(self.counts["framed"].values()), 1)

    @classmethod
    def of(cls, columns: Columns) -> Traffic:
        """ValueError without events."""
        if not len(columns.time):
            raise ValueError("traffic must have events, however: none")
        _, each = np.unique(columns.accounts, return_counts=True)
        values = {
            "risk": columns.risk,
            "contribution": columns.contribution,
            "similarity": columns.similarity,
            "hour": columns.time % DAY_S / 3600,
            "prompts": each,
        }
        framed = int(np.count_nonzero(columns.framed))
        return cls(
            start=float(columns.time.min()),
            end=float(columns.time.max()),
            events=len(columns.time),
            accounts=len(each),
            numbers={name: quantiles(own) for name, own in values.items()},
            means={name: float(np.mean(own)) for name, own in values.items()},
            counts={
                "language": dict(columns.languages),
                "intent": dict(columns.intents),
                "framed": {"framed": framed, "free": len(columns.time) - framed},
            },
        )

    def to_bytes(self) -> bytes:
        """The contents of traffic.json."""
        return (json.dumps(self.model_dump(), sort_keys=True) + "\n").encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Traffic:
        """BundleError unless it is what `to_bytes` gave."""
        try:
            found = cls.model_validate_json(content)
        except ValidationError as error:
            raise BundleError(
                f"{TRAFFIC_FILE} must be valid, however: {error.errors()[0]['msg']}; "
                "take the bundle from its source again"
            ) from None
        names = ({"risk", "contribution", "similarity", "hour", "prompts"},
                 {"language", "intent", "framed"})  # fmt: skip
        whole = set(found.numbers) == set(found.means) == names[0] and set(found.counts) == names[1]
        if not whole or not all(found.numbers.values()) or not all(found.counts.values()):
            raise BundleError(
                f"{TRAFFIC_FILE} must have every measure, however: it differs; "
                "take the bundle from its source again"
            )
        return found


def quantiles(values: np.ndarray) -> list[float]:
    """At most QUANTILES values of a sample (N,), ascending, at even steps from least to most."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    count = min(len(ordered), QUANTILES)
    return [float(ordered[at]) for at in np.linspace(0, len(ordered) - 1, count).astype(np.int64)]
