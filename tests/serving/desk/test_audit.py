"""The audit log: whatever is changed in it is found, and whatever a crash leaves is mended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillwatch.data.errors import ConfigError, InputError, StoreError
from stillwatch.serving.desk import AuditError, Decision, Desk, Head, database
from stillwatch.serving.desk.anchor import FILE as ANCHOR
from stillwatch.serving.desk.anchor import Anchor
from stillwatch.serving.desk.audit import START, chained
from tests.serving.desk.desk_support import (
    CANARY,
    anchor_lines,
    desk_in,
    files_holding,
    fill,
    in_tables,
    verdict,
)

ENTRIES = 9
"""Of the log that is tampered with."""


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit") / "desk"
    with desk_in(folder) as desk:
        fill(desk, ENTRIES - 1)
        assert desk.head().count == ENTRIES
    return folder


@pytest.fixture
def copied(untouched: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(untouched, tmp_path / "copy"))


def head_of(folder: Path) -> Head:
    with desk_in(folder, read_only=True) as desk:
        return desk.head()


def findings(folder: Path, head: Head | None = None) -> tuple[str, ...]:
    with desk_in(folder, read_only=True) as desk:
        return desk.verify(head).findings


def test_an_untouched_log_is_intact(untouched: Path) -> None:
    head = head_of(untouched)
    assert findings(untouched, head) == ()
    assert findings(untouched, START) == ()
    assert Head.parse(str(head)) == head
    assert anchor_lines(untouched)[-1] == f"{head}\n"


def rechain(connection: sqlite3.Connection) -> None:
    """What a forger would do who knows how the log is made: hashes anew, from the first on."""
    before = START.hash
    for number, content in connection.execute(
        "SELECT number, content FROM audit ORDER BY number"
    ).fetchall():
        before = chained(before, content)
        connection.execute("UPDATE audit SET hash = ? WHERE number = ?", (before, number))


def edit(connection: sqlite3.Connection, number: int, name: str, value: Any) -> None:
    ((content,),) = connection.execute("SELECT content FROM audit WHERE number = ?", (number,))
    fields = {**json.loads(content), name: value}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    connection.execute("UPDATE audit SET content = ? WHERE number = ?", (text, number))


def delete(connection: sqlite3.Connection, number: int, close_up: bool) -> None:
    connection.execute("DELETE FROM audit WHERE number = ?", (number,))
    if close_up:
        rows = "SELECT number FROM audit WHERE number > ? ORDER BY number"
        for (later,) in connection.execute(rows, (number,)).fetchall():
            connection.execute("UPDATE audit SET number = ? WHERE number = ?", (later - 1, later))
            edit(connection, later - 1, "number", later - 1)


def swap(connection: sqlite3.Connection, one: int, other: int, renumber: bool) -> None:
    for number, target in ((one, -1), (other, one), (-1, other)):
        sql = "UPDATE audit SET number = ? WHERE number = ?"
        connection.execute(sql, (target, number))
    if renumber:
        for number in (one, other):
            edit(connection, number, "number", number)


NUMBERS = st.integers(1, ENTRIES)
TAMPERING = st.one_of(
    st.tuples(
        st.just(edit), NUMBERS,
        st.sampled_from(["time", "actor", "action", "fields", "number", "more"]),
        st.one_of(st.none(), st.integers(-5, 5), st.text(max_size=5), st.just({"x": [1]})),
    ),
    st.tuples(st.just(delete), NUMBERS, st.booleans()),
    st.tuples(st.just(swap), NUMBERS, NUMBERS, st.booleans()).filter(
        lambda item: item[1] != item[2]
    ),
)  # fmt: skip


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(tampering=TAMPERING, forged=st.booleans(), anchor_too=st.booleans())
def test_any_change_is_found(
    untouched: Path, tmp_path: Path, tampering: tuple[Any, ...], forged: bool, anchor_too: bool
) -> None:
    head = head_of(untouched)
    folder = Path(shutil.copytree(untouched, tmp_path / "copy"))
    try:
        with sqlite3.connect(folder / "desk.sqlite") as connection:
            rows = "SELECT content FROM audit ORDER BY number"
            before = connection.execute(rows).fetchall()
            tampering[0](connection, *tampering[1:])
            if connection.execute(rows).fetchall() == before:
                return
            if forged:
                rechain(connection)
            hashes = connection.execute("SELECT hash, number FROM audit ORDER BY number").fetchall()
        connection.close()
        if anchor_too:
            (folder / ANCHOR).write_text("".join(f"{own}:{number}\n" for own, number in hashes))
        # Whoever forges chain and anchor alike is found by a head that was written down.
        found = findings(folder, head if forged and anchor_too else None)
        assert found
        assert not any(CANARY in line for line in found)
        with desk_in(folder) as desk:
            assert desk.verify(head).findings
    finally:
        shutil.rmtree(folder)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cut=st.integers(1, ENTRIES), anchor_too=st.booleans())
def test_a_cut_tail_is_found(untouched: Path, tmp_path: Path, cut: int, anchor_too: bool) -> None:
    head = head_of(untouched)
    folder = Path(shutil.copytree(untouched, tmp_path / "copy"))
    try:
        last = ENTRIES - cut

        def change(connection: sqlite3.Connection) -> None:
            for table, column in (("decisions", "id"), ("templates", "added"), ("audit", "number")):
                connection.execute(f"DELETE FROM {table} WHERE {column} > ?", (last,))
            connection.execute("UPDATE decisions SET undone = NULL WHERE undone > ?", (last,))

        in_tables(folder, change)
        if anchor_too:
            (folder / ANCHOR).write_text("".join(anchor_lines(folder)[:last]))
            # Nothing here tells any more, but the head that was written down does.
            assert findings(folder) == ()
            assert findings(folder, head)
        else:
            assert findings(folder)
            with desk_in(folder) as desk, pytest.raises(AuditError):
                desk.decide("a1", "reject", "again", "ann", None)
    finally:
        shutil.rmtree(folder)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_damaged_anchor_is_found(untouched: Path, tmp_path: Path, data: st.DataObject) -> None:
    whole = (untouched / ANCHOR).read_bytes()
    position = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != whole[position]))
    folder = Path(shutil.copytree(untouched, tmp_path / "copy"))
    try:
        (folder / ANCHOR).write_bytes(whole[:position] + bytes([byte]) + whole[position + 1 :])
        assert findings(folder)
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("lines", [0, 1, ENTRIES - 2])
def test_an_anchor_that_was_cut_is_no_crash(copied: Path, lines: int) -> None:
    (copied / ANCHOR).write_text("".join(anchor_lines(copied)[:lines]))
    with desk_in(copied) as desk:
        assert desk.verify().findings
        with pytest.raises(AuditError):
            desk.decide("a1", "reject", "again", "ann", None)


def test_a_missing_anchor_is_found(copied: Path) -> None:
    (copied / ANCHOR).unlink()
    with desk_in(copied) as desk:
        assert "missing" in desk.verify().findings[0]
        with pytest.raises(AuditError, match="missing"):
            desk.undo(4, "ann", "again")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE decisions SET account = CAST('a7' AS BLOB) WHERE id = 5",
        "UPDATE decisions SET undone = NULL",
        "UPDATE decisions SET undone = 3 WHERE id = 6",
        "DELETE FROM decisions WHERE id = 5",
        "INSERT INTO decisions (id, account) VALUES (4, CAST('a1' AS BLOB))",
        "UPDATE templates SET text = 'Where is my {slot}'",
        "UPDATE templates SET state = 'live'",
        "UPDATE templates SET expires = '2099-01-01'",
        "UPDATE templates SET source = 'police'",
        "DELETE FROM templates",
        "UPDATE templates SET changed = 1",
    ],
)
def test_what_the_tables_say_otherwise_is_found(copied: Path, change: str) -> None:
    in_tables(copied, lambda connection: connection.execute(change))
    found = findings(copied)
    assert len(found) == 1
    assert "as the log tells of it" in found[0]


def test_an_accepted_log_goes_on_and_says_so(copied: Path) -> None:
    (copied / ANCHOR).unlink()
    with desk_in(copied) as desk:
        desk.accept_log("ann", "the disk was restored")
        desk.decide("a1", "reject", "again", "ann", None)
        assert desk.verify().intact
        assert desk.entries()[1].action == "log.accepted"
    # An anchor may begin there, not after any entry.
    (copied / ANCHOR).write_text(anchor_lines(copied)[-1])
    assert "must begin with the log" in findings(copied)[0]


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("torn", [0, 1, 40, 65, -1])
def test_a_crash_before_the_anchor_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: int
) -> None:
    """`torn` characters of the line were written, -1 all but its end."""
    real = Anchor.append

    def cut(self: Anchor, head: Head, partial: str = "") -> None:
        with self.path.open("a") as file:
            file.write(str(head)[:torn] if torn >= 0 else str(head))
        raise Killed

    with desk_in(tmp_path) as desk:
        fill(desk, 4)
        monkeypatch.setattr(Anchor, "append", cut)
        with pytest.raises(Killed):
            desk.decide("last", "confirm", "seen to", "ann", verdict("last"))
    monkeypatch.setattr(Anchor, "append", real)
    with desk_in(tmp_path, read_only=True) as desk:
        # Somebody else who looks now sees no tampering.
        found = desk.verify()
        assert (found.findings, found.behind) == ((), 1)
    with desk_in(tmp_path) as desk:
        assert desk.present("last") is not None
        assert desk.verify() == desk.verify(desk.head())
        assert desk.verify().intact
        assert desk.verify().behind == 0
        desk.decide("next", "reject", "goes on", "ann", None)
        assert desk.verify().intact


def test_another_process_mends_before_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with desk_in(tmp_path) as first, desk_in(tmp_path) as second:
        with monkeypatch.context() as patch:
            patch.setattr(Anchor, "append", lambda *_: (_ for _ in ()).throw(Killed()))
            with pytest.raises(Killed):
                first.decide("a1", "reject", "fine", "ann", None)
        second.decide("a2", "reject", "fine", "bob", None)
        first.decide("a3", "reject", "fine", "ann", None)
        assert first.verify().intact
        assert len(anchor_lines(tmp_path)) == 4


def test_a_forged_entry_is_not_mended(copied: Path) -> None:
    def forge(connection: sqlite3.Connection) -> None:
        content = json.dumps({"number": ENTRIES + 1})
        connection.execute("INSERT INTO audit VALUES (?, ?, ?)", (ENTRIES + 1, content, "0" * 64))

    in_tables(copied, forge)
    with desk_in(copied) as desk:
        assert desk.verify().findings
        with pytest.raises(AuditError):
            desk.decide("a1", "reject", "again", "ann", None)


def test_an_anchor_without_room_is_caught_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with desk_in(tmp_path) as desk:
        with monkeypatch.context() as patch:
            patch.setattr(Anchor, "append", full)
            # It stands, though its anchor waits; a second one has to wait for the first's anchor.
            assert desk.decide("a1", "reject", "fine", "ann", None).state == "counts"
            with pytest.raises(StoreError, match="make room"):
                desk.decide("a2", "reject", "fine", "ann", None)
        assert desk.present("a2") is None
        desk.decide("a2", "reject", "fine", "ann", None)
        assert desk.verify().intact


WRITER = """
import sys
from pathlib import Path
from stillwatch.serving.desk import Desk
desk = Desk.open(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    made = desk.decide(f"a{number}", "reject", "fine", "ann", None)
    print(made.id, flush=True)
"""


@pytest.mark.parametrize("after", [1, 7, 23])
def test_kill_loses_nothing_acknowledged(tmp_path: Path, after: int) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(after)]
        os.kill(process.pid, signal.SIGKILL)
        acknowledged += [int(line) for line in process.stdout if line.endswith("\n")]
    with desk_in(tmp_path) as desk:
        found = desk.verify()
        assert found.intact, found.findings
        assert [one.id for one in desk.decisions(limit=10**6)][::-1][: len(acknowledged)] == (
            acknowledged
        )


def test_two_desks_share_a_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with (
        desk_in(tmp_path) as desk,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdout is not None
        process.stdout.readline()
        for number in range(10):
            desk.decide(f"b{number}", "reject", "fine", "bob", None)
            # What it finds beside a writer is no tampering.
            assert desk.verify().intact
        os.kill(process.pid, signal.SIGKILL)
    with desk_in(tmp_path) as desk:
        assert desk.verify().intact


def test_one_process_writes_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.0)
    with desk_in(tmp_path) as one, desk_in(tmp_path) as other:
        with one._database.exclusive(), pytest.raises(StoreError, match="must be free to write"):
            other.decide("a1", "reject", "fine", "ann", None)
        other.decide("a1", "reject", "fine", "ann", None)


def test_what_is_written_during_a_check_is_no_tampering(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Anchor.read
    written: list[Decision] = []
    with desk_in(tmp_path) as desk, desk_in(tmp_path) as other:

        def read(self: Anchor) -> tuple[list[Head | None], bool]:
            found = real(self)
            for number in range(3 if len(written) < 6 else 0):
                written.append(other.decide(f"a{number}", "reject", "fine", "ann", None))
            return found

        monkeypatch.setattr(Anchor, "read", read)
        assert desk.verify().intact
        assert len(written) == 6


def test_what_was_opened_to_read_is_not_written(copied: Path) -> None:
    with desk_in(copied, read_only=True) as desk:
        with pytest.raises(StoreError, match="opened to read"):
            desk.decide("a1", "reject", "again", "ann", None)
        assert desk.head().count == ENTRIES


def test_a_closed_desk_says_so(tmp_path: Path) -> None:
    with desk_in(tmp_path) as desk:
        desk.close()
        for ask in (desk.head, lambda: desk.decide("a1", "reject", "fine", "ann", None)):
            with pytest.raises(StoreError, match="must be"):
                ask()


def test_files_are_their_owners_alone(untouched: Path) -> None:
    for path in untouched.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path.name
    assert untouched.stat().st_mode & 0o077 == 0


def test_no_prompt_is_kept(untouched: Path) -> None:
    assert not files_holding(untouched, CANARY.encode())


@pytest.mark.parametrize(
    "text", ["", "x", "0" * 64, f"{'0' * 64}:", f"{'0' * 64}:-1", f"{'G' * 64}:1", f"{'0' * 64}:01"]
)
def test_what_is_no_head_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="HASH:COUNT"):
        Head.parse(text)


def test_others_may_note_their_own(tmp_path: Path) -> None:
    with desk_in(tmp_path) as desk:
        desk.record("bundle.reloaded", "admin", {"bundle": "b2"})
        assert desk.entries(limit=1)[0].fields == {"bundle": "b2"}
        for action in ("account.decided", "log.accepted", "template.live", "labels.exported", "x"):
            with pytest.raises(InputError):
                desk.record(action, "admin", {})
        with pytest.raises(InputError, match="at most"):
            desk.record("bundle.reloaded", "admin", {"x": "y" * 70_000})
        assert desk.head().count == 2


def test_another_programs_file_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "desk.sqlite") as connection:
        connection.execute("CREATE TABLE other (x)")
    connection.close()
    with pytest.raises(StoreError, match="that Stillwatch made"):
        Desk.open(tmp_path)
    with pytest.raises(StoreError, match="name the folder"):
        Desk.open(tmp_path / "none", read_only=True)
