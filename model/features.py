"""From signals of an event and the account's state to the features that the classifier reads.

One function, `advance`, serves training, batch scoring and the service. It works on many accounts
at once, one event each; an account's numbers do not depend on its neighbours. The state is a
record of fixed size; nothing in it is text.

Axis letters: B accounts, C classes, I intents, P dimensions of the projection, F features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stillwatch.data.events import Event
from stillwatch.model.framing import FRAMING_STATE, RING, Split
from stillwatch.model.heads import ANY_INTENT, PROJECTION
from stillwatch.model.signals import SignalLayout
from stillwatch.model.text import scripts

TOP = 8
"""Strongest evidence values kept for each intent and reading."""
READINGS = ("asked", "slot")
"""Running statistics are kept of what is asked for, which is the frame's reading and, where there
is no frame, that of the whole prompt; and of the slot's, which has all where there is no frame."""
SCRIPT_CHARS = 128
"""The beginning of a prompt from which its script is told."""
_NO_EVIDENCE = np.float32(-6)
_EMA_DECAY = np.float32(1 - 1 / 16)
_HOUR_S, _DAY_S = 3600.0, 86400.0
_FRAME_RING = 8
_RING_PLACES = np.arange(RING)


def feature_state_fields(classes: int, intents: int) -> list[tuple[Any, ...]]:
    """Fields of one account's record, for numpy.dtype."""
    return [
        *FRAMING_STATE,
        ("events", "<u4"),
        ("repeats", "<u4"),
        ("framed", "<u4"),
        ("last_time", "<f8"),
        ("hour_count", "<f4"),
        ("day_count", "<f4"),
        ("gap_mean", "<f4"),
        ("gap_square", "<f4"),
        ("hours_seen", "<u4"),
        ("slot_ring", "<f2", (RING, PROJECTION)),
        ("slot_mean", "<f4", (PROJECTION,)),
        ("frame_ring", "<u4", (_FRAME_RING,)),
        ("frame_next", "u1"),
        ("frames_new", "<u4"),
        ("logit_mean", "<f4", (4 * classes,)),
        ("logit_square", "<f4", (4 * classes,)),
        ("logit_ema", "<f4", (4 * classes,)),
        ("strong_count", "<u4", (2 * (intents + 1),)),
        ("top", "<f4", (2 * (intents + 1), TOP)),
        ("similar_mean", "<f4", (4,)),
        ("latin_mean", "<f4"),
    ]


@dataclass(frozen=True, slots=True)
class EventFacts:
    """What an event tells beside its texts. One row an event, B of them."""

    times: np.ndarray
    """float64 (B,), seconds since the epoch."""
    frame_hash: np.ndarray
    """uint32 (B,), 0 where there is no frame and no system prompt."""
    scalars: np.ndarray
    """float32 (B, len(SCALARS))."""


SCALARS = (
    "has_frame",
    "has_system",
    "repeat",
    "frame_words_log",
    "slot_words_log",
    "frame_share",
    "temperature_given",
    "temperature",
    "n_log",
    "logprobs",
    "max_tokens_log",
    "turns_log",
    "latin_share",
)

_REPEAT, _LATIN = SCALARS.index("repeat"), SCALARS.index("latin_share")


def event_scalars(event: Event, split: Split, text: str) -> list[float]:
    """The values named by SCALARS, for one event."""
    total = split.frame_words + split.slot_words
    latin = 1.0 if text.isascii() else scripts(text[:SCRIPT_CHARS]).get("latin", 0.0)
    return [
        float(split.frame_words > 0),
        float(bool(event.system)),
        float(split.repeat),
        math.log1p(split.frame_words),
        math.log1p(split.slot_words),
        split.frame_words / total if total else 0.0,
        float(event.temperature is not None),
        min(max(event.temperature or 0.0, 0.0), 2.0),
        math.log1p(max((event.n or 1) - 1, 0)),
        float(bool(event.logprobs)),
        math.log1p(max(event.max_tokens or 0, 0)) / 8.0,
        math.log1p(len(event.turns)),
        latin,
    ]


