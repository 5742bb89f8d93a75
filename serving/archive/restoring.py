"""Puts a copy of an archive in the place of its tables and index."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from pathlib import Path

from stillwatch.data.errors import ConfigError, StoreError
from stillwatch.serving.archive import backups, opening, sqlite
from stillwatch.serving.archive.spool import sync_folder

_PARTIAL = ".restored"


def restore(folder: Path, backup: Path) -> None:
    """Make an archive's folder, which may be empty, hold what a copy holds. Its queue stays: what
    was accepted and never came into the tables still does. Begun and cut off, it has to be done
    again. ConfigError if a process has the archive open for writing or the copy is not sound;
    StoreError if there is no room, before anything has changed."""
    if not backups.is_sound(backup / sqlite.FILE):
        raise ConfigError(
            "a backup must hold the whole tables of an archive, however: it does not; name the "
            "folder of another"
        )
    tables = folder / sqlite.FILE
    partial = tables.with_name(tables.name + _PARTIAL)
    with ExitStack() as held:
        opening.lock(folder, held)
        held.callback(partial.unlink, missing_ok=True)
        try:
            shutil.copyfile(backup / sqlite.FILE, partial)
            partial.chmod(0o600)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            # Before the tables: a log of other tables would be played into them.
            for beside in ("-wal", "-shm"):
                tables.with_name(tables.name + beside).unlink(missing_ok=True)
            partial.replace(tables)
            index = folder / opening.INDEX
            if index.is_dir():
                shutil.rmtree(index)
            if (backup / opening.INDEX).is_dir():
                shutil.copytree(backup / opening.INDEX, index)
            sync_folder(folder)
        except OSError as error:
            raise StoreError(
                "the archive's folder must be writable, however: "
                f"{os.strerror(error.errno or 0)}; make room in it and restore again"
            ) from error
