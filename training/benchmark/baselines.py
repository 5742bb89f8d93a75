"""What the detector is measured against: models on summaries of an account.

The summary is the account's mean and spread of sentence vectors and quantiles of its prompts'
similarity to templates and to benign references: what one would try first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stillwatch.model.templates import BenignIndex, TemplateIndex
from stillwatch.training.framed import FramedStreams
from stillwatch.training.vectors import VectorTable

_QUANTILES = (0.1, 0.5, 0.9, 0.98)


@dataclass(frozen=True)
class Baseline:
    """A fitted baseline: `score` maps summaries (S, D) to (S,), higher is more suspicious."""

    name: str
    score: Callable[[np.ndarray], np.ndarray]


def account_summaries(
    sets: list[FramedStreams],
    vectors: VectorTable,
    templates: TemplateIndex,
    benign: BenignIndex,
) -> np.ndarray:
    """float32 (S, 2D + 10): mean and spread of vectors, similarity quantiles, breadth, length.

    The vector of an event is the mean of its frame's and its slot's.
    """
    # Of a run's texts only those that stand in these streams: the others are many.
    used = np.unique(np.concatenate([ids for s in sets for ids in (s.slot_id, s.frame_id)]))
    used = used[used >= 0]
    nearest_template = np.zeros(len(vectors.means), dtype=np.float32)
    nearest_benign = np.zeros_like(nearest_template)
    nearest_template[used] = templates.search(vectors.means[used], 1)[0][:, 0]
    nearest_benign[used] = benign.search(vectors.means[used], 1)[0][:, 0]
    rows = []
    for streams in sets:
        for start, stop in zip(streams.offsets[:-1], streams.offsets[1:], strict=True):
            slots, frames = streams.slot_id[start:stop], streams.frame_id[start:stop]
            own = vectors.means[slots]
            framed = frames >= 0
            own[framed] = (own[framed] + vectors.means[frames[framed]]) / 2
            template = nearest_template[slots]
            template[framed] = np.maximum(template[framed], nearest_template[frames[framed]])
            mean = own.mean(axis=0)
            rows.append(
                np.concatenate(
                    [
                        mean, own.std(axis=0), np.quantile(template, _QUANTILES),
                        np.quantile(nearest_benign[slots], _QUANTILES),
                        [np.linalg.norm(mean), np.log1p(stop - start)],
                    ]
                )
            )  # fmt: skip
    return np.asarray(rows, dtype=np.float32)


def summary_baselines(summaries: np.ndarray, attacking: np.ndarray, seed: int) -> list[Baseline]:
    """Logistic regression, gradient boosting and the nearest template, fitted on accounts."""
    logistic = make_pipeline(
        StandardScaler(), LogisticRegression(C=0.01, max_iter=300, class_weight="balanced")
    )
    logistic.fit(summaries, attacking)
    boosting = HistGradientBoostingClassifier(
        max_iter=150, learning_rate=0.1, l2_regularization=1.0, random_state=seed
    )
    boosting.fit(summaries, attacking)
    return [
        Baseline("logistic regression", lambda x: np.asarray(logistic.decision_function(x))),
        Baseline("gradient boosting", lambda x: np.asarray(boosting.decision_function(x))),
        Baseline("nearest template", lambda x: x[:, -7]),
    ]
