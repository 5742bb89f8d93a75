"""From signals of an event and the account's state to the features that the classifier reads.

One function, `advance`, serves training, batch scoring and the service. It works on many accounts
at once, one event each; an account's numbers do not depend on its neighbours. The state is a
record of fixed size; nothing in it is text.

Axis letters: B accounts, C classes, I intents, P dimensions of the projection, F features.
"""

from __future__ import annotations

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
_EMA_DECAY = np.float32(1 - 1 / 16)
_HOUR_S, _DAY_S = 3600.0, 86400.0
_FRAME_RING = 8


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


def event_scalars(event: Event, split: Split, text: str) -> list[float]:
    """The values named by SCALARS, for one event."""
    total = split.frame_words + split.slot_words
    latin = 1.0 if text.isascii() else scripts(text[:SCRIPT_CHARS]).get("latin", 0.0)
    return [
        float(split.frame_words > 0),
        float(bool(event.system)),
        float(split.repeat),
        np.log1p(split.frame_words),
        np.log1p(split.slot_words),
        split.frame_words / total if total else 0.0,
        float(event.temperature is not None),
        min(max(event.temperature or 0.0, 0.0), 2.0),
        np.log1p(max((event.n or 1) - 1, 0)),
        float(bool(event.logprobs)),
        np.log1p(max(event.max_tokens or 0, 0)) / 8.0,
        np.log1p(len(event.turns)),
        latin,
    ]


