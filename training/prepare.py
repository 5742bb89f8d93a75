"""From corpora to a workbench: compose, frame, encode."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from stillwatch.data.corpora import Source, read_corpora
from stillwatch.data.errors import InputError
from stillwatch.data.events import DEFAULT_INTENTS
from stillwatch.data.simulator.materials import OWN_SOURCES, split_folds
from stillwatch.model.bundle import Layout
from stillwatch.model.encoder import OnnxEncoder
from stillwatch.model.encoder_export import cached_encoder
from stillwatch.model.sentence import sha256_of
from stillwatch.model.templates import Template, embedding_text, load_library
from stillwatch.model.text import normalise
from stillwatch.training.benchmark.fold_tests import TestSet, compose_tests
from stillwatch.training.composition import all_materials, available_intents, compose_folds
from stillwatch.training.fit_heads import NgramTable
from stillwatch.training.framed import TextTable
from stillwatch.training.labelled import (
    check_classes,
    deal_groups,
    read_labelled_folders,
    stream_intents,
)
from stillwatch.training.settings import Settings
from stillwatch.training.vectors import VectorCache, VectorTable
from stillwatch.training.workbench import Workbench

Progress = Callable[[str], None]


def load_encoder(settings: Settings, threads: int, progress: Progress) -> tuple[OnnxEncoder, str]:
    """The encoder as it serves, so that training reads what serving will read, and a key of its
    model and tokenizer."""
    folder = cached_encoder(
        settings.encoder, "fp32" if settings.precision == "fp32" else "int8", progress
    )
    key = "\n".join(sha256_of(folder / name) for name in Layout.ENCODER)
    return OnnxEncoder(folder, threads=threads), key


def prepare(
    settings: Settings,
    corpora: Path | None,
    cache: Path,
    threads: int,
    progress: Progress,
    tests: list[int] | None = None,
) -> tuple[Workbench, OnnxEncoder, dict[int, TestSet]]:
    """Compose every fold's training streams and, the test streams of the folds in `tests`; encode
    all their texts."""
    settings.check()
    groups = read_labelled_folders([*map(Path, settings.labelled)], settings.intents)
    if groups:
        progress(f"labelled logs: {sum(map(len, groups)):,} accounts in {len(groups):,} groups")
    labelled = deal_groups(groups, settings.composition.folds)
    progress("reading the corpora")
    sources = _read_sources(settings, corpora)
    materials = all_materials(
        sources, settings.composition.hold_out, settings.wrappers, settings.intents
    )
    parts = split_folds(materials, settings.composition.folds)
    known = [
        {*available_intents(part, settings.intents), *stream_intents(own)}
        for part, own in zip(parts, labelled, strict=True)
    ]
    check_classes(settings.intents, known, settings.calibration_folds)
    table = TextTable()
    folds = compose_folds(
        materials, settings.intents, settings.composition, settings.seed, table, progress,
        settings.optimisation.longest, threads, labelled,
    )  # fmt: skip
    test_sets = compose_tests(materials, settings, table, progress, threads, tests or [])
    progress("counting n-grams")
    ngrams = NgramTable(table.texts, threads)
    # After composing and counting, whose processes are forked: an encoder has threads.
    encoder, digest = load_encoder(settings, threads, progress)
    vectors = encode_table(table, encoder, VectorCache(cache, digest), progress)
    library = tuple(
        template
        for path in (None, *map(Path, settings.templates))
        for template in load_library(path, (*DEFAULT_INTENTS, *settings.intents))
        if template.intent in settings.intents
    )
    bench = Workbench(
        settings, folds, table.texts, vectors, ngrams, library, library_vectors(library, encoder),
        progress,
    )  # fmt: skip
    return bench, encoder, test_sets


def _read_sources(settings: Settings, corpora: Path | None) -> tuple[Source, ...]:
    """The sources of every corpora folder; InputError if two have one name."""
    plan = settings.composition
    sources = [
        source
        for folder in (corpora, OWN_SOURCES, *map(Path, settings.more_corpora))
        for source in read_corpora(folder, plan.source_prompts, plan.prompt_chars)
    ]
    doubles = [name for name, count in Counter(s.name for s in sources).items() if count > 1]
    if doubles:
        raise InputError(
            f"sources of all corpora folders must have different names, however: {doubles[0]} "
            "stands twice; rename it in its manifest"
        )
    return tuple(sources)


def encode_table(
    table: TextTable, encoder: OnnxEncoder, store: VectorCache, progress: Progress
) -> VectorTable:
    """Vectors of all texts of the table, from the cache where they are known."""
    started = time.monotonic()

    def report(done: int, total: int) -> None:
        rate = done / max(time.monotonic() - started, 1e-6)
        progress(f"encoding: {done:,} of {total:,} texts and parts of them, {rate:.0f} a second")

    encoded = store.fill(table.texts, encoder, report)
    progress(f"encoded {encoded:,} texts and parts of them, the others were in the cache")
    return store.table(table.texts)


def library_vectors(library: tuple[Template, ...], encoder: OnnxEncoder) -> np.ndarray:
    """Unit vectors float32 (N, D) of the templates, slots left out."""
    texts = [normalise(embedding_text(template)) for template in library]
    return np.stack([item.vector for item in encoder.encode(texts)])
