"""An archive's events in the order in which they came, for whoever follows them.

Holds nothing in memory: another process may follow an archive without loading what searches need.
Each read is one short transaction, so that nobody who rewrites the archive's files waits for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Self

from stillwatch.data.errors import ConfigError
from stillwatch.data.events import TEXT_FIELDS, Event
from stillwatch.serving.archive import reading, sqlite
from stillwatch.serving.archive.database import Database, in_lists
from stillwatch.serving.archive.postgres import SCHEMES, PostgresDatabase
from stillwatch.serving.archive.rows import unpack_fields
from stillwatch.serving.archive.schema import VERSION, get_meta
from stillwatch.serving.stores.base import id_text

_SELECT = (
    "SELECT e.id, a.name, e.time, d.content FROM events e JOIN accounts a ON a.id = e.account "
    "JOIN details d ON d.event = e.id WHERE"
)


class State(NamedTuple):
    """Which archive it is, and how often events were removed from it: by an erasure, or because
    their time was over. Whoever keeps something of its events keeps it for one state."""

    archive: str
    removals: int


class Arrivals(NamedTuple):
    """Events by their numbers, ascending, and the state that they were read in."""

    events: list[tuple[int, Event]]
    state: State


class ArchiveFeed:
    """Reads one archive. Safe to share between threads; every method raises StoreError."""

    def __init__(self, database: Database) -> None:
        """Use `open`."""
        self._database = database

    @classmethod
    def open(cls, where: str | Path) -> Self:
        """Follow the archive that `PromptArchive.open` has made at `where`. ConfigError if its
        tables are of another version."""
        in_server = str(where).partition("://")[0] in SCHEMES
        database: Database = (
            PostgresDatabase(str(where), read_only=True)
            if in_server
            else sqlite.SqliteDatabase(Path(where) / sqlite.FILE, read_only=True)
        )
        try:
            with database.reading() as session:
                found = get_meta(session, "version")
            if found != str(VERSION):
                raise ConfigError(
                    f"the archive must be of version {VERSION}, however: {found}; open it with the "
                    "service first"
                )
        except BaseException:
            database.close()
            raise
        return cls(database)

    def state(self) -> State:
        """As it is now."""
        with self._database.reading() as session:
            return State(get_meta(session, "archive") or "", reading.removal_span(session)[1])

    def after(self, last: int, limit: int) -> Arrivals:
        """At most `limit` events with numbers above `last`: numbers grow with every arrival."""
        with self._database.reading() as session:
            rows = session.rows(f"{_SELECT} e.id > ? ORDER BY e.id LIMIT ?", (last, limit))
            state = State(get_meta(session, "archive") or "", reading.removal_span(session)[1])
        return Arrivals([(int(row[0]), _event(row)) for row in rows], state)

    def events(self, numbers: Iterable[int]) -> dict[int, Event]:
        """Events by number, as far as they are still there."""
        rows: list[tuple[Any, ...]] = []
        with self._database.reading() as session:
            for marks, part in in_lists(numbers):
                rows += session.rows(f"{_SELECT} e.id IN {marks}", part)
        return {int(row[0]): _event(row) for row in rows}

    def close(self) -> None:
        """Closing twice does nothing."""
        self._database.close()


def _event(row: tuple[Any, ...]) -> Event:
    _, account, time, content = row
    fields = unpack_fields(content)
    texts: dict[str, Any] = {name: fields.get(name) for name in TEXT_FIELDS}
    return Event(
        fields["event_id"], id_text(bytes(account)), float(time), fields.get("prompt", ""),
        fields.get("system", ""), **texts,
    )  # fmt: skip
