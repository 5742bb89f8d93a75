"""What one text says by itself: logits of the heads, nearest template, nearest benign reference.

Signals depend on the text and its place alone, so that they are computed once for each distinct
text and kept. Axis letters: N texts, C classes, P dimensions of the projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stillwatch.model.encoder import TextVectors
from stillwatch.model.heads import PLACES, PROJECTION, IntentHeads
from stillwatch.model.lexical import ngram_chunks
from stillwatch.model.templates import BenignIndex, TemplateIndex


@dataclass(frozen=True, slots=True)
class SignalLayout:
    """Columns of a signal row, which is float32 (P + 2C + 2,); nobody reads a frame's `dense`."""

    classes: int

    @property
    def projection(self) -> slice:
        return slice(0, PROJECTION)

    @property
    def dense(self) -> slice:
        return slice(PROJECTION, PROJECTION + self.classes)

    @property
    def lexical(self) -> slice:
        return slice(PROJECTION + self.classes, PROJECTION + 2 * self.classes)

    @property
    def template(self) -> int:
        return PROJECTION + 2 * self.classes

    @property
    def benign(self) -> int:
        return self.template + 1

    @property
    def width(self) -> int:
        return self.benign + 1


def text_signals(
    texts: Sequence[str],
    encoded: Sequence[TextVectors],
    place: int,
    heads: IntentHeads,
    templates: TemplateIndex,
    benign: BenignIndex,
    chunks: Sequence[list[np.ndarray]] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Signals of normalised texts: rows float32 (N, layout.width), nearest template int32 (N,).

    A text of several windows takes the logits of the window that reads most like any intent, and
    the nearest template over its windows: the payload may stand in any of them. `chunks` are the
    texts' `ngram_chunks` where they have been counted before.
    """
    layout = SignalLayout(heads.class_count)
    rows = np.zeros((len(texts), layout.width), dtype=np.float32)
    nearest = np.full(len(texts), -1, dtype=np.int32)
    if not texts:
        return rows, nearest
    counts = np.array([len(item.windows) for item in encoded])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    windows = np.concatenate([item.windows for item in encoded]).astype(np.float32, copy=False)
    means = np.stack([item.vector for item in encoded])

    rows[:, layout.projection] = means @ heads.projection
    if PLACES[place] == "slot":
        for position, own in enumerate(np.split(heads.dense_logits(windows), starts[1:])):
            rows[position, layout.dense] = own[np.argmax(own[:, heads.any_intent])]
    for position, text in enumerate(texts):
        stretches = ngram_chunks(text) if chunks is None else chunks[position]
        rows[position, layout.lexical] = heads.lexical_logits(stretches, place)

    similarity, index = (found[:, 0] for found in templates.search(windows, 1))
    rows[:, layout.template] = np.maximum.reduceat(similarity, starts)
    for position, (start, count) in enumerate(zip(starts, counts, strict=True)):
        nearest[position] = index[start + int(np.argmax(similarity[start : start + count]))]
    rows[:, layout.benign] = benign.search(means, 1)[0][:, 0]
    return rows, nearest
