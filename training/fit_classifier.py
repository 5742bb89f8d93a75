"""Trains one sequence classifier: Lightning trainer, checkpoints, logs."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from stillwatch.data.errors import ConfigError
from stillwatch.data.files import atomic_writer
from stillwatch.model.classifier import Classifier, ClassifierConfig
from stillwatch.training.datamodule import StreamDataModule, StreamSet
from stillwatch.training.module import ClassifierModule
from stillwatch.training.settings import Settings

VALIDATION_SHARE = 0.06


def fit_classifier(
    streams: StreamSet,
    settings: Settings,
    folder: Path,
    show_progress: bool,
    seed: int = 0,
    progress: Callable[[str], None] = lambda text: None,
) -> Classifier:
    """Train on these streams; a few of them are kept to watch the training by.

    Writes checkpoints, CSV and TensorBoard logs under `folder`; goes on from its last checkpoint
    if there is one. `progress` gets a line an epoch unless `show_progress` shows a bar. ConfigError
    if that checkpoint was made from other streams or settings.
    """
    optimisation = settings.optimisation
    _check_inputs(folder, streams, settings, seed)
    torch.use_deterministic_algorithms(True)
    lightning.seed_everything(settings.seed * 1000 + seed, verbose=False)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    order = np.random.default_rng([settings.seed, 31, seed]).permutation(len(streams))
    held = max(1, int(len(streams) * VALIDATION_SHARE))
    train, validation = streams.subset(order[held:]), streams.subset(order[:held])

    config = ClassifierConfig(
        features=streams.features[0].shape[1],
        intents=streams.intents.shape[1],
        members=optimisation.members,
        width=optimisation.width,
        layers=optimisation.layers,
        heads=optimisation.heads,
        key=optimisation.key,
        dropout=optimisation.dropout,
    )
    data = StreamDataModule(train, validation, optimisation.batch_events, settings.seed)
    module = ClassifierModule(
        config,
        optimisation.learning_rate,
        optimisation.weight_decay,
        steps=data.training_steps(optimisation.epochs),
        seed=settings.seed * 1000 + seed,
    )
    mean, deviation = feature_moments(train)
    module.classifier.set_scale(torch.from_numpy(mean), torch.from_numpy(deviation))

    # Not `save_last`, which without a best checkpoint saves only when all is over.
    checkpoint = ModelCheckpoint(
        dirpath=folder / "checkpoints", filename="last", enable_version_counter=False
    )
    told = RichProgressBar() if show_progress else _Epochs(folder.name, progress)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=optimisation.epochs,
        logger=[CSVLogger(folder, name="csv"), TensorBoardLogger(folder, name="tensorboard")],
        callbacks=[checkpoint, told],
        enable_progress_bar=show_progress,
        enable_model_summary=False,
        # The members' gradients lie at right angles, each of a length of up to one.
        gradient_clip_val=math.sqrt(optimisation.members),
        log_every_n_steps=1,
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
    )
    last = folder / "checkpoints" / "last.ckpt"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # It is not: a broken run goes on from there.
        warnings.filterwarnings("ignore", message="Checkpoint directory .* is not empty")
        trainer.fit(module, data, ckpt_path=last if last.is_file() else None, weights_only=True)
    return module.classifier.eval()


class _Epochs(lightning.Callback):
    """Tells of each epoch that is done."""

    def __init__(self, name: str, progress: Callable[[str], None]) -> None:
        self._name = name
        self._progress = progress

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        done = trainer.current_epoch + 1
        self._progress(f"{self._name}: epoch {done} of {trainer.max_epochs}")


def _check_inputs(folder: Path, streams: StreamSet, settings: Settings, seed: int) -> None:
    """Remembers in the folder what is trained on; what differs must not go on from there."""
    # All else that is set has made the streams, or is of no concern to them.
    shaping = [asdict(settings.optimisation), settings.seed, seed]
    digest = hashlib.sha256(json.dumps(shaping).encode())
    for part in (*streams.features, streams.intents, *streams.event_intents):
        digest.update(np.ascontiguousarray(part).data)
    found = digest.hexdigest()
    known = folder / "inputs.sha256"
    if not known.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_writer(known) as file:
            file.write(found.encode())
    elif known.read_text() != found:
        raise ConfigError(
            "a training must go on from what it began with, however: corpora, labelled logs, "
            f"settings or code have changed since {folder} was begun; name another --run folder or "
            "delete it"
        )


def feature_moments(streams: StreamSet) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each feature over events, each stream weighing alike, float32 (F,)."""
    means = np.stack([f.astype(np.float32).mean(axis=0) for f in streams.features])
    squares = np.stack([(f.astype(np.float32) ** 2).mean(axis=0) for f in streams.features])
    mean = means.mean(axis=0)
    return mean, np.sqrt(np.maximum(squares.mean(axis=0) - mean**2, 0))


@torch.no_grad()
def stream_logits(classifier: Classifier, features: list[np.ndarray]) -> list[np.ndarray]:
    """Logits float32 (T, 1 + 2I) of each stream."""
    classifier.eval()
    return [
        classifier(torch.from_numpy(own.astype(np.float32))[None])[0].numpy() for own in features
    ]
