"""Nothing that was accepted is lost: by a kill, a full disk, a stopped server, damaged files."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stillwatch.data.errors import StoreError
from stillwatch.serving.archive import ArchiveSettings, PromptArchive, writing
from stillwatch.serving.archive.spool import Spool
from tests.serving.archive import kill_driver
from tests.serving.archive.archive_support import (
    ENCODER,
    SETTINGS,
    batch,
    filled,
    opened,
    put,
    row,
    small_disk,
    wait_for_build,
)
from tests.serving.archive.postgres_support import postgres_server
from tests.support import DIMENSIONS, TinyEncoder


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Waits for a background thread."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def killed_at(folder: Path, point: int) -> list[str]:
    """What was acknowledged by a process that died at that point of its writing."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.serving.archive.kill_driver", folder, str(point)],
        capture_output=True, text=True, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert run.returncode == (-9 if point else 0), run.stderr
    return run.stdout.splitlines()


@pytest.mark.slow
def test_a_kill_at_any_point_loses_nothing_acknowledged(tmp_path: Path) -> None:
    *_, last = killed_at(tmp_path / "whole", 0)
    points = int(last.split()[1])
    assert points > 200
    for share in range(8):
        point = 1 + share * (points - 2) // 7
        folder = tmp_path / f"at-{point}"
        told = killed_at(folder, point)
        added = [int(line.split()[1]) for line in told if line.startswith("added")]
        erased = [int(line.split()[1]) for line in told if line.startswith("erased")]
        with opened(folder, settings=kill_driver.SETTINGS) as archive:
            archive.flush()
            status = archive.status()
            assert status.refused == 0
            for number in added:
                for item in filled(kill_driver.EACH, number, first=kill_driver.EACH * number):
                    found = archive.event(item.event.account_id, item.event.event_id)
                    assert found.prompt == item.event.prompt
                wanted = filled(kill_driver.EACH, number, first=kill_driver.EACH * number)[7]
                hits = archive.search(wanted.slot, 1)
                assert hits[0].event.event_id == wanted.event.event_id
            left = {event.event_id for event in archive.events("gone").events}
            for number in added:
                if erased and number <= erased[-1]:
                    assert f"gone-{number}" not in left
            # Each once, whatever was read from the queue a second time.
            names = [*(f"a{number}" for number in range(10)), "gone"]
            pages = [archive.events(name, size=1000).events for name in names]
            ids = [event.event_id for page in pages for event in page]
            assert len(ids) == len(set(ids)) == status.events


def test_records_survive_and_cut_off_ends_are_left_out(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 10_000)
    for number in range(5):
        spool.append(b"record %d" % number)
    spool.close()
    (segment,) = tmp_path.iterdir()
    segment.write_bytes(segment.read_bytes()[:-3])
    again = Spool(tmp_path, 10_000)
    again.append(b"later")
    first, second = again.sealed()
    assert list(again.read(first)) == [b"record %d" % number for number in range(4)]
    assert again.damaged == 17
    assert list(again.read(second)) == [b"later"]
    again.remove(first)
    assert again.waiting == second.stat().st_size
    again.close()


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_record_that_failed_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    spool = Spool(tmp_path, 10_000)
    spool.append(b"before")
    plain_write = os.write

    def fail(descriptor: int, content: bytes = b"") -> int:
        if content:
            plain_write(descriptor, bytes(content)[:5])
        monkeypatch.undo()
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StoreError, match="No space left on device; make room"):
        spool.append(b"too much")
    spool.append(b"after")
    found = [record for segment in spool.sealed() for record in spool.read(segment)]
    assert found == [b"before", b"after"]
    assert spool.damaged == 0
    spool.close()


def test_a_full_queue_refuses_and_holds_back(tmp_path: Path) -> None:
    settings = ArchiveSettings(train_at=10**9, queue_bytes=5000, retry_bytes=5000)
    with opened(tmp_path / "archive", settings=settings) as archive:
        archive.add(batch(filled(10)))
        with pytest.raises(StoreError, match="it is full"):
            archive.add(batch(filled(30, seed=1, first=10)))
        archive.offer(batch(filled(12, seed=1, first=10)))
        assert archive.status().retrying == 12
        archive.offer(batch(filled(30, seed=2, first=22)))
        status = archive.status()
        assert (status.retrying, status.dropped) == (12, 30)
        archive.flush()
        archive.flush()
        status = archive.status()
        assert (status.events, status.retrying, status.queued_bytes) == (22, 0, 0)


