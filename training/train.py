"""Trains a detector and writes its bundle."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np

from stillwatch.data.files import atomic_writer
from stillwatch.model.bundle import Bundle, write_bundle
from stillwatch.model.encoder_export import golden_vectors
from stillwatch.model.export import classifier_difference, export_classifier
from stillwatch.model.features import feature_names
from stillwatch.training.card import model_card
from stillwatch.training.featurise import Readers
from stillwatch.training.fit_classifier import fit_classifier, stream_logits
from stillwatch.training.left_out import LeftOut, judge_left_out
from stillwatch.training.prepare import prepare
from stillwatch.training.settings import Settings
from stillwatch.training.workbench import Workbench

Progress = Callable[[str], None]
_VERSIONS = ("faiss-cpu", "lightning", "numpy", "onnx", "onnxruntime", "tokenizers", "torch")


def train(
    settings: Settings,
    corpora: Path | None,
    output: Path,
    run_folder: Path,
    cache: Path,
    threads: int,
    show_progress: bool,
    progress: Progress,
) -> Bundle:
    """Compose, encode, fit, calibrate on folds left out, train on all folds, export, write."""
    settings.check()
    run_folder.mkdir(parents=True, exist_ok=True)
    _check_resume(settings, run_folder)
    _write(run_folder / "config.yaml", settings.to_yaml())
    bench, encoder, _ = prepare(settings, corpora, cache, threads, progress)
    every = tuple(range(len(bench.folds)))

    left_out = _left_out_logits(bench, run_folder, show_progress)
    # Kept, so that thresholds can be looked at again without training.
    with atomic_writer(run_folder / "left_out.npz") as file:
        np.savez(
            file, **{f"{n}_{k}": v for n, own in left_out.items() for k, v in vars(own).items()}
        )
    calibration, thresholds, figures = judge_left_out(settings, left_out)
    progress(f"left-out folds: {figures}")

    streams = bench.training_set(every)
    progress("training the released classifier on all folds")
    classifier = fit_classifier(streams, settings, run_folder / "release", show_progress, seed=99)
    readers = bench.readers(every)
    progress("exporting and comparing with torch")
    model = export_classifier(classifier)
    sample = max(streams.features[:50], key=len)[None, :200].astype(np.float32)
    difference = classifier_difference(classifier, model, sample)
    progress(f"largest difference between ONNX and torch: {difference:.1e}")

    fields = {
        "intents": settings.intents,
        "classes": list(bench.classes),
        "features": list(feature_names(bench.classes, settings.intents)),
        "classifier_state": list(classifier.config.state_shape),
        "encoder": {
            "name": settings.encoder,
            "revision": encoder.spec.source_sha256,
            "dimensions": encoder.dimensions,
            "precision": encoder.spec.precision,
            "golden": golden_vectors(encoder),
        },
        "calibration": calibration.model_dump(),
        "thresholds": thresholds.model_dump(),
        "benign_sources": list(readers.benign.sources),
        "data_hash": bench.data_hash(),
        "settings": settings.to_fields(),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in _VERSIONS},
        },
    }
    card = model_card(settings, fields, figures)
    bundle = write_bundle(output, fields, detector_files(readers, model, card))
    _write(run_folder / "figures.json", json.dumps(figures, indent=1) + "\n")
    return bundle


def detector_files(readers: Readers, model: bytes, card: str) -> dict[str, bytes]:
    """The contents of a bundle's files, without the encoder's."""
    return {
        "classifier.onnx": model,
        "heads.safetensors": readers.heads.to_bytes(),
        "README.md": card.encode(),
        **readers.templates.to_files(),
        **readers.benign.to_files(),
    }


def _left_out_logits(bench: Workbench, run_folder: Path, show_progress: bool) -> dict[str, LeftOut]:
    """Left-out accounts read in two ways. new: nothing is known of their traffic. familiar: other
    ordinary traffic of the same kind is among the benign references, as after calibration."""
    count = len(bench.settings.intents)
    paths: dict[str, list[np.ndarray]] = {"new": [], "familiar": []}
    targets = []
    every = range(len(bench.folds))
    for number in range(bench.settings.calibration_folds):
        others = tuple(n for n in every if n != number)
        bench.progress(f"training without fold {number + 1}, to calibrate on it")
        folder = run_folder / f"without-{number + 1}"
        classifier = fit_classifier(
            bench.training_set(others), bench.settings, folder, show_progress, seed=number
        )
        streams = bench.folds[number].streams
        targets.append(streams.intent_matrix(bench.settings.intents))
        for name, familiar in (("new", None), ("familiar", number)):
            left_out = bench.stream_set(streams, bench.readers(others, familiar))
            paths[name] += stream_logits(classifier, left_out.features)
    return {
        name: LeftOut(
            np.array([path[-1, 0] for path in own]),
            np.array([path[:, 0].max() for path in own]),
            np.stack([path[-1, 1 : 1 + count] for path in own]),
            np.concatenate(targets),
        )
        for name, own in paths.items()
    }


def _check_resume(settings: Settings, run_folder: Path) -> None:
    """A run folder goes on only with the settings it began with."""
    from stillwatch.data.errors import ConfigError

    saved = run_folder / "config.yaml"
    if not saved.is_file():
        return
    import yaml

    if yaml.safe_load(saved.read_text(encoding="utf-8")) != settings.to_fields():
        raise ConfigError(
            f"a run must go on with the settings it began with, however: they differ from {saved}; "
            "name another --run folder or delete it"
        )


def _write(path: Path, text: str) -> None:
    with atomic_writer(path) as file:
        file.write(text.encode())
