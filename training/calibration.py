"""From logits to a probability."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

from stillwatch.model.bundle import Platt


def fit_platt(attacks: np.ndarray, ordinary: np.ndarray, prevalence: float) -> Platt:
    """Platt scaling (Platt 1999) of logits of accounts that were not trained on, weighted as if
    `prevalence` of all accounts were attacks; (S,) each."""
    logits = np.concatenate([attacks, ordinary]).astype(np.float64)
    target = np.concatenate([np.ones(len(attacks)), np.zeros(len(ordinary))])
    weight = np.where(target > 0, prevalence / len(attacks), (1 - prevalence) / len(ordinary))

    def loss(parameters: np.ndarray) -> float:
        z = parameters[0] * logits + parameters[1]
        return float((weight * (np.logaddexp(0, z) - target * z)).sum())

    found = minimize(loss, np.array([1.0, 0.0]), method="Nelder-Mead").x
    # Logits that tell nothing may fit a falling line; a higher logit never means a lower risk.
    return Platt(slope=max(float(round(found[0], 6)), 1e-3), offset=float(round(found[1], 6)))
