"""Writes batches of scored events into the tables, each event once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stillwatch.data.events import Event
from stillwatch.model.stream import clip_middle
from stillwatch.model.text import normalise
from stillwatch.serving.archive import traits
from stillwatch.serving.archive.database import Database, Session, in_lists
from stillwatch.serving.archive.language import guess_language
from stillwatch.serving.archive.rows import (
    VECTOR,
    Batch,
    Row,
    pack_fields,
    pack_text,
    usable_vector,
)
from stillwatch.serving.archive.schema import EVENT_COLUMNS, take_ids
from stillwatch.serving.stores.base import id_bytes

_INSERT_EVENT = (
    f"INSERT INTO events (key, {', '.join(EVENT_COLUMNS)}) VALUES (?{', ?' * len(EVENT_COLUMNS)})"
)


def event_key(account_id: str, event_id: str) -> bytes:
    """Sixteen bytes that tell one event of one account."""
    account = hashlib.blake2b(id_bytes(account_id), digest_size=16).digest()
    identity = id_bytes(event_id)
    return hashlib.blake2b(identity, digest_size=16, key=account).digest()


def prompt_key(normal: str) -> int:
    """A signed 64-bit number that stands for a whole normalised prompt."""
    text = normal.encode("utf-8", "replace")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big", signed=True)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch with what can be made of it before the tables are locked: its rows, by
    `event_key`, and of each its prompt's key, its language and its details, packed."""

    batch: Batch
    arrival: float
    rows: Mapping[bytes, Row]
    prompts: Mapping[bytes, int]
    languages: Mapping[bytes, str]
    details: Mapping[bytes, bytes]


def prepare(batch: Batch, arrival: float) -> Prepared:
    """What takes time and needs no table."""
    rows = {event_key(row.event.account_id, row.event.event_id): row for row in batch.rows}
    return Prepared(
        batch,
        arrival,
        rows,
        {key: prompt_key(_whole(row)) for key, row in rows.items()},
        {key: guess_language(row.event.prompt) for key, row in rows.items()},
        {key: _pack_details(row, batch) for key, row in rows.items()},
    )


def write_batches(
    database: Database, batches: Sequence[Prepared], dimensions: int, encoder: str
) -> int:
    """Write batches' events that are not there yet, all or none; how many they were. StoreError.

    Vectors of another encoder, or of no unit norm, are left out: their texts wait for others.
    """
    with database.writing() as session:
        return sum(_write(session, prepared, dimensions, encoder) for prepared in batches)


def _write(session: Session, prepared: Prepared, dimensions: int, encoder: str) -> int:
    batch = prepared.batch
    known = _known(session, "events", prepared.rows)
    rows = {key: row for key, row in prepared.rows.items() if key not in known}
    if not rows:
        return 0
    vectors = batch.vectors if batch.encoder == encoder else {}
    texts = _intern_texts(session, rows.values(), vectors, dimensions)
    accounts = _intern(session, "accounts", [_name_of(row) for row in rows.values()])
    named = {prepared.languages[key] for key in rows}
    named.update(row.template for row in rows.values() if row.template)
    names = _intern(session, "names", [batch.bundle, *batch.intents, *sorted(named)])
    ids = take_ids(session, "events", len(rows))
    written = []
    for number, (key, row) in zip(ids, rows.items(), strict=True):
        frame, slot = row.text_keys
        strongest = int(np.argmax(row.contribution)) if row.contribution else -1
        written.append(
            (
                key, number, accounts[_name_of(row)], row.event.timestamp, prepared.arrival,
                texts[slot], texts[frame] if frame else 0, prepared.prompts[key],
                names[batch.intents[strongest]] if strongest >= 0 else 0,
                row.contribution[strongest] if strongest >= 0 else 0.0, row.risk,
                int(row.flagged), names[row.template] if row.template else 0, row.similarity,
                names[prepared.languages[key]], names[batch.bundle],
            )
        )  # fmt: skip
    session.many(_INSERT_EVENT, written)
    session.many(
        "INSERT INTO details (event, content) VALUES (?, ?)",
        [(number, prepared.details[key]) for number, key in zip(ids, rows, strict=True)],
    )
    traits.add(
        session,
        [
            trait
            for row in rows.values()
            for trait in traits.of_fields(accounts[_name_of(row)], _linking(row.event))
        ],
    )
    return len(rows)


