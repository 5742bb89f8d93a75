"""The risk of a community: how likely it is a campaign, given how it reads and shares its work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

FEATURES = (
    "risk", "contribution", "dedication", "unevenness", "kinship", "likeness", "onset", "accounts",
    "sharing", "variety", "keys_alone",
)  # fmt: skip
"""risk: logit of the classifier's risk over the sampled events, mean of the last quarter.
contribution: mean logit of how strongly an event speaks for its strongest intent.
dedication: share of its events that an account gives to it, of the middle account.
unevenness: log of variance over mean of the accounts' numbers of its events; 0 is chance.
kinship: how much more alike an account's payloads are than those of two accounts, cosine.
likeness: mean cosine of payloads of different accounts.
onset: log of the time within which the middle half of the accounts begin, as a share of that within
which the middle half of all events fall.
accounts: log of their number.
sharing: share of accounts that have a key of the community in common with another.
variety: share of its events with a text of their own.
keys_alone: 1 if no skeleton ties it."""

BOUNDS: dict[str, tuple[float, float]] = {
    "risk": (-5.0, 2.0), "contribution": (-6.0, 3.0), "dedication": (0.0, 1.0),
    "unevenness": (-3.0, 3.0), "kinship": (-0.05, 0.3), "likeness": (0.0, 0.6),
    "onset": (-5.0, 0.5), "accounts": (1.0, 5.5), "sharing": (0.0, 1.0), "variety": (0.2, 1.0),
    "keys_alone": (0.0, 1.0),
}  # fmt: skip
"""A value beyond what communities usually have says no more than the bound: no single feature may
accuse by being extreme."""


class CampaignCalibration(BaseModel):
    """probability = sigmoid(weights . scaled features + offset), features scaled to [0, 1] within
    BOUNDS. A community is flagged when it reaches `enter`, until it falls below `leave`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    features: list[str]
    weights: list[float]
    offset: float
    enter: float = Field(gt=0, lt=1)
    leave: float = Field(gt=0, lt=1)
    origin: str

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.features != list(FEATURES) or len(self.weights) != len(FEATURES):
            raise ValueError(f"features must be {', '.join(FEATURES)}, however: others")
        if self.leave > self.enter:
            raise ValueError(f"leave must not lie above enter, however: {self.leave}, {self.enter}")
        return self

    def probability(self, features: np.ndarray) -> np.ndarray:
        """float64 (N,) of features (N, F)."""
        logits = scaled(features) @ np.array(self.weights) + self.offset
        return np.asarray(1 / (1 + np.exp(-np.clip(logits, -60, 60))))

    def reasons(self, features: np.ndarray) -> list[tuple[str, float, float]]:
        """Name, value and share of the logit of each feature (F,), the strongest first. The share
        is against a community in the middle of every feature's bounds."""
        shares = (scaled(features[None])[0] - 0.5) * np.array(self.weights)
        order = np.argsort(-np.abs(shares), kind="stable")
        return [(FEATURES[n], float(features[n]), float(shares[n])) for n in order]


def scaled(features: np.ndarray) -> np.ndarray:
    """Features (N, F) within [0, 1]."""
    low, high = np.array([BOUNDS[name] for name in FEATURES]).T
    return np.asarray((np.clip(features, low, high) - low) / (high - low))


def feature_rows(rows: Sequence[np.ndarray]) -> np.ndarray:
    """float64 (N, F)."""
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(FEATURES))
