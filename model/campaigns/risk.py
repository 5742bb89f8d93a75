"""The risk of a community: how likely it is a campaign, given how it reads and shares its work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from stillwatch.model.campaigns.trees import Trees

FEATURES = (
    "risk", "contribution", "dedication", "unevenness", "kinship", "onset", "accounts", "variety",
    "sharing",
)  # fmt: skip
"""risk: logit of the classifier's risk over the sampled events, mean of the last quarter.
contribution: mean logit of how strongly an event speaks for its strongest intent.
dedication: share of its events that an account gives to it, of the middle account.
unevenness: log of the most that variance over mean of the accounts' numbers of its events likely
is; 0 is chance, and few accounts can be sure of little.
kinship: the most by which an account's payloads are likely more alike than those of two accounts,
cosine.
onset: log of the time within which the middle half of the accounts begin, as a share of that within
which the middle half of all events fall.
accounts: log of their number.
variety: share of its events with a text of their own.
sharing: share of accounts that have a network or payment in common with another."""


class CampaignCalibration(BaseModel):
    """probability = sigmoid(slope * total of the trees + offset). A community is flagged when it
    reaches `enter`, until it falls below `leave`. `typical` are the features of an ordinary
    community, against which reasons are told."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    features: list[str]
    trees: Trees
    slope: float = Field(gt=0)
    offset: float
    typical: list[float]
    enter: float = Field(gt=0, lt=1)
    leave: float = Field(gt=0, lt=1)
    origin: str

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.features != list(FEATURES) or len(self.typical) != len(FEATURES):
            raise ValueError(f"features must be {', '.join(FEATURES)}, however: others")
        if max(max(own) for own in self.trees.feature) >= len(FEATURES):
            raise ValueError("trees must split by the features, however: by others")
        if self.leave > self.enter:
            raise ValueError(f"leave must not lie above enter, however: {self.leave}, {self.enter}")
        return self

    def logits(self, features: np.ndarray) -> np.ndarray:
        """float64 (N,) of features (N, F)."""
        return np.asarray(self.slope * self.trees.total(features) + self.offset)

    def probability(self, features: np.ndarray) -> np.ndarray:
        """float64 (N,) of features (N, F)."""
        return np.asarray(1 / (1 + np.exp(-np.clip(self.logits(features), -60, 60))))

    def reasons(self, features: np.ndarray) -> list[list[tuple[str, float, float]]]:
        """For each row of features (N, F) the name, value and weight of each, the weightiest first:
        what the logit would lose if it alone were that of an ordinary community."""
        each = np.arange(len(FEATURES))
        others = np.repeat(features[:, None], len(FEATURES), axis=1)
        others[:, each, each] = self.typical
        without = self.logits(others.reshape(-1, len(FEATURES))).reshape(features.shape)
        lost = self.logits(features)[:, None] - without
        return [
            [
                (FEATURES[n], float(row[n]), float(own[n]))
                for n in np.argsort(-np.abs(own), kind="stable")
            ]
            for row, own in zip(features, lost, strict=True)
        ]


def feature_rows(rows: Sequence[np.ndarray]) -> np.ndarray:
    """float64 (N, F)."""
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(FEATURES))
