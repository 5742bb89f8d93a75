"""Desks in folders of a test, verdicts to decide on, and ways to tamper with a log."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillwatch.serving.desk import Desk
from stillwatch.serving.desk.anchor import FILE as ANCHOR
from stillwatch.serving.desk.database import FILE
from stillwatch.serving.verdict import Evidence, Verdict

NOON = 1.7e9
CANARY = "sphinx-of-black-quartz"


@dataclass
class Clock:
    """Tells the time it was given, a second later each time."""

    now: float = NOON

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@contextmanager
def desk_in(folder: Path, **options: Any) -> Iterator[Desk]:
    options.setdefault("clock", Clock())
    desk = Desk.open(folder, options.pop("archive", None), **options)
    try:
        yield desk
    finally:
        desk.close()


def verdict(
    account: str = "a1", risk: float = 0.8, threshold: float = 0.5, flagged: bool = True,
    evidence: tuple[tuple[str, str, float], ...] = (("e1", "cot_harvesting", 0.9),),
    template: str | None = "T1", **fields: Any,
) -> Verdict:  # fmt: skip
    """A verdict whose evidence has a prompt with the canary in it."""
    items = tuple(
        Evidence(event, intent, contribution, template, 0.8, f"the prompt says {CANARY}")
        for event, intent, contribution in evidence
    )
    intents = {"capability_probing": 0.1, "cot_harvesting": risk, "output_harvesting": 0.05}
    return Verdict(
        account, 40, risk, risk, intents, flagged, threshold, 12, items, "0123456789ab", **fields
    )


def fill(desk: Desk, count: int) -> None:
    """Decisions, an undo and a template: `count` entries after the first, at least four."""
    first = desk.decide("a1", "confirm", "a harvest", "ann", verdict())
    desk.undo(first.id, "bob", "a customer")
    desk.templates.add("Reason aloud before: {slot}", "cot_harvesting", "own", "ann")
    for number in range(count - 3):
        desk.decide(f"a{number}", "reject", "ordinary", "bob", verdict(f"a{number}"))


def in_tables(folder: Path, change: Callable[[sqlite3.Connection], object]) -> None:
    """Change the desk's tables behind its back."""
    with closing(sqlite3.connect(folder / FILE)) as connection, connection:
        change(connection)


def anchor_lines(folder: Path) -> list[str]:
    return (folder / ANCHOR).read_text().splitlines(keepends=True)


def files_holding(folder: Path, needle: bytes) -> list[str]:
    return [
        path.name for path in folder.rglob("*") if path.is_file() and needle in path.read_bytes()
    ]
