"""Batches of streams, padded at the end. B streams, T events, F features, I intents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

_Item = tuple[np.ndarray, np.ndarray, np.ndarray]
"""One stream's features (T, F), intents (I,) and event_intents (T, I)."""


@dataclass(frozen=True)
class StreamSet:
    """S streams ready for the classifier: features float16 (T, F) each; intents float32 (S, I);
    event_intents float32 (T, I) each, 1 where an attack prompt has the intent."""

    features: list[np.ndarray]
    intents: np.ndarray
    event_intents: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.features)

    def subset(self, rows: np.ndarray) -> StreamSet:
        return StreamSet(
            [self.features[i] for i in rows],
            self.intents[rows],
            [self.event_intents[i] for i in rows],
        )

    @staticmethod
    def join(parts: list[StreamSet]) -> StreamSet:
        return StreamSet(
            [f for part in parts for f in part.features],
            np.concatenate([part.intents for part in parts]),
            [e for part in parts for e in part.event_intents],
        )


class StreamBatch(NamedTuple):
    """features float32 (B, T, F); lengths int64 (B,); intents (B, I); event_intents (B, T, I)."""

    features: Tensor
    lengths: Tensor
    intents: Tensor
    event_intents: Tensor

    def mask(self) -> Tensor:
        """float32 (B, T): 1 on events, 0 on padding."""
        steps = torch.arange(self.features.shape[1])
        return (steps[None, :] < self.lengths[:, None]).float()


def collate(items: list[_Item]) -> StreamBatch:
    lengths = torch.tensor([len(features) for features, _, _ in items])
    longest = int(lengths.max())
    width, intents = items[0][0].shape[1], items[0][1].shape[0]
    features = torch.zeros(len(items), longest, width)
    event_intents = torch.zeros(len(items), longest, intents)
    for row, (own, _, events) in enumerate(items):
        features[row, : len(own)] = torch.from_numpy(own.astype(np.float32))
        event_intents[row, : len(own)] = torch.from_numpy(events)
    targets = torch.from_numpy(np.stack([target for _, target, _ in items]))
    return StreamBatch(features, lengths, targets, event_intents)


class _Streams(Dataset[_Item]):
    def __init__(self, streams: StreamSet) -> None:
        self.streams = streams

    def __len__(self) -> int:
        return len(self.streams)

    def __getitem__(self, row: int) -> _Item:
        s = self.streams
        return s.features[row], s.intents[row], s.event_intents[row]


class LengthBatches(Sampler[list[int]]):
    """Batches of streams of like length with at most `events` padded events, in random order.

    The order of an epoch follows from the seed and the epoch alone, so that a resumed run sees
    the batches that an unbroken one would have seen.
    """

    def __init__(self, lengths: np.ndarray, events: int, seed: int, shuffle: bool) -> None:
        self.lengths, self.events, self.seed, self.shuffle = lengths, events, seed, shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def _batches(self) -> list[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        noise = rng.uniform(0.8, 1.25, len(self.lengths)) if self.shuffle else 1.0
        order = np.argsort(self.lengths * noise, kind="stable")
        batches: list[list[int]] = [[]]
        longest = 0
        for row in order:
            longest = max(longest, int(self.lengths[row]))
            if batches[-1] and longest * (len(batches[-1]) + 1) > self.events:
                batches.append([])
                longest = int(self.lengths[row])
            batches[-1].append(int(row))
        if self.shuffle:
            batches = [batches[int(p)] for p in rng.permutation(len(batches))]
        return batches

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches())

    def __len__(self) -> int:
        return len(self._batches())


class StreamDataModule(lightning.LightningDataModule):
    """Training and validation streams."""

    def __init__(
        self, train: StreamSet, validation: StreamSet, batch_events: int, seed: int
    ) -> None:
        super().__init__()
        self.train, self.validation = train, validation
        self.batch_events, self.seed = batch_events, seed

    def _loader(self, streams: StreamSet, shuffle: bool, epoch: int = 0) -> DataLoader[_Item]:
        lengths = np.array([len(features) for features in streams.features])
        sampler = LengthBatches(lengths, self.batch_events, self.seed, shuffle)
        sampler.set_epoch(epoch)
        return DataLoader(_Streams(streams), batch_sampler=sampler, collate_fn=collate)

    def train_dataloader(self) -> DataLoader[_Item]:
        # Reloaded each epoch, so that the order follows from the epoch after a resume too.
        epoch = self.trainer.current_epoch if self.trainer else 0
        return self._loader(self.train, shuffle=True, epoch=epoch)

    def training_steps(self, epochs: int) -> int:
        """Batches of all epochs together; their number differs from epoch to epoch."""
        return sum(len(self._loader(self.train, shuffle=True, epoch=n)) for n in range(epochs))

    def val_dataloader(self) -> DataLoader[_Item]:
        return self._loader(self.validation, shuffle=False)
