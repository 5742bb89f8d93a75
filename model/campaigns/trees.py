"""A sum of small decision trees: what joins a community's features, since it takes both what is
asked for and how the work is shared to tell a campaign.

Axis letters: N rows, F features, T trees, D depth.
"""

from __future__ import annotations

from functools import cached_property
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator


class Trees(BaseModel):
    """T full binary trees of depth D. Of each, `feature` and `threshold` hold the 2**D - 1 splits,
    a node's children at 2n + 1 (at or below the threshold) and 2n + 2 (above it); `leaf` the 2**D
    values from left to right."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    depth: int
    feature: list[list[int]]
    threshold: list[list[float]]
    leaf: list[list[float]]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        splits = 2**self.depth - 1 if 0 < self.depth < 8 else -1
        lengths = {len(own) for own in self.feature} | {len(own) for own in self.threshold}
        if lengths != {splits} or {len(own) for own in self.leaf} != {splits + 1}:
            raise ValueError("trees must be full and of one depth of 1 to 7, however: others")
        if not len(self.feature) == len(self.threshold) == len(self.leaf):
            raise ValueError("each tree must have splits and leaves, however: one has not")
        return self

    def total(self, rows: np.ndarray) -> np.ndarray:
        """Sum over the trees float64 (N,) of rows (N, F)."""
        feature, threshold, leaf = self._arrays
        trees = np.arange(len(feature))
        node = np.zeros((len(rows), len(feature)), dtype=np.int64)
        for _ in range(self.depth):
            own = np.take_along_axis(rows, feature[trees, node], axis=1)
            node = 2 * node + 1 + (own > threshold[trees, node])
        return np.asarray(leaf[trees, node - (2**self.depth - 1)].sum(axis=1))

    @cached_property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return (
            np.array(self.feature, dtype=np.int64),
            np.array(self.threshold, dtype=np.float64),
            np.array(self.leaf, dtype=np.float64),
        )
