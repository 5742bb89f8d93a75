"""Splits a prompt into the frame that it shares with recent prompts and the slot that varies.

A product's template and a harvester's suffix are frames; what stands in them is the slot. The two
are encoded apart: the frame tells what is asked for, the slot what it is asked about. A frame
stands at the ends of a prompt or begins lines in its middle, where it is looked for too: else text
before the payload would hide it. What is kept of a past prompt are hashes of the first and last
words of it and of the first words of some of its lines, never words.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from stillwatch.model.text import first_word_spans, word_spans

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
"""Only this much of each end of a prompt is looked at for a frame at that end."""

LINES = 12
"""Lines of a prompt whose beginnings are remembered: the last ones, and
others by the smallest hash, so that of two prompts that share a line both tend to remember it."""
_LAST_LINES = 8
LINE_WORDS = (6, 10, 16, 28, 48)
"""Word counts at which a line's beginning is hashed; a line of fewer words is not remembered."""
MIN_PARTNERS = 0.8
"""Prompts that must share a line, as a share of those that share another line or an end."""
LINES_CHARS = 8192
"""Only this much of each end of a prompt is looked at for such lines,"""
_LINE_CHARS = 480
"""and this much of a line."""
_NO_LINE = (0,) * len(LINE_WORDS)

FRAMING_STATE: list[tuple[Any, ...]] = [
    ("ring_prefix", "<u2", (RING, len(CHECKPOINTS))),
    ("ring_suffix", "<u2", (RING, len(CHECKPOINTS))),
    ("ring_digest", "<u4", (RING,)),
    ("ring_next", "u1"),
    # Any line may be like any other, so its first hash must be wide.
    ("ring_line", "<u4", (RING, LINES)),
    ("ring_line_more", "<u2", (RING, LINES, len(LINE_WORDS) - 1)),
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
    lines = _lines(text, hashed)
    at_ends = int((shared >= MIN_FRAME_WORDS).sum())
    inner = _shared_lines(lines, state, others, at_ends) if lines else []

    split = _cut(text, head, tail, shared, shared_head, shared_tail, inner, word_total, repeat)
    if not repeat:
        position = int(state["ring_next"])
        padded = [line.hashes + _NO_LINE[len(line.hashes) :] for line in lines]
        padded += [_NO_LINE] * (LINES - len(lines))
        state["ring_line"][position] = [hashes[0] for hashes in padded]
        state["ring_line_more"][position] = [hashes[1:] for hashes in padded]
        state["ring_prefix"][position] = prefix
        state["ring_suffix"][position] = suffix
        state["ring_digest"][position] = digest
        state["ring_next"] = (position + 1) % RING
    return split


class _Line(NamedTuple):
    """A line's place in the text, the ends of its first words and their running hashes."""

    start: int
    stops: tuple[int, ...]
    """Where the words end at each count of LINE_WORDS that the line has."""
    hashes: tuple[int, ...]
    """uint32 of the first, uint16 of the others."""


class _Shared(NamedTuple):
    """Words of a line that another prompt's line begins with as well."""

    start: int
    stop: int
    words: int


def _cut(
    text: str,
    head: list[tuple[int, int]],
    tail: list[tuple[int, int]],
    shared: np.ndarray,
    shared_head: np.ndarray,
    shared_tail: np.ndarray,
    inner: list[_Shared],
    word_total: int,
    repeat: bool,
) -> Split:
    whole = Split("", text, 0, word_total, repeat)
    partner = _partner(shared)
    start, stop, frame_words = 0, len(text), 0
    if shared[partner] >= MIN_FRAME_WORDS:
        head_words, tail_words = int(shared_head[partner]), int(shared_tail[partner])
        start = head[head_words - 1][1] if head_words else 0
        stop = tail[len(tail) - tail_words][0] if tail_words else len(text)
        frame_words = head_words + tail_words
    frames, slots, done = [text[:start]], [], start
    for line in inner:
        if start <= line.start and line.stop <= stop:
            frames.append(text[line.start : line.stop])
            slots.append(text[done : line.start])
            done = line.stop
            frame_words += line.words
    frames.append(text[stop:])
    slots.append(text[done:stop])
    frame, slot = _joined(frames), _joined(slots)
    if not slot or len(frame.encode("utf-8", "replace")) < MIN_FRAME_BYTES:
        return whole
    return Split(frame, slot, frame_words, max(word_total - frame_words, 1), repeat)


def _joined(parts: list[str]) -> str:
    return "\n".join(part for part in map(str.strip, parts) if part)


def _partner(shared: np.ndarray) -> int:
    """Position of the prompt that a frame is read off, by the words (RING,) that each shares."""
    order = np.argsort(-shared, kind="stable")
    best, second = int(order[0]), int(order[1])
    # Two prompts may begin with the same words by accident; a frame is better read off the second
    # best partner, unless the frame is so rare that it has only one partner in the ring.
    return second if shared[second] >= 0.6 * shared[best] else best


def _lines(text: str, hashed: str) -> list[_Line]:
    """The lines to remember, in their order. `hashed` is the text as it is to be hashed."""
    if "\n" not in text:
        return []
    # Of each line its first hash, its beginning and end.
    found: list[tuple[int, int, int]] = []
    start = 0
    gap = (LINES_CHARS, len(text) - LINES_CHARS)
    while start < len(text):
        if gap[0] <= start < gap[1]:
            start = text.find("\n", gap[1] - 1) + 1
            if not start:
                break
        stop = text.find("\n", start)
        stop = len(text) if stop < 0 else stop
        if stop - start >= MIN_FRAME_BYTES // 2:
            end = min(stop, start + _LINE_CHARS)
            words = first_word_spans(hashed, start, end, LINE_WORDS[0])
            if len(words) == LINE_WORDS[0]:
                found.append((_hash(hashed, words[0][0], words[-1][1]), words[0][0], end))
        start = stop + 1
    if len(found) > LINES:
        early = sorted(found[:-_LAST_LINES])[: LINES - _LAST_LINES]
        found = sorted(early, key=lambda line: line[1]) + found[-_LAST_LINES:]
    return [_line(hashed, *line) for line in found]


def _line(hashed: str, first: int, start: int, stop: int) -> _Line:
    spans = first_word_spans(hashed, start, stop, LINE_WORDS[-1])
    counts = [count for count in LINE_WORDS if count <= len(spans)]
    stops = [spans[count - 1][1] for count in counts]
    hashes, running = [first], first
    for done, end in pairwise(stops):
        running = _hash(hashed, done, end, running)
        hashes.append((running & 0xFFFF) or 1)
    return _Line(start, tuple(stops), tuple(hashes))


def _hash(text: str, start: int, stop: int, running: int = 1) -> int:
    return zlib.crc32(text[start:stop].encode("utf-8", "replace"), running) or 1


def _shared_lines(
    lines: list[_Line], state: np.void, others: np.ndarray, at_ends: int
) -> list[_Shared]:
    """Of each line that begins as lines of remembered prompts do, the words they share.

    A line that far fewer prompts share than another line, or than the `at_ends` prompts that share
    the ends of this one, is none of the frame: ordinary text before a payload is used again too.
    """
    first = np.array([line.hashes[0] for line in lines], dtype=np.uint32)
    equal = (state["ring_line"][None] == first[:, None, None]) & others[None, :, None]
    partners = equal.any(axis=2).sum(axis=1)
    least = max(1, MIN_PARTNERS * max(at_ends, int(partners.max())))
    found = []
    for place in np.flatnonzero(partners >= least):
        line = lines[int(place)]
        own = np.array(line.hashes[1:], dtype=np.uint16)
        more = state["ring_line_more"][..., : len(own)] == own
        runs = np.logical_and.accumulate(more, axis=2).sum(axis=2)
        # The longest likeness with any line of each prompt.
        run = np.where(equal[place], runs + 1, 0).max(axis=1)
        last = int(run[_partner(run)]) - 1
        found.append(_Shared(line.start, line.stops[last], LINE_WORDS[last]))
    return found


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