def feature_names(class_names: Sequence[str], intents: Sequence[str]) -> tuple[str, ...]:
    """Names of the F features, in order."""
    places = [
        f"{place}.{name}"
        for place in ("frame.ngram", "slot.dense", "slot.ngram")
        for name in class_names
    ]
    mixed = [
        f"{reading}.{kind}.{name}"
        for reading in READINGS
        for kind in ("dense", "ngram")
        for name in class_names
    ]
    evidence = [f"{reading}.{name}" for reading in READINGS for name in (*intents, ANY_INTENT)]
    return (
        *SCALARS,
        *places,
        "frame.template", "frame.benign", "slot.template", "slot.benign",
        *[f"mean.{name}" for name in mixed],
        *[f"spread.{name}" for name in mixed],
        *[f"recent.{name}" for name in mixed],
        *[f"{stat}.{name}" for stat in ("top1", "top3", "top8", "strong_share")
          for name in evidence],
        "mean.frame.template", "mean.frame.benign", "mean.slot.template", "mean.slot.benign",
        "past.nearest", "past.mean", "past.concentration",
        "frame_known", "frames_new_share", "framed_share", "repeat_share",
        "events_log", "gap_log", "gap_mean", "gap_spread", "hour_count_log", "day_count_log",
        "hours_share", "latin_mean", "latin_change",
    )  # fmt: skip


def advance(
    state: np.ndarray,
    frame: np.ndarray,
    slot: np.ndarray,
    facts: EventFacts,
    layout: SignalLayout,
    intents: int,
) -> np.ndarray:
    """One event for each of B accounts: changes `state` in place, returns features float32 (B, F).

    `state` is a structured array (B,) with `feature_state_fields`; `frame` and `slot` are signal
    rows float32 (B, layout.width), all zero where an event has no frame. An event older than the
    latest changes nothing of the gaps, and counts in the last hour and day as it would have there.
    """
    scalars = facts.scalars
    first = state["events"] == 0
    state["events"] += 1
    count = state["events"].astype(np.float32)
    has_frame = facts.frame_hash != 0

    # Dense and n-gram logits stand side by side, and so do the two similarities. Of a frame, which
    # has no dense ones, the n-grams speak for both.
    both = slice(layout.dense.start, layout.lexical.stop)
    nearest = slice(layout.template, layout.benign + 1)
    frame_logits, slot_logits = frame[:, layout.lexical], slot[:, both]
    asked = np.where(has_frame[:, None], np.tile(frame_logits, 2), slot_logits)
    logits = np.concatenate([asked, slot_logits], axis=1)
    rate = 1 / count[:, None]
    logit_mean = _moved(state, "logit_mean", logits, rate)
    logit_square = _moved(state, "logit_square", logits * logits, rate)
    logit_ema = _moved(state, "logit_ema", logits, np.maximum(rate, 1 - _EMA_DECAY))
    spread = np.sqrt(np.maximum(logit_square - logit_mean * logit_mean, 0))

    # (B, READINGS, dense and n-grams, C); any intent stands next to the intents.
    by_kind = logits.reshape(len(state), len(READINGS), 2, layout.classes)[..., : intents + 1]
    evidence = ((by_kind[:, :, 0] + by_kind[:, :, 1]) / 2).reshape(len(state), -1)
    tops = _update_tops(state, evidence, first)
    similar = np.concatenate([frame[:, nearest], slot[:, nearest]], axis=1)
    similar_mean = _moved(state, "similar_mean", similar, rate)

    past = _update_past(state, slot[:, layout.projection], first)
    frames = _update_frames(state, facts.frame_hash, scalars, count)
    timing = _update_timing(state, facts.times, first, count)
    latin, latin_mean = scalars[:, _LATIN], state["latin_mean"]
    latin_change = np.abs(latin - latin_mean) * ~first
    latin_mean += (latin - latin_mean) / count

    return np.concatenate(
        [
            scalars, frame_logits, slot_logits, similar,
            logit_mean, spread, logit_ema, tops, similar_mean, past, frames, timing,
            latin_mean[:, None], latin_change[:, None],
        ],
        axis=1,
        dtype=np.float32,
    )  # fmt: skip


