"""Hashed n-grams: the bag of a text's short character runs, words and pairs of words.

The encoder was trained on English; a wrapper in another language is told by its characters.
Punctuation is left out: it is a habit of who writes, and easily changed.
"""

from __future__ import annotations

import zlib
from itertools import pairwise

import numpy as np

from stillwatch.model.parts import split_parts
from stillwatch.model.text import bare, word_spans

BUCKETS = 1 << 18
CHUNK_CHARS = 1000
MAX_CHUNKS = 64
READ_CHARS = CHUNK_CHARS * MAX_CHUNKS
"""Of a longer text the middle is left out."""
_ALPHABETS_END = 0x530
"""Latin, Greek and Cyrillic lie before it. In other scripts fewer letters make a word."""
_LENGTHS = ((2, True), (4, True), (5, False))
"""Of runs, and whether they are of those with a letter of another script or of those without."""
_SHIFT = np.uint64(64 - (BUCKETS.bit_length() - 1))
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def ngram_chunks(text: str) -> list[np.ndarray]:
    """Bucket ids of the n-grams of each stretch of the text, sorted and unique, uint32 arrays.

    A long text is read in stretches, each of one of its parts, so that a payload is not diluted by
    what stands around it. At most MAX_CHUNKS stretches are read, half from the beginning and half
    from the end.
    """
    stretches = [
        part[start : start + CHUNK_CHARS]
        for part in split_parts(text.lower())
        for start in range(0, max(len(part), 1), CHUNK_CHARS)
    ]
    if len(stretches) > MAX_CHUNKS:
        stretches = stretches[: MAX_CHUNKS // 2] + stretches[-MAX_CHUNKS // 2 :]
    return [_buckets(stretch) for stretch in stretches]


def _buckets(text: str) -> np.ndarray:
    text = bare(text)
    points = np.frombuffer(
        f" {text} ".encode("utf-32-le", "surrogatepass"), dtype=np.uint32
    ).astype(np.uint64)
    other = points >= _ALPHABETS_END
    found = []
    for length, of_others in _LENGTHS:
        if len(points) < length:
            break
        span = len(points) - length + 1
        mixed = np.full(span, length, dtype=np.uint64)
        any_other = np.zeros(span, dtype=bool)
        for offset in range(length):
            mixed = (mixed ^ points[offset : offset + span]) * _MULTIPLIER
            mixed ^= mixed >> np.uint64(29)
            any_other |= other[offset : offset + span]
        found.append(mixed[any_other == of_others] >> _SHIFT)
    words = [text[start:stop].encode("utf-8", "replace") for start, stop in word_spans(text)]
    hashes = [zlib.crc32(word) for word in words]
    hashes += [zlib.crc32(b" " + after, zlib.crc32(before)) for before, after in pairwise(words)]
    # Not the CRC itself: those of texts that differ at one place differ by a constant.
    found.append((np.array(hashes, dtype=np.uint64) * _MULTIPLIER) >> _SHIFT)
    return np.unique(np.concatenate(found).astype(np.uint32))
