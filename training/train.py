"""Trains a detector and writes its bundle."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
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

    left_out = _left_out_logits(bench, run_folder, show_progress)
    new, familiar = left_out["new"], left_out["familiar"]
    # Kept, so that thresholds can be looked at again without training.
    np.savez(
        run_folder / "left_out.npz",
        **{f"{n}_{k}": v for n, own in left_out.items() for k, v in vars(own).items()},
    )
    calibration = fit_calibration(familiar.attacks, familiar.ordinary, settings.prevalence)
    enter_logit = threshold_at(familiar.peaks, settings.max_fpr)
    enter = _sigmoid(calibration.slope * enter_logit + calibration.offset)
    thresholds = Thresholds(
        enter=round(enter, 6),
        leave=round(leave_threshold(enter), 6),
        max_fpr=settings.max_fpr,
        ordinary_accounts=len(familiar.ordinary),
        origin="composed ordinary accounts of folds left out of training, other traffic of "
        "theirs among the benign references",
    )
    figures = {
        "left-out attacking accounts": len(new.attacks),
        "left-out ordinary accounts": len(new.ordinary),
        **{
            f"recall at {rate:.1%} false positives, {name} traffic": round(
                recall_at(own.attacks, own.ordinary, rate), 3
            )
            for name, own in left_out.items()
            for rate in (0.01, 0.003)
        },
        **{
            f"{what} at the default threshold, {name} traffic": round(
                float((scores > enter_logit).mean()), 4
            )
            for name, own in left_out.items()
            for what, scores in (("recall", own.attacks), ("ordinary ever flagged", own.peaks))
        },
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


@dataclass(frozen=True)
class LeftOut:
    """Logits of accounts of folds that neither heads nor classifier knew. `attacks` and
    `ordinary` are those after the last event, `peaks` the highest of ordinary ones."""

    attacks: np.ndarray
    ordinary: np.ndarray
    peaks: np.ndarray


def _left_out_logits(bench: Workbench, run_folder: Path, show_progress: bool) -> dict[str, LeftOut]:
    """Left-out accounts read in two ways. new: nothing is known of their traffic. familiar: other
    ordinary traffic of the same kind is among the benign references, as after calibration."""
    found: dict[str, list[tuple[float, float, bool]]] = {"new": [], "familiar": []}
    every = range(len(bench.folds))
    for number in range(bench.settings.calibration_folds):
        others = tuple(n for n in every if n != number)
        bench.progress(f"training without fold {number + 1}, to calibrate on it")
        folder = run_folder / f"without-{number + 1}"
        classifier = fit_classifier(
            bench.training_set(others), bench.settings, folder, show_progress, seed=number
        )
        streams = bench.folds[number].streams
        for name, familiar in (("new", None), ("familiar", number)):
            left_out = bench.stream_set(streams, bench.readers(others, familiar))
            found[name] += [
                (float(path[-1, 0]), float(path[:, 0].max()), bool(attacking))
                for path, attacking in zip(
                    stream_logits(classifier, left_out.features), streams.is_attack, strict=True
                )
            ]
    return {
        name: LeftOut(
            np.array([last for last, _, attacking in own if attacking]),
            np.array([last for last, _, attacking in own if not attacking]),
            np.array([peak for _, peak, attacking in own if not attacking]),
        )
        for name, own in found.items()
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


def _sigmoid(logit: float) -> float:
    return float(1 / (1 + np.exp(-logit)))
