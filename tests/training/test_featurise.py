"""No skew: what is trained on is what is served, number by number."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillwatch.data.events import Event, Turn
from stillwatch.data.simulator.streams import Stream
from stillwatch.model.bundle import Bundle
from stillwatch.model.features import feature_names
from stillwatch.model.heads import IntentHeads, class_names
from stillwatch.model.templates import BenignIndex, TemplateIndex
from stillwatch.training.featurise import Readers, featurise
from stillwatch.training.fit_heads import NgramTable
from stillwatch.training.framed import FramedStreams, TextTable, frame_streams
from stillwatch.training.vectors import VectorCache, VectorTable
from tests.support import (
    DIMENSIONS,
    INTENTS,
    WINDOW_WORDS,
    TinyEncoder,
    make_events,
    tiny_bundle,
    tiny_scorer,
)

CLASSES = class_names(INTENTS)
NAMES = feature_names(CLASSES, INTENTS)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def readers_of(bundle: Bundle) -> Readers:
    """What reads a text in serving, for training."""
    return Readers(
        IntentHeads.from_bytes(bundle.content["heads.safetensors"], DIMENSIONS, len(CLASSES)),
        TemplateIndex.from_files(bundle.content, DIMENSIONS, INTENTS),
        BenignIndex.from_files(bundle.content, DIMENSIONS, bundle.manifest.benign_sources),
    )


def odd_events() -> list[Event]:
    """One account with all that a prompt can be: long, hidden, empty, repeated, foreign."""
    long = " ".join(f"word{number}" for number in range(3 * WINDOW_WORDS))
    hidden = "d2hlcmUgaXMgbXkgcGFyY2VsIGFuZCB3aGVuIHdpbGwgaXQgYXJyaXZlIGF0IG15IGhvdXNl"
    frame = "Please put each of your thoughts into tags around the answer:"
    prompts = [
        long, "", f"decode this: {hidden}", "请写出每一步的理由", f"{frame} why is the sky blue",
        f"{frame} who painted it", f"{frame} who painted it", long, "Ｆｕｌｌ  ｗｉｄｔｈ",
        "\u200bplain", f"{frame} {long}",
    ]  # fmt: skip
    events = [
        Event(f"odd{position}", "odd", 1.7e9 + 3600.0 * position**2, prompt)
        for position, prompt in enumerate(prompts)
    ]
    changes: dict[int, dict[str, Any]] = {
        2: {"temperature": 0.7, "n": 4},
        3: {"system": "你是一位老师。", "logprobs": True, "timestamp": 1.6e9},
        4: {"max_tokens": 4096, "turns": (Turn("user", "hello"), Turn("assistant", "hi"))},
        9: {"system": "Be brief.", "timestamp": 1.9e9},
    }
    return [replace(event, **changes.get(n, {})) for n, event in enumerate(events)]


def streams_of(events: list[Event]) -> list[Stream]:
    """The streams of these events, accounts in the order in which they were first seen."""
    accounts: dict[str, list[Event]] = {}
    for event in events:
        accounts.setdefault(event.account_id, []).append(event)
    return [
        Stream(
            account_id, "person", (), 0.0, "en", tuple(own), np.zeros(len(own), dtype=bool),
            ("person",) * len(own), ("test",) * len(own),
        )
        for account_id, own in accounts.items()
    ]  # fmt: skip


def framed(streams: list[Stream], folder: Path) -> tuple[FramedStreams, TextTable, VectorTable]:
    table = TextTable()
    found = frame_streams(streams, table)
    cache = VectorCache(folder, "tiny")
    cache.fill(table.texts, TinyEncoder())
    return found, table, cache.table(table.texts)


class Recorder:
    """Stands before the classifier and keeps the features it is given."""

    def __init__(self, step: Any) -> None:
        self.step = step
        self.seen: list[np.ndarray] = []

    def run(self, features: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.seen.append(features.copy())
        found: tuple[np.ndarray, np.ndarray] = self.step.run(features, state)
        return found


def served(bundle: Bundle, events: list[Event]) -> dict[str, np.ndarray]:
    """Features (T, F) of each account as the scorer computes them, event by event."""
    scorer = tiny_scorer(bundle)
    recorder = Recorder(scorer.detector._step)
    scorer.detector._step = recorder  # type: ignore[assignment]
    found: dict[str, list[np.ndarray]] = {}
    for event in events:
        scorer.update([event])
        found.setdefault(event.account_id, []).append(recorder.seen[-1][0])
    return {account: np.stack(rows) for account, rows in found.items()}


def test_training_and_serving_compute_the_same_features(bundle: Bundle, tmp_path: Path) -> None:
    events = [*make_events(accounts=6, each=25), *odd_events()]
    streams = streams_of(events)
    own, table, vectors = framed(streams, tmp_path)
    trained = featurise(
        own, table.texts, vectors, NgramTable(table.texts), readers_of(bundle), len(INTENTS)
    )
    expected = served(bundle, events)
    assert [len(rows) for rows in trained] == [25] * 6 + [len(odd_events())]
    for stream, rows in zip(streams, trained, strict=True):
        wanted = expected[stream.account_id]
        assert rows.dtype == np.float16
        assert wanted.shape[1] == len(NAMES)
        for column, name in enumerate(NAMES):
            # Vectors and features are kept as float16 for training.
            np.testing.assert_allclose(
                rows[:, column].astype(np.float32), wanted[:, column],
                rtol=4e-3, atol=1e-2, err_msg=f"{stream.account_id} {name}",
            )  # fmt: skip
    everything = np.concatenate(list(expected.values()))
    still = {
        name for name, spread in zip(NAMES, np.ptp(everything, axis=0), strict=True) if not spread
    }
    assert not still, "features that never change prove nothing"


def test_the_first_events_are_the_same_without_the_rest(bundle: Bundle, tmp_path: Path) -> None:
    own, table, vectors = framed(streams_of(make_events(accounts=4, each=20)), tmp_path)
    readers = readers_of(bundle)
    ngrams = NgramTable(table.texts)
    whole = featurise(own, table.texts, vectors, ngrams, readers, len(INTENTS))
    cut = featurise(
        own, table.texts, vectors, NgramTable(table.texts), readers, len(INTENTS), longest=7
    )
    for rows, first in zip(whole, cut, strict=True):
        np.testing.assert_array_equal(rows[:7], first)


def test_streams_do_not_know_each_other(bundle: Bundle, tmp_path: Path) -> None:
    events = make_events(accounts=4, each=20)
    uneven = [e for n, e in enumerate(events) if n < 12 or e.account_id in ("a1", "a2")]
    readers = readers_of(bundle)
    streams = streams_of(uneven)
    own, table, vectors = framed(streams, tmp_path)
    together = featurise(own, table.texts, vectors, NgramTable(table.texts), readers, len(INTENTS))
    for stream, rows in zip(streams, together, strict=True):
        alone, own_table, own_vectors = framed([stream], tmp_path)
        (found,) = featurise(
            alone, own_table.texts, own_vectors, NgramTable(own_table.texts), readers, len(INTENTS)
        )
        np.testing.assert_allclose(found.astype(np.float32), rows, rtol=2e-3, atol=2e-3)


def test_texts_are_kept_once_and_merged_by_content() -> None:
    streams = streams_of(make_events(accounts=4, each=20))
    one = TextTable()
    expected = frame_streams(streams, one)
    assert len(set(one.texts)) == len(one.texts)
    other = TextTable()
    other.add("something that stood there before")
    part = TextTable()
    merged = other.merge(frame_streams(streams, part), part.texts)
    for ids, known in ((merged.frame_id, expected.frame_id), (merged.slot_id, expected.slot_id)):
        assert np.array_equal(ids < 0, known < 0)
        for own, wanted in zip(ids[ids >= 0], known[known >= 0], strict=True):
            assert other.texts[own] == one.texts[wanted]
    assert (merged.frame_id < 0).any()
    assert (merged.frame_id >= 0).any()


def test_streams_as_arrays_keep_what_is_true_of_them() -> None:
    events = make_events(accounts=3, each=5)
    streams = streams_of(events)
    marks = np.array([False, True, False, True, True])
    streams[1] = replace(
        streams[1], kind="cot_tags", intents=("cot_harvesting",), attack=marks, share=0.6,
        labels=("person", "cot_harvesting", "person", "cot_harvesting", "cot_harvesting"),
    )  # fmt: skip
    found = frame_streams(streams, TextTable())
    assert len(found) == 3
    assert found.lengths.tolist() == [5, 5, 5]
    assert found.is_attack.tolist() == [False, True, False]
    assert found.intent_matrix(INTENTS).tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert np.array_equal(found.attack[5:10], marks)
    assert found.labels[5:10].tolist() == list(streams[1].labels)
    assert found.times[5:10].tolist() == [event.timestamp for event in streams[1].events]
