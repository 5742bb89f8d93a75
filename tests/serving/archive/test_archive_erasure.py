"""What is erased or past its time is in no file of the archive any more, byte by byte."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stillwatch.data.errors import StoreError
from stillwatch.serving.archive import ArchiveSettings, PromptArchive, Row
from stillwatch.serving.archive.rows import pack_text, to_bytes
from stillwatch.serving.archive.writing import event_key
from tests.serving.archive.archive_support import (
    DAY_S,
    NOON,
    batch,
    filled,
    opened,
    put,
    row,
    sentences,
    stored,
    traces,
    vector,
    wait_for_build,
)
from tests.serving.archive.conftest import Open
from tests.serving.archive.postgres_support import Server

CANARY = "zygomorphic-canary"
CANARY_ACCOUNT = "account-of-the-canary"
TRAINED = ArchiveSettings(train_at=400, save_least=200, backups=3)


def canaries(count: int, account: str = CANARY_ACCOUNT) -> list[Row]:
    """Rows with a canary in each of their fields; prompts too short and odd to be compressed away
    have it in every one."""
    return [
        row(f"{CANARY} {text}", account=account, event=f"{CANARY}-{number}", frame=FRAME,
            system=f"system {CANARY}", model=f"model {CANARY}", network=f"net {CANARY}",
            payment=f"pay {CANARY}", client=f"client {CANARY}", session_id=f"s {CANARY}")
        for number, text in enumerate(sentences(count, seed=99))
    ]  # fmt: skip


FRAME = f"A frame of its own, {CANARY}:"


def codes_of(archive: PromptArchive, rows: list[Row]) -> list[bytes]:
    """What the trained index holds of the slots of these rows, and the list's centroids where
    they stand alone."""
    trained = archive._live.index.trained
    assert trained is not None
    encoded = trained.index.sq.compute_codes(np.stack([vector(item.slot) for item in rows]))
    return [code.tobytes() for code in encoded]


def raw_traces(folder: Path, rows: list[Row], codes: list[bytes]) -> dict[str, list[str]]:
    """Which files hold what of these rows. Texts are compressed there, so that their plain bytes
    alone would prove nothing: what is sought are the stored forms too."""
    needles = {
        "plain": CANARY.encode(),
        "account": CANARY_ACCOUNT.encode(),
        "frame": pack_text(FRAME)[8:],
        "frame vector": stored(FRAME),
    }
    for number, item in enumerate(rows):
        needles[f"slot {number}"] = pack_text(item.slot)[8:]
        needles[f"vector {number}"] = stored(item.slot)
        needles[f"fp32 vector {number}"] = vector(item.slot).tobytes()
        needles[f"text key {number}"] = item.text_keys[1]
        needles[f"event key {number}"] = event_key(item.event.account_id, item.event.event_id)
    for number, code in enumerate(codes):
        needles[f"code {number}"] = code
    return traces(folder, needles)


@pytest.mark.parametrize("reopened", [False, True])
def test_an_erased_account_is_in_no_file(tmp_path: Path, reopened: bool) -> None:
    folder = tmp_path / "archive"
    rows = canaries(40)
    with opened(folder, settings=TRAINED) as archive:
        # Among others, so that pages and lists are shared with them.
        for start in range(8):
            own = rows[start * 4 : start * 4 + 4]
            put(archive, [*filled(60, seed=start, first=60 * start), *own])
        wait_for_build(archive)
    with opened(folder, settings=TRAINED) as archive:
        put(archive, rows[32:])
        archive.backup()
        archive.backup()
        archive.rebuild()
        codes = codes_of(archive, rows)
        archive.add(batch(canaries(41)[40:]))
        held = raw_traces(folder, rows, codes)
        # What is sought is really found, in tables, index and backups, as long as it is there.
        assert {"account", "frame", "frame vector", "slot 0", "vector 39"} <= held.keys()
        places = {place.split("/")[0] for files in held.values() for place in files}
        assert places == {"archive.db", "archive.db-wal", "index", "backups", "queue"}
        assert any(place.startswith("index") for place in held["code 5"])
        if not reopened:
            removed = archive.erase(CANARY_ACCOUNT)
            # Not only once the tables are closed, which would tidy up too.
            assert not raw_traces(folder, rows, codes)
    if reopened:
        with opened(folder, settings=TRAINED) as archive:
            removed = archive.erase(CANARY_ACCOUNT)
            assert not raw_traces(folder, rows, codes)
    assert (removed.events, removed.texts) == (41, 42)
    rows = canaries(41)
    assert not raw_traces(folder, rows, codes)
    with opened(folder, settings=TRAINED) as archive:
        assert archive.events(CANARY_ACCOUNT).total == 0
        assert archive.exact(rows[0].slot) == []
        hits = archive.search(vector(rows[0].slot), 20)
        assert len(hits) == 20
        assert CANARY_ACCOUNT not in {hit.event.account_id for hit in hits}
        assert archive.status().events == 480
        for item in filled(60):
            assert archive.search(item.slot, 1)[0].event.event_id == item.event.event_id
        # A copy is there again, and it holds nothing of what was erased.
        assert len(list((folder / "backups").iterdir())) == 1
        assert archive.erase(CANARY_ACCOUNT).events == 0
    assert not raw_traces(folder, rows, codes)


def test_copies_made_by_themselves_hold_nothing_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    rows = canaries(12)
    now = [time.time()]
    settings = replace(TRAINED, backup_hours=6.0)
    with opened(folder, settings=settings, clock=lambda: now[0]) as archive:
        put(archive, [*filled(450), *rows])
        wait_for_build(archive)
        now[0] += 6 * 3600.0
        archive.flush()
        codes = codes_of(archive, rows)
        held = raw_traces(folder / "backups", rows, codes)
        assert {"account", "frame", "slot 3", "vector 3", "code 3"} <= held.keys()
        archive.erase(CANARY_ACCOUNT)
        assert len(list((folder / "backups").iterdir())) == 1
        assert not raw_traces(folder, rows, codes)
        now[0] += 6 * 3600.0
        archive.flush()
        assert len(list((folder / "backups").iterdir())) == 2
        assert not raw_traces(folder, rows, codes)


def test_a_centroid_does_not_outlive_its_only_vector(tmp_path: Path) -> None:
    lonely = canaries(1)[0]
    with opened(tmp_path / "archive", settings=replace(TRAINED, train_at=10**9)) as archive:
        put(archive, [*filled(600), lonely._replace(frame="")])
        archive.rebuild()
        trained = archive._live.index.trained
        assert trained is not None

        def nearest_centroid() -> float:
            assert trained is not None
            return float(trained.index.quantizer.search(vector(lonely.slot)[None, :], 1)[0][0, 0])

        # As a list would have it whose only vector this is.
        number = trained.assign(vector(lonely.slot)[None, :])
        trained.move(number, vector(lonely.slot)[None, :])
        assert nearest_centroid() == pytest.approx(1.0, abs=1e-5)
        archive.erase(CANARY_ACCOUNT)
        assert nearest_centroid() < 0.9


def test_texts_that_others_hold_stay(open_archive: Open) -> None:
    shared = "what everybody asks"
    with open_archive() as archive:
        put(archive, [row(shared, account="x", event="x"), row(shared, account="y", event="y")])
        put(archive, [row("own words", account="x", event="x2", frame="a frame of both")])
        put(archive, [row("other words", account="y", event="y2", frame="a frame of both")])
        removed = archive.erase("x")
        assert (removed.events, removed.texts) == (2, 1)
        hits = archive.search(shared, 1)
        assert (hits[0].event.account_id, hits[0].same_text) == ("y", 1)
        assert archive.exact("a frame of both")[0].event.event_id == "y2"
        assert archive.search("own words", 5)[0].event.prompt != "own words"


def test_what_waits_is_erased_too(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    mixed = [*canaries(3), *filled(3)]
    room = len(to_bytes(batch(mixed), NOON)) + 100
    tiny = ArchiveSettings(train_at=10**9, queue_bytes=room)
    with opened(folder, settings=tiny) as archive:
        archive.offer(batch(canaries(1)))
        # The queue is full: these wait in memory.
        archive.offer(batch(mixed))
        assert archive.status().retrying == 6
        assert raw_traces(folder / "queue", canaries(1), [])
        archive.erase(CANARY_ACCOUNT)
        archive.flush()
        assert archive.events(CANARY_ACCOUNT).total == 0
        assert archive.status().events == 3
    assert not raw_traces(folder, canaries(3), [])


def test_an_erasure_that_was_cut_off_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "archive"
    rows = canaries(5)
    with opened(folder, settings=TRAINED) as archive:
        put(archive, [*filled(500), *rows])
        wait_for_build(archive)
        codes = codes_of(archive, rows)
        archive.backup()
        database = archive._database

        def fail(thorough: bool) -> None:
            raise StoreError("the disk must have room, however: it has none; make room")

        monkeypatch.setattr(database, "purge", fail)
        with pytest.raises(StoreError):
            archive.erase(CANARY_ACCOUNT)
        # Nobody finds it any more, though files still hold it.
        assert archive.events(CANARY_ACCOUNT).total == 0
        assert raw_traces(folder, rows, codes)
    with opened(folder, settings=TRAINED) as archive:
        archive.flush()
    assert not raw_traces(folder, rows, codes)


def test_events_past_their_time_go(open_archive: Open) -> None:
    now = [NOON]
    settings = replace(TRAINED, retention_days=10.0, retention_every_s=3600.0)
    with open_archive(settings=settings, clock=lambda: now[0]) as archive:
        put(archive, filled(450, accounts=5))
        wait_for_build(archive)
        now[0] = NOON + 8 * DAY_S
        # Late by its own time, yet it came only now.
        put(archive, filled(50, seed=3, first=450, accounts=5))
        put(archive, [row("came late", account="late", event="late", time=NOON - 90 * DAY_S)])
        archive.backup()
        assert archive.status().events == 501
        now[0] = NOON + 10.5 * DAY_S
        archive.flush()
        status = archive.status()
        assert (status.events, status.texts) == (51, 51)
        assert archive.search("came late", 1)[0].event.event_id == "late"
        assert archive.search(vector(filled(1)[0].slot), 100)[0].event.event_id != "e0"
        assert len(archive.search(vector("word1"), 100, each=100)) == 51
        assert archive.events("a0").total == 10


def test_events_past_their_time_are_in_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    rows = canaries(30)
    with opened(folder, settings=TRAINED, clock=lambda: NOON) as archive:
        put(archive, [*rows, *filled(400)])
        wait_for_build(archive)
        codes = codes_of(archive, rows)
        archive.backup()
    with opened(folder, settings=TRAINED, clock=lambda: NOON + 5) as archive:
        put(archive, filled(50, seed=8, first=400))
        removed = archive.retain(NOON + 1)
        assert removed.events == 430
        assert not raw_traces(folder, rows, codes)
        assert archive.status().events == 50
    assert not raw_traces(folder, rows, codes)


def test_postgres_keeps_no_byte_in_its_tables(
    postgres: Server, clean_postgres: str, tmp_path: Path
) -> None:
    import psycopg

    rows = canaries(30)
    folder = tmp_path / "archive"
    tables = postgres.data / "base"

    def settle() -> None:
        with psycopg.connect(clean_postgres, autocommit=True) as connection:
            # So that its memory is on disk, and files that were replaced are gone.
            connection.execute("CHECKPOINT")

    with opened(clean_postgres, folder=folder, settings=TRAINED) as archive:
        put(archive, [*filled(480), *rows])
        wait_for_build(archive)
        codes = codes_of(archive, rows)
        settle()
        assert "vector 3" in raw_traces(tables, rows, codes)
        archive.erase(CANARY_ACCOUNT)
        settle()
        assert not raw_traces(tables, rows, codes)
        assert not raw_traces(folder, rows, codes)
        assert archive.search(filled(480)[7].slot, 1)[0].event.event_id == "e7"
