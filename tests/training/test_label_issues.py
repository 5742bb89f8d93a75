"""Doubtful labels: what is handed to cleanlab and back, and the file a person looks at."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from stillwatch.data.errors import ConfigError
from stillwatch.training.label_issues import (
    LabelIssue,
    as_classes,
    label_issues,
    write_label_issues,
)

INTENTS = ("capability_probing", "cot_harvesting", "output_harvesting")

needs_cleanlab = pytest.mark.skipif(
    importlib.util.find_spec("cleanlab") is None,
    reason="cleanlab is not installed: pip install 'stillwatch[labels]'",
)


def spoilt_labels(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Given and true classes of 60 accounts, four of them labelled wrongly, and probabilities."""
    rng = np.random.default_rng(seed)
    true = np.arange(60) % 4
    given = true.copy()
    wrong = rng.choice(60, 4, replace=False)
    given[wrong] = (true[wrong] + rng.integers(1, 4, 4)) % 4
    logits = rng.normal(size=(60, 4))
    logits[np.arange(60), true] += 5
    probabilities = np.exp(logits)
    return given, true, probabilities / probabilities.sum(axis=1, keepdims=True)


@needs_cleanlab
@pytest.mark.parametrize("seed", range(5))
def test_wrong_labels_are_found_with_what_they_should_be(seed: int) -> None:
    given, true, probabilities = spoilt_labels(seed)
    accounts = [f"a{number}" for number in range(60)]
    found = label_issues(given, probabilities, accounts, INTENTS)
    wrong = {accounts[row] for row in np.flatnonzero(given != true)}
    assert {issue.account for issue in found} <= wrong
    assert len(found) >= 2
    classes = ("ordinary", *INTENTS)
    for issue in found:
        row = accounts.index(issue.account)
        assert (issue.given, issue.suggested) == (classes[given[row]], classes[true[row]])
    scores = [issue.score for issue in found]
    assert scores == sorted(scores)
    assert all(0 <= score < 0.5 for score in scores)


@needs_cleanlab
def test_right_labels_are_not_doubted() -> None:
    _, true, probabilities = spoilt_labels(0)
    assert label_issues(true, probabilities, ["a"] * 60, INTENTS) == []


@needs_cleanlab
def test_few_labels_of_some_classes_are_judged_without_a_warning() -> None:
    given = np.array([0, 0, 0, 0, 3, 3, 3])
    probabilities = np.full((7, 4), 0.02)
    probabilities[np.arange(7), given] = 0.94
    probabilities[0] = [0.02, 0.02, 0.02, 0.94]
    (issue,) = label_issues(given, probabilities, [f"a{n}" for n in range(7)], INTENTS)
    assert (issue.account, issue.suggested) == ("a0", "output_harvesting")
    assert issue.score == pytest.approx(0.04)


def fake_filter(monkeypatch: pytest.MonkeyPatch, found: list[int]) -> dict[str, Any]:
    """Puts a module in cleanlab's place that finds these rows; what it was given."""
    seen: dict[str, Any] = {}

    def find_label_issues(labels: np.ndarray, pred_probs: np.ndarray, **options: Any) -> Any:
        seen.update(options, labels=labels, pred_probs=pred_probs)
        return np.array(found, dtype=np.int64)

    module = ModuleType("cleanlab.filter")
    vars(module)["find_label_issues"] = find_label_issues
    monkeypatch.setitem(sys.modules, "cleanlab", ModuleType("cleanlab"))
    monkeypatch.setitem(sys.modules, "cleanlab.filter", module)
    return seen


def test_what_is_found_is_named_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = fake_filter(monkeypatch, [2, 0, 1])
    given = np.array([1, 0, 0])
    # The most likely class of row 2, the third, is one that no label gives.
    probabilities = np.array([[0.7, 0.2, 0.05, 0.05], [0.8, 0.1, 0.05, 0.05], [0.1, 0.3, 0.6, 0.0]])
    found = label_issues(given, probabilities, ["a", "b", "c"], INTENTS)
    assert [(issue.account, issue.given, issue.suggested) for issue in found] == [
        ("c", "ordinary", "capability_probing"),
        ("a", "capability_probing", "ordinary"),
    ]
    assert [issue.score for issue in found] == pytest.approx([0.4, 0.25])
    assert seen["labels"] is given
    assert seen["pred_probs"] is probabilities
    assert seen["n_jobs"] == 1


