"""Archives of the tiny detector, and what is looked for in their files."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillwatch.data.events import Event
from stillwatch.model.detector import SLOT, text_key
from stillwatch.serving.archive import ArchiveSettings, Batch, PromptArchive, Row
from stillwatch.serving.archive.rows import VECTOR
from tests.support import DIMENSIONS, INTENTS, TinyEncoder

ENCODER = "tiny 0 fp32"
DAY_S = 86_400.0
NOON = 1.7e9
WORDS = [f"word{number}" for number in range(400)]
SETTINGS = ArchiveSettings(train_at=10**9)
"""Without a trained index, unless a test asks for one."""


def row(
    prompt: str, account: str = "a1", event: str | None = None, time: float = NOON,
    frame: str = "", risk: float = 0.1, flagged: bool = False, intent: int = 0,
    template: str | None = "T0", similarity: float = 0.75, **fields: Any,
) -> Row:  # fmt: skip
    """A scored event whose slot is its prompt."""
    contribution = tuple(0.9 if place == intent else 0.1 for place in range(len(INTENTS)))
    name = event or f"e-{account}-{prompt[:40]}-{time}"
    made = Event(name, account, time, prompt, **fields)
    return Row(made, frame, prompt, risk, flagged, contribution, template, similarity)


def batch(rows: Sequence[Row], vectors: bool = True, encoder: str = ENCODER) -> Batch:
    """Rows with the tiny encoder's vectors of their texts."""
    found = {}
    if vectors:
        for item in rows:
            frame_key, slot_key = item.text_keys
            found[slot_key] = vector(item.slot)
            if frame_key:
                found[frame_key] = vector(item.frame)
    return Batch(rows, found, INTENTS, "bundle-1", encoder)


def vector(text: str) -> np.ndarray:
    return TinyEncoder().encode([text])[0].vector


def sentences(count: int, seed: int = 0, length: int = 12) -> list[str]:
    """Different texts of random words, each of one of forty subjects."""
    rng = np.random.default_rng(seed)
    subjects = np.array(WORDS).reshape(40, -1)
    return [" ".join(rng.choice(rng.choice(subjects), length)) for _ in range(count)]


def filled(count: int, seed: int = 0, accounts: int = 10, first: int = 0) -> list[Row]:
    """Rows of `accounts` accounts, a minute apart."""
    return [
        row(text, account=f"a{number % accounts}", event=f"e{first + number}",
            time=NOON + 60.0 * (first + number))
        for number, text in enumerate(sentences(count, seed))
    ]  # fmt: skip


@contextmanager
def opened(where: Path | str, **options: Any) -> Iterator[PromptArchive]:
    """An archive whose work is done in `flush`, so that tests need not wait."""
    options.setdefault("settings", SETTINGS)
    options.setdefault("encoder", TinyEncoder())
    options.setdefault("encoder_id", ENCODER)
    options.setdefault("background", False)
    archive = PromptArchive.open(where, DIMENSIONS, **options)
    try:
        yield archive
    finally:
        archive.close()


def put(archive: PromptArchive, rows: Iterable[Row], **options: Any) -> None:
    """Archive rows and make them findable."""
    archive.add(batch(list(rows), **options))
    archive.flush()


def stored(text: str) -> bytes:
    """The bytes that a vector of a text has in the tables."""
    return vector(text).astype(VECTOR).tobytes()


def slot_key(text: str) -> bytes:
    return text_key(SLOT, text)


def traces(folder: Path, needles: Mapping[str, bytes]) -> dict[str, list[str]]:
    """Names of the needles whose bytes stand anywhere in a file under a folder, with the names of
    those files."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            for name, needle in needles.items():
                if needle in content:
                    found.setdefault(name, []).append(str(path.relative_to(folder)))
    return found


def wait_for_build(archive: PromptArchive) -> None:
    """Until an index that is being trained is taken over."""
    indexer = archive._indexer
    assert indexer is not None
    while indexer._build is not None:
        indexer._build.thread.join()
        archive.flush()


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of a few MB in place of a folder; skips where none can be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "stillwatch-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)
