"""The archive of scored prompts: every scored event, found again by its words and its meaning.

What is accepted goes through a queue on disk into tables, and from there into an index of the
vectors of its texts. The tables are the truth: the index is made from them anew if it is lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from stillwatch.data.errors import ConfigError, StoreError
from stillwatch.data.events import Event
from stillwatch.model.detector import Detector, Scored
from stillwatch.model.encoder import Encoder
from stillwatch.serving.archive import opening, overview, reading, searching, traits
from stillwatch.serving.archive.columns import Rows
from stillwatch.serving.archive.indexer import Indexer
from stillwatch.serving.archive.intake import Intake
from stillwatch.serving.archive.live import Live
from stillwatch.serving.archive.reach import Reach, reach
from stillwatch.serving.archive.results import (
    ANY,
    AccountHits,
    ArchivedEvent,
    EventPage,
    Filters,
    Hit,
    Part,
    Removed,
    Status,
    TemplateHits,
    Timeline,
)
from stillwatch.serving.archive.rows import Batch, batch_of
from stillwatch.serving.archive.settings import ArchiveSettings
from stillwatch.serving.archive.totals import Totals, TotalsKeeper
from stillwatch.serving.archive.writing import event_key


class PromptArchive:
    """Scored events in a folder, and their tables there or in PostgreSQL.

    Safe to share between threads. One process writes a folder; others may have it open to read.
    Similarities are cosines, times are seconds since the epoch.
    """

    def __init__(self, parts: opening.Parts) -> None:
        self._database = parts.database
        self._live = parts.live
        self._saved = parts.saved
        self._encoder = parts.encoder
        self._indexer = parts.indexer
        self._intake = parts.intake
        self._resources = parts.resources
        self.rebuilt = int(parts.rebuilt or parts.live.lost)
        """Times that no index could be used, so that it is made from the tables."""
        self._totals = TotalsKeeper()
        self.where = ""
        """What another process opens an `ArchiveFeed` of it with."""

    @classmethod
    def open(
        cls,
        where: str | Path,
        dimensions: int,
        *,
        folder: Path | None = None,
        encoder: Encoder | None = None,
        encoder_id: str = "",
        settings: ArchiveSettings | None = None,
        read_only: bool = False,
        background: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """Open an archive, new or not. `where` is its folder, or the URL of a PostgreSQL database,
        `postgresql://…`; the queue and the index are then in `folder`.

        `encoder` encodes what is searched for, and texts that came without a vector;
        `encoder_id` is that of `rows.encoder_id`. With `read_only` nothing is written: it sees
        what is in the tables when it is opened and at each `flush`. Without `background` the work
        is done in `flush` alone.

        Raises ConfigError for an archive of another encoder or a folder that another process
        writes, StoreError if tables or folder cannot be used.
        """
        opened = cls(
            opening.open_parts(
                where, dimensions, folder, encoder, encoder_id, settings or ArchiveSettings(),
                read_only, background, clock,
            )
        )  # fmt: skip
        opened.where = str(where)
        return opened

    def add(self, batch: Batch) -> None:
        """Accept scored events: on return they outlive the process, and are found soon after. An
        event that is there already changes nothing. StoreError if there is no room."""
        self._writer()[1].add(batch)

    def offer(self, batch: Batch) -> None:
        """As `add`, for the scorer: never raises. What cannot be accepted is held in memory and
        tried again; beyond the room there it is lost, counted and told (`status`)."""
        self._writer()[1].offer(batch)

    def offer_scored(
        self, detector: Detector, events: Sequence[Event], scored: Scored,
        flagged: Sequence[bool], vectors: Mapping[bytes, np.ndarray],
    ) -> None:  # fmt: skip
        """As `offer`, of what a detector made of events: see `rows.batch_of`."""
        intake = self._writer()[1]
        try:
            batch = batch_of(detector, events, scored, flagged, vectors)
        except Exception as error:
            intake.lose(len(events), type(error).__name__)
        else:
            intake.offer(batch)

    def flush(self) -> None:
        """Make everything that was accepted so far findable. StoreError."""
        if self._indexer is None:
            self._live.refresh()
        else:
            self._indexer.turn()

    def meaning(self, text: str) -> np.ndarray:
        """The unit vector float32 (D,) of a text that is searched for, for `search` and
        `accounts`: of a long one it takes longer than the search. ConfigError without encoder,
        InputError, as in every search for a text, for one of which nothing can be seen."""
        return self._meaning(searching.read(text))

    def search(
        self, query: str | np.ndarray, k: int = 10, filters: Filters = ANY, each: int = 3,
        vector: np.ndarray | None = None,
    ) -> list[Hit]:  # fmt: skip
        """The `k` events most similar to a text or to a unit vector float32 (D,), nearest first;
        of events with the same text the latest `each`. Of a text, those that agree word for word
        come first; its `vector` is that of `meaning`, if it was asked for before."""
        scope = searching.scope_of(self._live, self._database, filters)
        found = self._find(scope, query, k, vector)
        return searching.to_hits(scope, self._database, found, k, each)

    def exact(self, text: str, k: int = 10, filters: Filters = ANY) -> list[Hit]:
        """Events whose whole prompt, slot or frame is this text, letter for letter once disguises
        are undone as for scoring; of each kind the latest."""
        scope = searching.scope_of(self._live, self._database, filters)
        found = searching.by_words(scope, self._database, searching.read(text))
        return searching.to_hits(scope, self._database, found, k, k)

    def accounts(
        self, query: str | np.ndarray, k: int = 10, filters: Filters = ANY,
        min_similarity: float = 0.6, texts: int = searching.ACCOUNT_TEXTS,
        vector: np.ndarray | None = None,
    ) -> list[AccountHits]:  # fmt: skip
        """Who else asked this: the `k` accounts with the nearest events of at least this
        similarity, read off the `texts` nearest texts. `vector` as in `search`."""
        scope = searching.scope_of(self._live, self._database, filters)
        found = self._find(scope, query, texts, vector)
        near = [group for group in found if group.similarity >= min_similarity]
        return searching.by_account(scope, self._database, near, k)

    def accounts_exact(self, text: str, k: int = 10, filters: Filters = ANY) -> list[AccountHits]:
        """The `k` accounts with most events as `exact` finds them."""
        scope = searching.scope_of(self._live, self._database, filters)
        found = searching.by_words(scope, self._database, searching.read(text))
        return searching.by_account(scope, self._database, found, k)

    def accounts_like(
        self, account_id: str, event_id: str, k: int = 10, filters: Filters = ANY,
        parts: Sequence[Part] = ("slot", "frame"), elsewhere: bool = False,
        texts: int = searching.ACCOUNT_TEXTS,
    ) -> list[AccountHits]:  # fmt: skip
        """The `k` accounts with the events nearest to one that is there, as `more_like` finds
        them, read off the `texts` nearest texts. KeyError."""
        scope, found = self._like(account_id, event_id, texts, filters, parts, elsewhere)
        return searching.by_account(scope, self._database, found, k)

    def more_like(
        self, account_id: str, event_id: str, k: int = 10, filters: Filters = ANY,
        parts: Sequence[Part] = ("slot", "frame"), elsewhere: bool = False, each: int = 3,
    ) -> list[Hit]:  # fmt: skip
        """Events like one that is there, by what it is about (`slot`), by what it asks for
        (`frame`) or by either; `elsewhere` leaves out its own account. KeyError."""
        scope, found = self._like(account_id, event_id, k, filters, parts, elsewhere)
        return searching.to_hits(scope, self._database, found, k, each)

    def template_hits(
        self, template: str, days: float = 30.0, k: int = 100, min_similarity: float = 0.0,
        filters: Filters = ANY, now: float | None = None,
    ) -> TemplateHits:  # fmt: skip
        """Events of the last `days` whose nearest template is this one, the latest first."""
        since = (time.time() if now is None else now) - days * 86_400
        return overview.template_hits(
            self._live, self._database, template, since, k, min_similarity, filters
        )

    def event(self, account_id: str, event_id: str) -> ArchivedEvent:
        """One event; KeyError if it is not there."""
        with self._database.reading() as session:
            number = reading.event_id(session, event_key(account_id, event_id))
            found = reading.read_events(session, [number] if number is not None else [])
        if not found:
            raise KeyError(event_id)
        return next(iter(found.values()))

    def events(
        self, account_id: str, page: int = 0, size: int = 50, filters: Filters = ANY
    ) -> EventPage:
        """A page, counted from 0, of an account's events, the latest first."""
        return overview.events(self._live, self._database, account_id, page, size, filters)

    def timeline(self, account_id: str, filters: Filters = ANY) -> Timeline:
        """An account by the hour."""
        return overview.timeline(self._live, self._database, account_id, filters)

    def text(self, number: int) -> str:
        """A frame or slot by its id in an `ArchivedEvent`, normalised; empty if it is gone."""
        with self._database.reading() as session:
            return reading.text_content(session, number)

    def vectors(self, texts: Iterable[int]) -> dict[int, np.ndarray]:
        """Unit vectors float32 (D,) of frames and slots by their ids, as far as they have any."""
        with self._database.reading() as session:
            found = reading.vectors_of(session, list(texts))
        return dict(zip(found.texts.tolist(), found.vectors, strict=True))

    @property
    def rows(self) -> Rows:
        """What is held in memory of every event, as columns: as it is now, whatever comes later."""
        return self._live.rows

    def totals(self) -> Totals:
        """What is known of every account, by its number."""
        return self._totals.of(self._live.rows)

    def account_numbers(self, account_ids: Iterable[str]) -> dict[str, int]:
        """Numbers of those accounts that are there."""
        with self._database.reading() as session:
            return reading.account_ids(session, account_ids)

    def account_names(self, numbers: Iterable[int]) -> dict[int, str]:
        """Ids of accounts by their numbers, as far as they are there."""
        with self._database.reading() as session:
            return reading.account_names(session, numbers)

    def names(self) -> dict[int, str]:
        """Intents, templates, languages and bundles by the numbers that `rows` has for them."""
        with self._database.reading() as session:
            return reading.names(session)

    def shared_with(self, account: int, most: Mapping[str, int]) -> traits.Shared:
        """Which accounts share a network, payment or client with one, by numbers; `most` accounts
        of a value, by its kind, beyond which it tells nothing."""
        with self._database.reading() as session:
            return traits.shared_with(session, account, most)

    def reach(
        self, vector: np.ndarray, similarity: float, since: float, without: np.ndarray
    ) -> Reach:
        """How many events since a time are near to a unit vector float32 (D,), those of account
        numbers `without` left out."""
        return reach(self._live, self._database, vector, similarity, since, without)

    def erase(self, account_id: str) -> Removed:
        """Remove an account: its events, the texts that no other event holds, their vectors, and
        every copy of these in the folder, backups too. On return no file of it holds a byte of
        them. Takes as long as writing all of it anew. StoreError: if it was begun, it is finished
        by itself later."""
        return self._writer()[0].erase(account_id)

    def retain(self, oldest: float) -> Removed:
        """Remove events that came before a time; done by itself with `retention_days`."""
        return self._writer()[0].retain(oldest)

    def backup(self) -> Path:
        """Copy the tables, if they are SQLite's, and the index to a folder of the archive; done by
        itself with `backup_hours`."""
        return self._writer()[0].backup()

    def rebuild(self) -> None:
        """Train the index anew from the tables, now: also done by itself when it is wanted."""
        self._writer()[0].rebuild()

    def status(self) -> Status:
        """How the archive is. StoreError."""
        return overview.status(
            self._live, self._database, self._saved, self._indexer, self._intake, self.rebuilt
        )

    def close(self) -> None:
        """End the background work and close all files. What was accepted stays, in the queue if
        it is not in the tables yet. Closing twice does nothing."""
        self._resources.close()

    def _find(
        self, scope: searching.Scope, query: str | np.ndarray, k: int,
        vector: np.ndarray | None = None,
    ) -> list[searching.Found]:  # fmt: skip
        if isinstance(query, np.ndarray):
            if scope.empty:
                return []
            return searching.by_meaning(scope, self._live, [_checked(query, self._live)], k)
        normal = searching.read(query)
        if scope.empty:
            return []
        near = self._meaning(normal) if vector is None else _checked(vector, self._live)
        found = searching.by_words(scope, self._database, normal)
        return found + searching.by_meaning(scope, self._live, [near], k, found)

    def _meaning(self, normal: str) -> np.ndarray:
        if self._encoder is None:
            raise ConfigError(
                "a search for a text must have an encoder, however: the archive was opened without "
                "one; give it, or search for a vector"
            )
        return self._encoder.encode([normal])[0].vector

    def _like(
        self, account_id: str, event_id: str, k: int, filters: Filters, parts: Sequence[Part],
        elsewhere: bool,
    ) -> tuple[searching.Scope, list[searching.Found]]:  # fmt: skip
        event = self.event(account_id, event_id)
        without = None
        if elsewhere:
            without = np.array(list(self.account_numbers([account_id]).values()))
        scope = searching.scope_of(self._live, self._database, filters, without)
        return scope, searching.like_event(scope, self._live, self._database, event, parts, k)

    def _writer(self) -> tuple[Indexer, Intake]:
        if self._indexer is None or self._intake is None:
            raise StoreError(
                "the archive must be open for writing, however: it was opened to read; open it "
                "otherwise where it is to be changed"
            )
        return self._indexer, self._intake


def _checked(vector: np.ndarray, live: Live) -> np.ndarray:
    wanted = (live.index.dimensions,)
    if vector.shape != wanted or not np.isfinite(vector).all() or not vector.any():
        raise ValueError(
            f"a vector must be finite, not zero and of shape {wanted}, however: it is not; encode "
            "with the encoder of the archive"
        )
    unit: np.ndarray = (vector / np.linalg.norm(vector)).astype(np.float32)
    return unit
