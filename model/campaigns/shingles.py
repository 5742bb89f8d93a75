"""What prompts have in common, as hashes of short runs of words.

A shingle is a run of SHINGLE_WORDS word units of a normalised prompt, one number in place of every
number. Runs of mostly markup or figures are left out: what all documents of a format have in common
ties nobody. Sharing a shingle costs no embedding and no comparison of pairs, so a million prompts
of a hundred thousand accounts are compared in seconds. Only hashes are kept: no words.
"""

from __future__ import annotations

import hashlib
import zlib
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from stillwatch.data.events import Event
from stillwatch.model.stream import read_text
from stillwatch.model.text import words

SHINGLE_WORDS = 4
LEAST_WORDS = 3
"""Units of a shingle that must be words: neither punctuation nor numbers."""
EDGE_CHARS = 3000
"""Only this much of each end of a prompt is looked at: frames stand there."""
EDGE_WORDS = 400
"""The same in word units, for scripts whose characters are units."""
HASH_BITS = 40
"""Of a shingle. Among twenty million of them some two hundred pairs share a hash by chance."""
EVENT_BITS = 64 - HASH_BITS
"""Of an event's number, so that both fit into one."""

_NUMBER = 1
_WORD = 1 << 33
"""Hashes of words are this or more, all others less."""
_MIX = np.uint64(0x9E3779B97F4A7C15)
_SYSTEM_SALT = np.uint64(0xD1B54A32D192ED03)


class ReadEvent(NamedTuple):
    """`text` is a hash of the normalised prompt; `shingles` uint64 (S,) are the distinct hashes of
    the event's shingles, each below 2**HASH_BITS, sorted."""

    text: int
    shingles: np.ndarray


def read_shingles(event: Event) -> ReadEvent:
    """An event as linking sees it. Shingles of the system prompt are told apart from those of the
    prompt: a product that quotes an attack in its instructions does not send it."""
    text = read_text(event.prompt).casefold()
    digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
    found = _hash_runs(_words(text), np.uint64(0))
    if event.system:
        found = np.concatenate([found, _system_shingles(event.system)])
    return ReadEvent(int.from_bytes(digest, "big"), distinct(found))


def pack_pairs(shingle: np.ndarray, event: np.ndarray) -> np.ndarray:
    """uint64 (P,): each shingle in the upper HASH_BITS, its event's number in the others."""
    return (shingle << np.uint64(EVENT_BITS)) | event.astype(np.uint64)


def distinct(values: np.ndarray) -> np.ndarray:
    """Sorted values without repeats; several times as fast as numpy's own on large arrays."""
    ordered = np.sort(values)
    if not len(ordered):
        return ordered
    return np.asarray(ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])])


@lru_cache(maxsize=4096)
def _system_shingles(system: str) -> np.ndarray:
    return _hash_runs(_words(read_text(system).casefold()), _SYSTEM_SALT)


def _words(text: str) -> np.ndarray:
    """Hashes uint64 (W,) of the word units at the beginning and the end of a normalised text in
    small letters."""
    if len(text) > 2 * EDGE_CHARS:
        text = f"{text[:EDGE_CHARS]}\n{text[-EDGE_CHARS:]}"
    found = words(text)
    if len(found) > 2 * EDGE_WORDS:
        found = found[:EDGE_WORDS] + found[-EDGE_WORDS:]
    return np.fromiter(map(_word_hash, found), dtype=np.uint64, count=len(found))


@lru_cache(maxsize=200_000)
def _word_hash(word: str) -> int:
    # Numbers differ where prompts are otherwise alike.
    if word[:1].isdigit():
        return _NUMBER
    found = zlib.crc32(word.encode("utf-8", "replace")) + _NUMBER + 1
    return found + _WORD if word[:1].isalpha() else found


def _hash_runs(words: np.ndarray, salt: np.uint64) -> np.ndarray:
    count = len(words) - SHINGLE_WORDS + 1
    if count <= 0:
        return np.zeros(0, dtype=np.uint64)
    found = np.full(count, salt, dtype=np.uint64)
    # Sums that pass 2**64 wrap, as they should in a hash.
    for place in range(SHINGLE_WORDS):
        found = (found ^ words[place : place + count]) * _MIX
        found ^= found >> np.uint64(29)
    counts = np.cumsum(np.concatenate([[0], words >= _WORD]))
    kept = counts[SHINGLE_WORDS:] - counts[:-SHINGLE_WORDS] >= LEAST_WORDS
    return found[kept] >> np.uint64(64 - HASH_BITS)
