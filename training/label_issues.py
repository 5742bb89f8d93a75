"""Labels that are likely wrong, by confident learning (Northcutt et al. 2021) with cleanlab.

An account's label is doubted where probabilities of a detector that never saw the account speak
for another class: ordinary, or one of the intents. A doubted label is for a person to look at;
nothing is changed by itself.
"""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from stillwatch.data.errors import ConfigError
from stillwatch.data.files import atomic_writer

ORDINARY = "ordinary"
"""Name of class 0; class 1 + k is intent k."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_SMALLEST = 1e-9


@dataclass(frozen=True, slots=True)
class LabelIssue:
    """A label to look at. `given` and `suggested` are names of classes; `score` in [0, 1] is
    lower the less likely the label is right, 0.5 where both classes are as likely."""

    account: str
    given: str
    suggested: str
    score: float


def as_classes(
    risk: np.ndarray, intents: np.ndarray, targets: np.ndarray, prevalence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Given classes int (N,) and probabilities float64 (N, 1 + I) as `label_issues` takes them.

    `risk` (N,) and `intents` (N, I) are calibrated probabilities at `prevalence`; they are
    brought to the share of attacking accounts among `targets` (N, I), the labels, since a rare
    class would never be suggested. An account with several intents counts under the first.
    """
    attacking = np.asarray(targets.any(axis=1))
    share = (attacking.sum() + 1) / (len(attacking) + 2)
    odds = _odds(risk) * (share / (1 - share)) / (prevalence / (1 - prevalence))
    risk = odds / (1 + odds)
    spread = _odds(intents)
    spread = spread / spread.sum(axis=1, keepdims=True) * risk[:, None]
    first = targets.argmax(axis=1)
    rows = np.flatnonzero(attacking)
    own = np.where(targets[rows] > 0, spread[rows], 0)
    spread[rows] -= own
    spread[rows, first[rows]] = own.sum(axis=1)
    return np.where(attacking, 1 + first, 0), np.column_stack([1 - risk, spread])


def label_issues(
    given: np.ndarray,
    probabilities: np.ndarray,
    accounts: Sequence[str],
    intents: Sequence[str],
) -> list[LabelIssue]:
    """Labels that are likely wrong, the least likely to be right first.

    `given` int (N,) is each account's labelled class, `probabilities` float (N, 1 + I) those of
    a detector that was trained without the account, rows adding up to 1. A class that no label
    gives is never suggested, so labels of a single class are never doubted.
    Raises ConfigError if cleanlab is not installed, ValueError for shapes that do not match.
    """
    classes = (ORDINARY, *intents)
    if probabilities.shape != (len(accounts), len(classes)) or given.shape != (len(accounts),):
        raise ValueError(
            f"labels and probabilities must be ({len(accounts)},) and ({len(accounts)}, "
            f"{len(classes)}), however: {given.shape} and {probabilities.shape}"
        )
    check_cleanlab()
    if len(np.unique(given)) < 2:
        return []
    own = probabilities[np.arange(len(given)), given]
    # As many as the confident joint counts, those of the smallest margin: of cleanlab's filters
    # the one that neither skips small classes nor doubts every wrong prediction.
    found = _filter().find_label_issues(
        given,
        probabilities,
        filter_by="low_normalized_margin",
        return_indices_ranked_by="normalized_margin",
        n_jobs=1,
    )
    given_classes = np.isin(np.arange(len(classes)), given)
    likely = np.where(given_classes, probabilities, -1).argmax(axis=1)
    return [
        LabelIssue(
            accounts[row],
            classes[given[row]],
            classes[likely[row]],
            float((own[row] - probabilities[row, likely[row]] + 1) / 2),
        )
        for row in map(int, found)
        if likely[row] != given[row]
    ]


def check_cleanlab() -> None:
    """Raises ConfigError if cleanlab is not installed: before a training, not after it."""
    _filter()


def write_label_issues(path: Path, issues: Sequence[LabelIssue]) -> None:
    """Write a CSV file with a header. A cell that a spreadsheet would take for a formula gets an
    apostrophe in front: accounts name themselves. Raises OutputError."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(LabelIssue))
    for issue in issues:
        *names, score = astuple(issue)
        writer.writerow([*map(_defused, names), f"{score:.4f}"])
    with atomic_writer(path) as file:
        file.write(text.getvalue().encode("utf-8", "backslashreplace"))


def _filter() -> Any:
    # Untyped, and an extra that few installations have.
    try:
        return importlib.import_module("cleanlab.filter")
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        raise ConfigError(
            f"looking for doubtful labels must have the extra labels, however: {missing} is not "
            "installed; pip install 'stillwatch[labels]'"
        ) from error


def _defused(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def _odds(probability: np.ndarray) -> np.ndarray:
    kept = np.clip(probability.astype(np.float64), _SMALLEST, 1 - _SMALLEST)
    return kept / (1 - kept)
