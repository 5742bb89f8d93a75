"""A tiny deterministic encoder and a bundle around it, so that scoring is tested without
weights that take time to load."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch

from stillwatch.data.events import Event
from stillwatch.model.adapt import HeadExamples, HeadTexts, examples_to_bytes, ngram_rows
from stillwatch.model.bundle import Bundle, write_bundle
from stillwatch.model.classifier import Classifier, ClassifierConfig
from stillwatch.model.detector import Detector
from stillwatch.model.encoder import TextVectors
from stillwatch.model.export import export_classifier
from stillwatch.model.features import feature_names
from stillwatch.model.golden import with_golden
from stillwatch.model.heads import IntentHeads, class_names, projection_matrix
from stillwatch.model.lexical import BUCKETS
from stillwatch.model.templates import BenignIndex, Template, TemplateIndex
from stillwatch.serving.scorer import Scorer
from stillwatch.serving.stores.base import StateStore

INTENTS = ("capability_probing", "cot_harvesting", "output_harvesting")
DIMENSIONS = 96
WINDOW_WORDS = 40


class TinyEncoder:
    """Sums a fixed random vector for each word; windows of WINDOW_WORDS words."""

    name = "tiny"
    dimensions = DIMENSIONS

    def __init__(self, max_windows: int = 8) -> None:
        self.max_windows = max_windows
        self.encoded = 0

    def encode(self, texts: Sequence[str]) -> list[TextVectors]:
        self.encoded += len(texts)
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> TextVectors:
        words = text.lower().split() or [""]
        cut = [words[i : i + WINDOW_WORDS] for i in range(0, len(words), WINDOW_WORDS)]
        windows = []
        for part in cut[: self.max_windows]:
            total = np.zeros(DIMENSIONS)
            for word in part:
                seed = zlib.crc32(word.encode("utf-8", "replace"))
                total += np.random.default_rng(seed).standard_normal(DIMENSIONS)
            windows.append(total / np.linalg.norm(total))
        return TextVectors(
            np.asarray(windows, dtype=np.float32), len(words), len(cut) > self.max_windows
        )


@cache
def _classifier(features: int, seed: int) -> tuple[tuple[int, ...], bytes]:
    """State shape and export of a classifier with random weights; an export takes seconds."""
    torch.manual_seed(seed)
    classifier = Classifier(ClassifierConfig(features, len(INTENTS), width=16, key=4))
    return classifier.config.state_shape, export_classifier(classifier)


def _examples(rng: np.random.Generator, dimensions: int, count: int = 24) -> HeadExamples:
    """Examples of every class with vectors of random texts."""
    classes = len(class_names(INTENTS))
    vectors = rng.normal(size=(count, dimensions)).astype(np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    bags = [np.unique(rng.integers(0, BUCKETS, 30)) for _ in range(count)]
    rows = ngram_rows(bags, np.ones(BUCKETS, np.float16))
    target = np.eye(classes, dtype=np.float32)[np.arange(count) % classes]
    target[:, len(INTENTS)] = target[:, : len(INTENTS)].max(axis=1)
    return HeadExamples(HeadTexts(vectors, rows, np.ones(count, np.float32)), target)


def tiny_bundle(
    folder: Path, enter: float = 0.5, leave: float = 0.4, seed: int = 0, offset: float = 0.0
) -> Bundle:
    """A bundle with random weights for TinyEncoder, every logit moved by `offset`."""
    rng = np.random.default_rng(seed)
    classes = class_names(INTENTS)
    features = feature_names(classes, INTENTS)
    state_shape, classifier = _classifier(len(features), seed)
    heads = IntentHeads(
        rng.normal(size=(DIMENSIONS, len(classes))).astype(np.float32),
        np.zeros(len(classes), np.float32),
        # Drawn once for many buckets: to draw millions of numbers takes long.
        np.tile(rng.normal(size=(2, 4096, len(classes))).astype(np.float16), (1, BUCKETS >> 12, 1)),
        np.zeros((2, len(classes)), np.float32),
        np.ones((2, BUCKETS), np.float16),
        projection_matrix(DIMENSIONS),
    )
    encoder = TinyEncoder()
    texts = ["Put your reasoning into tags", "Answer with the letter only", "Write pairs as JSON"]
    templates = tuple(
        Template(f"T{i}", "cot_tags", INTENTS[i], "en", text, "stillwatch", "2026-03-01", None)
        for i, text in enumerate(texts)
    )
    vectors = np.stack([item.vector for item in encoder.encode(texts)])
    benign = encoder.encode(["Where is my parcel", "Translate this letter"])
    content = {
        "classifier.onnx": classifier,
        "heads.safetensors": heads.to_bytes(),
        "examples.safetensors": examples_to_bytes(
            (_examples(rng, 0), _examples(rng, DIMENSIONS)), heads
        ),
        "README.md": b"# A test bundle\n",
        **TemplateIndex(templates, vectors).to_files(),
        **BenignIndex(("shop", "office"), np.stack([b.vector for b in benign])).to_files(),
    }
    fields = {
        "intents": list(INTENTS),
        "classes": list(classes),
        "features": list(features),
        "classifier_state": list(state_shape),
        "encoder": {
            "name": "tiny", "revision": "0", "dimensions": DIMENSIONS, "precision": "fp32",
            "golden": [],
        },
        "calibration": {
            "risk": {"slope": 1.0, "offset": offset},
            "intents": [{"slope": 1.0, "offset": offset}] * len(INTENTS),
        },
        "thresholds": {
            "enter": enter, "leave": leave, "max_fpr": 0.01, "ordinary_accounts": 10,
            "origin": "a test",
        },
        "benign_sources": ["shop", "office"],
        "head_origins": [5.0, 5.0],
        "data_hash": "0",
        "settings": {},
        "versions": {},
    }  # fmt: skip
    return write_bundle(folder, with_golden(fields, content, TinyEncoder()), content)


def tiny_scorer(bundle: Bundle, store: StateStore | None = None) -> Scorer:
    """A scorer of a tiny bundle, with a signal cache of its own."""
    return Scorer(Detector(bundle, TinyEncoder()), store)


def make_events(accounts: int = 5, each: int = 20, seed: int = 0) -> list[Event]:
    """Interleaved events in time order: some accounts under a frame, some repeating themselves,
    some with a system prompt."""
    rng = np.random.default_rng(seed)
    vocabulary = [f"word{i}" for i in range(300)]
    events = []
    for position in range(accounts * each):
        account = position % accounts
        words = " ".join(rng.choice(vocabulary, int(rng.integers(3, 60))))
        prompt = words
        if account % 3 == 1:
            prompt = f"Please solve the following with care and in order: {words} Show all steps."
        if account % 3 == 2 and rng.random() < 0.3:
            prompt = "the same question again and again"
        system = "You answer briefly." if account % 4 == 3 else ""
        events.append(
            Event(f"e{position}", f"a{account}", 1.7e9 + position * 37.0, prompt, system=system)
        )
    return events
