"""Reads the archive's tables.

Axis letters: N rows, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from stillwatch.serving.archive.columns import TYPES
from stillwatch.serving.archive.database import Session, in_lists
from stillwatch.serving.archive.results import ArchivedEvent
from stillwatch.serving.archive.rows import VECTOR, unpack_fields, unpack_text
from stillwatch.serving.stores.base import id_bytes, id_text

_COLUMNS = ", ".join(TYPES)
_EVENT = """
SELECT e.id, e.time, e.arrival, e.intent, e.risk, e.flagged, e.template, e.similarity, e.language,
    e.bundle, e.frame, e.slot, a.name, d.content
FROM events e JOIN accounts a ON a.id = e.account JOIN details d ON d.event = e.id
WHERE e.id IN
"""


class Vectors(NamedTuple):
    """Vectors of texts float32 (N, D), of unit norm, in the order of `seq` int64 (N,)."""

    seq: np.ndarray
    texts: np.ndarray
    vectors: np.ndarray


class Removal(NamedTuple):
    """Rows that are gone, ids int64 (N,)."""

    id: int
    events: np.ndarray
    texts: np.ndarray


class Waiting(NamedTuple):
    """A text that has no vector yet."""

    id: int
    text: str


def events_after(session: Session, last: int, limit: int) -> list[tuple[Any, ...]]:
    """Rows of `columns.TYPES` with ids above `last`, by id, at most `limit` of them."""
    sql = f"SELECT {_COLUMNS} FROM events WHERE id > ? ORDER BY id LIMIT ?"
    return session.rows(sql, (last, limit))


def vectors_after(session: Session, last: int, limit: int) -> Vectors:
    """Vectors with numbers above `last`, at most `limit` of them."""
    sql = "SELECT seq, text, vector FROM vectors WHERE seq > ? ORDER BY seq LIMIT ?"
    return _vectors(session.rows(sql, (last, limit)))


def vectors_of(session: Session, texts: Sequence[int]) -> Vectors:
    """Vectors of these texts, as far as they have any; in no order."""
    rows: list[tuple[Any, ...]] = []
    for marks, part in in_lists(texts):
        sql = f"SELECT seq, text, vector FROM vectors WHERE text IN {marks}"
        rows += session.rows(sql, part)
    return _vectors(rows)


def all_vectors(session: Session, until: int, block: int) -> Iterator[Vectors]:
    """Every vector up to number `until`, in blocks."""
    last = 0
    while len((found := vectors_after(session, last, block)).seq):
        kept = found.seq <= until
        if kept.any():
            yield Vectors(*(part[kept] for part in found))
        last = int(found.seq[-1])
        if last >= until:
            return


def vector_counts(session: Session) -> tuple[int, int]:
    """How many vectors there are and the last one's number."""
    ((count, last),) = session.rows("SELECT COUNT(*), COALESCE(MAX(seq), 0) FROM vectors")
    return int(count), int(last)


def removals_after(session: Session, last: int) -> list[Removal]:
    sql = "SELECT id, events, texts FROM removals WHERE id > ? ORDER BY id"
    return [
        Removal(int(number), np.frombuffer(events, "<i8"), np.frombuffer(texts, "<i8"))
        for number, events, texts in session.rows(sql, (last,))
    ]


def removal_span(session: Session) -> tuple[int, int]:
    """The first removal that is still told of, and the last there was; 0 if none is."""
    ((first, last),) = session.rows("SELECT MIN(id), MAX(id) FROM removals")
    ((made,),) = session.rows("SELECT COALESCE(MAX(next), 1) FROM counters WHERE name = 'removals'")
    return int(first or 0), int(last or made - 1)


def waiting_texts(session: Session, after: int, limit: int) -> list[Waiting]:
    """Texts without a vector, with ids above `after`."""
    sql = (
        "SELECT t.id, t.content FROM waiting w JOIN texts t ON t.id = w.text "
        "WHERE t.id > ? ORDER BY t.id LIMIT ?"
    )
    rows = session.rows(sql, (after, limit))
    return [Waiting(int(number), unpack_text(content)) for number, content in rows]


