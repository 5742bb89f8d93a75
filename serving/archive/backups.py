"""Copies of an archive in its own folder: the tables, if they are SQLite's, and the index.

To go back to one: end the service, put its files in the place of `archive.db` and `index/`, remove
`archive.db-wal` and `archive.db-shm`. An erasure removes all copies here and makes a new one;
copies taken elsewhere are their owner's to erase.
"""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

from stillwatch.data.errors import StoreError
from stillwatch.serving.archive.database import Database

FOLDER = "backups"
_PARTIAL = ".partial"


def make(folder: Path, database: Database, index: Path, kept: int) -> Path:
    """Write a copy and remove all but the `kept` latest; its folder. StoreError."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    target = folder / FOLDER / stamp
    partial = target.with_name(stamp + _PARTIAL)
    try:
        partial.mkdir(parents=True, mode=0o700)
        if database.backup(str(partial)):
            # A copy is only one when it outlives the machine's power.
            for path in partial.iterdir():
                _sync(path)
        if index.is_dir():
            shutil.copytree(index, partial / index.name)
        partial.rename(target)
        for old in _all(folder)[: -max(kept, 1)]:
            shutil.rmtree(old)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise StoreError(
            "the archive's backups must be writable, however: "
            f"{os.strerror(error.errno or 0)}; make room in its folder"
        ) from error
    return target


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


def _all(folder: Path) -> list[Path]:
    home = folder / FOLDER
    return sorted(home.iterdir()) if home.is_dir() else []


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
