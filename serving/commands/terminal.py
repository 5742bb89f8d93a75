"""What commands show while they work: progress on standard error, results in tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

REPORT_EVERY_S = 30.0
"""Between two lines of progress where standard error is no terminal."""

Advance = Callable[[int], None]


@contextmanager
def progress(label: str, total: int | None = None, show: bool = True) -> Iterator[Advance]:
    """Shows a phase of work; call what it gives with the number of events just done.

    With `total` the time left is shown. Where standard error is no terminal, a plain line every
    `REPORT_EVERY_S` seconds takes the place of the bar.
    """
    console = Console(stderr=True)
    if not show:
        yield lambda count: None
    elif not console.is_terminal:
        yield _reporter(label, total, console)
    else:
        bar: tuple[ProgressColumn, ...] = (SpinnerColumn(),)
        if total is not None:
            bar = (BarColumn(), TimeRemainingColumn())
        columns = (TextColumn("{task.description}"), *bar, _Count())
        with Progress(*columns, console=console, transient=True) as shown:
            task = shown.add_task(label, total=total)
            yield lambda count: shown.advance(task, count)


@contextmanager
def working(label: str, show: bool = True) -> Iterator[None]:
    """Shows that something of unknown length is being done."""
    console = Console(stderr=True)
    if show and console.is_terminal:
        with console.status(label):
            yield
    else:
        yield


def page(width: int) -> Console:
    """Standard output, at most `width` columns; just as many where it is no terminal."""
    console = Console(highlight=False)
    console.width = min(width, console.width) if console.is_terminal else width
    return console


def show_table_cell(text: str) -> Text:
    """A table's cell without markup: brackets in a prompt are text. Pass it visible text."""
    return Text(text, overflow="fold")


class _Count(ProgressColumn):
    """1,200 of 5,000 events, 340/s"""

    def render(self, task: Task) -> Text:
        return Text(_count(int(task.completed), task.total, task.finished_speed or task.speed))


def _count(done: int, total: float | None, per_s: float | None) -> str:
    of = f" of {int(total):,}" if total is not None else ""
    return f"{done:,}{of} events" + (f", {per_s:,.0f}/s" if per_s else "")


def _reporter(label: str, total: int | None, console: Console) -> Advance:
    started = reported = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, reported
        done += count
        now = time.monotonic()
        if now - reported >= REPORT_EVERY_S:
            reported = now
            line = f"{label} {_count(done, total, done / (now - started))}"
            console.print(line, markup=False, highlight=False)

    return advance