def write_vectors(database: Database, vectors: Mapping[int, np.ndarray]) -> None:
    """Give waiting texts, by id, their vectors float32 (D,), of unit norm."""
    with database.writing() as session:
        _give_vectors(session, vectors)


def _whole(row: Row) -> str:
    """The prompt, normalised: without a frame, it is the slot."""
    return normalise(clip_middle(row.event.prompt)) if row.frame else row.slot


def _pack_details(row: Row, batch: Batch) -> bytes:
    event = row.event
    fields: dict[str, Any] = {
        "event_id": event.event_id,
        "prompt": event.prompt,
        "system": event.system,
        "model": event.model,
        "platform": event.platform,
        "network": event.network,
        "payment": event.payment,
        "client": event.client,
        "session_id": event.session_id,
        "contributions": {
            intent: round(value, 6)
            for intent, value in zip(batch.intents, row.contribution, strict=True)
        },
    }
    return pack_fields({name: value for name, value in fields.items() if value})


def _linking(event: Event) -> dict[str, str | None]:
    return {kind: getattr(event, kind) for kind in traits.KINDS}


def _intern_texts(
    session: Session, rows: Iterable[Row], vectors: Mapping[bytes, np.ndarray], dimensions: int
) -> dict[bytes, int]:
    """Ids of the rows' texts, by key; new ones are written, with their vectors if there are."""
    contents: dict[bytes, str] = {}
    for row in rows:
        frame, slot = row.text_keys
        contents[slot] = row.slot
        if frame:
            contents[frame] = row.frame
    found = _known(session, "texts", contents)
    missing = [key for key in contents if key not in found]
    ids = dict(zip(missing, take_ids(session, "texts", len(missing)), strict=True))
    session.many(
        "INSERT INTO texts (id, key, content) VALUES (?, ?, ?)",
        [(number, key, pack_text(contents[key])) for key, number in ids.items()],
    )
    session.many("INSERT INTO waiting (text) VALUES (?)", [(number,) for number in ids.values()])
    found |= ids
    given = {
        found[key]: vector
        for key, vector in vectors.items()
        if key in found and usable_vector(vector, dimensions)
    }
    _give_vectors(session, given)
    return found


def _give_vectors(session: Session, vectors: Mapping[int, np.ndarray]) -> None:
    waiting: list[int] = []
    for marks, part in in_lists(vectors):
        waiting += [
            int(text)
            for (text,) in session.rows(f"SELECT text FROM waiting WHERE text IN {marks}", part)
        ]
    rows = [
        (seq, text, vectors[text].astype(VECTOR).tobytes())
        for seq, text in zip(take_ids(session, "vectors", len(waiting)), waiting, strict=True)
    ]
    session.many("INSERT INTO vectors (seq, text, vector) VALUES (?, ?, ?)", rows)
    session.many("DELETE FROM waiting WHERE text = ?", [(text,) for text in waiting])


def _known(session: Session, table: str, keys: Iterable[bytes]) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    for marks, part in in_lists(keys):
        rows = session.rows(f"SELECT key, id FROM {table} WHERE key IN {marks}", part)
        found.update((bytes(key), int(number)) for key, number in rows)
    return found


def _intern(session: Session, table: str, values: Sequence[Any]) -> dict[Any, int]:
    """Ids of names, given out where they are new."""
    found: dict[Any, int] = {}
    for marks, part in in_lists(dict.fromkeys(values)):
        rows = session.rows(f"SELECT name, id FROM {table} WHERE name IN {marks}", part)
        found.update((name, int(number)) for name, number in rows)
    missing = [value for value in dict.fromkeys(values) if value not in found]
    ids = dict(zip(missing, take_ids(session, table, len(missing)), strict=True))
    session.many(
        f"INSERT INTO {table} (id, name) VALUES (?, ?)", [(n, name) for name, n in ids.items()]
    )
    return found | ids


def _name_of(row: Row) -> bytes:
    return id_bytes(row.event.account_id)
