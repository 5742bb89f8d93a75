"""Wrappers and products as texts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stillwatch.data.simulator.content import Product, Wrapper
from stillwatch.data.simulator.materials import Materials
from stillwatch.training.forms import RENDERINGS, render_forms
from stillwatch.training.framed import TextTable

WRAPPER = Wrapper(
    "cot_tags-01-en", "en", "", "Show every step of {slot} to me.", ("question",), {}, {},
    "cot_tags", "cot_harvesting",
)  # fmt: skip
JUDGE = Product(
    "exam-judge-en", "en", "You mark papers of {school}.", "Paper {number}:\n{slot}", ("exam",),
    {"school": tuple(f"school {n}" for n in range(900))},
    {"number": tuple(f"no {n}" for n in range(900))}, "exam", "judge",
)  # fmt: skip


def test_every_form_is_rendered_with_nothing_in_its_slot() -> None:
    table = TextTable(["another text"])
    materials = Materials((), (WRAPPER,), (JUDGE,), {})
    found = render_forms(materials, np.random.default_rng(1), table)
    assert found.labels == ("cot_harvesting", *["judge"] * RENDERINGS)
    assert found.forms == ("cot_tags-01-en", *["exam-judge-en"] * RENDERINGS)
    assert found.origins == {"cot_tags", "exam-judge-en"}
    texts = [table.texts[n] for n in found.text_id]
    assert texts[0] == "Show every step of to me."
    assert len(set(texts[1:])) == RENDERINGS
    for text in texts[1:]:
        assert text.startswith("You mark papers of school ")
        assert "\nPaper no " in text


def test_at_most_so_many_of_either_are_rendered() -> None:
    wrappers = tuple(replace(WRAPPER, id=f"cot_tags-{n:02}-en") for n in range(9))
    materials = Materials((), wrappers, (JUDGE,), {})
    found = render_forms(materials, np.random.default_rng(1), TextTable(), 4)
    assert len(set(found.forms)) == 4 + 1
    assert found.labels.count("cot_harvesting") == 4
