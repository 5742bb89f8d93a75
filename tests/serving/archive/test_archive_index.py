"""The trained index: found as by exact search, kept over restarts, made anew when it is damaged."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stillwatch.data.errors import ConfigError, StoreError
from stillwatch.serving.archive import ArchiveSettings, Filters, PromptArchive
from stillwatch.serving.archive.generations import Generations
from stillwatch.serving.archive.vectors import FLUSH_VECTORS, list_count
from tests.serving.archive.archive_support import (
    ENCODER,
    filled,
    opened,
    put,
    row,
    vector,
    wait_for_build,
)
from tests.serving.archive.conftest import Open

COUNT = 2500
TRAINED = ArchiveSettings(train_at=1000, save_least=500)


class Exactly:
    """The nearest of some texts by comparing all."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        self.vectors = np.stack([vector(text) for text in texts])

    def nearest(self, query: np.ndarray, k: int = 10) -> set[str]:
        return {self.texts[n] for n in np.argsort(-(self.vectors @ query))[:k]}


def prompts(archive: PromptArchive, query: np.ndarray, filters: Filters | None = None) -> set[str]:
    hits = archive.search(query, 10, filters or Filters(), each=1)
    return {hit.event.prompt for hit in hits}


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """The folder of an archive whose index was trained and written."""
    with opened(tmp_path / "archive", settings=TRAINED) as archive:
        put(archive, filled(COUNT))
        wait_for_build(archive)
        assert archive.status().indexed == COUNT
    return tmp_path / "archive"


def test_the_index_finds_what_exact_search_finds(trained: Path) -> None:
    rows = filled(COUNT)
    exactly = Exactly([item.slot for item in rows])
    found = 0
    with opened(trained, settings=TRAINED) as archive:
        status = archive.status()
        assert status.recall is not None
        assert status.recall >= 0.97
        assert status.probes < status.lists
        rng = np.random.default_rng(1)
        for number in range(40):
            query = exactly.vectors[number] + 0.3 * rng.standard_normal(96).astype(np.float32)
            query /= np.linalg.norm(query)
            found += len(prompts(archive, query) & exactly.nearest(query))
    assert found >= 0.95 * 400


@pytest.mark.parametrize("accounts", [("a3",), ("a3", "a4", "a5", "a6", "a7")])
def test_filters_leave_no_near_text_out(trained: Path, accounts: tuple[str, ...]) -> None:
    rows = filled(COUNT)
    exactly = Exactly([item.slot for item in rows if item.event.account_id in accounts])
    found = 0
    with opened(trained, settings=TRAINED) as archive:
        for text in rows[:20]:
            query = vector(text.slot)
            hits = prompts(archive, query, Filters(accounts=accounts))
            assert len(hits) == 10
            found += len(hits & exactly.nearest(query))
    assert found >= 0.95 * 200


def test_new_texts_are_found_at_once_and_move_into_the_index(trained: Path) -> None:
    later = filled(FLUSH_VECTORS, seed=9, first=COUNT)
    with opened(trained, settings=TRAINED) as archive:
        put(archive, later[:100])
        assert archive.status().indexed == COUNT
        assert archive.search(later[7].slot)[0].event == archive.event("a7", "e2507")
        put(archive, later[100:])
        assert archive.status().indexed == COUNT + FLUSH_VECTORS
        assert archive.search(later[7].slot)[0].event.event_id == "e2507"
    # Written, since much of it was in memory alone: what is read from the tables is little.
    written = Generations(trained / "index").load(_archive_id(trained), 96)
    assert written is not None
    assert written.seq == COUNT + FLUSH_VECTORS


def test_what_the_written_index_has_not_got_is_read_from_the_tables(trained: Path) -> None:
    settings = replace(TRAINED, save_least=10**9)
    later = filled(1500, seed=9, first=COUNT)
    with opened(trained, settings=settings) as archive:
        put(archive, later)
        put(archive, [row("the very last", event="last")])
    with opened(trained, settings=settings) as archive:
        status = archive.status()
        assert (status.rebuilt, status.generation) == (0, 1)
        assert status.events == COUNT + 1501
        for wanted in (later[3], later[1400]):
            assert archive.search(wanted.slot)[0].event.event_id == wanted.event.event_id
        assert archive.search("the very last")[0].event.event_id == "last"


