"""Streams as arrays of text ids: what `read_event` makes of each event, done once for a set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain
from typing import Any

import numpy as np

from stillwatch.data.simulator.streams import Stream
from stillwatch.model.features import SCALARS
from stillwatch.model.framing import FRAMING_STATE
from stillwatch.model.stream import read_event


@dataclass
class TextTable:
    """Distinct texts and their ids, shared by all sets of streams of a run."""

    texts: list[str] = field(default_factory=list)
    _ids: dict[str, int] = field(default_factory=dict)

    def add(self, text: str) -> int:
        known = self._ids.get(text)
        if known is None:
            known = self._ids[text] = len(self.texts)
            self.texts.append(text)
        return known

    def merge(self, streams: FramedStreams, texts: list[str]) -> FramedStreams:
        """Streams whose ids are of another table with these texts, with ids of this one."""
        own = np.array([*(self.add(text) for text in texts), -1], dtype=np.int32)
        return replace(streams, frame_id=own[streams.frame_id], slot_id=own[streams.slot_id])


@dataclass(frozen=True)
class FramedStreams:
    """A set of S streams with N events in all, one after the other.

    offsets int64 (S + 1,); frame_id int32 (N,), -1 where there is none; slot_id int32 (N,);
    frame_hash uint32 (N,); times float64 (N,); scalars float32 (N, len(SCALARS)); attack bool (N,);
    labels: class name of each event; origins: where each event came from.
    """

    kinds: tuple[str, ...]
    languages: tuple[str, ...]
    intents: tuple[tuple[str, ...], ...]
    shares: np.ndarray
    offsets: np.ndarray
    frame_id: np.ndarray
    slot_id: np.ndarray
    frame_hash: np.ndarray
    times: np.ndarray
    scalars: np.ndarray
    attack: np.ndarray
    labels: np.ndarray
    origins: np.ndarray

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    @property
    def is_attack(self) -> np.ndarray:
        """bool (S,)"""
        return np.array([bool(intents) for intents in self.intents])

    def subset(self, rows: np.ndarray) -> FramedStreams:
        """The streams at these positions, in their order."""
        events = np.concatenate(
            [np.arange(self.offsets[row], self.offsets[row + 1]) for row in rows]
        ).astype(np.int64)
        return FramedStreams(
            tuple(self.kinds[row] for row in rows),
            tuple(self.languages[row] for row in rows),
            tuple(self.intents[row] for row in rows),
            self.shares[rows],
            np.concatenate([[0], np.cumsum(self.lengths[rows])]).astype(np.int64),
            self.frame_id[events], self.slot_id[events], self.frame_hash[events],
            self.times[events], self.scalars[events], self.attack[events],
            self.labels[events], self.origins[events],
        )  # fmt: skip

    @classmethod
    def join(cls, sets: Sequence[FramedStreams]) -> FramedStreams:
        """All streams of all sets; their ids must be of one table."""
        starts = np.cumsum([0, *(own.offsets[-1] for own in sets)])
        offsets = [own.offsets[:-1] + start for own, start in zip(sets, starts[:-1], strict=True)]
        joined: dict[str, Any] = {"offsets": np.concatenate([*offsets, starts[-1:]])}
        for item in fields(cls):
            if item.name not in joined:
                values = [getattr(own, item.name) for own in sets]
                listed = isinstance(values[0], tuple)
                joined[item.name] = tuple(chain(*values)) if listed else np.concatenate(values)
        return cls(**joined)

    def intent_matrix(self, names: Sequence[str]) -> np.ndarray:
        """float32 (S, I): 1 where the stream has the intent."""
        return np.array(
            [[float(name in intents) for name in names] for intents in self.intents],
            dtype=np.float32,
        )


def frame_streams(streams: Sequence[Stream], table: TextTable) -> FramedStreams:
    """Normalise and split every event of every stream, each with an account state of its own."""
    total = sum(len(stream.events) for stream in streams)
    offsets = np.concatenate([[0], np.cumsum([len(s.events) for s in streams])]).astype(np.int64)
    frame_id = np.full(total, -1, dtype=np.int32)
    slot_id = np.zeros(total, dtype=np.int32)
    frame_hash = np.zeros(total, dtype=np.uint32)
    times = np.zeros(total)
    scalars = np.zeros((total, len(SCALARS)), dtype=np.float32)
    row = 0
    for stream in streams:
        record = np.zeros(1, dtype=FRAMING_STATE)[0]
        for event in stream.events:
            texts = read_event(event, record)
            if texts.frame:
                frame_id[row] = table.add(texts.frame)
            slot_id[row] = table.add(texts.payload)
            frame_hash[row] = texts.frame_hash
            times[row] = event.timestamp
            scalars[row] = texts.scalars
            row += 1
    return FramedStreams(
        tuple(s.kind for s in streams),
        tuple(s.language for s in streams),
        tuple(s.intents for s in streams),
        np.array([s.share for s in streams]),
        offsets, frame_id, slot_id, frame_hash, times, scalars,
        np.concatenate([s.attack for s in streams]),
        np.array([label for s in streams for label in s.labels]),
        np.array([origin for s in streams for origin in s.origins]),
    )  # fmt: skip