def test_labels_of_one_class_are_not_doubted(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = fake_filter(monkeypatch, [0])
    assert label_issues(np.ones(3, dtype=int), np.full((3, 4), 0.25), ["a"] * 3, INTENTS) == []
    assert not seen


def test_shapes_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \(3,\) and \(3, 4\), however: \(3,\) and"):
        label_issues(np.zeros(3, dtype=int), np.full((3, 3), 1 / 3), ["a"] * 3, INTENTS)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "cleanlab.filter", raising=False)
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    with pytest.raises(ConfigError) as caught:
        label_issues(np.array([0, 1]), np.full((2, 4), 0.25), ["a", "b"], INTENTS)
    assert str(caught.value) == (
        "looking for doubtful labels must have the extra labels, however: cleanlab is not "
        "installed; pip install 'stillwatch[labels]'"
    )


def test_probabilities_are_those_at_the_share_of_attacks_among_the_labels() -> None:
    targets = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=np.float32)
    risk = np.full(4, 0.05)
    intents = np.array([[0.5, 0.5, 0.5], [0.5, 0.8, 0.5], [0.2, 0.2, 0.2], [1.0, 0.0, 0.0]])
    given, probabilities = as_classes(risk, intents, targets, 0.05)
    assert given.tolist() == [0, 2, 3, 0]
    # At the prevalence itself the detector knows nothing: as many attacks as among the labels.
    np.testing.assert_allclose(probabilities[:, 0], 0.5)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_allclose(probabilities[0, 1:], 1 / 6)
    np.testing.assert_allclose(probabilities[1, 1:], np.array([1, 4, 1]) / 12)
    np.testing.assert_allclose(probabilities[3], [0.5, 0.5, 0, 0], atol=1e-6)


def test_more_attacks_among_the_labels_make_each_likelier() -> None:
    targets = np.array([[1], [1], [1], [0]], dtype=np.float32)
    risk = np.array([0.05, 0.05, 0.2, 0.05])
    _, probabilities = as_classes(risk, np.full((4, 1), 0.5), targets, 0.05)
    # Odds of 2 to 1 among the labels, one of each kind added; those of 0.2 are 4.75 times as high.
    np.testing.assert_allclose(probabilities[:, 1], [2 / 3, 2 / 3, 9.5 / 10.5, 2 / 3])


def test_an_account_of_several_intents_is_not_doubted_between_them() -> None:
    targets = np.array([[1, 0, 1], [0, 0, 0]], dtype=np.float32)
    intents = np.array([[0.5, 0.5, 0.8], [0.5, 0.5, 0.5]])
    given, probabilities = as_classes(np.array([0.05, 0.05]), intents, targets, 0.05)
    assert given.tolist() == [1, 0]
    np.testing.assert_allclose(probabilities[0], np.array([6, 5, 1, 0]) / 12)


def test_the_file_has_a_header_and_no_formulas(tmp_path: Path) -> None:
    names = ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\tx", "plain", 'a,"b"']
    issues = [LabelIssue(name, "ordinary", "cot_harvesting", 0.1236) for name in names]
    path = tmp_path / "label_issues.csv"
    write_label_issues(path, [*issues, LabelIssue("\udcff", "ordinary", "-x", 1e-9)])
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["account", "given", "suggested", "score"]
    shown = [f"'{name}" for name in names[:5]] + names[5:]
    assert [row[0] for row in rows] == [*shown, "\\udcff"]
    assert rows[0][1:] == ["ordinary", "cot_harvesting", "0.1236"]
    assert rows[-1][1:] == ["ordinary", "'-x", "0.0000"]