def feature_names(class_names: Sequence[str], intents: Sequence[str]) -> tuple[str, ...]:
    """Names of the F features, in order."""
    places = [
        f"{place}.{kind}.{name}"
        for place in ("frame", "slot")
        for kind in ("dense", "ngram")
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

    frame_logits = np.concatenate([frame[:, layout.dense], frame[:, layout.lexical]], axis=1)
    slot_logits = np.concatenate([slot[:, layout.dense], slot[:, layout.lexical]], axis=1)
    asked = np.where(has_frame[:, None], frame_logits, slot_logits)
    logits = np.concatenate([asked, slot_logits], axis=1)
    rate = 1 / count[:, None]
    state["logit_mean"] += (logits - state["logit_mean"]) * rate
    state["logit_square"] += (logits**2 - state["logit_square"]) * rate
    ema_rate = np.maximum(rate, 1 - _EMA_DECAY)
    state["logit_ema"] += (logits - state["logit_ema"]) * ema_rate
    spread = np.sqrt(np.maximum(state["logit_square"] - state["logit_mean"] ** 2, 0))

    # (B, READINGS, dense and n-grams, C); any intent stands next to the intents.
    by_kind = logits.reshape(len(state), len(READINGS), 2, layout.classes)
    evidence = by_kind[:, :, :, : intents + 1].mean(axis=2).reshape(len(state), -1)
    tops = _update_tops(state, evidence, first)
    similar = np.stack(
        [frame[:, layout.template], frame[:, layout.benign],
         slot[:, layout.template], slot[:, layout.benign]], axis=1,
    )  # fmt: skip
    state["similar_mean"] += (similar - state["similar_mean"]) * rate

    past = _update_past(state, slot[:, layout.projection], first)
    frames = _update_frames(state, facts.frame_hash, scalars, count)
    timing = _update_timing(state, facts.times, first, count)
    latin = scalars[:, SCALARS.index("latin_share")]
    latin_change = np.abs(latin - state["latin_mean"]) * ~first
    state["latin_mean"] += (latin - state["latin_mean"]) / count

    return np.concatenate(
        [
            scalars, frame_logits, slot_logits, similar,
            state["logit_mean"], spread, state["logit_ema"], tops,
            state["similar_mean"], past, frames, timing,
            state["latin_mean"][:, None], latin_change[:, None],
        ],
        axis=1,
        dtype=np.float32,
    )  # fmt: skip


def _update_tops(state: np.ndarray, evidence: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Running largest evidence for each intent, and any, in each reading: features (B, 8I + 8)."""
    top = state["top"]
    top[first] = -6.0
    merged = np.sort(np.concatenate([top, evidence[:, :, None]], axis=2), axis=2)[:, :, 1:]
    state["top"] = merged
    state["strong_count"] += (evidence > 0).astype(np.uint32)
    share = state["strong_count"] / state["events"].astype(np.float32)[:, None]
    return np.concatenate(
        [merged[:, :, -1], merged[:, :, -3:].mean(axis=2), merged.mean(axis=2), share], axis=1
    )


def _update_past(state: np.ndarray, projected: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Similarity of the slot to the account's own past: features (B, 3)."""
    norm = np.linalg.norm(projected, axis=1, keepdims=True)
    unit = projected / np.maximum(norm, 1e-6)
    ring = state["slot_ring"].astype(np.float32)
    remembered = np.minimum(state["events"].astype(np.int64) - 1, RING)
    known = np.arange(RING) < remembered[:, None]
    similarity = np.where(known, np.einsum("brp,bp->br", ring, unit), -1.0)
    nearest = np.where(first, 0.0, similarity.max(axis=1))
    mean_norm = np.linalg.norm(state["slot_mean"], axis=1)
    to_mean = np.einsum("bp,bp->b", state["slot_mean"], unit) / np.maximum(mean_norm, 1e-6)
    to_mean = np.where(first, 0.0, to_mean)
    state["slot_mean"] += (unit - state["slot_mean"]) / state["events"].astype(np.float32)[:, None]
    concentration = np.linalg.norm(state["slot_mean"], axis=1)
    position = (state["events"].astype(np.int64) - 1) % RING
    rows = np.arange(len(state))
    state["slot_ring"][rows, position] = unit
    return np.stack([nearest, to_mean, concentration], axis=1)


def _update_frames(
    state: np.ndarray, frame_hash: np.ndarray, scalars: np.ndarray, count: np.ndarray
) -> np.ndarray:
    """How often and how variously the account uses frames: features (B, 4)."""
    present = frame_hash != 0
    known = present & (state["frame_ring"] == frame_hash[:, None]).any(axis=1)
    fresh = present & ~known
    rows = np.flatnonzero(fresh)
    position = state["frame_next"][rows].astype(np.int64)
    state["frame_ring"][rows, position] = frame_hash[rows]
    state["frame_next"][rows] = (position + 1) % _FRAME_RING
    state["frames_new"] += fresh
    state["framed"] += present
    state["repeats"] += scalars[:, SCALARS.index("repeat")].astype(np.uint32)
    return np.stack(
        [known, state["frames_new"] / count, state["framed"] / count, state["repeats"] / count],
        axis=1,
    )


def _update_timing(
    state: np.ndarray, times: np.ndarray, first: np.ndarray, count: np.ndarray
) -> np.ndarray:
    """Pace of the stream: features (B, 7)."""
    late_s = np.where(first, 0.0, np.maximum(state["last_time"] - times, 0.0))
    gap_s = np.where(first, 0.0, np.maximum(times - state["last_time"], 0.0))
    state["last_time"] = np.where(first, times, np.maximum(times, state["last_time"]))
    gap_log = np.where(first, 0.0, np.log1p(gap_s)).astype(np.float32)
    # What comes late tells nothing of the pace.
    still = first | (late_s > 0)
    rate = np.where(still, 0.0, np.maximum(1 / np.maximum(count - 1, 1), 1 / 64))
    state["gap_mean"] += (gap_log - state["gap_mean"]) * rate
    state["gap_square"] += (gap_log**2 - state["gap_square"]) * rate
    spread = np.sqrt(np.maximum(state["gap_square"] - state["gap_mean"] ** 2, 0))
    state["hour_count"] = state["hour_count"] * np.exp(-gap_s / _HOUR_S) + np.exp(-late_s / _HOUR_S)
    state["day_count"] = state["day_count"] * np.exp(-gap_s / _DAY_S) + np.exp(-late_s / _DAY_S)
    hour = ((times % _DAY_S) // _HOUR_S).astype(np.uint32)
    state["hours_seen"] |= np.left_shift(np.uint32(1), hour)
    hours_share = np.bitwise_count(state["hours_seen"]) / 24
    return np.stack(
        [np.log1p(count), gap_log / 10, state["gap_mean"] / 10, spread,
         np.log1p(state["hour_count"]), np.log1p(state["day_count"]), hours_share],
        axis=1,
    )  # fmt: skip
