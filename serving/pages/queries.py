"""What was searched for, as a form gave it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np

from stillwatch.data.errors import InputError
from stillwatch.serving.archive import Filters, searching
from stillwatch.serving.archive.results import ANY, Part

MAX_TEXT_CHARS = 200_000
FLAGGED = {"": None, "yes": True, "no": False}
PARTS: dict[str, tuple[Part, ...]] = {
    "both": ("slot", "frame"), "slot": ("slot",), "frame": ("frame",),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Query:
    """A search: for a `text`, by its words alone if `exact`, or for events `like` another, given
    by its account and event id, by those of its `parts`."""

    text: str = ""
    exact: bool = False
    like: tuple[str, str] | None = None
    parts: tuple[Part, ...] = ("slot", "frame")
    elsewhere: bool = False
    filters: Filters = ANY
    fields: tuple[tuple[str, str], ...] = ()
    """The form's fields of the filters, to be filled in again."""
    _meaning: list[np.ndarray] = field(default_factory=list, init=False, repr=False, compare=False)

    def meaning(self, encode: Callable[[str], np.ndarray]) -> np.ndarray:
        """The vector of its text, made when it is first asked for: a search is shown in several
        views, and a long text takes longer to read than all else."""
        if not self._meaning:
            self._meaning.append(encode(self.text))
        return self._meaning[0]


FILTER_FIELDS = ("account", "since", "until", "intent", "flagged", "language")


def to_filters(fields: Mapping[str, str]) -> Filters:
    """The filters that a form's fields stand for. InputError."""
    return Filters(
        accounts=_several(fields, "account"),
        since=_time(fields.get("since", ""), "since"),
        until=_time(fields.get("until", ""), "until", end=True),
        intents=_several(fields, "intent"),
        flagged=FLAGGED.get(fields.get("flagged", "")),
        languages=_several(fields, "language"),
    )


def to_query(fields: Mapping[str, str], like: tuple[str, str] | None = None) -> Query:
    """The search of a form. InputError. Reads a long text, so call it in a thread."""
    text = fields.get("text", "")
    if len(text) > MAX_TEXT_CHARS:
        raise InputError(
            f"a search must have at most {MAX_TEXT_CHARS:,} characters, however: it has more; "
            "search for a part of it"
        )
    if like is None:
        # Refused before there is a page of results.
        searching.read(text)
    return Query(
        text=text,
        exact=fields.get("exact") == "yes",
        like=like,
        parts=PARTS.get(fields.get("parts", "both"), PARTS["both"]),
        elsewhere=fields.get("elsewhere") == "yes",
        filters=to_filters(fields),
        fields=tuple((name, fields[name]) for name in FILTER_FIELDS if fields.get(name)),
    )


def _several(fields: Mapping[str, str], name: str) -> tuple[str, ...]:
    value = fields.get(name, "").strip()
    return (value,) if value else ()


def _time(text: str, name: str, end: bool = False) -> float | None:
    """Seconds since the epoch of a date, or of a date and time, UTC; of a date as an `end`, its
    last moment."""
    text = text.strip()
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is None:
            found = found.replace(tzinfo=UTC)
        if end and len(text) == 10:
            found += timedelta(days=1)
        seconds = found.timestamp()
    except (ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise InputError(
            f"{name} must be a date such as 2026-03-01, UTC, however: it is not; write it so"
        )
    return seconds