def test_an_index_is_trained_anew_when_it_has_grown(trained: Path) -> None:
    with opened(trained, settings=replace(TRAINED, retrain_growth=2.0)) as archive:
        before = archive.status().lists
        for start in range(3):
            put(archive, filled(COUNT, seed=20 + start, first=COUNT * (start + 1)))
        wait_for_build(archive)
        status = archive.status()
        # All but the latest are in it.
        assert status.indexed + FLUSH_VECTORS > 4 * COUNT
        assert status.lists == list_count(4 * COUNT) > before
        wanted = filled(COUNT, seed=21, first=2 * COUNT)[5]
        assert archive.search(wanted.slot)[0].event.event_id == wanted.event.event_id


@pytest.mark.parametrize("damage", ["flipped", "cut", "longer", "manifest", "missing", "garbage"])
def test_a_damaged_index_is_found_and_made_anew(trained: Path, damage: str) -> None:
    (file,) = (trained / "index").glob("*.faiss")
    manifest = trained / "index" / "manifest.json"
    content = file.read_bytes()
    if damage == "flipped":
        middle = len(content) // 2
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif damage == "cut":
        file.write_bytes(content[:-1])
    elif damage == "longer":
        file.write_bytes(content + b"\0")
    elif damage == "manifest":
        manifest.write_bytes(manifest.read_bytes().replace(b'"probes"', b'"probez"'))
    elif damage == "missing":
        file.unlink()
    else:
        manifest.write_bytes(b"\xff\n\n\n")
    wanted = filled(COUNT)[100]
    with opened(trained, settings=TRAINED) as archive:
        assert archive.status().rebuilt == 1
        # Slower, but whole, while the index is made.
        assert archive.status().indexed == 0
        assert archive.search(wanted.slot)[0].event.event_id == wanted.event.event_id
        put(archive, [row("added meanwhile", event="new")])
        assert archive.search("added meanwhile")[0].event.event_id == "new"
        wait_for_build(archive)
        assert archive.status().indexed in (COUNT, COUNT + 1)
        assert archive.search(wanted.slot)[0].event.event_id == wanted.event.event_id
        assert archive.search("added meanwhile")[0].event.event_id == "new"
        assert len(list((trained / "index").iterdir())) == 2
    with opened(trained, settings=TRAINED) as archive:
        assert archive.status().rebuilt == 0
        assert archive.status().indexed >= COUNT


@pytest.mark.parametrize("cut_off", [False, True])
def test_a_lost_folder_of_the_index_is_told(trained: Path, cut_off: bool) -> None:
    shutil.rmtree(trained / "index")
    for _ in range(1 + cut_off):
        with opened(trained, settings=TRAINED) as archive:
            # Also if the first one ended before the index was there again.
            assert archive.status().rebuilt == archive.rebuilt == 1
    with opened(trained, settings=TRAINED) as archive:
        archive.flush()
        assert archive.status().building
        wait_for_build(archive)
        assert not archive.status().building
    with opened(trained, settings=TRAINED) as archive:
        assert (archive.status().rebuilt, archive.status().indexed) == (0, COUNT)


def test_few_texts_have_no_index_to_lose(tmp_path: Path) -> None:
    for rebuilt in (0, 0):
        with opened(tmp_path / "archive", settings=TRAINED) as archive:
            put(archive, filled(100))
            assert archive.status().rebuilt == rebuilt


def test_an_index_of_other_tables_is_not_taken(trained: Path, tmp_path: Path) -> None:
    with opened(tmp_path / "other", settings=TRAINED) as archive:
        put(archive, filled(1200, seed=5))
        wait_for_build(archive)
    for path in (trained / "index").iterdir():
        path.unlink()
    for path in (tmp_path / "other" / "index").iterdir():
        path.rename(trained / "index" / path.name)
    with opened(trained, settings=TRAINED) as archive:
        assert archive.status().rebuilt == 1
        wanted = filled(COUNT)[3]
        assert archive.search(wanted.slot)[0].event.event_id == wanted.event.event_id


def test_another_encoder_is_refused(trained: Path) -> None:
    for encoder, dimensions in (("other 1 fp32", 96), (ENCODER, 384)):
        with pytest.raises(ConfigError, match="must be of the encoder"):
            PromptArchive.open(trained, dimensions, encoder_id=encoder)


