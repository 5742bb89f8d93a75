"""The archive's tables, and what is told of an archive as a whole.

`events` is narrow, for all of it is read at start; `details` has what is shown of an event. An
event has the ids of its texts; a text is there once, whoever sent it. `vectors` are numbered in
the order in which they came, so that an index can ask for what it has not got yet; `waiting`
names texts that have no vector yet. `traits` says which accounts share what. `removals` tells
other processes which rows are gone.
"""

from __future__ import annotations

import logging
import secrets

from stillwatch.data.errors import ConfigError
from stillwatch.serving.archive import traits
from stillwatch.serving.archive.database import Database, Session

_log = logging.getLogger("stillwatch.archive")

VERSION = 2
"""1 had no `traits`: they are counted when such an archive is opened to be written."""

EVENT_COLUMNS = (
    "id", "account", "time", "arrival", "slot", "frame", "prompt", "intent", "contribution",
    "risk", "flagged", "template", "similarity", "language", "bundle",
)  # fmt: skip
"""`prompt` is half of the key of the whole normalised prompt; intent, template, language and
bundle are ids of `names`, 0 for none; `frame` is 0 for none."""

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, next {integer} NOT NULL);
CREATE TABLE IF NOT EXISTS names (id {key}, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS accounts (id {key}, name {data} NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS texts (id {key}, key {data} NOT NULL UNIQUE, content {data} NOT NULL);
CREATE TABLE IF NOT EXISTS vectors (
    seq {key}, text {integer} NOT NULL UNIQUE, vector {data} NOT NULL
);
CREATE TABLE IF NOT EXISTS waiting (text {key});
CREATE TABLE IF NOT EXISTS events (
    id {key}, key {data} NOT NULL UNIQUE, account {integer} NOT NULL, time {real} NOT NULL,
    arrival {real} NOT NULL, slot {integer} NOT NULL, frame {integer} NOT NULL,
    prompt {integer} NOT NULL, intent {integer} NOT NULL, contribution {real} NOT NULL,
    risk {real} NOT NULL, flagged {integer} NOT NULL, template {integer} NOT NULL,
    similarity {real} NOT NULL, language {integer} NOT NULL, bundle {integer} NOT NULL
);
CREATE INDEX IF NOT EXISTS events_account ON events (account);
CREATE INDEX IF NOT EXISTS events_slot ON events (slot);
CREATE INDEX IF NOT EXISTS events_frame ON events (frame);
CREATE TABLE IF NOT EXISTS details (event {key}, content {data} NOT NULL);
CREATE TABLE IF NOT EXISTS traits (
    account {integer} NOT NULL, kind {integer} NOT NULL, value {data} NOT NULL,
    events {integer} NOT NULL, PRIMARY KEY (account, kind, value)
);
CREATE INDEX IF NOT EXISTS traits_value ON traits (kind, value);
CREATE TABLE IF NOT EXISTS removals (
    id {key}, time {real} NOT NULL, events {data} NOT NULL, texts {data} NOT NULL
);
"""


def prepare(database: Database, dimensions: int, encoder: str) -> str:
    """Make the tables that are missing and check those that are there; the archive's id.

    ConfigError if the vectors that are kept are another encoder's.
    """
    dialect = database.dialect
    types = {"key": dialect.key, "integer": dialect.integer, "real": dialect.real}
    with database.writing() as session:
        for statement in _TABLES.format(data=dialect.data, **types).split(";"):
            if statement.strip():
                session.run(statement)
        if get_meta(session, "archive") is None:
            set_meta(session, "version", str(VERSION))
            set_meta(session, "archive", secrets.token_hex(8))
            set_meta(session, "dimensions", str(dimensions))
            set_meta(session, "encoder", encoder)
        elif get_meta(session, "version") == "1":
            _log.info("the archive is brought up to version %d, which takes a while", VERSION)
            traits.fill(session)
            set_meta(session, "version", str(VERSION))
        check(session, dimensions, encoder)
        return get_meta(session, "archive") or ""


def check(session: Session, dimensions: int, encoder: str) -> None:
    """ConfigError unless the tables are of this version, of D dimensions and of this encoder;
    an empty `encoder` is not checked."""
    found = get_meta(session, "version")
    if found != str(VERSION):
        raise ConfigError(
            f"the archive must be of version {VERSION}, however: {found}; an older one is brought "
            "up to date when the service opens it, a newer one needs the Stillwatch that wrote it"
        )
    kept = (get_meta(session, "dimensions"), get_meta(session, "encoder"))
    if kept[0] != str(dimensions) or (encoder and kept[1] != encoder):
        raise ConfigError(
            f"the archive must be of the encoder {encoder} with {dimensions} dimensions, however: "
            f"{kept[1]} with {kept[0]}; search it with a bundle of that encoder, or begin a new "
            "archive"
        )


def get_meta(session: Session, name: str) -> str | None:
    found = session.rows("SELECT value FROM meta WHERE name = ?", (name,))
    return str(found[0][0]) if found else None


def set_meta(session: Session, name: str, value: str) -> None:
    sql = "INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = ?"
    session.run(sql, (name, value, value))


def take_ids(session: Session, counter: str, count: int) -> range:
    """New ids, never given out before, in a writing session."""
    session.run(
        "INSERT INTO counters (name, next) VALUES (?, 1) ON CONFLICT (name) DO NOTHING", (counter,)
    )
    ((first,),) = session.rows("SELECT next FROM counters WHERE name = ?", (counter,))
    session.run("UPDATE counters SET next = next + ? WHERE name = ?", (count, counter))
    return range(int(first), int(first) + count)
