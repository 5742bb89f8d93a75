"""The tables that an evaluation prints."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from stillwatch.training.benchmark.compare import GroupChange
from stillwatch.training.benchmark.sealed import AT_THRESHOLD

_WIDTH = 118
OURS = "stillwatch"


def print_tables(figures: dict[str, Any]) -> None:
    """Everything of a benchmark over folds."""
    console = Console(width=_WIDTH)
    shown = ", ".join(f"{count:,} {name}" for name, count in figures["accounts"].items())
    console.print(f"Test accounts, of folds left out of training: {shown}", highlight=False)
    for setting, own in figures["settings"].items():
        _methods(console, setting, own, figures["rates"])
    _cells(console, figures)
    for setting, own in figures["settings"].items():
        _details(console, setting, own)


def _methods(console: Console, setting: str, own: dict[str, Any], rates: list[float]) -> None:
    table = Table(title=f"{setting} traffic: recall (95% interval over sources) at false positives")
    table.add_column("method")
    for rate in rates:
        table.add_column(f"{rate:.1%}", justify="right")
    for method, figures in own["methods"].items():
        row = []
        for rate in rates:
            one = figures[str(rate)]
            low, high = one["interval"]
            cell = f"{one['recall']:.3f} ({low:.2f}-{high:.2f})"
            if setting == "new":
                cell += f" at {one['false_positive_rate']:.2%}"
            row.append(cell)
        table.add_row(method, *row)
    console.print(table)


def _cells(console: Console, figures: dict[str, Any]) -> None:
    shares = figures["shares"]
    table = Table(title="recall at 0.3% by intent and share: Stillwatch / best baseline")
    table.add_column("traffic, intent")
    for share in shares:
        table.add_column(f"{share:.0%}", justify="right")
    for setting, own in figures["settings"].items():
        ours = own["methods"][OURS]["0.003"]["cells"]
        rest = {name: m["0.003"]["cells"] for name, m in own["methods"].items() if name != OURS}
        for number, intent in enumerate(figures["intents"]):
            row = []
            for column in range(len(shares)):
                place = number * len(shares) + column
                best = max((cells[place] for cells in rest.values()), default=float("nan"))
                row.append(f"{ours[place]:.2f} / {best:.2f}")
            table.add_row(f"{setting}, {intent}", *row)
    console.print(table)
    for setting, own in figures["settings"].items():
        _ahead(console, setting, own)


def _ahead(console: Console, setting: str, own: dict[str, Any]) -> None:
    """In how many cells Stillwatch is ahead of each baseline, and of all of them."""
    ours = own["methods"][OURS]["0.003"]["cells"]
    rest = {name: m["0.003"]["cells"] for name, m in own["methods"].items() if name != OURS}
    if not rest:
        return
    parts = [
        f"{name} {sum(a > b for a, b in zip(ours, cells, strict=True))}"
        for name, cells in rest.items()
    ]
    best = [max(values) for values in zip(*rest.values(), strict=True)]
    every = sum(a > b for a, b in zip(ours, best, strict=True))
    console.print(
        f"{setting} traffic, of {len(ours)} cells Stillwatch is ahead in: all baselines {every}; "
        + ", ".join(parts),
        highlight=False,
    )


def _details(console: Console, setting: str, own: dict[str, Any]) -> None:
    table = Table(title=f"{setting} traffic at 0.3%: attack prompts to the first flag; evidence")
    for name in ("share", "streams", "found", "quartiles of prompts", "top five that are attacks"):
        table.add_column(name, justify="right")
    for share, one in own["detection"].items():
        quartiles = one["quartiles"]
        top = own["evidence"][share]
        table.add_row(
            f"{float(share):.0%}",
            str(one["streams"]),
            str(one["found"]),
            " / ".join(f"{q:.0f}" for q in quartiles) if quartiles else "-",
            f"{top['attack']} of {top['events']}",
        )
    console.print(table)
    console.print(
        f"expected calibration error {own['reliability']['ece']:.4f} at a prevalence of "
        f"{own['prevalence']:.0%}",
        highlight=False,
    )
    for title, part, what in (
        ("ordinary accounts flagged, by kind", "ordinary_by_kind", "flagged"),
        ("ordinary accounts flagged, by language", "ordinary_by_language", "flagged"),
        ("attacks found, by language", "attacks_by_language", "found"),
        ("attacks found, by family", "attacks_by_family", "found"),
    ):
        counted = ", ".join(f"{n} {o[what]}/{o['accounts']}" for n, o in own[part].items())
        console.print(f"{setting} traffic, {title}: {counted}", highlight=False)


def print_sealed(figures: dict[str, Any]) -> None:
    """A bundle's figures on sealed material."""
    console = Console(width=_WIDTH)
    sealed = figures["sealed"]
    console.print(
        f"sealed material: {sealed['attacking accounts']:,} attacking and "
        f"{sealed['ordinary accounts']:,} ordinary accounts; recall {sealed['recall']:.3f} where "
        f"{sealed['rate']:.1%} of the ordinary ones lie above",
        highlight=False,
    )
    for title, own in sealed.items():
        if isinstance(own, dict) and title != AT_THRESHOLD:
            counted = ", ".join(f"{n} {o['above']}/{o['accounts']}" for n, o in own.items())
            console.print(f"{title}: {counted}", highlight=False)
    for name, value in sealed[AT_THRESHOLD].items():
        console.print(f"{AT_THRESHOLD}, {name}: {value}", highlight=False)
    found = figures["robustness"]
    table = Table(title=f"robustness: recall at {found['rate']:.1%} of ordinary accounts")
    for name in ("what is done", "streams", "recall", "without it", "kept"):
        table.add_column(name, justify="right")
    for one in found["evasions"]:
        kept = one["recall"] / one["clean"] if one["clean"] else float("nan")
        table.add_row(
            one["name"], str(one["streams"]), f"{one['recall']:.3f}", f"{one['clean']:.3f}",
            f"{kept:.0%}",
        )  # fmt: skip
    for one in found["positions"]:
        table.add_row(
            f"payload after {one['tokens']} tokens", str(one["streams"]), f"{one['recall']:.3f}",
            "", "",
        )  # fmt: skip
    for one in found["shares"]:
        table.add_row(
            f"{one['share']:.0%} of the stream", str(one["streams"]), f"{one['recall']:.3f}", "", ""
        )
    console.print(table)


def print_changes(changes: list[GroupChange]) -> None:
    """What a new bundle does better or worse, worst first."""
    console = Console(width=_WIDTH)
    table = Table(title="change of standing, in decades of the other side above a stream")
    for name in ("group", "streams", "change", "corrected p", "verdict"):
        table.add_column(name, justify="left" if name == "group" else "right")
    for own in changes:
        verdict = "WORSE" if own.worse else ""
        table.add_row(own.group, str(own.streams), f"{own.change:+.2f}", f"{own.p:.3f}", verdict)
    console.print(table)