def test_one_process_writes_and_others_read(trained: Path) -> None:
    with opened(trained, settings=TRAINED) as writer:
        with pytest.raises(ConfigError, match="one process that writes"), opened(trained):
            pass
        with opened(trained, settings=TRAINED, read_only=True) as reader:
            assert reader.status().indexed == COUNT
            put(writer, [row("seen by both", event="both")])
            reader.flush()
            assert reader.search("seen by both")[0].event.event_id == "both"
            writer.erase("a1")
            reader.flush()
            assert reader.search("seen by both")[0].event.event_id != "both"
            assert reader.events("a1").total == 0
            with pytest.raises(StoreError, match="open for writing"):
                reader.add(None)  # type: ignore[arg-type]


def test_a_folder_that_is_no_archive_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"it holds no archive\.db"):
        PromptArchive.open(tmp_path, 96, read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_several_processes_share_the_tables(clean_postgres: str, tmp_path: Path) -> None:
    with (
        opened(clean_postgres, folder=tmp_path / "one", settings=TRAINED) as one,
        opened(clean_postgres, folder=tmp_path / "two", settings=TRAINED) as two,
    ):
        put(one, filled(1500))
        put(two, filled(1500, seed=1, first=1500, accounts=7))
        put(two, filled(50))
        one.flush()
        assert one.status().events == two.status().events == 3000
        wait_for_build(one)
        wait_for_build(two)
        wanted = filled(1500, seed=1, first=1500, accounts=7)[4]
        assert one.search(wanted.slot)[0].event.event_id == wanted.event.event_id
        (before,) = (tmp_path / "one" / "index").glob("*.faiss")
        two.erase("a1")
        one.flush()
        assert one.events("a1").total == 0
        assert one.status().indexed == two.status().indexed < 3000
        # What it has on disk was written anew.
        assert not before.exists()
        left = one.status().events
    # Also of what went while it was not there.
    with opened(clean_postgres, folder=tmp_path / "two", settings=TRAINED) as two:
        two.erase("a2")
    (before,) = (tmp_path / "one" / "index").glob("*.faiss")
    with opened(clean_postgres, folder=tmp_path / "one", settings=TRAINED) as one:
        one.flush()
        assert not before.exists()
        assert one.status().events < left
        assert one.events("a2").total == 0


def test_a_backup_is_an_archive(trained: Path, tmp_path: Path) -> None:
    with opened(trained, settings=replace(TRAINED, backups=2)) as archive:
        made = [archive.backup() for _ in range(3)]
        put(archive, [row("after the backup", event="later")])
    assert sorted((trained / "backups").iterdir()) == made[1:]
    with opened(shutil.copytree(made[2], tmp_path / "again"), settings=TRAINED) as archive:
        status = archive.status()
        assert (status.events, status.indexed, status.rebuilt) == (COUNT, COUNT, 0)
        assert archive.exact("after the backup") == []
        assert archive.search(filled(COUNT)[9].slot, 1)[0].event.event_id == "e9"


def test_a_search_while_rows_come_and_go(open_archive: Open) -> None:
    ended = threading.Event()
    faults: list[str] = []
    with open_archive(settings=ArchiveSettings(train_at=300, save_least=300)) as archive:
        put(archive, filled(200))

        def search() -> None:
            query = vector(filled(200)[150].slot)
            try:
                while not ended.is_set():
                    hits = archive.search(query, 5)
                    if not hits or hits[0].event.event_id != "e150":
                        faults.append("not found")
                    archive.accounts(query, 50, min_similarity=-1)
            except Exception as error:
                faults.append(repr(error))

        thread = threading.Thread(target=search)
        thread.start()
        try:
            for start in range(8):
                put(archive, filled(150, seed=start + 1, first=200 + 150 * start))
                put(archive, [row(f"short lived {start}", account="gone", event=f"g{start}")])
                archive.erase("gone")
        finally:
            ended.set()
            thread.join()
        wait_for_build(archive)
        assert archive.status().indexed > 0
        assert archive.search("short lived 3")[0].event.account_id != "gone"
    assert faults == []


def _archive_id(folder: Path) -> str:
    with closing(sqlite3.connect(folder / "archive.db")) as tables:
        return str(tables.execute("SELECT value FROM meta WHERE name = 'archive'").fetchone()[0])
