"""How well heads that have read some wrappers and products tell others apart: by n-grams alone, as
more forms are written.

    python benchmarks/forms.py --json benchmarks/forms.json

Every form is read with nothing in its slot. Heads are fitted on a quarter, a half and all of the
forms that are trained on, as `training/fit_heads.py` does, and read the sealed ones, whose authors,
trades and words are others. Recall is that of wrappers at the logit that a share of the products
reach; of parts, the mean over DRAWS. Takes a minute; what the classifier makes of it, `stillwatch
evaluate` says.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _machine import machine, tell
from sklearn.metrics import roc_auc_score

from stillwatch.data.simulator.content import INTENTS
from stillwatch.data.simulator.materials import load_sealed
from stillwatch.model.adapt import LEXICAL_PENALTIES
from stillwatch.model.heads import ANY_INTENT, PLACES, class_names
from stillwatch.model.logistic import Problem, balanced
from stillwatch.training.composition import all_materials
from stillwatch.training.fit_heads import NgramTable, collect_examples
from stillwatch.training.forms import FormTexts, render_forms
from stillwatch.training.framed import TextTable

PARTS = (0.25, 0.5, 1.0)
DRAWS = 3
RATES = (0.02, 0.05, 0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    table = TextTable()
    own = render_forms(all_materials((), [], [], INTENTS), rng, table)
    sealed = render_forms(load_sealed(), rng, table)
    ngrams = NgramTable(table.texts)
    figures: dict[str, Any] = {"machine": machine(1), "parts": []}
    for part in PARTS:
        draws = [_read(own, sealed, ngrams, part, draw) for draw in range(DRAWS if part < 1 else 1)]
        found = {name: float(np.mean([draw[name] for draw in draws])) for name in draws[0]}
        figures["parts"].append({"part": part, **found})
        tell(", ".join(f"{name} {value:,.3g}" for name, value in figures["parts"][-1].items()))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def _read(
    own: FormTexts, sealed: FormTexts, ngrams: NgramTable, part: float, draw: int
) -> dict[str, float]:
    rng = np.random.default_rng([draw, 1])
    names = np.unique(own.forms)
    chosen = set(rng.permutation(names)[: round(part * len(names))].tolist())
    classes = class_names(INTENTS)
    examples = collect_examples(
        [], PLACES.index("frame"), classes, 0, rng, [_only(own, [f in chosen for f in own.forms])]
    )
    weight = balanced(examples.target, examples.weight)
    column = [classes.index(ANY_INTENT)]
    rarity = ngrams.rarity(examples.text_id, examples.weight)
    rows = ngrams.rows(examples.text_id, rarity)
    penalty = LEXICAL_PENALTIES[PLACES.index("frame")]
    fitted = Problem(rows, examples.target[:, column], weight[:, column], penalty).minimise()
    logits = np.asarray(ngrams.rows(sealed.text_id, rarity) @ fitted[:-1, 0])
    # The mean over the renderings of a form.
    _, first, inverse = np.unique(sealed.forms, return_index=True, return_inverse=True)
    mean = np.bincount(inverse, logits) / np.bincount(inverse)
    attack = np.isin(np.array(sealed.labels)[first], INTENTS)
    return {
        "forms": float(len(chosen)),
        "area under the curve": float(roc_auc_score(attack, mean)),
        **{
            f"recall at {rate:.0%}": float(
                (mean[attack] > np.quantile(mean[~attack], 1 - rate)).mean()
            )
            for rate in RATES
        },
    }


def _only(forms: FormTexts, kept: Sequence[bool]) -> FormTexts:
    rows = np.flatnonzero(kept)
    return replace(
        forms,
        text_id=forms.text_id[rows],
        labels=tuple(forms.labels[row] for row in rows),
        forms=tuple(forms.forms[row] for row in rows),
    )


if __name__ == "__main__":
    main()