def text_ids(session: Session, keys: Iterable[bytes]) -> list[int]:
    found: list[int] = []
    for marks, part in in_lists(keys):
        rows = session.rows(f"SELECT id FROM texts WHERE key IN {marks}", part)
        found += [int(number) for (number,) in rows]
    return found


def text_content(session: Session, text: int) -> str:
    """A text as it was read, normalised; empty if there is none of this id."""
    found = session.rows("SELECT content FROM texts WHERE id = ?", (text,))
    return unpack_text(found[0][0]) if found else ""


def account_ids(session: Session, names: Iterable[str]) -> dict[str, int]:
    """Ids of those accounts that are known."""
    found: dict[str, int] = {}
    for marks, part in in_lists(map(id_bytes, names)):
        rows = session.rows(f"SELECT name, id FROM accounts WHERE name IN {marks}", part)
        found.update((id_text(bytes(name)), int(number)) for name, number in rows)
    return found


def account_names(session: Session, ids: Iterable[int]) -> dict[int, str]:
    found: dict[int, str] = {}
    for marks, part in in_lists(ids):
        rows = session.rows(f"SELECT id, name FROM accounts WHERE id IN {marks}", part)
        found.update((int(number), id_text(bytes(name))) for number, name in rows)
    return found


def names(session: Session) -> dict[int, str]:
    """Intents, templates, languages and bundles by their ids."""
    return {int(number): str(name) for number, name in session.rows("SELECT id, name FROM names")}


def event_id(session: Session, key: bytes) -> int | None:
    found = session.rows("SELECT id FROM events WHERE key = ?", (key,))
    return int(found[0][0]) if found else None


def read_events(session: Session, ids: Iterable[int]) -> dict[int, ArchivedEvent]:
    """Events by id, as far as they are still there."""
    rows: list[tuple[Any, ...]] = []
    for marks, part in in_lists(ids):
        rows += session.rows(_EVENT + marks, part)
    numbers = {row[place] for row in rows for place in (3, 6, 8, 9)}
    known: dict[int, str] = {}
    for marks, part in in_lists(numbers):
        found = session.rows(f"SELECT id, name FROM names WHERE id IN {marks}", part)
        known.update((int(number), str(name)) for number, name in found)
    return {int(row[0]): _event(row, known) for row in rows}


def _event(row: tuple[Any, ...], known: dict[int, str]) -> ArchivedEvent:
    (
        number, time, arrival, intent, risk, flagged, template, similarity, language, bundle,
        frame, slot, account, content,
    ) = row  # fmt: skip
    fields = unpack_fields(content)
    return ArchivedEvent(
        id=int(number),
        event_id=fields["event_id"],
        account_id=id_text(bytes(account)),
        time=time,
        arrival=arrival,
        prompt=fields.get("prompt", ""),
        system=fields.get("system", ""),
        model=fields.get("model"),
        platform=fields.get("platform"),
        network=fields.get("network"),
        payment=fields.get("payment"),
        client=fields.get("client"),
        session_id=fields.get("session_id"),
        intent=known.get(intent),
        contributions=fields.get("contributions", {}),
        risk=risk,
        flagged=bool(flagged),
        template=known.get(template),
        template_similarity=similarity,
        language=known.get(language, ""),
        bundle=known.get(bundle, ""),
        frame=int(frame),
        slot=int(slot),
    )


def _vectors(rows: Sequence[tuple[Any, ...]]) -> Vectors:
    count = len(rows)
    seq = np.fromiter((row[0] for row in rows), np.int64, count)
    texts = np.fromiter((row[1] for row in rows), np.int64, count)
    if not count:
        return Vectors(seq, texts, np.empty((0, 0), np.float32))
    # One place for all vectors: what the rows hold is not joined first.
    size = len(rows[0][2])
    stored = np.empty((count, size // VECTOR.itemsize), VECTOR)
    for place, row in enumerate(rows):
        stored[place] = np.frombuffer(row[2], VECTOR)
    vectors = stored.astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Vectors(seq, texts, vectors)
