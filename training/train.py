"""Trains a detector and writes its bundle."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np

from stillwatch.model.bundle import Bundle, Thresholds, write_bundle
from stillwatch.model.encoder_export import golden_vectors
from stillwatch.model.export import classifier_difference, export_classifier
from stillwatch.model.features import feature_names
from stillwatch.model.thresholds import leave_threshold
from stillwatch.training.calibration import fit_calibration
from stillwatch.training.card import model_card
from stillwatch.training.composition import materials_hash
from stillwatch.training.featurise import Readers
from stillwatch.training.fit_classifier import fit_classifier, stream_logits
from stillwatch.training.metrics import recall_at, threshold_at
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
    settings.save(run_folder / "config.yaml")
    bench, materials, encoder, _ = prepare(settings, corpora, cache, threads, progress)
    every = tuple(range(len(bench.folds)))

    attacks, ordinary, ordinary_peaks = _left_out_logits(bench, run_folder, show_progress)
    # Kept, so that thresholds can be looked at again without training.
    np.savez(
        run_folder / "left_out.npz", attacks=attacks, ordinary=ordinary, peaks=ordinary_peaks
    )
    calibration = fit_calibration(attacks, ordinary, settings.prevalence)
    peak_risk = _sigmoid(
        calibration.slope * threshold_at(ordinary_peaks, settings.max_fpr) + calibration.offset
    )
    thresholds = Thresholds(
        enter=round(peak_risk, 6),
        leave=round(leave_threshold(peak_risk), 6),
        max_fpr=settings.max_fpr,
        ordinary_accounts=len(ordinary),
        origin="composed ordinary accounts of folds left out of training",
    )
    figures = {
        "left-out attacking accounts": len(attacks),
        "left-out ordinary accounts": len(ordinary),
        "recall at 1% false positives": round(recall_at(attacks, ordinary, 0.01), 4),
        "recall at 0.3% false positives": round(recall_at(attacks, ordinary, 0.003), 4),
    }
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
        "data_hash": materials_hash(materials),
        "settings": settings.to_fields(),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in _VERSIONS},
        },
    }
    card = model_card(settings, fields, figures)
    bundle = write_bundle(output, fields, detector_files(readers, model, card))
    (run_folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
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


def _left_out_logits(
    bench: Workbench, run_folder: Path, show_progress: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Final logits of attacks and ordinary accounts, and highest logits of ordinary ones, on
    folds that neither heads nor classifier knew."""
    attacks, ordinary, peaks = [], [], []
    every = range(len(bench.folds))
    for number in range(bench.settings.calibration_folds):
        others = tuple(n for n in every if n != number)
        bench.progress(f"training without fold {number + 1}, to calibrate on it")
        folder = run_folder / f"without-{number + 1}"
        classifier = fit_classifier(
            bench.training_set(others), bench.settings, folder, show_progress, seed=number
        )
        streams = bench.folds[number].streams
        left_out = bench.stream_set(streams, bench.readers(others))
        for path, attacking in zip(
            stream_logits(classifier, left_out.features), streams.is_attack, strict=True
        ):
            if attacking:
                attacks.append(path[-1, 0])
            else:
                ordinary.append(path[-1, 0])
                peaks.append(path[:, 0].max())
    return np.array(attacks), np.array(ordinary), np.array(peaks)


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


def _sigmoid(logit: float) -> float:
    return float(1 / (1 + np.exp(-logit)))
