"""What searches filter by, of every event, in memory: about 60 bytes an event, and no text.

Axis letters: N events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stillwatch.serving.archive.results import Filters

TYPES: dict[str, str] = {
    "id": "i8", "account": "i4", "time": "f8", "arrival": "f8", "slot": "i4", "frame": "i4",
    "prompt": "i8", "intent": "i4", "contribution": "f4", "risk": "f4", "flagged": "?",
    "template": "i4", "similarity": "f4", "language": "i4",
}  # fmt: skip
"""Columns of `events`, in the order in which their values are given."""
_FIRST_ROOM = 1024
_SORTED_ANEW = 20_000
_SORTED_ANEW_SHARE = 0.02
"""Events whose texts are not sorted, at most, in number and in share."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Filters with the ids of the tables in place of names; None means any, an empty array that
    nothing can match."""

    filters: Filters
    accounts: np.ndarray | None
    intents: np.ndarray | None
    languages: np.ndarray | None
    templates: np.ndarray | None


class Holders:
    """Which of the first N events hold a text: their positions, in the order of the texts."""

    def __init__(self, texts: np.ndarray) -> None:
        self.count = len(texts)
        self._order = np.argsort(texts, kind="stable").astype(np.int32)
        self._texts = texts[self._order]

    def of_each(self, texts: np.ndarray) -> list[np.ndarray]:
        """Positions int32, ascending, of the events that hold each of some texts (K,)."""
        # Of the same type: otherwise all of them would be converted first.
        wanted = texts.astype(self._texts.dtype)
        first = np.searchsorted(self._texts, wanted).tolist()
        last = np.searchsorted(self._texts, wanted, "right").tolist()
        return [self._order[start:stop] for start, stop in zip(first, last, strict=True)]


_NONE = Holders(np.empty(0, np.int32))


class Rows:
    """N events as columns; never changed. `rows.time` is float64 (N,), and so on, see TYPES."""

    def __init__(
        self, columns: Mapping[str, np.ndarray], count: int, slots: Holders = _NONE,
        frames: Holders = _NONE, removals: int = 0,
    ) -> None:  # fmt: skip
        self.count = count
        self.removals = removals
        """How often events were forgotten: rows with the same number begin with the same events."""
        self.columns = columns
        """With room at their ends for rows to come."""
        self.slots = slots
        self.frames = frames
        """Of the events up to some position; those after it are compared one by one."""

    def holding(self, texts: np.ndarray) -> list[np.ndarray]:
        """Positions, ascending, of the events whose slot or frame each of some texts int64 (K,)
        is; none for 0, which stands for no text."""
        found: list[list[np.ndarray]] = [[] for _ in texts]
        for holders, column in ((self.slots, "slot"), (self.frames, "frame")):
            for own, positions in zip(found, holders.of_each(texts), strict=True):
                if len(positions):
                    own.append(positions)
            later = self.columns[column][holders.count : self.count]
            # Those of any of the texts, and these alone by their text.
            some = np.flatnonzero(np.isin(later, texts))
            for own, places in zip(found, Holders(later[some]).of_each(texts), strict=True):
                if len(places):
                    own.append(some[places] + holders.count)
        # A text is a slot or a frame: of its parts none is of the other kind.
        return [
            np.concatenate(own).astype(np.int64) if own and text > 0 else np.empty(0, np.int64)
            for text, own in zip(texts.tolist(), found, strict=True)
        ]

    def __getattr__(self, name: str) -> np.ndarray:
        if name not in TYPES:
            raise AttributeError(name)
        return self.columns[name][: self.count]

    def mask(self, wanted: Wanted) -> np.ndarray | None:
        """bool (N,): the events that are wanted; None if all are."""
        filters = wanted.filters
        found: np.ndarray | None = None

        def keep(condition: np.ndarray) -> None:
            nonlocal found
            found = condition if found is None else np.logical_and(found, condition, out=found)

        if filters.since is not None:
            keep(self.time >= filters.since)
        if filters.until is not None:
            keep(self.time < filters.until)
        if filters.flagged is not None:
            keep(self.flagged == filters.flagged)
        for column, ids in (
            ("account", wanted.accounts), ("intent", wanted.intents),
            ("language", wanted.languages), ("template", wanted.templates),
        ):  # fmt: skip
            if ids is not None:
                values = getattr(self, column)
                keep(values == ids[0] if len(ids) == 1 else np.isin(values, ids))
        if filters.contribution > 0:
            keep(self.contribution >= filters.contribution)
        if filters.template_similarity > -1:
            keep(self.similarity >= filters.template_similarity)
        return found


class Columns:
    """Grows at its end. One thread changes it; `rows` may be called by any."""

    def __init__(self) -> None:
        self._rows = Rows({name: np.empty(_FIRST_ROOM, kind) for name, kind in TYPES.items()}, 0)

    def rows(self) -> Rows:
        """The events as they are now, whatever is added or removed later."""
        return self._rows

    def append(self, values: Sequence[Sequence[Any]]) -> None:
        """Add events, each with its values in the order of TYPES."""
        if not values:
            return
        count, needed = self._rows.count, self._rows.count + len(values)
        columns = self._rows.columns
        room = len(columns["id"])
        if needed > room:
            grown = {}
            for name, column in columns.items():
                grown[name] = np.empty(max(needed, room * 3 // 2), column.dtype)
                grown[name][:count] = column[:count]
            columns = grown
        # Past the end of the rows that others may be reading.
        for name, value in zip(TYPES, zip(*values, strict=True), strict=True):
            columns[name][count:needed] = value
        slots, frames = self._rows.slots, self._rows.frames
        if needed - slots.count > max(_SORTED_ANEW, needed * _SORTED_ANEW_SHARE):
            slots, frames = (Holders(columns[name][:needed]) for name in ("slot", "frame"))
        self._rows = Rows(columns, needed, slots, frames, self._rows.removals)

    def remove(self, ids: np.ndarray) -> None:
        """Forget these events."""
        rows = self._rows
        kept = ~np.isin(rows.id, ids)
        if not kept.all():
            columns = {name: getattr(rows, name)[kept] for name in TYPES}
            slots, frames = (Holders(columns[name]) for name in ("slot", "frame"))
            self._rows = Rows(columns, int(kept.sum()), slots, frames, rows.removals + 1)
