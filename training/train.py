"""Trains a detector and writes its bundle."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np

from stillwatch.data.files import atomic_writer
from stillwatch.model.adapt import examples_to_bytes
from stillwatch.model.bundle import Bundle, Calibration, write_bundle
from stillwatch.model.encoder import OnnxEncoder
from stillwatch.model.encoder_export import golden_vectors
from stillwatch.model.export import classifier_difference, export_classifier
from stillwatch.model.features import feature_names
from stillwatch.model.golden import with_golden
from stillwatch.training.campaign_readings import read_worlds
from stillwatch.training.campaigns import fit_campaigns
from stillwatch.training.card import model_card, with_campaigns
from stillwatch.training.featurise import Readers
from stillwatch.training.fit_classifier import fit_classifier, stream_logits
from stillwatch.training.label_issues import (
    LabelIssue,
    as_classes,
    check_cleanlab,
    label_issues,
    write_label_issues,
)
from stillwatch.training.left_out import LeftOut, judge_left_out
from stillwatch.training.prepare import prepare
from stillwatch.training.settings import Settings
from stillwatch.training.tracking import NoTracker, Tracker, tracked_run
from stillwatch.training.workbench import HeadFit, Workbench

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
    tracker: Tracker | None = None,
    find_label_issues: bool = False,
) -> Bundle:
    """Compose, encode, fit, calibrate on folds left out, train on all folds, export, write.

    `find_label_issues` lists labels of labelled logs that are likely wrong in the run's
    label_issues.csv; it must have cleanlab.
    """
    settings.check()
    if find_label_issues:
        check_cleanlab()
    run_folder.mkdir(parents=True, exist_ok=True)
    _check_resume(settings, run_folder)
    _write(run_folder / "config.yaml", settings.to_yaml())
    with tracked_run(tracker or NoTracker(), run_folder.name, settings.to_fields()) as told:
        bench, encoder, _ = prepare(settings, corpora, cache, threads, progress)
        bundle = _fit(
            bench, encoder, corpora, output, run_folder, threads, show_progress, told,
            find_label_issues,
        )  # fmt: skip
        told.tag("bundle", bundle.id)
        told.artifact(bundle.path)
    return bundle


def _fit(
    bench: Workbench,
    encoder: OnnxEncoder,
    corpora: Path | None,
    output: Path,
    run_folder: Path,
    threads: int,
    show_progress: bool,
    tracker: Tracker,
    find_label_issues: bool,
) -> Bundle:
    settings, progress = bench.settings, bench.progress
    every = tuple(range(len(bench.folds)))

    left_out = _left_out_logits(bench, run_folder, show_progress)
    # Kept, so that thresholds can be looked at again without training.
    with atomic_writer(run_folder / "left_out.npz") as file:
        np.savez(
            file, **{f"{n}_{k}": v for n, own in left_out.items() for k, v in vars(own).items()}
        )
    calibration, thresholds, figures = judge_left_out(settings, left_out)
    progress(f"left-out folds: {figures}")
    tracker.log(figures)
    if find_label_issues:
        issues = doubted_labels(bench, left_out["familiar"], calibration)
        write_label_issues(run_folder / "label_issues.csv", issues)
        progress(f"labels to look at: {len(issues)}, in {run_folder / 'label_issues.csv'}")

    streams = bench.training_set(every)
    progress("training the released classifier on all folds")
    classifier = fit_classifier(streams, settings, run_folder / "release", show_progress, seed=99)
    readers, fit = bench.readers(every), bench.head_fit(every)
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
        "head_origins": list(fit.origins),
        "data_hash": bench.data_hash(),
        "settings": settings.to_fields(),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in _VERSIONS},
        },
    }
    card = model_card(settings, fields, figures)
    content = detector_files(readers, fit, model, card)
    if settings.campaign_worlds:
        # Kept for scripts/calibrate_campaigns.py, should the run be killed here.
        plain = write_bundle(
            run_folder / "without-campaigns", with_golden(fields, content, encoder), content
        )
        halves = read_worlds(
            plain.path, corpora, range(settings.campaign_worlds), threads, progress,
            run_folder / "readings",
        )  # fmt: skip
        campaigns, found = fit_campaigns(halves)
        fields["campaigns"] = campaigns.model_dump()
        progress(f"composed worlds: {found}")
        content["README.md"] = with_campaigns(card, campaigns, found).encode()
    bundle = write_bundle(output, with_golden(fields, content, encoder), content)
    _write(run_folder / "figures.json", json.dumps(figures, indent=1) + "\n")
    return bundle


def doubted_labels(
    bench: Workbench, left_out: LeftOut, calibration: Calibration
) -> list[LabelIssue]:
    """Labels that are likely wrong among the labelled accounts of the folds left out."""
    settings = bench.settings
    folds = bench.folds[: settings.calibration_folds]
    rows = np.flatnonzero([kind == "labelled" for fold in folds for kind in fold.streams.kinds])
    accounts = [account for fold in folds for account in fold.labelled]
    intents = [c.probability(left_out.intents[rows, n]) for n, c in enumerate(calibration.intents)]
    given, probabilities = as_classes(
        calibration.risk.probability(left_out.last[rows]),
        np.stack(intents, axis=1),
        left_out.targets[rows],
        settings.prevalence,
    )
    return label_issues(given, probabilities, accounts, settings.intents)


def detector_files(readers: Readers, fit: HeadFit, model: bytes, card: str) -> dict[str, bytes]:
    """The contents of a bundle's files, without the encoder's."""
    return {
        "classifier.onnx": model,
        "heads.safetensors": readers.heads.to_bytes(),
        "examples.safetensors": examples_to_bytes(fit.sample, fit.heads),
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
