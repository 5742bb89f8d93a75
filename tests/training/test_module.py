"""The training shell: what counts in the loss, what is logged, and going on after a break."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch

from stillwatch.model.classifier import Classifier, ClassifierConfig
from stillwatch.training import fit_classifier as fitting
from stillwatch.training.datamodule import LengthBatches, StreamBatch, StreamSet
from stillwatch.training.fit_classifier import feature_moments, fit_classifier, stream_logits
from stillwatch.training.module import ENOUGH_EVIDENCE, ClassifierModule, stream_loss
from stillwatch.training.settings import Optimisation, Settings

FEATURES, INTENTS = 6, 2

pytestmark = pytest.mark.filterwarnings(
    "ignore:The number of training batches .* is smaller than the logging interval"
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For so small a model a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def toy_streams(count: int = 60, seed: int = 0, longest: int = 40) -> StreamSet:
    """Half of the streams attack: there the first features tell which events."""
    rng = np.random.default_rng(seed)
    features, targets, events = [], np.zeros((count, INTENTS), np.float32), []
    for row in range(count):
        length = int(rng.integers(12, longest))
        own = rng.normal(size=(length, FEATURES))
        marks = np.zeros((length, INTENTS), np.float32)
        if row % 2:
            intent = row // 2 % INTENTS
            targets[row, intent] = 1
            marks[rng.random(length) < 0.7, intent] = 1
            own[:, :INTENTS] += 3 * marks
        features.append(own.astype(np.float16))
        events.append(marks)
    return StreamSet(features, targets, events)


def toy_batch(rows: int = 4, length: int = 12) -> tuple[torch.Tensor, StreamBatch]:
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(rows, length, 1 + 2 * INTENTS, generator=generator)
    intents = torch.zeros(rows, INTENTS)
    intents[::2, 0] = 1
    events = torch.zeros(rows, length, INTENTS)
    events[::2, 3::2, 0] = 1
    lengths = torch.tensor([length, length - 3, length - 4, length][:rows])
    events *= (torch.arange(length)[None, :] < lengths[:, None]).float()[..., None]
    return output, StreamBatch(torch.zeros(rows, length, FEATURES), lengths, intents, events)


def settings(epochs: int = 1, dropout: float = 0.1) -> Settings:
    return Settings(
        seed=5,
        optimisation=Optimisation(
            width=8, layers=1, heads=2, key=2, epochs=epochs, batch_events=256, dropout=dropout
        ),
    )


def test_what_stands_in_the_padding_changes_nothing() -> None:
    output, batch = toy_batch()
    expected = stream_loss(output, batch)
    mask = batch.mask().bool()
    spoiled = torch.where(mask[..., None], output, torch.full((), 1e4))
    marks = torch.where(mask[..., None], batch.event_intents, torch.ones(()))
    torch.testing.assert_close(stream_loss(spoiled, batch), expected)
    torch.testing.assert_close(stream_loss(spoiled, batch._replace(event_intents=marks)), expected)


def test_padding_gets_no_gradient() -> None:
    output, batch = toy_batch()
    output.requires_grad_()
    stream_loss(output, batch).backward()
    assert output.grad is not None
    mask = batch.mask().bool()
    assert not output.grad[~mask].any()
    assert output.grad[mask].any(dim=1).float().mean() > 0.5


def test_an_attack_before_its_attack_prompts_has_no_weight() -> None:
    output, batch = toy_batch()
    expected = stream_loss(output, batch, event_weight=0.0)
    before = output.clone()
    before[::2, :3] += 5  # The attacks' first attack prompt is their fourth event.
    torch.testing.assert_close(stream_loss(before, batch, event_weight=0.0), expected)
    for changed in (slice(1, None, 2), slice(0, None, 2)):
        later = output.clone()
        later[changed, 4] += 5
        assert (stream_loss(later, batch, event_weight=0.0) - expected).abs() > 1e-3
    ordinary = output.clone()
    ordinary[1::2, :3] += 5
    assert stream_loss(ordinary, batch, event_weight=0.0) > expected + 0.1


def test_weight_grows_with_the_attack_prompts_seen() -> None:
    length = 3 * ENOUGH_EVIDENCE
    batch = StreamBatch(
        torch.zeros(1, length, FEATURES), torch.tensor([length]), torch.tensor([[1.0, 0.0]]),
        torch.ones(1, length, INTENTS) * torch.tensor([1.0, 0.0]),
    )  # fmt: skip
    output = torch.zeros(1, length, 1 + 2 * INTENTS, requires_grad=True)
    stream_loss(output, batch, event_weight=0.0).backward()
    assert output.grad is not None
    weight = output.grad[0, :, 0].abs() / output.grad[0, ENOUGH_EVIDENCE, 0].abs()
    np.testing.assert_allclose(
        weight[:ENOUGH_EVIDENCE], np.arange(1, ENOUGH_EVIDENCE + 1) / ENOUGH_EVIDENCE, rtol=1e-5
    )
    assert weight[-1] > weight[ENOUGH_EVIDENCE] * 2


def test_streams_weigh_alike_whatever_their_length() -> None:
    output = torch.zeros(2, 90, 1 + 2 * INTENTS, requires_grad=True)
    batch = StreamBatch(
        torch.zeros(2, 90, FEATURES), torch.tensor([90, 9]), torch.zeros(2, INTENTS),
        torch.zeros(2, 90, INTENTS),
    )  # fmt: skip
    stream_loss(output, batch).backward()
    assert output.grad is not None
    long, short = output.grad[..., 0].abs().sum(dim=1)
    assert long == pytest.approx(float(short), rel=1e-5)


def test_the_moments_weigh_streams_alike() -> None:
    one, other = np.full((2, 1), 1, np.float16), np.full((50, 1), 3, np.float16)
    none = [np.zeros((len(own), INTENTS), np.float32) for own in (one, other)]
    mean, deviation = feature_moments(StreamSet([one, other], np.zeros((2, INTENTS)), none))
    assert (mean[0], deviation[0]) == (pytest.approx(2), pytest.approx(1))


def test_one_epoch_logs_what_is_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "VALIDATION_SHARE", 0.3)
    fit_classifier(toy_streams(), settings(), tmp_path, show_progress=False)
    (log,) = tmp_path.glob("csv/*/metrics.csv")
    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {name: [float(row[name]) for row in rows if row[name]] for name in rows[0]}
    assert len(found["validation/recall_at_1pct"]) == 1
    assert 0 <= found["validation/recall_at_1pct"][0] <= 1
    assert np.isfinite(found["validation/loss"]).all()
    assert list(tmp_path.glob("tensorboard/*/events.out.*"))
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()


def test_the_toy_is_learnt(tmp_path: Path) -> None:
    data = toy_streams(120)
    classifier = fit_classifier(data, settings(epochs=10), tmp_path, show_progress=False)
    risk = np.array([own[-1, 0] for own in stream_logits(classifier, data.features)])
    attacking = data.intents.any(axis=1)
    assert np.median(risk[attacking]) > np.median(risk[~attacking]) + 1
    assert not classifier.training


def weights(classifier: Classifier) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in classifier.state_dict().items()}


def test_two_runs_are_equal_and_seeds_differ(tmp_path: Path) -> None:
    data = toy_streams()
    runs = [
        weights(fit_classifier(data, settings(2), tmp_path / str(n), False, seed=n // 2))
        for n in range(3)
    ]
    for name in runs[0]:
        np.testing.assert_array_equal(runs[0][name], runs[1][name])
    assert any(not np.array_equal(runs[0][name], runs[2][name]) for name in runs[0])


class StopsAfter(lightning.Callback):
    """Notes the epochs that begin, and breaks the run off at one of them."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.begun: list[int] = []

    def on_train_epoch_start(
        self, trainer: lightning.Trainer, _: lightning.LightningModule
    ) -> None:
        self.begun.append(trainer.current_epoch)
        if trainer.current_epoch == self.epoch:
            raise ConnectionAbortedError("the machine goes down")


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_run_that_was_broken_off_reaches_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dropout: float
) -> None:
    data, plan = toy_streams(), settings(3, dropout)
    expected = weights(fit_classifier(data, plan, tmp_path / "whole", False))

    whole_trainer = lightning.Trainer

    def with_break(callback: StopsAfter) -> None:
        def make(callbacks: list[lightning.Callback], **options: Any) -> lightning.Trainer:
            return whole_trainer(callbacks=[*callbacks, callback], **options)

        monkeypatch.setattr(lightning, "Trainer", make)

    with_break(StopsAfter(1))
    with pytest.raises(ConnectionAbortedError):
        fit_classifier(data, plan, tmp_path / "broken", False)
    torch.rand(17)  # Whatever else the process did in between.
    second = StopsAfter(99)
    with_break(second)
    found = weights(fit_classifier(data, plan, tmp_path / "broken", False))
    assert second.begun == [1, 2], "the run must go on, not begin anew"
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_epochs_of_different_numbers_of_batches_are_trained_to_the_end(tmp_path: Path) -> None:
    """The number of batches follows from the order drawn for the epoch."""
    data, plan = toy_streams(200, longest=120), settings(4)
    plan.optimisation.batch_events = 500
    lengths = np.array([len(own) for own in data.features])
    for seed in range(50):
        plan.seed = seed
        order = np.random.default_rng([seed, 31, 0]).permutation(len(lengths))
        sampler = LengthBatches(lengths[order[12:]], 500, seed, shuffle=True)
        counts = []
        for epoch in range(4):
            sampler.set_epoch(epoch)
            counts.append(len(sampler))
        if sum(counts) > 4 * counts[0]:
            break
    assert sum(counts) > 4 * counts[0]
    classifier = fit_classifier(data, plan, tmp_path, show_progress=False)
    assert all(np.isfinite(value).all() for value in weights(classifier).values())


def test_few_streams_are_enough_for_a_run(tmp_path: Path) -> None:
    classifier = fit_classifier(toy_streams(8), settings(), tmp_path, show_progress=False)
    assert all(np.isfinite(value).all() for value in weights(classifier).values())


def test_the_module_takes_its_sizes_from_the_configuration() -> None:
    module = ClassifierModule(ClassifierConfig(FEATURES, INTENTS, width=8, heads=2), 1e-3, 0.0, 1)
    assert module(torch.zeros(2, 3, FEATURES)).shape == (2, 3, 1 + 2 * INTENTS)
