"""Copies of an archive in its own folder: the tables, if they are SQLite's, and the index.

An erasure removes all copies here and makes a new one; copies taken elsewhere are their owner's to
erase. A copy is whole once it has its name, the time when it was begun; nothing changes it then.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from stillwatch.data.errors import StoreError
from stillwatch.serving.archive.database import Database
from stillwatch.serving.archive.erasing import PENDING
from stillwatch.serving.archive.sqlite import FILE, SqliteDatabase

FOLDER = "backups"
_PARTIAL = ".partial"
_STAMP = "%Y%m%dT%H%M%S.%fZ"


def make(folder: Path, database: Database, index: Path, kept: int) -> Path:
    """Write a copy and remove all but the `kept` latest; its folder. StoreError. Nobody may write
    the archive meanwhile: the index must be of these tables."""
    with _begun(folder, kept) as partial:
        if database.backup(str(partial)):
            # A copy is only one when it outlives the machine's power.
            _sync(partial / FILE)
        if index.is_dir():
            shutil.copytree(index, partial / index.name)
    return _final(partial)


def make_beside(folder: Path, kept: int) -> Path:
    """As `make`, of an archive that another process writes, and of its SQLite tables alone: its
    index changes while it is read, and is made from them anew. StoreError, also while files of
    the archive hold what was erased, for then the tables' pages may."""
    with (
        closing(SqliteDatabase(folder / FILE, read_only=True)) as database,
        _begun(folder, kept) as partial,
    ):
        # What is erased from now on takes this folder away with it.
        database.backup(str(partial))
        _sync(partial / FILE)
        if _is_pending(partial / FILE):
            raise StoreError(
                "an archive must have no erasure in progress to be copied beside its service, "
                "however: it has one; try again when it is finished"
            )
    return _final(partial)


def latest(folder: Path) -> Path | None:
    """The latest copy that is whole."""
    whole = _whole(folder)
    return whole[-1] if whole else None


def made_at(backup: Path) -> float:
    """When a copy was begun, seconds since the epoch; 0 if its name does not say."""
    try:
        return datetime.strptime(backup.name, _STAMP).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0


def remove_all(folder: Path) -> bool:
    """Remove every copy, begun ones too; whether there was any. StoreError."""
    found = _all(folder)
    try:
        for path in found:
            shutil.rmtree(path)
    except OSError as error:
        raise StoreError(
            "the archive's backups must be removable, however: "
            f"{os.strerror(error.errno or 0)}; see to its folder"
        ) from error
    return bool(found)


def is_sound(tables: Path) -> bool:
    """Whether the tables of a copy are whole and an archive's: reads all of them."""
    with suppress(sqlite3.Error), closing(_frozen(tables)) as copy:
        named = copy.execute("SELECT 1 FROM meta WHERE name = 'archive'").fetchone()
        return named is not None and copy.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
    return False


@contextmanager
def _begun(folder: Path, kept: int) -> Iterator[Path]:
    """A new folder that is a copy at the end of the block, and nothing at all if that raises."""
    partial = folder / FOLDER / (datetime.now(UTC).strftime(_STAMP) + _PARTIAL)
    try:
        partial.mkdir(parents=True, mode=0o700)
        yield partial
        partial.rename(_final(partial))
        # Begun ones before it were cut off: to the others they would only take their place.
        cut_off = [path for path in _all(folder) if path.name < partial.name and _is_begun(path)]
        for old in (*_whole(folder)[: -max(kept, 1)], *cut_off):
            shutil.rmtree(old)
    except OSError as error:
        raise StoreError(
            "the archive's backups must be writable, however: "
            f"{os.strerror(error.errno or 0)}; make room in its folder"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_pending(tables: Path) -> bool:
    with suppress(sqlite3.Error), closing(_frozen(tables)) as copy:
        found = copy.execute("SELECT 1 FROM meta WHERE name = ?", (PENDING,)).fetchone()
        return found is not None
    # An erasure took it away.
    return True


def _frozen(tables: Path) -> sqlite3.Connection:
    # As a file that nobody changes, so that no log is made beside it.
    return sqlite3.connect(f"{tables.absolute().as_uri()}?mode=ro&immutable=1", uri=True)


def _final(partial: Path) -> Path:
    return partial.with_name(partial.name.removesuffix(_PARTIAL))


def _all(folder: Path) -> list[Path]:
    home = folder / FOLDER
    return sorted(home.iterdir()) if home.is_dir() else []


def _whole(folder: Path) -> list[Path]:
    return [path for path in _all(folder) if not _is_begun(path)]


def _is_begun(path: Path) -> bool:
    return path.name.endswith(_PARTIAL)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
