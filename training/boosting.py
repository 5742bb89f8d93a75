"""Boosted trees that may go one way only in each feature.

Newton boosting of the logistic loss (Friedman 2001; Chen and Guestrin 2016) with monotone
constraints: of a split's two sides the one that should be larger is, and neither's descendants pass
the middle between them. A few hundred rows cannot teach which way a feature speaks.

Axis letters: N rows, F features, B bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stillwatch.model.campaigns.trees import Trees

BINS = 32
NEVER = 1e9
"""A threshold that nothing passes: a split that is none."""


@dataclass(frozen=True)
class Boosting:
    """`rate` scales each tree, `penalty` draws leaves to 0, `least` rows stand in a leaf at
    least."""

    rounds: int = 300
    depth: int = 3
    rate: float = 0.1
    penalty: float = 1.0
    least: int = 8


@dataclass(frozen=True)
class _Split:
    gain: float
    feature: int
    bin: int


def boost(
    rows: np.ndarray, target: np.ndarray, weight: np.ndarray, signs: np.ndarray, plan: Boosting
) -> tuple[Trees, float]:
    """Trees and an offset whose sum is the logit. `rows` (N, F), `target` of 0 and 1 (N,), `weight`
    (N,) with a mean of about 1, `signs` (F,) of 1 and -1."""
    edges = [_edges(rows[:, f]) for f in range(rows.shape[1])]
    binned = np.stack(
        [np.searchsorted(own, rows[:, f]) for f, own in enumerate(edges)], axis=1
    )  # fmt: skip
    share = float((weight * target).sum() / weight.sum())
    offset = float(np.log(share / (1 - share)))
    logits = np.full(len(rows), offset)
    features, thresholds, leaves = [], [], []
    for _ in range(plan.rounds):
        chance = 1 / (1 + np.exp(-logits))
        slope, curve = weight * (target - chance), weight * chance * (1 - chance)
        feature, threshold, leaf, value = _tree(binned, edges, slope, curve, signs, plan)
        features.append(feature)
        thresholds.append(threshold)
        leaves.append(leaf)
        logits += value
    return Trees(depth=plan.depth, feature=features, threshold=thresholds, leaf=leaves), offset


def _edges(values: np.ndarray) -> np.ndarray:
    """Thresholds between quantiles."""
    return np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1]))


def _tree(
    binned: np.ndarray, edges: list[np.ndarray], slope: np.ndarray, curve: np.ndarray,
    signs: np.ndarray, plan: Boosting,
) -> tuple[list[int], list[float], list[float], np.ndarray]:  # fmt: skip
    """One tree, level by level; and what it adds to each row."""
    splits = 2**plan.depth - 1
    feature, threshold = [0] * splits, [NEVER] * splits
    node = np.zeros(len(binned), dtype=np.int64)
    bounds = {0: (-np.inf, np.inf)}
    for number in range(splits):
        low, high = bounds[number]
        inside = node == number
        found = _best(binned[inside], slope[inside], curve[inside], signs, low, high, plan)
        left, right = 2 * number + 1, 2 * number + 2
        if found is None:
            node[inside] = left
            bounds[left] = bounds[right] = (low, high)
            continue
        feature[number] = found.feature
        threshold[number] = float(edges[found.feature][found.bin])
        above = inside & (binned[:, found.feature] > found.bin)
        below = inside & ~above
        node[below], node[above] = left, right
        values = [
            _value(slope[side].sum(), curve[side].sum(), low, high, plan) for side in (below, above)
        ]
        middle = sum(values) / 2
        rising = signs[found.feature] > 0
        bounds[left] = (low, middle) if rising else (middle, high)
        bounds[right] = (middle, high) if rising else (low, middle)
    leaf = []
    added = np.zeros(len(binned))
    for number in range(splits, 2 * splits + 1):
        inside = node == number
        low, high = bounds[number]
        value = plan.rate * _value(slope[inside].sum(), curve[inside].sum(), low, high, plan)
        leaf.append(float(value))
        added[inside] = value
    return feature, threshold, leaf, added


def _best(
    binned: np.ndarray, slope: np.ndarray, curve: np.ndarray, signs: np.ndarray, low: float,
    high: float, plan: Boosting,
) -> _Split | None:  # fmt: skip
    """The split that gains most, None if none gains."""
    best: _Split | None = None
    if len(binned) < 2 * plan.least:
        return None
    total_slope, total_curve = slope.sum(), curve.sum()
    whole = _gain(total_slope, total_curve, low, high, plan)
    for feature in range(binned.shape[1]):
        own = binned[:, feature]
        slopes = np.cumsum(np.bincount(own, slope, BINS))[:-1]
        curves = np.cumsum(np.bincount(own, curve, BINS))[:-1]
        counts = np.cumsum(np.bincount(own, minlength=BINS))[:-1]
        for place in np.flatnonzero((counts >= plan.least) & (len(own) - counts >= plan.least)):
            left = (slopes[place], curves[place])
            right = (total_slope - slopes[place], total_curve - curves[place])
            rise = _value(*right, low, high, plan) - _value(*left, low, high, plan)
            if rise * signs[feature] < 0:
                continue
            gain = _gain(*left, low, high, plan) + _gain(*right, low, high, plan) - whole
            if gain > 1e-9 and (best is None or gain > best.gain):
                best = _Split(float(gain), feature, int(place))
    return best


def _value(slope: float, curve: float, low: float, high: float, plan: Boosting) -> float:
    return float(min(max(slope / (curve + plan.penalty), low), high))


def _gain(slope: float, curve: float, low: float, high: float, plan: Boosting) -> float:
    """How much the loss falls by a leaf, within its bounds."""
    value = _value(slope, curve, low, high, plan)
    return 2 * slope * value - (curve + plan.penalty) * value**2
