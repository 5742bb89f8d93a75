"""All that a run has composed and encoded, and the fits made from it.

Everything that reads a text is fitted without the fold that it then reads (cross-fitting), so that
the sequence classifier learns from readings as unsure as those it will meet on new sources.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from stillwatch.model.adapt import HeadExamples, adapt_heads
from stillwatch.model.heads import PLACES, IntentHeads, class_names
from stillwatch.model.templates import BenignIndex, Template, TemplateIndex
from stillwatch.training.composition import Fold
from stillwatch.training.datamodule import StreamSet
from stillwatch.training.featurise import Readers, featurise
from stillwatch.training.fit_heads import (
    NgramTable,
    benign_bank,
    collect_examples,
    fit_heads,
    sample_examples,
    site_texts,
)
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


@dataclass(frozen=True)
class HeadFit:
    """Heads, the sample of their examples that goes with them, and how many ordinary origins
    there were at each place."""

    heads: IntentHeads
    sample: tuple[HeadExamples, HeadExamples]
    origins: tuple[float, float]


@dataclass
class Workbench:
    """Folds of composed streams with the vectors of all their texts."""

    settings: Settings
    folds: list[Fold]
    texts: list[str]
    vectors: VectorTable
    ngrams: NgramTable
    library: tuple[Template, ...]
    library_vectors: np.ndarray
    progress: Callable[[str], None]
    _fits: dict[tuple[int, ...], HeadFit] = field(default_factory=dict)
    _readers: dict[tuple[tuple[int, ...], int | None], Readers] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        return class_names(tuple(self.settings.intents))

    def readers(self, fold_numbers: tuple[int, ...], familiar: int | None = None) -> Readers:
        """Heads, templates and benign references that know these folds and no others, save that
        they know ordinary traffic of the fold `familiar` too: a site that has calibrated, though
        no campaign on it is known."""
        key = (fold_numbers, familiar)
        known = self._readers.get(key)
        if known is not None:
            return known
        if familiar is not None:
            found = self.site_readers(fold_numbers, [self.folds[familiar].reference])
        else:
            heads = self.head_fit(fold_numbers).heads
            found = Readers(heads, self._templates(fold_numbers), self._bank(fold_numbers))
        self._readers[key] = found
        return found

    def site_readers(self, fold_numbers: tuple[int, ...], ordinary: list[FramedStreams]) -> Readers:
        """Readers that know these folds and a site's own ordinary accounts, as after
        `stillwatch calibrate`: they are among the benign references, and the heads are adapted to
        them."""
        plain, fit = self.readers(fold_numbers), self.head_fit(fold_numbers)
        centres, origins = benign_bank(ordinary, self.vectors)
        rng = np.random.default_rng([self.settings.seed, 29])
        frames, slots = (
            site_texts(ordinary, place, self.vectors, self.ngrams, salience, rng)
            for place, salience in enumerate(fit.heads.salience)
        )
        heads = adapt_heads(
            fit.heads, fit.sample, (frames, slots), fit.origins, len(self.settings.intents) + 1
        )
        references = BenignIndex(
            (*plain.benign.sources, *origins), np.concatenate([plain.benign.vectors(), centres])
        )
        return Readers(heads, plain.templates, references)

    def head_fit(self, fold_numbers: tuple[int, ...]) -> HeadFit:
        """The heads of these folds, fitted once."""
        known = self._fits.get(fold_numbers)
        if known is not None:
            return known
        self.progress(f"fitting heads on folds {', '.join(str(n + 1) for n in fold_numbers)}")
        sets = [self.folds[n].streams for n in fold_numbers]
        forms = [self.folds[n].forms for n in fold_numbers]
        rng = np.random.default_rng([self.settings.seed, 23, *fold_numbers])
        most = self.settings.optimisation.head_examples
        intents = len(self.settings.intents)
        frames, slots = (
            collect_examples(sets, place, self.classes, most, rng, forms)
            for place in range(len(PLACES))
        )
        heads = fit_heads((frames, slots), self.vectors, self.ngrams)
        sample = tuple(
            sample_examples(own, place, intents, self.vectors, self.ngrams, salience, rng)
            for place, (own, salience) in enumerate(
                zip((frames, slots), heads.salience, strict=True)
            )
        )
        origins = (frames.ordinary_origins, slots.ordinary_origins)
        found = HeadFit(heads, (sample[0], sample[1]), origins)
        self._fits[fold_numbers] = found
        return found

    def _templates(self, fold_numbers: tuple[int, ...]) -> TemplateIndex:
        families = {family for n in fold_numbers for family in self.folds[n].families}
        kept = [p for p, template in enumerate(self.library) if template.family in families]
        return TemplateIndex([self.library[p] for p in kept], self.library_vectors[kept])

    def _bank(self, fold_numbers: tuple[int, ...]) -> BenignIndex:
        centres, origins = benign_bank(
            [self.folds[n].reference for n in fold_numbers], self.vectors
        )
        return BenignIndex(origins, centres)

    def data_hash(self) -> str:
        """SHA-256 over all that is learnt from: texts, composed and labelled streams, library."""
        digest = hashlib.sha256()
        for text in self.texts:
            digest.update(text.encode("utf-8", "replace") + b"\0")
        for fold in self.folds:
            for streams in (fold.streams, fold.reference):
                for array in (streams.offsets, streams.frame_id, streams.slot_id, streams.scalars):
                    digest.update(np.ascontiguousarray(array).data)
                digest.update(repr((streams.intents, streams.labels.tolist())).encode())
            digest.update(fold.forms.text_id.data)
            digest.update(repr((fold.forms.labels, fold.forms.forms)).encode())
        digest.update(repr(self.library).encode("utf-8", "replace"))
        return digest.hexdigest()

    def stream_set(
        self, streams: FramedStreams, readers: Readers, longest: int | None = None
    ) -> StreamSet:
        """Streams as the classifier takes them."""
        intents = self.settings.intents
        features = featurise(
            streams, self.texts, self.vectors, self.ngrams, readers, len(intents), longest
        )
        matrix, events = stream_targets(streams, intents, longest)
        return StreamSet(features, matrix, events)

    def training_set(self, fold_numbers: tuple[int, ...]) -> StreamSet:
        """Streams of these folds, each fold read by what was fitted on the others of them: once
        as traffic of which nothing is known, once with its ordinary traffic among the benign
        references."""
        longest = self.settings.optimisation.longest
        parts = []
        for number in fold_numbers:
            others = tuple(n for n in fold_numbers if n != number)
            for familiar in (None, number):
                readers = self.readers(others, familiar)
                self.progress(f"features of fold {number + 1}")
                parts.append(self.stream_set(self.folds[number].streams, readers, longest))
        return StreamSet.join(parts)