def test_scoring_is_never_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path / "archive") as archive:
        archive.offer(batch([row("nan", risk=float("nan"))]))
        archive.offer(batch([row("short")._replace(contribution=(0.1,))]))
        monkeypatch.setattr(Spool, "append", lambda *_: 1 / 0)
        archive.offer(batch(filled(3)))
        assert archive.status().dropped == 2
        assert archive.status().retrying == 3
        monkeypatch.undo()
        archive.flush()
        assert archive.status().events == 3


def test_a_full_disk_is_told_and_recovered_from(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    settings = ArchiveSettings(train_at=200, save_least=10)
    with small_disk(disk, "6m"), opened(disk / "archive", settings=settings) as archive:
        put(archive, filled(100))
        _fill(disk / "ballast")
        told = []
        for number in range(1, 40):
            rows = filled(20, seed=number, first=100 * number)
            try:
                archive.add(batch(rows))
            except StoreError as error:
                told.append(str(error))
                archive.offer(batch(rows))
            try:
                archive.flush()
            except StoreError as error:
                told.append(str(error))
        assert told
        assert {line.split("; ")[-1].split(",")[0] for line in told} <= {
            "make room or restore its folder", "make room", "make room in its folder",
        }  # fmt: skip
        # What is there is found while there is no room.
        assert archive.search(filled(100)[5].slot, 1)[0].event.event_id == "e5"
        (disk / "ballast").unlink()
        archive.flush()
        archive.flush()
        status = archive.status()
        assert (status.events, status.queued_bytes, status.retrying) == (100 + 39 * 20, 0, 0)
        assert status.dropped == status.refused == status.damaged_bytes == 0
        wait_for_build(archive)
        assert archive.status().generation > 0


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)


def test_a_batch_that_cannot_be_written_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(prompt: str) -> int:
        if prompt == "poison":
            raise RuntimeError("it holds a prompt")
        return 1

    with opened(tmp_path / "archive") as archive:
        monkeypatch.setattr(writing, "prompt_key", poisoned)
        archive.add(batch([row("poison")]))
        archive.add(batch(filled(5)))
        archive.flush()
        status = archive.status()
        assert (status.events, status.refused, status.queued_bytes) == (5, 1, 0)


def test_the_background_works_by_itself(tmp_path: Path) -> None:
    settings = ArchiveSettings(interval_s=0.01, train_at=300, save_least=100)
    archive = PromptArchive.open(
        tmp_path / "archive", DIMENSIONS, encoder=TinyEncoder(), encoder_id=ENCODER,
        settings=settings,
    )  # fmt: skip
    try:

        def offer(start: int) -> None:
            for number in range(start * 20, start * 20 + 20):
                archive.offer(batch(filled(10, seed=number, first=number * 10)))

        threads = [threading.Thread(target=offer, args=(start,)) for start in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        until(lambda: archive.status().events == 600)
        until(lambda: archive.status().generation >= 1)
        assert archive.status().indexed >= 300
        assert archive.search(filled(10)[3].slot, 1)[0].event.event_id == "e3"
    finally:
        archive.close()
    archive.close()


def test_the_background_tries_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = threading.Event()

    def fail(*_: object) -> int:
        failed.set()
        raise StoreError("the tables must be there, however: they are not; wait")

    archive = PromptArchive.open(
        tmp_path / "archive", DIMENSIONS, encoder_id=ENCODER,
        settings=ArchiveSettings(interval_s=0.01),
    )  # fmt: skip
    try:
        monkeypatch.setattr(writing, "write_batches", fail)
        archive.add(batch(filled(3)))
        assert failed.wait(20)
        until(lambda: archive.status().trouble is not None)
        assert archive.status().queued_bytes > 0
        monkeypatch.undo()
        until(lambda: archive.status().events == 3 and archive.status().trouble is None)
    finally:
        archive.close()


def test_what_is_in_the_queue_at_the_end_is_there_at_the_start(tmp_path: Path) -> None:
    with opened(tmp_path / "archive") as archive:
        archive.add(batch(filled(7)))
        assert archive.status().events == 0
    with opened(tmp_path / "archive") as archive:
        archive.flush()
        assert archive.status().events == 7


def test_a_server_that_stops_delays_and_loses_nothing(tmp_path: Path) -> None:
    with (
        postgres_server() as server,
        opened(server.url, folder=tmp_path / "archive", settings=SETTINGS) as archive,
    ):
        put(archive, filled(20))
        server.stop()
        archive.add(batch(filled(20, seed=1, first=20)))
        with pytest.raises(StoreError, match="database must be reachable"):
            archive.flush()
        with pytest.raises(StoreError, match="database must be reachable"):
            archive.search("word1")
        assert server.start()
        archive.flush()
        assert archive.status().events == 40
        wanted = filled(20, seed=1, first=20)[3]
        assert archive.search(wanted.slot, 1)[0].event.event_id == wanted.event.event_id
