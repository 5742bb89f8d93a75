"""Features of whole sets of streams, by the same `advance` that serves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stillwatch.model.features import EventFacts, advance, feature_state_fields
from stillwatch.model.heads import PLACES, IntentHeads
from stillwatch.model.signals import SignalLayout, text_signals
from stillwatch.model.templates import BenignIndex, TemplateIndex
from stillwatch.training.fit_heads import NgramTable
from stillwatch.training.framed import FramedStreams
from stillwatch.training.vectors import VectorTable

_CHUNK = 8192


@dataclass(frozen=True)
class Readers:
    """All that reads a single text: heads, templates, benign references."""

    heads: IntentHeads
    templates: TemplateIndex
    benign: BenignIndex


def signal_table(
    ids: np.ndarray,
    place: str,
    texts: list[str],
    vectors: VectorTable,
    ngrams: NgramTable,
    readers: Readers,
) -> tuple[np.ndarray, np.ndarray]:
    """Signals of the distinct texts among `ids` (-1 left out): rows float32 (U, width) and the
    position of each id in them, -1 kept, int64 like `ids`."""
    distinct = np.unique(ids[ids >= 0])
    layout = SignalLayout(readers.heads.class_count)
    rows = np.zeros((len(distinct), layout.width), dtype=np.float32)
    for start in range(0, len(distinct), _CHUNK):
        part = distinct[start : start + _CHUNK]
        rows[start : start + _CHUNK], _ = text_signals(
            [texts[i] for i in part], vectors.encoded(part), PLACES.index(place),
            readers.heads, readers.templates, readers.benign, [ngrams.chunks(i) for i in part],
        )  # fmt: skip
    positions = np.searchsorted(distinct, ids)
    return rows, np.where(ids >= 0, positions, -1)


def featurise(
    streams: FramedStreams,
    texts: list[str],
    vectors: VectorTable,
    ngrams: NgramTable,
    readers: Readers,
    intents: int,
    longest: int | None = None,
) -> list[np.ndarray]:
    """Features float16 (T, F) of each stream, its first `longest` events if that is given."""
    layout = SignalLayout(readers.heads.class_count)
    frame_rows, frame_at = signal_table(streams.frame_id, "frame", texts, vectors, ngrams, readers)
    slot_rows, slot_at = signal_table(streams.slot_id, "slot", texts, vectors, ngrams, readers)
    frame_rows = np.concatenate([frame_rows, np.zeros((1, layout.width), np.float32)])
    lengths = streams.lengths if longest is None else np.minimum(streams.lengths, longest)
    state = np.zeros(len(streams), dtype=feature_state_fields(layout.classes, intents))
    order = np.argsort(-lengths, kind="stable")
    state = state[order]
    ordered_lengths = lengths[order]
    features: np.ndarray | None = None
    ends = np.concatenate([[0], np.cumsum(lengths)])
    for step in range(int(lengths.max())):
        alive = int(np.searchsorted(-ordered_lengths, -step, side="left"))
        rows = streams.offsets[order[:alive]] + step
        facts = EventFacts(streams.times[rows], streams.frame_hash[rows], streams.scalars[rows])
        found = advance(
            state[:alive], frame_rows[frame_at[rows]], slot_rows[slot_at[rows]],
            facts, layout, intents,
        )  # fmt: skip
        if features is None:
            features = np.empty((int(lengths.sum()), found.shape[1]), dtype=np.float16)
        features[ends[order[:alive]] + step] = np.clip(found, -6e4, 6e4)
    assert features is not None
    return np.split(features, ends[1:-1])
