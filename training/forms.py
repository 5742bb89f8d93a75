"""Wrappers and products as texts of their own: what the heads learn frames from.

What streams show of a form is a few of its renderings, cut where a stream's framing cut them, and
only of the forms that were drawn. The form itself, each as often as any other, tells more of those
that nobody has seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from stillwatch.data.simulator.content import PromptForm
from stillwatch.data.simulator.materials import Materials
from stillwatch.model.stream import read_text
from stillwatch.training.framed import TextTable

T = TypeVar("T")

RENDERINGS = 2
"""Of a form with variables."""


@dataclass(frozen=True)
class FormTexts:
    """N renderings: text_id int64 (N,), the class of each and the id of its form. `origins` are
    what streams made of these forms name as theirs."""

    text_id: np.ndarray
    labels: tuple[str, ...]
    forms: tuple[str, ...]
    origins: frozenset[str]


def render_forms(
    materials: Materials, rng: np.random.Generator, table: TextTable, most: int | None = None
) -> FormTexts:
    """Each wrapper and product, or at most so many of either, with nothing in its slot, as an
    event's frame would be read."""
    ids, labels, forms = [], [], []
    wrappers, products = _some(materials.wrappers, most, rng), _some(materials.products, most, rng)
    classed: list[tuple[PromptForm, str]] = [(own, own.intent) for own in wrappers]
    classed += [(own, "judge" if own.kind == "judge" else "product") for own in products]
    for form, label in classed:
        for _ in range(RENDERINGS if form.fix or form.vary else 1):
            system, prompt = form.render(rng, form.fixed(rng), "")
            ids.append(table.add(f"{read_text(system)}\n{read_text(prompt)}".strip()))
            labels.append(label)
            forms.append(form.id)
    origins = {own.family for own in materials.wrappers} | {own.id for own in materials.products}
    found = np.array(ids, dtype=np.int64)
    return FormTexts(found, tuple(labels), tuple(forms), frozenset(origins))


def _some(forms: Sequence[T], most: int | None, rng: np.random.Generator) -> Sequence[T]:
    if most is None or len(forms) <= most:
        return forms
    return [forms[int(n)] for n in np.sort(rng.choice(len(forms), most, replace=False))]
