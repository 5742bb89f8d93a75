"""Takes events out of the tables, with the texts that no other event holds.

What goes is named in `removals`, by numbers alone, so that every process that holds vectors drops
them too; `meta` remembers that files have still to be rewritten, should the process end before
they are.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from stillwatch.serving.archive import traits
from stillwatch.serving.archive.database import Database, Session, in_lists
from stillwatch.serving.archive.results import Removed
from stillwatch.serving.archive.schema import get_meta, set_meta, take_ids
from stillwatch.serving.stores.base import id_bytes

PENDING = "purge"
"""The entry of `meta` that is there while files hold what was removed."""
REMOVALS_KEPT_S = 7 * 86_400
"""A process that has not read the tables for longer builds its index anew."""


def erase_account(database: Database, account_id: str) -> Removed:
    """Delete an account and all its events. Files still hold them until they are rewritten."""
    name = id_bytes(account_id)
    with database.writing() as session:
        found = session.rows("SELECT id FROM accounts WHERE name = ?", (name,))
        if not found:
            return Removed(0, 0)
        account = int(found[0][0])
        events = session.rows("SELECT id FROM events WHERE account = ?", (account,))
        removed = _delete(session, [int(number) for (number,) in events])
        session.run("DELETE FROM traits WHERE account = ?", (account,))
        session.run("DELETE FROM accounts WHERE id = ?", (account,))
        set_meta(session, PENDING, "1")
        return removed


def delete_events(database: Database, events: Sequence[int]) -> Removed:
    """Delete these events, and accounts that have none left, in one transaction."""
    with database.writing() as session:
        owners: set[int] = set()
        for marks, part in in_lists(events):
            rows = session.rows(f"SELECT DISTINCT account FROM events WHERE id IN {marks}", part)
            owners.update(int(account) for (account,) in rows)
        traits.take_away(session, traits.of_events(session, events))
        removed = _delete(session, events)
        for marks, part in in_lists(owners):
            session.run(
                f"DELETE FROM accounts WHERE id IN {marks} AND NOT EXISTS "
                "(SELECT 1 FROM events WHERE events.account = accounts.id)",
                part,
            )
        if removed.events:
            set_meta(session, PENDING, "1")
        return removed


def is_pending(database: Database) -> bool:
    """Whether files may still hold what was removed."""
    with database.reading() as session:
        return get_meta(session, PENDING) is not None


def clear_pending(database: Database) -> None:
    with database.writing() as session:
        session.run("DELETE FROM meta WHERE name = ?", (PENDING,))


def _delete(session: Session, events: Sequence[int]) -> Removed:
    texts: set[int] = set()
    count = 0
    for marks, part in in_lists(events):
        for slot, frame in session.rows(
            f"SELECT slot, frame FROM events WHERE id IN {marks}", part
        ):
            texts.update((int(slot), int(frame)))
        session.run(f"DELETE FROM details WHERE event IN {marks}", part)
        count += session.run(f"DELETE FROM events WHERE id IN {marks}", part)
    orphans: list[int] = []
    for marks, part in in_lists(sorted(texts - {0})):
        rows = session.rows(
            f"SELECT id FROM texts WHERE id IN {marks} "
            "AND NOT EXISTS (SELECT 1 FROM events WHERE slot = texts.id) "
            "AND NOT EXISTS (SELECT 1 FROM events WHERE frame = texts.id)",
            part,
        )
        orphans += [int(number) for (number,) in rows]
    for marks, part in in_lists(orphans):
        session.run(f"DELETE FROM vectors WHERE text IN {marks}", part)
        session.run(f"DELETE FROM waiting WHERE text IN {marks}", part)
        session.run(f"DELETE FROM texts WHERE id IN {marks}", part)
    if count:
        now = time.time()
        (number,) = take_ids(session, "removals", 1)
        session.run(
            "INSERT INTO removals (id, time, events, texts) VALUES (?, ?, ?, ?)",
            (number, now, _packed(events), _packed(orphans)),
        )
        session.run("DELETE FROM removals WHERE time < ?", (now - REMOVALS_KEPT_S,))
    return Removed(count, len(orphans))


def _packed(numbers: Sequence[int]) -> bytes:
    return np.asarray(numbers, "<i8").tobytes()
