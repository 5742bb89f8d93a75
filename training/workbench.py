"""All that a run has composed and encoded, and the fits made from it.

Everything that reads a text is fitted without the fold that it then reads (cross-fitting), so that
the sequence classifier learns from readings as unsure as those it will meet on new sources.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from stillwatch.model.heads import PLACES, class_names
from stillwatch.model.templates import BenignIndex, Template, TemplateIndex
from stillwatch.training.composition import Fold
from stillwatch.training.datamodule import StreamSet
from stillwatch.training.featurise import Readers, featurise
from stillwatch.training.fit_heads import NgramTable, benign_bank, collect_examples, fit_heads
from stillwatch.training.framed import FramedStreams
from stillwatch.training.settings import Settings
from stillwatch.training.vectors import VectorTable


def stream_targets(
    streams: FramedStreams, intents: list[str], longest: int | None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Intents of each stream float32 (S, I) and of each of its events float32 (T, I)."""
    matrix = streams.intent_matrix(intents)
    columns = {name: position for position, name in enumerate(intents)}
    events = np.zeros((len(streams.labels), len(intents)), dtype=np.float32)
    for row in np.flatnonzero(streams.attack):
        column = columns.get(str(streams.labels[row]))
        if column is not None:
            events[row, column] = 1
    parts = np.split(events, streams.offsets[1:-1])
    return matrix, [part[:longest] for part in parts]


@dataclass
class Workbench:
    """Folds of composed streams with the vectors of all their texts."""

    settings: Settings
    folds: list[Fold]
    texts: list[str]
    vectors: VectorTable
    library: tuple[Template, ...]
    library_vectors: np.ndarray
    progress: Callable[[str], None]
    _ngrams: NgramTable | None = None
    _readers: dict[tuple[int, ...], Readers] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        return class_names(tuple(self.settings.intents))

    @property
    def ngrams(self) -> NgramTable:
        if self._ngrams is None:
            self.progress("counting character n-grams")
            self._ngrams = NgramTable(self.texts)
        return self._ngrams

    def readers(self, fold_numbers: tuple[int, ...]) -> Readers:
        """Heads, templates and benign references that know these folds and no others."""
        known = self._readers.get(fold_numbers)
        if known is not None:
            return known
        self.progress(f"fitting heads on folds {', '.join(str(n + 1) for n in fold_numbers)}")
        sets = [self.folds[n].streams for n in fold_numbers]
        rng = np.random.default_rng([self.settings.seed, 23, *fold_numbers])
        most = self.settings.optimisation.head_examples
        examples = (
            collect_examples(sets, PLACES.index("frame"), self.classes, most, rng),
            collect_examples(sets, PLACES.index("slot"), self.classes, most, rng),
        )
        heads = fit_heads(examples, self.vectors, self.ngrams)
        families = frozenset().union(*(self.folds[n].families for n in fold_numbers))
        kept = [p for p, template in enumerate(self.library) if template.family in families]
        templates = TemplateIndex(tuple(self.library[p] for p in kept), self.library_vectors[kept])
        centres, origins = benign_bank(sets, self.vectors)
        found = Readers(heads, templates, BenignIndex(origins, centres))
        self._readers[fold_numbers] = found
        return found

    def stream_set(
        self, streams: FramedStreams, readers: Readers, longest: int | None = None
    ) -> StreamSet:
        """Streams as the classifier takes them."""
        intents = self.settings.intents
        features = featurise(streams, self.texts, self.vectors, readers, len(intents), longest)
        matrix, events = stream_targets(streams, intents, longest)
        return StreamSet(features, matrix, events)

    def training_set(self, fold_numbers: tuple[int, ...]) -> StreamSet:
        """Streams of these folds, each fold read by what was fitted on the others of them."""
        longest = self.settings.optimisation.longest
        parts = []
        for number in fold_numbers:
            others = tuple(n for n in fold_numbers if n != number)
            readers = self.readers(others)
            self.progress(f"features of fold {number + 1}")
            parts.append(self.stream_set(self.folds[number].streams, readers, longest))
        return StreamSet.join(parts)
