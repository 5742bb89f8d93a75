"""A long slot within a frame is read in parts, so that ordinary text before or after a payload does
not dilute it.

What an account varies may stand at the end of a page that it pasted, or at the beginning. The
first and the last lines of a long slot are therefore read by themselves, and readers take the part
that reads most like a harvest. A frame is read whole, since what it asks for may need all of it,
and so is a prompt without one: heads have learnt what slots are from whole prompts, and parts of
ordinary ones read like questions of a benchmark.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np

from stillwatch.model.encoder import Encoder, TextVectors

BREAK = "\x1e"
"""Stands between parts. A normalised text holds none: it is a control character."""
LONG_CHARS = 400
"""A text of no more characters is read whole,"""
EDGE_PART_CHARS = 300
"""and so many characters of whole lines at each end of a longer one apart, or one longer line."""


def in_parts(text: str) -> str:
    """A normalised text with BREAK in the place of the line breaks between its parts, at most
    three; as it is where there is nothing to divide."""
    if len(text) <= LONG_CHARS or "\n" not in text:
        return text
    lines = text.split("\n")
    last = _lines_of_an_edge(reversed(lines[1:]))
    rest = lines[: len(lines) - last]
    first = _lines_of_an_edge(rest)
    parts = (rest[:first], rest[first:], lines[len(lines) - last :])
    return BREAK.join("\n".join(part) for part in parts if part)


def split_parts(text: str) -> list[str]:
    """The parts of what `in_parts` gave; at least one."""
    return text.split(BREAK)


def encode_parts(encoder: Encoder, texts: Sequence[str]) -> list[TextVectors]:
    """What the encoder makes of each text: the windows of its parts, one after the other."""
    divided = [split_parts(text) for text in texts]
    encoded = iter(encoder.encode(list(chain.from_iterable(divided))))
    return [_joined([next(encoded) for _ in own]) for own in divided]


def _joined(parts: list[TextVectors]) -> TextVectors:
    if len(parts) == 1:
        return parts[0]
    return TextVectors(
        np.concatenate([part.windows for part in parts]),
        sum(part.tokens for part in parts),
        any(part.truncated for part in parts),
    )


def _lines_of_an_edge(lines: Iterable[str]) -> int:
    """How many of the lines, from the first on, make up a part; at least one."""
    count, chars = 0, 0
    for line in lines:
        chars += len(line)
        if count and chars > EDGE_PART_CHARS:
            break
        count += 1
    return count
