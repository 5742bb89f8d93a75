"""Opens what an archive is made of: folder, tables, index, queue."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from stillwatch.data.errors import ConfigError, StoreError
from stillwatch.model.encoder import Encoder
from stillwatch.serving.archive import schema, sqlite
from stillwatch.serving.archive.database import Database
from stillwatch.serving.archive.generations import Generations
from stillwatch.serving.archive.indexer import Indexer
from stillwatch.serving.archive.intake import Intake
from stillwatch.serving.archive.live import Live
from stillwatch.serving.archive.postgres import SCHEMES, PostgresDatabase
from stillwatch.serving.archive.settings import ArchiveSettings
from stillwatch.serving.archive.spool import Spool
from stillwatch.serving.archive.vectors import Trained

QUEUE, INDEX, LOCK = "queue", "index", "lock"
LOAD_TRIES = 3
"""Times that a reader reads an index anew because its writer had just replaced it."""


@dataclass(frozen=True, slots=True)
class Parts:
    """`indexer` and `intake` are None where nothing is written; `rebuilt` is 1 if there was an
    index that could not be used."""

    database: Database
    live: Live
    saved: Generations
    encoder: Encoder | None
    indexer: Indexer | None
    intake: Intake | None
    resources: ExitStack
    rebuilt: int


def open_parts(
    where: str | Path, dimensions: int, folder: Path | None, encoder: Encoder | None,
    encoder_id: str, settings: ArchiveSettings, read_only: bool, background: bool,
    clock: Callable[[], float],
) -> Parts:  # fmt: skip
    """See `PromptArchive.open`."""
    in_server = str(where).partition("://")[0] in SCHEMES
    home = folder if in_server else Path(where)
    if home is None:
        raise ConfigError(
            "an archive in PostgreSQL must have a folder for its queue and index, however: "
            "none is named; name one"
        )
    with ExitStack() as resources:
        if not read_only:
            lock(home, resources)
        database: Database = (
            PostgresDatabase(str(where), read_only)
            if in_server
            else sqlite.SqliteDatabase(home / sqlite.FILE, read_only)
        )
        resources.callback(database.close)
        archive = _prepare(database, dimensions, encoder_id, read_only)
        saved = Generations(home / INDEX)
        live = Live(database, dimensions)
        trained = _load_index(saved, archive, dimensions, LOAD_TRIES if read_only else 1)
        if not live.load(trained, settings.train_at):
            trained = None
            live.load(None, settings.train_at)
        rebuilt = int(trained is None and saved.exists())
        indexer = intake = None
        if not read_only:
            # What a crash has left, or what cannot be used.
            saved.remove_others(saved.file if trained is not None else "")
            spool = Spool(home / QUEUE, settings.queue_bytes)
            resources.callback(spool.close)
            intake = Intake(spool, settings.retry_bytes, clock)
            indexer = Indexer(
                home, archive, database, dimensions, live, saved, spool, intake, encoder,
                encoder_id, settings, clock,
            )  # fmt: skip
            # Before the tables are closed.
            resources.callback(indexer.stop)
            if background:
                indexer.start()
        return Parts(database, live, saved, encoder, indexer, intake, resources.pop_all(), rebuilt)


def _prepare(database: Database, dimensions: int, encoder_id: str, read_only: bool) -> str:
    """The id of the tables, which are made if they are missing and may be written."""
    if not read_only:
        return schema.prepare(database, dimensions, encoder_id)
    with database.reading() as session:
        schema.check(session, dimensions, encoder_id)
        return schema.get_meta(session, "archive") or ""


def lock(home: Path, resources: ExitStack) -> None:
    """Take the folder for this process, until it ends."""
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(home / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StoreError(
            f"the archive's folder must be writable, however: {os.strerror(error.errno or 0)}; "
            "name another, or see to its permissions"
        ) from error
    resources.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ConfigError(
            "an archive's folder must have one process that writes it, however: another has it "
            "open; give this one a folder of its own, or open it to read"
        ) from None


def _load_index(saved: Generations, archive: str, dimensions: int, tries: int) -> Trained | None:
    for _ in range(tries):
        if not saved.exists():
            return None
        trained = saved.load(archive, dimensions)
        if trained is not None:
            return trained
    return None
