"""The way of one event up to its texts: normalise, split, and what else the features need."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from stillwatch.data.events import Event
from stillwatch.model.features import event_scalars, feature_state_fields
from stillwatch.model.framing import split_prompt
from stillwatch.model.lexical import READ_CHARS
from stillwatch.model.parts import in_parts
from stillwatch.model.text import normalise, revealed

MAX_CHARS = 200_000
"""Of a longer prompt or system prompt only both ends are read: normalisation takes time."""
_KEPT, _KEPT_CHARS = 256, 8192
"""System prompts that are kept as they were read, and the longest of them."""


class EventTexts(NamedTuple):
    """An event's two texts, normalised, and its scalar features. `frame` is the system prompt and
    what the prompt shares with the account's recent ones; empty if there is neither."""

    frame: str
    slot: str
    frame_hash: int
    scalars: list[float]
    truncated: bool
    """Whether a part of the event is not read by every reader."""

    @property
    def payload(self) -> str:
        """The slot as readers take it: in parts within a frame, where ordinary text may stand
        before what varies. A prompt without a frame is read whole, as heads have learnt to."""
        return in_parts(self.slot) if self.frame else self.slot


def state_dtype(classes: int, intents: int, classifier_shape: Sequence[int]) -> np.dtype:
    """The record that holds all that is kept of an account between events."""
    fields = feature_state_fields(classes, intents)
    return np.dtype([*fields, ("classifier", "<f4", tuple(classifier_shape))])


def read_event(event: Event, record: np.void) -> EventTexts:
    """Normalise and split one event; remembers the prompt's frame hashes in `record`."""
    prompt = read_text(event.prompt)
    split = split_prompt(prompt, record)
    parts = [_read_system(event.system)] if event.system else []
    if split.frame:
        parts.append(split.frame)
    frame = "\n".join(parts).strip()
    frame_hash = (zlib.crc32(frame.encode("utf-8", "replace")) or 1) if frame else 0
    truncated = (
        max(len(event.prompt), len(event.system)) > MAX_CHARS
        or max(len(frame), len(split.slot)) > READ_CHARS
    )
    scalars = event_scalars(event, split, prompt)
    return EventTexts(frame, split.slot, frame_hash, scalars, truncated)


def _read_system(text: str) -> str:
    # An application sends the same one with every event.
    return _read_again(text) if len(text) <= _KEPT_CHARS else read_text(text)


@lru_cache(maxsize=_KEPT)
def _read_again(text: str) -> str:
    return read_text(text)


def clip_middle(text: str) -> str:
    """The text, or the beginning and the end of one of more than MAX_CHARS characters."""
    half = MAX_CHARS // 2
    return text if len(text) <= MAX_CHARS else f"{text[:half]}\n{text[-half:]}"


def read_text(text: str) -> str:
    """A prompt as every reader reads it: clipped, normalised, its encodings undone."""
    return revealed(normalise(clip_middle(text)))
