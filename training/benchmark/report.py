"""The evaluation as one HTML page that opens offline: no script, no outside request.

Everything from the results is escaped. Prompts are hostile text: what cannot be seen or turns
the direction of writing is shown by its code point, and no prompt is shown at length.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from stillwatch.data.files import atomic_writer
from stillwatch.training.benchmark import charts

DETECTOR = "stillwatch"
RATE = 0.003
"""The false-positive rate of what is shown at one rate only."""

SETTINGS = ("known", "new")
SHOWN_CHARACTERS = 200
SHOWN_PROMPTS = 10
MARKED_RATIO = 5.0
"""A kind of ordinary account flagged more than this many times as often as all is marked."""

ABSENT = "not measured"
_UNSEEN = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}

Setting = Mapping[str, Any]
"""What the results hold for known or for new traffic; anything may be missing."""


def write_report(results: Mapping[str, Any], folder: Path) -> Path:
    """Write `folder/report.html` from what `results.json` holds, and return its path.

    Parts that are missing, None or NaN are said to be not measured. Raises OutputError.
    """
    page = _template().render(_contents(results)).strip() + "\n"
    path = folder / "report.html"
    with atomic_writer(path) as file:
        file.write(page.encode())
    return path


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "visible": visible,
        "percent": percent,
        "interval": interval,
        "count": count,
        "number": number,
        "numbers": numbers,
    }
    return environment.get_template("report.html.j2")


def visible(text: object, limit: int | None = None) -> Markup:
    """Text of unknown origin as HTML that shows all of it: characters that are invisible or
    turn the direction by their code points, more than `limit` characters cut off, saying so."""
    whole = str(text)
    kept = whole[:limit]
    parts = [
        escape(char)
        if char in "\n\t" or unicodedata.category(char) not in _UNSEEN
        else Markup('<span class="code">U+{:04X}</span>').format(ord(char))
        for char in kept
    ]
    shown = Markup("<bdi>{}</bdi>").format(Markup("").join(parts))
    if len(kept) < len(whole):
        shown += Markup(
            ' <span class="note">(shortened: the first {:,} of {:,} characters)</span>'
        ).format(len(kept), len(whole))
    return shown


def number(value: object) -> float | None:
    """The number, or None for what was not measured."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value):
        return float(value)
    return None


def numbers(values: object) -> list[float | None]:
    """The numbers of a list, None where one was not measured; none for what is no list."""
    return [number(value) for value in values] if isinstance(values, (list, tuple)) else []


def percent(value: object, digits: int = 1) -> str:
    """`61.0%`, or that it was not measured."""
    known = number(value)
    return ABSENT if known is None else f"{known:.{digits}%}"


def interval(values: object, digits: int = 1) -> str | None:
    """`50.0–70.0%`, or None unless both ends were measured."""
    ends = numbers(values)
    if len(ends) != 2 or ends[0] is None or ends[1] is None:
        return None
    return f"{100 * ends[0]:.{digits}f}–{ends[1]:.{digits}%}"


def count(value: object) -> str:
    """`1,200`, or that it was not measured."""
    known = number(value)
    return ABSENT if known is None else f"{known:,.0f}"


def _contents(results: Mapping[str, Any]) -> dict[str, Any]:
    """What the template reads: the results themselves and what is worked out from them."""
    settings: dict[str, Setting] = {
        name: (results.get("settings") or {}).get(name) or {} for name in SETTINGS
    }
    rates = [float(rate) for rate in results.get("rates") or (0.01, 0.003, 0.001)]
    shares = [float(share) for share in results.get("shares") or ()]
    intents = [str(intent) for intent in results.get("intents") or ()]
    return {
        "absent": ABSENT,
        "chart_style": Markup(charts.STYLE),
        "command": results.get("command"),
        "accounts": results.get("accounts") or {},
        "settings": settings,
        "rate": _rate_name(RATE),
        "rates": [_rate_name(rate) for rate in rates],
        "shares": [f"{share:.0%}" for share in shares],
        "detector": {name: _at(own, DETECTOR) for name, own in settings.items()},
        "method_tables": {name: _method_table(own, rates) for name, own in settings.items()},
        "cell_tables": {n: _cell_table(own, intents, shares) for n, own in settings.items()},
        "share_charts": {n: _share_chart(n, own, intents, shares) for n, own in settings.items()},
        "precision_charts": {name: _precision_chart(name, own) for name, own in settings.items()},
        "reliability_charts": {n: _reliability_chart(n, own) for n, own in settings.items()},
        "detection": _by_share(settings, "detection", shares),
        "evidence": _by_share(settings, "evidence", shares),
        "ordinary_groups": {
            "kind of account": _groups(settings, "ordinary_by_kind", "flagged"),
            "language": _groups(settings, "ordinary_by_language", "flagged"),
        },
        "attack_groups": {
            "language": _groups(settings, "attacks_by_language", "found"),
            "attack family": _groups(settings, "attacks_by_family", "found"),
        },
        "marked_ratio": MARKED_RATIO,
        "robustness": results.get("robustness") or {},
        "shown_characters": SHOWN_CHARACTERS,
        "shown_prompts": SHOWN_PROMPTS,
    }


def _rate_name(rate: float) -> str:
    return f"{100 * rate:.3g}%"


def _at(setting: Setting, method: str, rate: float = RATE) -> Mapping[str, Any]:
    return ((setting.get("methods") or {}).get(method) or {}).get(str(rate)) or {}


