"""Ordinary text of a wanted length, behind which a payload or a product's instruction may stand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

LATIN_CHARS_PER_TOKEN = 4
LATIN_END = 0x250
"""The first code point past the Latin letters."""


def code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def token_costs(text: str) -> np.ndarray:
    """Estimated tokens of each character, float64 (characters,): a quarter for Latin, and one for
    every other script, whose letters an English vocabulary splits into single ones."""
    return np.where(code_points(text) < LATIN_END, 1 / LATIN_CHARS_PER_TOKEN, 1.0)


def deal(rng: np.random.Generator, texts: Sequence[str]) -> Iterator[str]:
    """The texts that are not blank in random order, again and again. Never ends, so one must be
    there."""
    while True:
        for position in rng.permutation(len(texts)).tolist():
            text = texts[position].strip()
            if text:
                yield text


def ordinary_text(deck: Iterator[str], tokens: int) -> str:
    """Texts of the deck, the last one cut so that together they have `tokens` tokens."""
    pieces = []
    left = float(tokens)
    while left > 0:
        piece = next(deck)
        spent = np.cumsum(token_costs(piece))
        if spent[-1] > left:
            piece = piece[: max(int(np.searchsorted(spent, left, side="right")), 1)]
        pieces.append(piece)
        left -= min(float(spent[-1]), left)
    return "\n\n".join(pieces)
