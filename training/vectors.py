"""Sentence vectors of a run's texts, kept on disk by content: a second run encodes nothing."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from stillwatch.data.files import atomic_writer
from stillwatch.model.encoder import MAX_WINDOWS, WINDOW_OVERLAP, Encoder, TextVectors
from stillwatch.model.parts import split_parts

SHARD_TEXTS = 4096
READING = f"{MAX_WINDOWS} windows, overlap {WINDOW_OVERLAP}, decoded views, revision 1"
"""How a text becomes windows: part of the cache's key. Count the revision up when it changes."""


@dataclass(frozen=True)
class VectorTable:
    """Vectors of N texts by text id: windows float16 (M, D) with starts int64 (N,) and counts
    int64 (N,); means float32 (N, D), unit length."""

    windows: np.ndarray
    starts: np.ndarray
    counts: np.ndarray
    means: np.ndarray

    def encoded(self, ids: np.ndarray) -> list[TextVectors]:
        """The texts' vectors in the form that the encoder gives them."""
        return [
            TextVectors(
                self.windows[self.starts[i] : self.starts[i] + self.counts[i]].astype(np.float32),
                0,
                False,
            )
            for i in ids
        ]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()[:16]


class VectorCache:
    """A folder of shards, one set for each encoder. A shard is written whole or not at all, so a
    killed run loses at most SHARD_TEXTS texts."""

    def __init__(self, folder: Path, encoder_key: str) -> None:
        key = f"{encoder_key}\n{READING}"
        self.folder = folder / hashlib.sha256(key.encode()).hexdigest()[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[bytes, tuple[int, int, int]] = {}
        self._shards: list[np.ndarray] = []
        for path in sorted(self.folder.glob("shard-*.npz")):
            try:
                with path.open("rb") as file, np.load(file, allow_pickle=False) as shard:
                    self._remember(shard["digests"], shard["counts"], shard["windows"])
            except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
                # A cache: what cannot be read is encoded again.
                path.unlink()

    def _remember(self, digests: np.ndarray, counts: np.ndarray, windows: np.ndarray) -> None:
        shard = len(self._shards)
        self._shards.append(windows)
        start = 0
        for digest, count in zip(digests, counts, strict=True):
            self._known[digest.tobytes()] = (shard, start, int(count))
            start += int(count)

    def fill(
        self,
        texts: Sequence[str],
        encoder: Encoder,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> int:
        """Encode those texts, or parts of them, that are not known yet; returns how many there
        were."""
        missing = {
            digest: part
            for text in texts
            for part in split_parts(text)
            if (digest := _digest(part)) not in self._known
        }
        # Short ones first and together: progress is even and memory small.
        order = sorted(missing.items(), key=lambda item: len(item[1]))
        for start in range(0, len(order), SHARD_TEXTS):
            part = order[start : start + SHARD_TEXTS]
            encoded = encoder.encode([text for _, text in part])
            keys = np.frombuffer(b"".join(digest for digest, _ in part), dtype=np.uint8)
            counts = np.array([len(item.windows) for item in encoded], dtype=np.int64)
            windows = np.concatenate([item.windows for item in encoded]).astype(np.float16)
            self._write(keys.reshape(-1, 16), counts, windows)
            progress(min(start + SHARD_TEXTS, len(order)), len(order))
        return len(order)

    def _write(self, digests: np.ndarray, counts: np.ndarray, windows: np.ndarray) -> None:
        # Named by content, so that a shard that was deleted is not written over another.
        name = hashlib.sha256(digests.tobytes()).hexdigest()[:16]
        with atomic_writer(self.folder / f"shard-{name}.npz") as file:
            np.savez(file, digests=digests, counts=counts, windows=windows)
        self._remember(digests, counts, windows)

    def table(self, texts: Sequence[str]) -> VectorTable:
        """Vectors of texts that `fill` has seen, in their order."""
        places = [[self._known[_digest(part)] for part in split_parts(text)] for text in texts]
        counts = np.array([sum(n for *_, n in own) for own in places], dtype=np.int64)
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
        width = self._shards[0].shape[1]
        windows = np.empty((int(counts.sum()), width), dtype=np.float16)
        target = 0
        for shard, start, count in chain.from_iterable(places):
            windows[target : target + count] = self._shards[shard][start : start + count]
            target += count
        sums = np.add.reduceat(windows.astype(np.float32), starts, axis=0)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        return VectorTable(windows, starts, counts, sums / np.maximum(norms, 1e-6))