def _best_baseline(setting: Setting) -> str | None:
    recalls = {
        method: recall
        for method in setting.get("methods") or {}
        if method != DETECTOR and (recall := number(_at(setting, method).get("recall"))) is not None
    }
    return max(recalls, key=lambda method: recalls[method]) if recalls else None


def _method_table(setting: Setting, rates: Sequence[float]) -> list[dict[str, Any]]:
    """A row a method: what each rate holds, and whether its recall is the best of the column."""
    methods = list(setting.get("methods") or {})
    best = [
        max((r for m in methods if (r := number(_at(setting, m, rate).get("recall")))), default=0.0)
        for rate in rates
    ]
    rows = []
    for method in methods:
        cells = []
        for rate, highest in zip(rates, best, strict=True):
            one = _at(setting, method, rate)
            cells.append({**one, "best": highest > 0 and number(one.get("recall")) == highest})
        rows.append({"name": method, "cells": cells})
    return rows


def _cells(setting: Setting, method: str, rows: int, columns: int) -> list[list[float | None]]:
    """Recall of each intent (row) and share (column), None where not measured."""
    flat = numbers(_at(setting, method).get("cells"))
    flat += [None] * (rows * columns - len(flat))
    return [flat[row * columns : (row + 1) * columns] for row in range(rows)]


def _cell_table(
    setting: Setting, intents: Sequence[str], shares: Sequence[float]
) -> dict[str, Any]:
    """Recall of each intent and share, the detector's beside the best baseline's."""
    baseline = _best_baseline(setting)
    own = _cells(setting, DETECTOR, len(intents), len(shares))
    other = _cells(setting, baseline or "", len(intents), len(shares))
    compared = [
        (a, b)
        for row in zip(own, other, strict=True)
        for a, b in zip(*row, strict=True)
        if a is not None and b is not None
    ]
    return {
        "baseline": baseline,
        "baseline_recall": _at(setting, baseline or "").get("recall"),
        "rows": list(zip(intents, own, other, strict=True)),
        "measured": any(recall is not None for row in own + other for recall in row),
        "ahead": sum(a > b for a, b in compared),
        "level": sum(a == b for a, b in compared),
        "compared": len(compared),
        "cells": len(intents) * len(shares),
    }


def _share_chart(
    name: str, setting: Setting, intents: Sequence[str], shares: Sequence[float]
) -> dict[str, Any] | None:
    """Mean recall over intents at each share, by method; None if there is none."""
    rising = sorted(range(len(shares)), key=lambda n: shares[n])
    means = {}
    for method in setting.get("methods") or {}:
        table = _cells(setting, method, len(intents), len(shares))
        own = [_mean([row[n] for row in table]) for n in rising]
        if any(mean is not None for mean in own):
            means[method] = own
    if not means:
        return None
    columns = [f"{shares[n]:.0%}" for n in rising]
    title = f"Recall by share of attack prompts, {name} traffic, {_rate_name(RATE)} false positives"
    svg = charts.share_chart(f"share-{name}", title, means, columns)
    return {"svg": svg, "columns": columns, "means": means}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _precision_chart(name: str, setting: Setting) -> Markup | None:
    curves = {
        method: list(zip(numbers(own.get("recall")), numbers(own.get("precision")), strict=False))
        for method, own in (setting.get("curves") or {}).items()
    }
    title = f"Precision against recall, {name} traffic"
    prevalence = number(setting.get("prevalence"))
    return charts.precision_chart(f"precision-{name}", title, curves, prevalence)


def _reliability_chart(name: str, setting: Setting) -> Markup | None:
    bins = [
        (number(one.get("mean_risk")), number(one.get("attack_share")), number(one.get("accounts")))
        for one in (setting.get("reliability") or {}).get("bins") or ()
    ]
    title = f"Reliability of the risk, {name} traffic"
    return charts.reliability_chart(f"reliability-{name}", title, bins)


def _by_share(
    settings: Mapping[str, Setting], part: str, shares: Sequence[float]
) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """A row a share of attack prompts: its name and what each setting holds for it."""
    return [
        (f"{share:.0%}", [(own.get(part) or {}).get(str(share)) or {} for own in settings.values()])
        for share in shares
    ]


def _groups(settings: Mapping[str, Setting], part: str, counted: str) -> list[dict[str, Any]]:
    """A row a group of accounts, the worst on top: at each setting how many of how many were
    `counted`, and the ratio of their share to that of all groups. A cell not measured is None."""
    rows: dict[str, list[dict[str, Any] | None]] = {}
    for place, own in enumerate(settings.values()):
        known = {
            str(name): (found, accounts)
            for name, one in (own.get(part) or {}).items()
            if (found := number((one or {}).get(counted))) is not None
            and (accounts := number(one.get("accounts")))
        }
        accounts_of_all = sum(accounts for _, accounts in known.values())
        overall = sum(found for found, _ in known.values()) / max(accounts_of_all, 1)
        for name, (found, accounts) in known.items():
            share = found / accounts
            ratio = share / overall if overall else None
            rows.setdefault(name, [None] * len(settings))[place] = {
                "found": found,
                "accounts": accounts,
                "share": share,
                "ratio": ratio,
                "marked": ratio is not None and ratio > MARKED_RATIO,
            }
    # Flags of ordinary accounts are the worse for being many, finds of attacks for being few.
    sign = -1 if counted == "flagged" else 1

    def badness(item: tuple[str, list[dict[str, Any] | None]]) -> tuple[float, str]:
        return min(sign * cell["share"] for cell in item[1] if cell), item[0]

    return [{"name": name, "cells": cells} for name, cells in sorted(rows.items(), key=badness)]
