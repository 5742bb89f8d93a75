"""Prompts as they are shown. A prompt is hostile text: what it does to a page, a terminal or a
spreadsheet is decided here, and escaping is left to the templates.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from stillwatch.serving.verdict import REPLACEMENT, clip, excerpt, visible

SHOWN_CHARS = 1500
"""Of a prompt, beside other things."""
PART_CHARS = 20_000
"""Of a prompt, on a page of its own: a browser lays out so much without a pause."""
MAX_MARKS = 200
"""Characters without a glyph that are named one by one."""
MAX_ID_CHARS = 80


class Piece(NamedTuple):
    """A part of a shown text. `kind` is text, or mark: the name of what has no glyph."""

    kind: str
    text: str


def pieces(text: str) -> list[Piece]:
    """A text with its lines, whose characters without a glyph are told by their names.

    Whatever is in it, direction marks and half surrogate pairs too, what comes out is printable.
    """
    found: list[Piece] = []
    marks = 0
    for invisible, run in _runs(text):
        if not invisible:
            found.append(Piece("text", run))
        elif marks < MAX_MARKS:
            marks += 1
            times = f" ×{len(run)}" if len(run) > 1 else ""
            found.append(Piece("mark", f"U+{ord(run[0]):04X}{times}"))
        else:
            found.append(Piece("text", REPLACEMENT))
    return found


def name(identity: str) -> str:
    """An id on one line."""
    return clip(visible(identity), MAX_ID_CHARS) or REPLACEMENT


def one_line(text: str) -> str:
    """The start of a text on one line."""
    return excerpt(text)


def when(seconds: float) -> str:
    """A time, UTC, to the minute."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(" ", "minutes")[:16]


def day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def ago(seconds: float, now: float) -> str:
    """How long before `now` something was, roughly, in words."""
    past = max(now - seconds, 0.0)
    for size, unit in ((86_400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if past >= size:
            return f"{past / size:.0f} {unit} ago"
    return "just now"


def percent(share: float) -> str:
    """A share; small ones with more places."""
    points = 100 * share
    return f"{points:.0f}%" if points >= 10 or points == 0 else f"{points:.2g}%"


def _runs(text: str) -> Iterator[tuple[bool, str]]:
    """Runs of shown text, and runs of one character that has no glyph."""
    start = 0
    for place, char in enumerate(text):
        # A run goes on while it is shown, or while the same invisible character repeats.
        if place > start:
            first = text[start]
            hidden = _invisible(first)
            if hidden != _invisible(char) or (hidden and char != first):
                yield hidden, text[start:place]
                start = place
    if text:
        yield _invisible(text[start]), text[start:]


def _invisible(char: str) -> bool:
    return not (char.isprintable() or char in "\n\t" or unicodedata.category(char) == "Zs")