def _moved(state: np.ndarray, name: str, values: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Moves a running mean towards `values` (B, N) by `rate` (B, 1); returns it."""
    mean = state[name]
    mean = mean + (values - mean) * rate
    state[name] = mean
    return mean


def _update_tops(state: np.ndarray, evidence: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Running largest evidence for each intent, and any, in each reading: features (B, 8I + 8)."""
    top = np.where(first[:, None, None], _NO_EVIDENCE, state["top"])
    merged = np.concatenate([top, evidence[:, :, None]], axis=2)
    merged.sort(axis=2)
    merged = merged[:, :, 1:]
    state["top"] = merged
    strong = state["strong_count"] + (evidence > 0)
    state["strong_count"] = strong
    share = strong / state["events"].astype(np.float32)[:, None]
    top3 = np.add.reduce(merged[:, :, -3:], axis=2) / 3
    return np.concatenate(
        [merged[:, :, -1], top3, np.add.reduce(merged, axis=2) / TOP, share], axis=1
    )


def _update_past(state: np.ndarray, projected: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Similarity of the slot to the account's own past: features (B, 3)."""
    events = state["events"]
    before = events.astype(np.int64) - 1
    unit = projected / np.maximum(_norm(projected)[:, None], 1e-6)
    ring, mean = state["slot_ring"], state["slot_mean"]
    known = before[:, None] > _RING_PLACES
    similarity = np.einsum("brp,bp->br", ring.astype(np.float32), unit)
    similarity[~known] = -1.0
    nearest = np.maximum.reduce(similarity, axis=1)
    to_mean = np.einsum("bp,bp->b", mean, unit) / np.maximum(_norm(mean), 1e-6)
    nearest[first] = to_mean[first] = 0.0
    mean = mean + (unit - mean) / events.astype(np.float32)[:, None]
    state["slot_mean"] = mean
    ring[np.arange(len(state)), before % RING] = unit
    return np.array([nearest, to_mean, _norm(mean)]).T


def _norm(rows: np.ndarray) -> np.ndarray:
    """Length of each row of (B, P)."""
    return np.asarray(np.sqrt(np.add.reduce(rows * rows, axis=1)))


def _update_frames(
    state: np.ndarray, frame_hash: np.ndarray, scalars: np.ndarray, count: np.ndarray
) -> np.ndarray:
    """How often and how variously the account uses frames: features (B, 4)."""
    present = frame_hash != 0
    known = present & (state["frame_ring"] == frame_hash[:, None]).any(axis=1)
    fresh = present & ~known
    if fresh.any():
        rows = np.flatnonzero(fresh)
        position = state["frame_next"][rows].astype(np.int64)
        state["frame_ring"][rows, position] = frame_hash[rows]
        state["frame_next"][rows] = (position + 1) % _FRAME_RING
    frames_new, framed, repeats = state["frames_new"], state["framed"], state["repeats"]
    frames_new += fresh
    framed += present
    repeats += scalars[:, _REPEAT].astype(np.uint32)
    return np.array([known, frames_new / count, framed / count, repeats / count]).T


def _update_timing(
    state: np.ndarray, times: np.ndarray, first: np.ndarray, count: np.ndarray
) -> np.ndarray:
    """Pace of the stream: features (B, 7)."""
    last = state["last_time"].copy()
    last[first] = times[first]
    late_s, gap_s = np.maximum(last - times, 0.0), np.maximum(times - last, 0.0)
    state["last_time"] = np.maximum(times, last)
    gap_log = np.log1p(gap_s).astype(np.float32)
    rate = np.maximum(1 / np.maximum(count - 1, 1), 1 / 64)
    # What comes late tells nothing of the pace.
    rate[first | (late_s > 0)] = 0.0
    gap_mean, gap_square = state["gap_mean"], state["gap_square"]
    gap_mean += (gap_log - gap_mean) * rate
    gap_square += (gap_log * gap_log - gap_square) * rate
    spread = np.sqrt(np.maximum(gap_square - gap_mean * gap_mean, 0))
    hour_count, day_count = state["hour_count"], state["day_count"]
    hour_count[:] = hour_count * np.exp(-gap_s / _HOUR_S) + np.exp(-late_s / _HOUR_S)
    day_count[:] = day_count * np.exp(-gap_s / _DAY_S) + np.exp(-late_s / _DAY_S)
    hour = ((times % _DAY_S) // _HOUR_S).astype(np.uint32)
    hours_seen = state["hours_seen"]
    hours_seen |= np.left_shift(np.uint32(1), hour)
    hours_share = np.bitwise_count(hours_seen) / 24
    return np.array(
        [np.log1p(count), gap_log / 10, gap_mean / 10, spread,
         np.log1p(hour_count), np.log1p(day_count), hours_share],
    ).T  # fmt: skip
