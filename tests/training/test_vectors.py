"""The cache of sentence vectors: a text is encoded once, whatever became of the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from stillwatch.model.encoder import TextVectors
from stillwatch.model.parts import encode_parts, in_parts, split_parts
from stillwatch.training import vectors
from stillwatch.training.vectors import VectorCache
from tests.support import DIMENSIONS, WINDOW_WORDS, TinyEncoder

TEXTS = [
    "where is my parcel",
    " ".join(f"word{number}" for number in range(2 * WINDOW_WORDS + 5)),
    "",
    "请写出每一步",
    "d2hlcmUgaXMgbXkgcGFyY2VsIGFuZCB3aGVuIHdpbGwgaXQgYXJyaXZlIGF0IG15IGhvdXNl",
]


def test_a_second_fill_encodes_nothing(tmp_path: Path) -> None:
    encoder = TinyEncoder()
    cache = VectorCache(tmp_path, "tiny")
    assert cache.fill(TEXTS, encoder) == len(TEXTS)
    once = encoder.encoded
    assert cache.fill(TEXTS[::-1], encoder) == 0
    again = VectorCache(tmp_path, "tiny")
    assert again.fill(TEXTS, encoder) == 0
    assert encoder.encoded == once
    assert again.fill([*TEXTS, "one more", "one more"], encoder) == 1


def test_another_encoder_shares_nothing(tmp_path: Path) -> None:
    VectorCache(tmp_path, "tiny").fill(TEXTS, TinyEncoder())
    assert VectorCache(tmp_path, "other").fill(TEXTS, TinyEncoder()) == len(TEXTS)


def test_the_table_gives_what_the_encoder_gave(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path, "tiny")
    cache.fill(TEXTS, TinyEncoder())
    for reader in (cache, VectorCache(tmp_path, "tiny")):
        texts = [TEXTS[position] for position in (3, 1, 0, 1)]
        table = reader.table(texts)
        assert table.means.shape == (4, DIMENSIONS)
        assert table.windows.dtype == np.float16
        expected = TinyEncoder().encode(texts)
        for own, read, mean in zip(expected, table.encoded(np.arange(4)), table.means, strict=True):
            np.testing.assert_allclose(own.windows, read.windows, atol=5e-4)
            np.testing.assert_allclose(own.vector, mean, atol=1e-3)
        assert table.counts.tolist() == [1, 3, 1, 3]
        np.testing.assert_allclose(np.linalg.norm(table.means, axis=1), 1, atol=1e-5)


def test_a_text_in_parts_has_the_windows_of_its_parts(tmp_path: Path) -> None:
    page = in_parts("\n".join(f"line {n} of a page with some words" for n in range(30)))
    texts = ["a line", page]
    assert len(split_parts(page)) == 3
    cache = VectorCache(tmp_path, "tiny")
    assert cache.fill(texts, TinyEncoder()) == 1 + len(split_parts(page))
    table = cache.table(texts)
    expected = encode_parts(TinyEncoder(), texts)
    for own, read, mean in zip(expected, table.encoded(np.arange(2)), table.means, strict=True):
        np.testing.assert_allclose(own.windows, read.windows, atol=5e-4)
        np.testing.assert_allclose(own.vector, mean, atol=1e-3)


def test_a_killed_run_loses_one_shard_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "SHARD_TEXTS", 2)
    encoder = TinyEncoder()
    encode, calls = encoder.encode, []

    def killed_at_the_second(texts: Sequence[str]) -> list[TextVectors]:
        calls.append(texts)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(texts)

    monkeypatch.setattr(encoder, "encode", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        VectorCache(tmp_path, "tiny").fill(TEXTS, encoder)
    assert VectorCache(tmp_path, "tiny").fill(TEXTS, TinyEncoder()) == 3


@pytest.mark.parametrize("keep", [0, 50, 400])
def test_a_damaged_shard_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: int
) -> None:
    monkeypatch.setattr(vectors, "SHARD_TEXTS", 2)
    cache = VectorCache(tmp_path, "tiny")
    cache.fill(TEXTS, TinyEncoder())
    damaged = sorted(cache.folder.iterdir())[0]
    damaged.write_bytes(damaged.read_bytes()[:keep])
    after = VectorCache(tmp_path, "tiny")
    assert 1 <= after.fill(TEXTS, TinyEncoder()) <= 2
    expected = np.stack([own.vector for own in TinyEncoder().encode(TEXTS[:4])])
    np.testing.assert_allclose(after.table(TEXTS[:4]).means, expected, atol=1e-3)
    assert VectorCache(tmp_path, "tiny").fill(TEXTS, TinyEncoder()) == 0


def test_progress_ends_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "SHARD_TEXTS", 2)
    seen: list[tuple[int, int]] = []
    VectorCache(tmp_path, "tiny").fill(
        TEXTS, TinyEncoder(), lambda done, total: seen.append((done, total))
    )
    assert seen == [(2, 5), (4, 5), (5, 5)]
