"""Batches: padded at the end, every stream once an epoch, the same order for the same epoch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stillwatch.training.datamodule import LengthBatches, StreamDataModule, StreamSet, collate

LENGTHS = np.random.default_rng(0).integers(3, 200, 400)


def streams(lengths: list[int]) -> StreamSet:
    rng = np.random.default_rng(1)
    return StreamSet(
        [rng.normal(size=(length, 5)).astype(np.float16) for length in lengths],
        rng.integers(0, 2, (len(lengths), 3)).astype(np.float32),
        [rng.integers(0, 2, (length, 3)).astype(np.float32) for length in lengths],
    )


def batches(seed: int, epoch: int, shuffle: bool = True, events: int = 2048) -> list[list[int]]:
    sampler = LengthBatches(LENGTHS, events, seed, shuffle)
    sampler.set_epoch(epoch)
    found = list(sampler)
    assert len(found) == len(sampler)
    return found


def test_a_batch_is_padded_at_the_end() -> None:
    own = streams([2, 5, 3])
    items = [(own.features[n], own.intents[n], own.event_intents[n]) for n in range(3)]
    batch = collate(items)
    assert batch.features.shape == (3, 5, 5)
    assert batch.features.dtype == batch.intents.dtype == batch.event_intents.dtype == torch.float32
    assert batch.lengths.tolist() == [2, 5, 3]
    for row, (features, intents, events) in enumerate(items):
        length = len(features)
        np.testing.assert_array_equal(batch.features[row, :length], features.astype(np.float32))
        np.testing.assert_array_equal(batch.event_intents[row, :length], events)
        np.testing.assert_array_equal(batch.intents[row], intents)
        assert not batch.features[row, length:].any()
        assert not batch.event_intents[row, length:].any()
    assert batch.mask().tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("events", [1, 300, 2048, 10**6])
def test_every_stream_comes_once_an_epoch(shuffle: bool, events: int) -> None:
    found = batches(3, 2, shuffle, events)
    assert sorted(row for batch in found for row in batch) == list(range(len(LENGTHS)))
    for batch in found:
        assert batch
        # A stream longer than a batch comes alone.
        assert len(batch) == 1 or int(LENGTHS[batch].max()) * len(batch) <= events


def test_streams_of_a_batch_are_of_like_length() -> None:
    padded = sum(int(LENGTHS[batch].max()) * len(batch) for batch in batches(3, 0))
    assert padded < 1.4 * LENGTHS.sum()


def test_the_order_follows_from_seed_and_epoch_alone() -> None:
    torch.manual_seed(0)
    first = batches(3, 1)
    torch.manual_seed(9)
    np.random.default_rng().normal()
    assert batches(3, 1) == first
    assert batches(3, 2) != first
    assert batches(4, 1) != first


def test_validation_keeps_its_order() -> None:
    assert batches(3, 0, shuffle=False) == batches(3, 5, shuffle=False)
    flat = [int(LENGTHS[row]) for batch in batches(3, 0, shuffle=False) for row in batch]
    assert flat == sorted(flat)


def test_loaders_give_every_stream() -> None:
    train, validation = streams([4, 9, 2, 7]), streams([3, 3])
    data = StreamDataModule(train, validation, batch_events=16, seed=0)
    for loader, own in ((data.train_dataloader(), train), (data.val_dataloader(), validation)):
        lengths = torch.cat([batch.lengths for batch in loader])
        assert sorted(lengths.tolist()) == sorted(map(len, own.features))


def test_subset_and_join_keep_what_belongs_together() -> None:
    whole = streams([4, 9, 2, 7])
    parts = [whole.subset(np.array([2, 0])), whole.subset(np.array([3]))]
    joined = StreamSet.join(parts)
    assert len(joined) == 3
    for position, row in enumerate((2, 0, 3)):
        np.testing.assert_array_equal(joined.features[position], whole.features[row])
        np.testing.assert_array_equal(joined.intents[position], whole.intents[row])
        np.testing.assert_array_equal(joined.event_intents[position], whole.event_intents[row])
