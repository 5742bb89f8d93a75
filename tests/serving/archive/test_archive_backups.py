"""Copies of an archive: made by themselves, made beside a service, and put back."""

from __future__ import annotations

import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from pydantic import ValidationError
from typer.testing import CliRunner, Result

from stillwatch.data.errors import StoreError
from stillwatch.serving.archive import ArchiveSettings, PromptArchive, backups
from stillwatch.serving.archive.sqlite import SqliteDatabase
from stillwatch.serving.cli import _Commands
from stillwatch.serving.commands import archive as commands
from stillwatch.serving.http.settings import ServeSettings, explain
from tests.serving.archive.archive_support import (
    batch,
    filled,
    opened,
    put,
    row,
    traces,
    wait_for_build,
)

HOUR_S = 3600.0
COUNT = 450
TRAINED = ArchiveSettings(train_at=400, save_least=200)
DAILY = replace(TRAINED, backup_hours=24.0)
app = typer.Typer(cls=_Commands, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(commands.app, name="archive")


def run(*argv: object, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, ["archive", *[str(word) for word in argv]], input=answer)


def copies(folder: Path) -> list[str]:
    home = folder / "backups"
    return sorted(path.name for path in home.iterdir()) if home.is_dir() else []


def found(archive: PromptArchive) -> list[list[str]]:
    """Ids of what some searches find, nearest first."""
    return [
        [hit.event.event_id for hit in archive.search(item.slot, 5)] for item in filled(COUNT)[::40]
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An archive with a trained index."""
    with opened(tmp_path / "archive", settings=TRAINED) as archive:
        put(archive, filled(COUNT))
        wait_for_build(archive)
    return tmp_path / "archive"


class TestSchedule:
    def test_a_copy_is_made_when_it_is_time(self, folder: Path) -> None:
        now = [time.time()]
        made = []
        for hours in (0.0, 1.0, 22.0, 1.5, 24.5):
            now[0] += hours * HOUR_S
            # That it is not time yet is known over restarts.
            with opened(folder, settings=DAILY, clock=lambda: now[0]) as archive:
                archive.flush()
                archive.flush()
            made.append(len(copies(folder)))
        # A copy's name has the machine's time, not the test's: at the last start it is old again.
        assert made == [1, 1, 1, 2, 2]
        newest = backups.latest(folder)
        assert newest is not None
        with opened(newest, settings=TRAINED) as copy:
            assert copy.status().indexed == COUNT

    def test_none_is_made_unless_it_is_asked_for(self, folder: Path) -> None:
        with opened(folder, settings=TRAINED) as archive:
            archive.flush()
        assert copies(folder) == []

    def test_one_that_fails_leaves_nothing_and_is_tried_again(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tried: list[str] = []

        def fail(self: SqliteDatabase, partial: str) -> bool:
            tried.append(partial)
            (Path(partial) / "archive.db").write_bytes(b"half")
            raise StoreError("the disk must have room, however: it has none; make room")

        now = [time.time()]
        with opened(folder, settings=DAILY, clock=lambda: now[0]) as archive:
            with monkeypatch.context() as broken:
                broken.setattr(SqliteDatabase, "backup", fail)
                archive.flush()
                archive.flush()
                assert (len(tried), copies(folder)) == (1, [])
                now[0] += HOUR_S
                archive.flush()
                assert (len(tried), copies(folder)) == (2, [])
            put(archive, [row("meanwhile", event="new")])
            assert archive.search("meanwhile")[0].event.event_id == "new"
            now[0] += HOUR_S
            archive.flush()
            assert len(copies(folder)) == 1

    def test_a_failure_is_told_until_a_copy_is_made(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(self: SqliteDatabase, partial: str) -> bool:
            raise StoreError("the disk must have room, however: it has none; make room")

        settings = replace(DAILY, interval_s=0.01, backup_retry_s=0.01)
        with monkeypatch.context() as broken:
            broken.setattr(SqliteDatabase, "backup", fail)
            with opened(folder, settings=settings, background=True) as archive:
                until(archive, "the disk must have room, however: it has none; make room")
                broken.undo()
                until(archive, None)
        assert len(copies(folder)) == 1

    def test_copies_that_had_to_go_are_made_again_though_it_failed_once(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> bool:
            raise StoreError("the disk must have room, however: it has none; make room")

        now = [time.time()]
        with opened(folder, settings=TRAINED, clock=lambda: now[0]) as archive:
            archive.backup()
            with monkeypatch.context() as broken:
                broken.setattr(SqliteDatabase, "backup", fail)
                archive.erase("a1")
            assert copies(folder) == []
            now[0] += HOUR_S
            archive.flush()
            assert len(copies(folder)) == 1

    def test_scoring_goes_on_meanwhile(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        begun, go_on = threading.Event(), threading.Event()
        backup = SqliteDatabase.backup

        def slowly(self: SqliteDatabase, partial: str) -> bool:
            begun.set()
            assert go_on.wait(20)
            return backup(self, partial)

        monkeypatch.setattr(SqliteDatabase, "backup", slowly)
        settings = replace(DAILY, interval_s=0.01)
        with opened(folder, settings=settings, background=True) as archive:
            assert begun.wait(20)
            # What scoring calls returns, and what is there is found.
            archive.offer(batch([row("came meanwhile", event="new")]))
            assert archive.status().queued_bytes > 0
            assert archive.search(filled(COUNT)[3].slot)[0].event.event_id == "e3"
            assert go_on.is_set() is False
            go_on.set()
            archive.flush()
            assert archive.search("came meanwhile")[0].event.event_id == "new"
        assert len(copies(folder)) == 1


def test_postgres_is_backed_up_by_its_own_tools() -> None:
    with pytest.raises(ValidationError) as faults:
        ServeSettings(auth="off", archive="postgresql://host/name", archive_backup_hours=24)
    assert explain(faults.value) == [
        "archive_backup_hours must be left out while the archive is in PostgreSQL, whose own tools "
        "back it up, however: 24"
    ]


class TestBeside:
    def test_a_copy_beside_a_service_finds_the_same(self, folder: Path, tmp_path: Path) -> None:
        with opened(folder, settings=TRAINED) as archive:
            put(archive, [row("only in the log yet", event="late")])
            before = found(archive)
            result = run("backup", folder)
            assert result.exit_code == 0, result.output
            put(archive, [row("after the copy", event="later")])
        (name,) = copies(folder)
        assert result.stdout.strip() == str(folder / "backups" / name)
        (tmp_path / "again").mkdir()
        result = run("restore", tmp_path / "again", "--from", result.stdout.strip(), "--yes")
        assert result.exit_code == 0, result.output
        with opened(tmp_path / "again", settings=TRAINED) as archive:
            # The command copies no index.
            assert archive.rebuilt == 1
            wait_for_build(archive)
            assert found(archive) == before
            assert archive.exact("only in the log yet")[0].event.event_id == "late"
            assert archive.exact("after the copy") == []

    def test_the_latest_are_kept(self, folder: Path) -> None:
        cut_off = folder / "backups" / "20200101T000000.000000Z.partial"
        cut_off.mkdir(parents=True)
        names = [Path(run("backup", folder).stdout.strip()).name for _ in range(3)]
        assert copies(folder) == names[1:]
        run("backup", folder, "--keep", 3)
        assert len(copies(folder)) == 3

    def test_an_erasure_reaches_it(self, folder: Path) -> None:
        needle = {"account": b"account-to-go"}
        with opened(folder, settings=TRAINED) as archive:
            put(archive, [row("words to go", account="account-to-go")])
            run("backup", folder)
            assert any("backups" in place for place in traces(folder, needle)["account"])
            archive.erase("account-to-go")
            assert not traces(folder, needle)
        assert len(copies(folder)) == 1

    def test_none_is_made_while_an_erasure_is_unfinished(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told = []

        def copied_too_soon(self: SqliteDatabase, thorough: bool) -> None:
            # Rows are deleted, copies gone, and pages may hold them still.
            told.append(run("backup", folder))
            purge(self, thorough)

        purge = SqliteDatabase.purge
        monkeypatch.setattr(SqliteDatabase, "purge", copied_too_soon)
        with opened(folder, settings=TRAINED) as archive:
            archive.erase("a1")
        assert told[0].exit_code == 2
        assert "must have no erasure in progress" in told[0].stderr
        assert copies(folder) == []


class TestRestore:
    def test_the_same_is_found_as_before(self, folder: Path) -> None:
        with opened(folder, settings=TRAINED) as archive:
            before = found(archive)
            archive.backup()
            put(archive, [row("after the copy", event="later")])
            archive.add(batch([row("accepted and not written", event="queued")]))
        result = run("restore", folder, answer="y\n")
        assert result.exit_code == 0, result.output
        assert "Lose what came after the copy of 20" in result.stderr
        with opened(folder, settings=TRAINED) as archive:
            assert archive.rebuilt == 0
            assert found(archive) == before
            assert archive.exact("after the copy") == []
            archive.flush()
            # Its queue outlives the tables.
            assert archive.exact("accepted and not written")[0].event.event_id == "queued"

    def test_a_log_of_the_old_tables_is_not_played_into_the_new(
        self, folder: Path, tmp_path: Path
    ) -> None:
        killed = tmp_path / "killed"
        with opened(folder, settings=TRAINED) as archive:
            archive.backup()
            put(archive, filled(300, seed=4, first=COUNT))
            shutil.copytree(folder, killed)
        assert (killed / "archive.db-wal").stat().st_size > 0
        (killed / "archive.db").write_bytes(b"damaged")
        assert run("restore", killed, "--yes").exit_code == 0
        with opened(killed, settings=TRAINED) as archive:
            assert archive.status().events == COUNT
        assert not list(killed.glob("*.restored"))

    def test_errors_are_one_line_and_change_nothing(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert "its folder holds none" in fault("restore", folder, "--yes")
        with opened(folder, settings=TRAINED) as archive:
            made = archive.backup()
            assert "one process that writes" in fault("restore", folder, "--yes")
            assert archive.search(filled(COUNT)[3].slot)[0].event.event_id == "e3"
        tables = (folder / "archive.db").read_bytes()
        assert "that was declined" in fault("restore", folder, answer="n\n")
        assert "is missing" in fault("restore", tmp_path / "none", "--from", made, "--yes")
        assert "is missing" in fault("backup", tmp_path)
        copy = made / "archive.db"
        whole = copy.read_bytes()
        for damaged in (whole[:-4096], b"", whole[: len(whole) // 2] + b"\xff" * len(whole)):
            copy.write_bytes(damaged)
            assert "must hold the whole tables" in fault("restore", folder, "--yes")
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        for command in ("backup", "restore"):
            assert "this one is another" in fault(command, folder)
        assert (folder / "archive.db").read_bytes() == tables


def fault(*argv: object, answer: str | None = None) -> str:
    result = run(*argv, answer=answer)
    assert result.exit_code == 2, result.output
    return result.stderr.splitlines()[-1]


def until(archive: PromptArchive, trouble: str | None) -> None:
    """Waits for what the background thread tells."""
    end = time.monotonic() + 20
    while archive.status().trouble != trouble:
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)
