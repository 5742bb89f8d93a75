"""Decisions as labels, and the erasure of an account."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillwatch.data.errors import InputError, OutputError, StoreError
from stillwatch.data.log import read_log
from stillwatch.serving.archive import PromptArchive
from stillwatch.serving.desk import Desk, Exported
from stillwatch.serving.desk import labels as labels_module
from stillwatch.training.labelled import read_labelled
from tests.serving.archive.archive_support import NOON, opened, put, row, sentences
from tests.serving.desk.desk_support import CANARY, desk_in, files_holding, verdict
from tests.support import INTENTS


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[PromptArchive]:
    with opened(tmp_path / "archive") as archive:
        rows = [
            row(text, account=f"a{n % 5}", event=f"e{n}", time=NOON - 30.0 * n,
                system="Be brief." if n % 2 else "", model="m1", network="n1")
            for n, text in enumerate(sentences(40))
        ]  # fmt: skip
        put(archive, rows)
        yield archive


@pytest.fixture
def desk(tmp_path: Path, archive: PromptArchive) -> Iterator[Desk]:
    with desk_in(tmp_path / "desk", archive=archive, two_person=True) as desk:
        for name in ("ann", "bob"):
            desk.decide("a0", "confirm", 'a "harvest"\n', name, verdict("a0"))
        desk.decide("a1", "reject", "a shop", "ann", verdict("a1"))
        desk.decide("a2", "confirm", "not seconded", "ann", verdict("a2"))
        desk.decide("a3", "needs_more", "unclear", "ann", verdict("a3"))
        undone = desk.decide("a4", "reject", "too early", "ann", verdict("a4"))
        desk.undo(undone.id, "ann", "too early")
        desk.decide("gone", "reject", "erased since", "ann", verdict("gone"))
        yield desk


def test_training_reads_what_is_exported(
    desk: Desk, archive: PromptArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Pages of the archive that have to be put together.
    monkeypatch.setattr(labels_module, "_PAGE", 3)
    output = tmp_path / "labelled"
    assert desk.export_labels(output, "ann") == Exported(1, 1, 16, 1)
    streams = [stream for group in read_labelled(output, list(INTENTS)) for stream in group]
    assert [(one.account_id, one.intents, len(one.events)) for one in streams] == [
        ("a0", ("cot_harvesting",), 8), ("a1", (), 8),
    ]  # fmt: skip
    for stream in streams:
        held = archive.events(stream.account_id, size=100).events[::-1]
        assert [(e.event_id, e.timestamp, e.prompt, e.system, e.model, e.network)
                for e in stream.events] == [
            (e.event_id, e.time, e.prompt, e.system, e.model, e.network) for e in held
        ]  # fmt: skip
    lines = [json.loads(line) for line in (output / "labels.jsonl").read_text().splitlines()]
    assert lines[0]["note"] == 'a "harvest"'
    assert lines[0]["source"] == "desk decision 3"
    assert "ann" not in (output / "labels.jsonl").read_text()
    assert len(list(read_log([p for p in output.iterdir() if "labels" not in p.name]))) == 16
    entry = desk.entries(limit=1)[0]
    assert (entry.action, entry.fields["events"]) == ("labels.exported", 16)
    assert {path.stat().st_mode & 0o077 for path in [output, *output.iterdir()]} == {0}


def test_an_export_is_whole_or_not_at_all(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "labelled"

    def full(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    before = sorted(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OutputError, match="make room"):
            desk.export_labels(output, "ann")
    assert sorted(tmp_path.iterdir()) == before
    output.mkdir()
    desk.export_labels(output, "ann")
    with pytest.raises(OutputError, match="new or empty"):
        desk.export_labels(output, "ann")


def test_nothing_decided_is_told(tmp_path: Path, archive: PromptArchive) -> None:
    with desk_in(tmp_path / "d", archive=archive) as desk:
        with pytest.raises(InputError, match="it holds none"):
            desk.export_labels(tmp_path / "labelled", "ann")
        assert not (tmp_path / "labelled").exists()
    with desk_in(tmp_path / "d") as desk, pytest.raises(StoreError, match="opened without"):
        desk.export_labels(tmp_path / "labelled", "ann")


class Store:
    """A state store that lets go."""

    def __init__(self, fails: bool = False) -> None:
        self.erased: list[str] = []
        self.fails = fails

    def erase(self, account_id: str) -> None:
        if self.fails:
            raise StoreError("the store must answer, however: it does not")
        self.erased.append(account_id)


def test_an_erasure_leaves_an_entry_without_prompts(
    desk: Desk, archive: PromptArchive, tmp_path: Path
) -> None:
    put(archive, [row(f"remember the {CANARY}", account="x1", event="x", time=NOON)])
    desk.decide("x1", "confirm", "r", "ann", verdict("x1"))
    store = Store()
    done = desk.erase("x1", "bob", "asked for by the customer", store)
    assert (done.events, done.states, store.erased) == (1, True, ["x1"])
    assert archive.events("x1").total == 0
    assert not files_holding(tmp_path, CANARY.encode())
    begun, ended = desk.entries(limit=2)[::-1]
    assert (begun.action, begun.actor, begun.fields["reason"]) == (
        "account.erasing", "bob", "asked for by the customer",
    )  # fmt: skip
    assert (ended.action, ended.number, ended.fields["events"]) == ("account.erased", done.entry, 1)
    assert desk.unfinished_erasures() == []
    # The decision stands; of the account nothing is exported any more.
    assert desk.present("x1") is not None
    assert desk.export_labels(tmp_path / "labelled", "ann").missing == 1
    assert desk.verify().intact


def test_an_interrupted_erasure_is_remembered(desk: Desk, archive: PromptArchive) -> None:
    desk.decide("a9", "reject", '"action":"account.erasing"', "ann", verdict("a9"))
    with pytest.raises(StoreError):
        desk.erase("a1", "bob", "r", Store(fails=True))
    assert desk.unfinished_erasures() == ["a1"]
    assert archive.events("a1").total == 8
    assert not desk.erase("a1", "bob", "again").states
    assert desk.unfinished_erasures() == []
