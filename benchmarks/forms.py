"""How well heads that have read some wrappers and products tell others apart: by n-grams alone, as
more forms are written.

    python benchmarks/forms.py --json benchmarks/forms.json

Every form is read with nothing in its slot. Heads are fitted on a quarter, a half and all of the
forms that are trained on, as `training/fit_heads.py` does, and read the sealed ones, whose authors,
trades and words are others. Then heads are fitted without a fifth of the hands (those of one number
in all families) and trades, and read these. Recall is that of wrappers at the logit that a share
of the products reach; of parts, the mean over DRAWS. Takes a minute; what the classifier makes of
it, `stillwatch evaluate` says.
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
from stillwatch.data.simulator.materials import Materials, load_sealed
from stillwatch.model.adapt import LEXICAL_PENALTIES
from stillwatch.model.heads import ANY_INTENT, ORDINARY_CLASSES, PLACES, class_names
from stillwatch.model.logistic import Problem, balanced
from stillwatch.training.composition import all_materials
from stillwatch.training.fit_heads import NgramTable, collect_examples
from stillwatch.training.forms import FormTexts, render_forms
from stillwatch.training.framed import TextTable

PARTS = (0.25, 0.5, 1.0)
DRAWS = 3
FIFTHS = 5
RATES = (0.02, 0.05, 0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    table = TextTable()
    materials = all_materials((), [], [], INTENTS)
    own = render_forms(materials, rng, table)
    sealed = render_forms(load_sealed(), rng, table)
    ngrams = NgramTable(table.texts)
    figures: dict[str, Any] = {"machine": machine(1), "parts": []}
    for part in PARTS:
        draws = [
            _read(_part(own, part, draw), sealed, ngrams)
            for draw in range(DRAWS if part < 1 else 1)
        ]
        figures["parts"].append({"part": part, **_mean(draws)})
        tell(_shown(figures["parts"][-1]))
    fifth = _fifths(materials)
    of_form = np.array([fifth[form] for form in own.forms])
    left_out = [
        _read(_only(own, of_form != number), _only(own, of_form == number), ngrams)
        for number in range(FIFTHS)
    ]
    figures["hands_and_trades_left_out"] = _mean(left_out)
    tell(f"left out: {_shown(figures['hands_and_trades_left_out'])}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def _part(forms: FormTexts, part: float, draw: int) -> FormTexts:
    names = np.unique(forms.forms)
    order = np.random.default_rng([draw, 1]).permutation(names)
    return _only(forms, np.isin(forms.forms, order[: round(part * len(names))]))


def _fifths(materials: Materials) -> dict[str, int]:
    """Number of the fifth that each form is in."""
    trades = sorted({product.trade for product in materials.products})
    return {
        **{own.id: int(own.hand.split("/")[1]) % FIFTHS for own in materials.wrappers},
        **{own.id: trades.index(own.trade) % FIFTHS for own in materials.products},
    }


def _mean(found: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([own[name] for own in found])) for name in found[0]}


def _shown(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:,.3g}" for name, value in figures.items())


def _read(own: FormTexts, sealed: FormTexts, ngrams: NgramTable) -> dict[str, float]:
    """What heads that have read `own` make of `sealed`."""
    classes = class_names(INTENTS)
    examples = collect_examples(
        [], PLACES.index("frame"), classes, 0, np.random.default_rng(0), [own]
    )
    weight = balanced(examples.target, examples.weight)
    column = [classes.index(ANY_INTENT)]
    asked = examples.target[:, : -len(ORDINARY_CLASSES)]
    salience = ngrams.salience(examples.text_id, examples.weight, asked)
    rows = ngrams.rows(examples.text_id, salience)
    penalty = LEXICAL_PENALTIES[PLACES.index("frame")]
    fitted = Problem(rows, examples.target[:, column], weight[:, column], penalty).minimise()
    logits = np.asarray(ngrams.rows(sealed.text_id, salience) @ fitted[:-1, 0])
    # The mean over the renderings of a form.
    _, first, inverse = np.unique(sealed.forms, return_index=True, return_inverse=True)
    mean = np.bincount(inverse, logits) / np.bincount(inverse)
    attack = np.isin(np.array(sealed.labels)[first], INTENTS)
    return {
        "forms": float(len(set(own.forms))),
        "area under the curve": float(roc_auc_score(attack, mean)),
        **{
            f"recall at {rate:.0%}": float(
                (mean[attack] > np.quantile(mean[~attack], 1 - rate)).mean()
            )
            for rate in RATES
        },
    }


def _only(forms: FormTexts, kept: np.ndarray) -> FormTexts:
    rows = np.flatnonzero(kept)
    return replace(
        forms,
        text_id=forms.text_id[rows],
        labels=tuple(forms.labels[row] for row in rows),
        forms=tuple(forms.forms[row] for row in rows),
    )


if __name__ == "__main__":
    main()
