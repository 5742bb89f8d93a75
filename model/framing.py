"""Splits a prompt into the frame that it shares with recent prompts and the slot that varies.

A product's template and a harvester's suffix are frames; what stands in them is the slot. The two
are encoded apart: the frame tells what is asked for, the slot what it is asked about. What is kept
of a past prompt are hashes of its first and last words, never words.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from stillwatch.model.text import word_spans

RING = 12
"""Distinct prompts remembered for each account."""

CHECKPOINTS = np.array(
    [*range(1, 33), 36, 40, 44, 48, 56, 64, 80, 96, 128, 160, 192, 256, 320, 384], dtype=np.int64
)
"""Word counts at which a prompt's beginning (and end) is hashed: each word at first, then coarser,
so that a frame of 300 words costs little more memory than one of 30."""

_CHECKPOINTS: list[int] = CHECKPOINTS.tolist()

MIN_FRAME_WORDS = 4
MIN_FRAME_BYTES = 16
EDGE_CHARS = 2048
"""Only this much of each end of a prompt is looked at for a frame."""

FRAMING_STATE: list[tuple[Any, ...]] = [
    ("ring_prefix", "<u2", (RING, len(CHECKPOINTS))),
    ("ring_suffix", "<u2", (RING, len(CHECKPOINTS))),
    ("ring_digest", "<u4", (RING,)),
    ("ring_next", "u1"),
]
"""The part of an account's state that belongs to framing."""


@dataclass(frozen=True, slots=True)
class Split:
    """A prompt as frame and slot. `frame` is empty where nothing is shared; `slot` never is,
    unless the prompt is."""

    frame: str
    slot: str
    frame_words: int
    slot_words: int
    repeat: bool


def split_prompt(text: str, state: np.void) -> Split:
    """Split a normalised prompt against one account's state, and remember it there.

    `state` is one record of a structured array that has the fields of FRAMING_STATE.
    An exact repeat of a remembered prompt is told by `repeat` and is not remembered twice.
    """
    head = word_spans(text[:EDGE_CHARS])
    tail = head if len(text) <= EDGE_CHARS else _shift(word_spans(text[-EDGE_CHARS:]), len(text))
    lowered = text.lower()
    # Lower case may change the length of a text in some scripts; the spans then fit the original.
    hashed = lowered if len(lowered) == len(text) else text
    prefix = _edge_hashes(hashed, head)
    suffix = _edge_hashes(hashed, tail[::-1])
    digest = zlib.crc32(text.encode("utf-8", "replace")) or 1

    repeat = bool((state["ring_digest"] == digest).any())
    others = (state["ring_digest"] != 0) & (state["ring_digest"] != digest)
    shared_head = _shared_words(state["ring_prefix"], prefix)
    shared_tail = _shared_words(state["ring_suffix"], suffix)
    # Nested prompts: an end may not take the words that the beginning has already taken.
    word_total = len(head) if tail is head else len(head) + len(tail)
    shared_tail = np.minimum(shared_tail, np.maximum(word_total - 1 - shared_head, 0))
    shared = np.where(others, shared_head + shared_tail, 0)

    split = _cut(text, head, tail, shared, shared_head, shared_tail, word_total, repeat)
    if not repeat:
        position = int(state["ring_next"])
        state["ring_prefix"][position] = prefix
        state["ring_suffix"][position] = suffix
        state["ring_digest"][position] = digest
        state["ring_next"] = (position + 1) % RING
    return split


def _cut(
    text: str,
    head: list[tuple[int, int]],
    tail: list[tuple[int, int]],
    shared: np.ndarray,
    shared_head: np.ndarray,
    shared_tail: np.ndarray,
    word_total: int,
    repeat: bool,
) -> Split:
    whole = Split("", text, 0, word_total, repeat)
    order = np.argsort(-shared, kind="stable")
    best, second = int(order[0]), int(order[1])
    # Two prompts may begin with the same words by accident; a frame is better read off the second
    # best partner, unless the frame is so rare that it has only one partner in the ring.
    partner = second if shared[second] >= 0.6 * shared[best] else best
    if shared[partner] < MIN_FRAME_WORDS:
        return whole
    head_words, tail_words = int(shared_head[partner]), int(shared_tail[partner])
    start = head[head_words - 1][1] if head_words else 0
    stop = tail[len(tail) - tail_words][0] if tail_words else len(text)
    slot = text[start:stop].strip()
    frame = f"{text[:start].strip()}\n{text[stop:].strip()}".strip()
    if not slot or len(frame.encode("utf-8", "replace")) < MIN_FRAME_BYTES:
        return whole
    frame_words = head_words + tail_words
    return Split(frame, slot, frame_words, max(word_total - frame_words, 1), repeat)


def _shift(spans: list[tuple[int, int]], text_length: int) -> list[tuple[int, int]]:
    offset = text_length - EDGE_CHARS
    # The first span may be the end of a word that the cut went through.
    return [(start + offset, stop + offset) for start, stop in spans[1:]]


def _edge_hashes(text: str, spans: list[tuple[int, int]]) -> np.ndarray:
    """Running hash after each checkpoint's number of words, uint16 (len(CHECKPOINTS),); 0 past
    the end. `spans` may run backwards; what stands between two checkpoints is hashed as one."""
    hashes = np.zeros(len(CHECKPOINTS), dtype=np.uint16)
    running = 1
    done = 0
    for position, count in enumerate(_CHECKPOINTS):
        if count > len(spans):
            break
        first, last = spans[done], spans[count - 1]
        stretch = text[first[0] : last[1]] if first[0] <= last[0] else text[last[0] : first[1]]
        running = zlib.crc32(stretch.encode("utf-8", "replace"), running)
        hashes[position] = (running & 0xFFFF) or 1
        done = count
    return hashes


def _shared_words(ring: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Words that each remembered prompt shares from this end on, int64 (RING,)."""
    equal = (ring == hashes) & (hashes != 0)
    run = np.logical_and.accumulate(equal, axis=1).sum(axis=1)
    return np.where(run > 0, CHECKPOINTS[np.maximum(run - 1, 0)], 0)
