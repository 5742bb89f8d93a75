"""The background work of an archive: from the queue to the tables, from the tables to the index.

One thread does all of it, turn by turn, but for the training of an index, which has its own. What
fails is told, kept and tried again at the next turn.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from stillwatch.data.errors import StillwatchError, StoreError
from stillwatch.model.encoder import Encoder
from stillwatch.serving.archive import backups, building, erasing, reading, rows, writing
from stillwatch.serving.archive.database import Database
from stillwatch.serving.archive.generations import Generations
from stillwatch.serving.archive.intake import Intake
from stillwatch.serving.archive.live import Live
from stillwatch.serving.archive.results import Removed
from stillwatch.serving.archive.settings import ArchiveSettings
from stillwatch.serving.archive.spool import Spool
from stillwatch.serving.archive.vectors import Trained

_log = logging.getLogger("stillwatch.archive")
REMOVED_AT_ONCE = 10_000
ROWS_AT_ONCE = 1024
STOP_S = 8.0
BUILD_STOP_S = 1.0
"""An index in the making cannot be stopped at once, and nothing of it is lost."""


class _Build:
    """An index in the making."""

    def __init__(self, make: Callable[[threading.Event], Trained]) -> None:
        self.cancelled = threading.Event()
        self.result: Trained | None = None
        self.error: Exception | None = None
        self._make = make
        self.thread = threading.Thread(target=self._run, name="archive-build", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.result = self._make(self.cancelled)
        except building.Cancelled:
            pass
        except Exception as error:
            self.error = error


class Indexer:
    """Does the work of one archive that may be written. `turn` and all that changes something
    may be called by any thread: they wait for each other."""

    def __init__(
        self, folder: Path, archive: str, database: Database, dimensions: int, live: Live,
        generations: Generations, spool: Spool, intake: Intake, encoder: Encoder | None,
        encoder_id: str, settings: ArchiveSettings, clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self.spool = spool
        self.refused = 0
        """Batches that could not be written though the tables took others."""
        self.trouble: str | None = None
        self._folder = folder
        self._archive = archive
        self._database = database
        self._dimensions = dimensions
        self._live = live
        self._generations = generations
        self._intake = intake
        self._encoder = encoder
        self._encoder_id = encoder_id
        self._settings = settings
        self._clock = clock
        self._work = threading.RLock()
        self._stopping = threading.Event()
        self._build: _Build | None = None
        self._retained = 0.0
        copy = backups.latest(folder)
        self._backed_up = backups.made_at(copy) if copy is not None else 0.0
        self._backup_owed = False
        """Whether copies had to go and there is none in their place yet."""
        self._backup_failed = 0.0
        self._backup_trouble: str | None = None
        self._unsaved = False
        self._saved_seq = live.index.trained.seq if live.index.trained else 0
        self._thread: threading.Thread | None = None

    @property
    def building(self) -> bool:
        return self._build is not None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="archive", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish the turn in progress and end the threads."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(STOP_S)
        build = self._cancel_build()
        if build is not None:
            build.thread.join(BUILD_STOP_S)

    def turn(self) -> None:
        """Do all there is to do now. StoreError."""
        with self._work:
            self._drain()
            self._live.refresh()
            if self._live.removed:
                # By another process, or before this one was started.
                self._free_files()
            if erasing.is_pending(self._database):
                self._purge(thorough=True)
            self._retain_if_due()
            self._tend_index()
            self._encode_waiting()
            # Last of all: it takes long, and nothing else has to wait for its outcome.
            self._back_up_if_due()

    def erase(self, account_id: str) -> Removed:
        """See `PromptArchive.erase`."""
        with self._work:
            # What is in the queue would come after its erasure.
            self._drain()
            self._intake.forget(account_id)
            removed = erasing.erase_account(self._database, account_id)
            self._purge(thorough=True)
            return removed

    def retain(self, oldest: float) -> Removed:
        """Remove events that came before `oldest`, seconds since the epoch."""
        with self._work:
            self._drain()
            self._live.refresh()
            events = self._live.rows
            old = events.id[events.arrival < oldest].tolist()
            removed = Removed(0, 0)
            for start in range(0, len(old), REMOVED_AT_ONCE):
                part = erasing.delete_events(self._database, old[start : start + REMOVED_AT_ONCE])
                removed = Removed(removed.events + part.events, removed.texts + part.texts)
            if removed.events:
                self._purge(thorough=False)
            return removed

    def backup(self) -> Path:
        """See `PromptArchive.backup`."""
        with self._work:
            made = backups.make(
                self._folder, self._database, self._generations.folder, self._settings.backups
            )
            self._backed_up, self._backup_owed = self._clock(), False
            self._backup_trouble = None
            return made

    def rebuild(self) -> None:
        """Train the index anew from the tables, now."""
        with self._work:
            self._cancel_build()
            self._live.refresh()
            self._take(building.build(
                self._database, self._dimensions, threading.Event(), self._settings.threads
            ))  # fmt: skip

    def _run(self) -> None:
        wait = self._settings.interval_s
        while not self._stopping.is_set():
            try:
                self.turn()
                self.trouble = self._backup_trouble
                wait = self._settings.interval_s
            # Whatever it is, what was accepted stays in the queue and the next turn tries again.
            except Exception as error:
                told = str(error) if isinstance(error, StillwatchError) else type(error).__name__
                if told != self.trouble:
                    _log.warning("the archive is behind: %s", told)
                self.trouble = told
                wait = min(wait * 2, 30.0)
            self._stopping.wait(wait)

    def _drain(self) -> None:
        """Write what is in the queue into the tables."""
        with suppress(StoreError):
            self._intake.retry()
        if not self.spool.waiting:
            return
        for segment in self.spool.sealed():
            pending: list[writing.Prepared] = []
            for record in self.spool.read(segment):
                prepared = self._prepare(record)
                if prepared is not None:
                    pending.append(prepared)
                if sum(len(one.rows) for one in pending) >= ROWS_AT_ONCE:
                    self._write(pending)
                    pending = []
            self._write(pending)
            self.spool.remove(segment)
        if self.spool.damaged:
            _log.error("%d bytes of the archive's queue were damaged", self.spool.damaged)

    def _prepare(self, record: bytes) -> writing.Prepared | None:
        try:
            return writing.prepare(*rows.from_bytes(record))
        except Exception as error:
            self._refuse(error)
            return None

    def _write(self, batches: list[writing.Prepared]) -> None:
        """Together, for each transaction is waited for; one by one if that fails."""
        if not batches:
            return
        try:
            writing.write_batches(self._database, batches, self._dimensions, self._encoder_id)
        except StoreError:
            raise
        except Exception as error:
            if len(batches) == 1:
                self._refuse(error)
                return
            for one in batches:
                self._write([one])

    def _refuse(self, error: Exception) -> None:
        # A batch that can never be written must not hold up all others.
        self.refused += 1
        _log.error("a batch was left out of the archive: %s", type(error).__name__)

    def _encode_waiting(self) -> None:
        """Encode texts that came without their vectors."""
        if self._encoder is None:
            return
        with self._database.reading() as session:
            waiting = reading.waiting_texts(session, 0, self._settings.encoded_a_turn)
        if not waiting:
            return
        found = self._encoder.encode([item.text for item in waiting])
        vectors = {item.id: read.vector for item, read in zip(waiting, found, strict=True)}
        writing.write_vectors(self._database, vectors)
        self._live.refresh()

    def _retain_if_due(self) -> None:
        days, now = self._settings.retention_days, self._clock()
        if days is not None and now - self._retained >= self._settings.retention_every_s:
            self.retain(now - days * 86_400)
            self._retained = now

    def _back_up_if_due(self) -> None:
        """Without a copy the archive works as well: what fails is told, and tried again later."""
        hours, now = self._settings.backup_hours, self._clock()
        due = hours is not None and now - self._backed_up >= hours * 3600.0
        if not (due or self._backup_owed):
            return
        if now - self._backup_failed < self._settings.backup_retry_s:
            return
        try:
            self.backup()
        except StoreError as error:
            self._backup_failed, self._backup_trouble = now, str(error)
            _log.warning("the archive was not backed up: %s", error)

    def _tend_index(self) -> None:
        """Train an index where one is wanted, take it over when it is ready, write it when much
        of it is in memory alone."""
        if self._build is not None:
            if self._build.thread.is_alive():
                return
            build, self._build = self._build, None
            if build.error is not None:
                raise build.error
            if build.result is not None:
                self._take(build.result)
            return
        trained, index = self._live.index.trained, self._live.index
        if trained is None:
            wanted = bool(self._live.unindexed) or len(index) >= self._settings.train_at
        else:
            wanted = len(index) >= trained.built * self._settings.retrain_growth
        if wanted:
            self._build = _Build(
                lambda cancelled: building.build(
                    self._database, self._dimensions, cancelled, self._settings.threads
                )
            )
        elif trained is not None and (
            self._unsaved
            or trained.seq - self._saved_seq
            >= max(self._settings.save_least, self._settings.save_share * len(index))
        ):
            self._write_index()

    def _take(self, trained: Trained) -> None:
        self._live.adopt(trained)
        # Should it not be written now, it is at a later turn.
        self._unsaved = True
        self._write_index()

    def _cancel_build(self) -> _Build | None:
        build, self._build = self._build, None
        if build is not None:
            build.cancelled.set()
        return build

    def _write_index(self) -> None:
        """Write the index as it is; no older file is left."""
        trained = self._live.index.trained
        if trained is None:
            self._generations.remove_others()
            return
        self._generations.save(trained, self._archive)
        self._unsaved = False
        self._saved_seq = trained.seq

    def _purge(self, thorough: bool) -> None:
        """Rewrite every file that may hold what was removed. An index in the making is in no
        file: it is freed of it when it is taken over."""
        self._live.refresh()
        self._free_files()
        self._database.purge(thorough)
        erasing.clear_pending(self._database)
        self._back_up_if_due()

    def _free_files(self) -> None:
        if backups.remove_all(self._folder):
            self._backup_owed = True
        self._write_index()
        self._live.removed = False
