"""Trains a detector and writes its bundle."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from stillwatch.data.files import atomic_writer
from stillwatch.model.adapt import examples_to_bytes
from stillwatch.model.bundle import Bundle, Calibration, write_bundle
from stillwatch.model.classifier import Classifier
from stillwatch.model.encoder import OnnxEncoder
from stillwatch.model.encoder_export import golden_vectors
from stillwatch.model.export import classifier_difference, export_classifier
from stillwatch.model.features import feature_names
from stillwatch.model.golden import with_golden
from stillwatch.training.campaign_readings import read_worlds
from stillwatch.training.campaigns import fit_campaigns
from stillwatch.training.card import model_card, with_campaigns
from stillwatch.training.cores import in_processes, one_thread
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
    tracked = tracked_run(tracker or NoTracker(), run_folder.name, settings.to_fields())
    with one_thread(), tracked as told:
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

    # Bars of several trainings would write over one another.
    show_progress &= threads == 1
    jobs: list[Callable[[], Any]] = [partial(_released, bench, run_folder, show_progress)]
    jobs += [
        partial(_left_out_paths, bench, number, run_folder, show_progress)
        for number in range(settings.calibration_folds)
    ]
    (classifier, sample), *paths = in_processes(jobs, threads)
    left_out = _left_out(bench, paths)
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

    readers, fit = bench.readers(every), bench.head_fit(every)
    progress("exporting and comparing with torch")
    model = export_classifier(classifier)
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


def _released(
    bench: Workbench, run_folder: Path, show_progress: bool
) -> tuple[Classifier, np.ndarray]:
    """The classifier of all folds, and features of a stream float32 (1, T, F) to try it with."""
    streams = bench.training_set(tuple(range(len(bench.folds))))
    bench.progress("training the released classifier on all folds")
    classifier = fit_classifier(
        streams, bench.settings, run_folder / "release", show_progress, seed=99,
        progress=bench.progress,
    )  # fmt: skip
    return classifier, max(streams.features[:50], key=len)[None, :200].astype(np.float32)


def _left_out_paths(
    bench: Workbench, number: int, run_folder: Path, show_progress: bool
) -> dict[str, list[np.ndarray]]:
    """Logits float32 (T, 1 + 2I) of each stream of a fold by what all others have taught, read in
    two ways. new: nothing is known of their traffic. familiar: other ordinary traffic of the same
    kind is among the benign references, as after calibration."""
    others = tuple(n for n in range(len(bench.folds)) if n != number)
    training = bench.training_set(others)
    bench.progress(f"training without fold {number + 1}, to calibrate on it")
    classifier = fit_classifier(
        training, bench.settings, run_folder / f"without-{number + 1}", show_progress, seed=number,
        progress=bench.progress,
    )  # fmt: skip
    streams = bench.folds[number].streams
    return {
        name: stream_logits(
            classifier, bench.stream_set(streams, bench.readers(others, familiar)).features
        )
        for name, familiar in (("new", None), ("familiar", number))
    }


def _left_out(bench: Workbench, paths: Sequence[dict[str, list[np.ndarray]]]) -> dict[str, LeftOut]:
    """What `_left_out_paths` gave for the first folds, by way of reading."""
    intents = bench.settings.intents
    targets = [bench.folds[n].streams.intent_matrix(intents) for n in range(len(paths))]
    found = {name: [path for own in paths for path in own[name]] for name in paths[0]}
    return {
        name: LeftOut(
            np.array([path[-1, 0] for path in own]),
            np.array([path[:, 0].max() for path in own]),
            np.stack([path[-1, 1 : 1 + len(intents)] for path in own]),
            np.concatenate(targets),
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


def _write(path: Path, text: str) -> None:
    with atomic_writer(path) as file:
        file.write(text.encode())
