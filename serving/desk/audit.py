"""The audit log: entries that each carry the hash of all before them.

An entry is committed with what it tells of, in one transaction, and its hash anchored after that.
A process that ends between the two leaves an anchor that is one entry behind, never one ahead: the
next that opens the log checks that entry against the chain and anchors it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stillwatch.data.errors import InputError, StoreError
from stillwatch.serving.desk.anchor import FILE as ANCHOR_FILE
from stillwatch.serving.desk.anchor import Anchor
from stillwatch.serving.desk.database import Database, json_at
from stillwatch.serving.desk.records import AuditError, Entry, EntryPage, Head, Verification
from stillwatch.serving.stores.base import id_bytes

START = Head(0, "0" * 64)
"""The head of a log without entries."""
MAX_CONTENT = 64 * 1024
MAX_FINDINGS = 20
OPENED, ACCEPTED = "log.opened", "log.accepted"

_log = logging.getLogger("stillwatch.desk")


class Writer:
    """One transaction, which adds one entry."""

    def __init__(self, connection: sqlite3.Connection, head: Head, now: float) -> None:
        self.connection = connection
        self.now = now
        self.head = head
        self.number = head.count + 1
        """Of the entry to be."""
        self.entry: Entry | None = None

    def append(self, action: str, actor: str, fields: Mapping[str, Any]) -> Entry:
        """Add the entry. InputError if it is too long to keep."""
        assert self.entry is None, "one transaction is one entry, so that a crash leaves one behind"
        content = json.dumps(
            {"number": self.number, "time": self.now, "actor": actor, "action": action,
             "fields": dict(fields)},
            sort_keys=True, separators=(",", ":"), allow_nan=False,
        )  # fmt: skip
        if len(content) > MAX_CONTENT:
            raise InputError(
                f"an entry of the audit log must have at most {MAX_CONTENT} bytes, however: it has "
                "more; shorten what it names"
            )
        self.head = Head(self.number, chained(self.head.hash, content))
        self.connection.execute(
            "INSERT INTO audit (number, content, hash) VALUES (?, ?, ?)",
            (self.number, content, self.head.hash),
        )
        self.entry = entry_of(content, self.head.hash)
        return self.entry


class AuditLog:
    """The log in a folder. Every method raises StoreError, those that write AuditError too."""

    def __init__(self, database: Database, folder: Path, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self.anchor = Anchor(folder)

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """A transaction whose changes stand, with its entry, when the block ends, or not at all."""
        with self._database.exclusive():
            self.mend()
            with self._database.writing() as connection:
                writer = Writer(connection, _last(connection), self._clock())
                yield writer
            if writer.entry is not None:
                self._anchor(writer.head)

    def open(self) -> None:
        """Anchor what a crash has left, begin a log that is new. What cannot be mended is logged;
        nothing can be written until it is seen to."""
        with self._database.exclusive():
            with self._database.reading() as connection:
                new = _last(connection) == START
            if new and not self.anchor.exists():
                try:
                    self.anchor.create()
                except OSError as error:
                    raise _unwritable(error) from error
            try:
                self.mend()
            except AuditError as error:
                _log.error("the audit log is not as it was left: %s", error)
                return
        if new:
            with self.writing() as writer:
                # Another process may have been faster.
                if writer.number == 1:
                    # So that no two logs have a head in common.
                    writer.append(OPENED, "stillwatch", {"log": secrets.token_hex(16)})

    def mend(self) -> None:
        """Anchor the one entry that may have been left without. AuditError if log and anchor
        differ by anything else, StoreError if the anchor cannot be written."""
        with self._database.reading() as connection:
            tail = self.anchor.tail()
            anchored = tail.head or START
            last = _last(connection)
            before, content = _entry_after(connection, anchored)
        expected = Head(anchored.count + 1, chained(anchored.hash, content)) if content else None
        if before == anchored.hash and last == anchored and not tail.torn:
            return
        # What a crash can leave: the next entry, without its line or with a part of it.
        if before != anchored.hash or last != expected or not str(expected).startswith(tail.torn):
            raise AuditError(
                f"the audit log must go on where its anchor ends, however: the anchor ends at "
                f"entry {anchored.count} and the log, of {last.count} entries, does not agree; "
                "run `stillwatch audit verify`"
            )
        try:
            self.anchor.append(last, tail.torn)
        except OSError as error:
            raise _unwritable(error) from error
        _log.info("entry %d of the audit log was anchored: its process had ended", last.count)

    def accept(self, actor: str, reason: str) -> Entry:
        """Go on from the log as it is, though it is not what its anchor says: the old anchor is
        kept beside the new one, and the entry tells of it."""
        with self._database.exclusive():
            try:
                found = self.anchor.tail().head
            except AuditError:
                found = None
            with self._database.writing() as connection:
                writer = Writer(connection, _last(connection), self._clock())
                fields = {"reason": reason, "anchored": str(found) if found else None}
                entry = writer.append(ACCEPTED, actor, fields)
            try:
                self.anchor.set_aside(writer.head)
            except OSError as error:
                raise _unwritable(error) from error
            return entry

    def anchored(self) -> Head | None:
        """The anchor's last head. AuditError, StoreError."""
        try:
            return self.anchor.tail().head
        except OSError as error:
            raise _unwritable(error) from error

    def head(self) -> Head:
        with self._database.reading() as connection:
            return _last(connection)

    def entries(self, before: int | None, limit: int) -> list[Entry]:
        """Entries with numbers below `before`, the latest first."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT content, hash FROM audit WHERE number < ? ORDER BY number DESC LIMIT ?",
                (before if before is not None else 2**62, limit),
            ).fetchall()
        return [entry_of(content, own) for content, own in rows]

    def find(
        self, page: int, size: int, action: str | None = None, actor: str | None = None,
        account_id: str | None = None,
    ) -> EntryPage:  # fmt: skip
        """A page, counted from 0, of the entries, the latest first: those of an action, of an
        actor, or on an account, decisions taken back and erasures too."""
        clauses: list[str] = []
        values: list[Any] = []
        for path, wanted in (("action", action), ("actor", actor)):
            if wanted is not None:
                clauses.append(f"{json_at(path)} = ?")
                values.append(json.dumps(wanted))
        if account_id is not None:
            clauses.append(
                "number IN (SELECT id FROM decisions WHERE account = ? UNION "
                "SELECT undone FROM decisions WHERE account = ? UNION "
                f"SELECT number FROM audit WHERE {json_at('fields.account_id')} = ?)"
            )
            values += [id_bytes(account_id), id_bytes(account_id), json.dumps(account_id)]
        where = f"WHERE {' AND '.join(clauses)}" if clauses else ""
        with self._database.reading() as connection:
            ((total,),) = connection.execute(f"SELECT count(*) FROM audit {where}", values)
            rows = connection.execute(
                f"SELECT content, hash FROM audit {where} ORDER BY number DESC LIMIT ? OFFSET ?",
                (*values, size, page * size),
            ).fetchall()
        return EntryPage([entry_of(content, own) for content, own in rows], total)

    def actions(self) -> list[str]:
        """Every action that an entry has."""
        sql = f"SELECT DISTINCT {json_at('action')} FROM audit"
        with self._database.reading() as connection:
            found = [row[0] for row in connection.execute(sql) if row[0] is not None]
        return sorted(str(json.loads(one)) for one in found)

    def verify(
        self, head: Head | None, check: Callable[[sqlite3.Connection], list[str]]
    ) -> Verification:
        """Check everything; `check` finds what other tables have that the log does not."""
        findings: list[str] = []
        # Before and after: the log may be written meanwhile. It never had fewer entries than the
        # anchor had before, nor has it more, but one, than the anchor has after.
        before, torn = self._anchor_lines([])
        with self._database.reading() as connection:
            hashes, accepted = _check_chain(connection, findings)
            try:
                own = check(connection)
            except (StoreError, AttributeError, KeyError, TypeError, ValueError):
                own = ["the other tables must agree with the log, however: they cannot be compared"]
        lines, _ = self._anchor_lines(findings)
        last = Head(len(hashes), hashes[-1]) if hashes else START
        _check_anchor(lines, hashes, accepted, findings)
        first, anchored = (part[-1].count if part else 0 for part in (before, lines))
        if first > last.count:
            findings.append(
                f"the log must have the {first} entries that are anchored, however: it has "
                f"{last.count}"
            )
        behind = max(last.count - anchored, 0)
        if behind > 1 or (torn and last.count <= first):
            findings.append(
                f"{ANCHOR_FILE} must end at the log's last entry, however: it ends at {anchored} "
                f"of {last.count}"
            )
        if head is not None and head != START:
            if head.count > last.count:
                findings.append(
                    f"the log must have the {head.count} entries of the head given, however: it "
                    f"has {last.count}"
                )
            elif head.count == 0 or hashes[head.count - 1] != head.hash:
                findings.append(
                    f"entry {head.count} must have the hash of the head given, however: another"
                )
        return Verification(last, tuple((findings + own)[:MAX_FINDINGS]), behind)

    def _anchor(self, head: Head) -> None:
        try:
            self.anchor.append(head)
        except OSError as error:
            # What was decided stands, and the next entry cannot be made before this is anchored.
            _log.warning("entry %d of the audit log waits for its anchor: %s", head.count,
                         _unwritable(error))  # fmt: skip

    def _anchor_lines(self, findings: list[str]) -> tuple[list[Head], bool]:
        try:
            lines, torn = self.anchor.read()
        except OSError:
            findings.append(f"the log must have its anchor, however: {ANCHOR_FILE} is missing")
            return [], False
        for number, line in enumerate(lines, start=1):
            if line is None:
                findings.append(
                    f"each line of {ANCHOR_FILE} must be a head, however: line {number} is none"
                )
        return [line for line in lines if line is not None], torn


def chained(before: str, content: str) -> str:
    """The hash of an entry, 64 hex digits: over the one before it and its own content."""
    return hashlib.sha256(f"{before}\n{content}".encode("utf-8", "surrogatepass")).hexdigest()


def entry_of(content: str, own: str) -> Entry:
    """The entry that is kept as `content`; StoreError if it is none."""
    try:
        entry = Entry(**json.loads(content), hash=own)
        if not (isinstance(entry.fields, dict) and isinstance(entry.action, str)):
            raise TypeError
        return entry
    except (ValueError, TypeError, RecursionError):
        raise StoreError(
            "an entry of the audit log must be one that Stillwatch wrote, however: one is not; run "
            "`stillwatch audit verify`"
        ) from None


def _last(connection: sqlite3.Connection) -> Head:
    row = connection.execute(
        "SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1"
    ).fetchone()
    return Head(*row) if row else START


def _entry_after(connection: sqlite3.Connection, head: Head) -> tuple[str | None, str | None]:
    """The hash of the entry that a head names, and the content of the next."""
    rows = {
        number: (content, own)
        for number, content, own in connection.execute(
            "SELECT number, content, hash FROM audit WHERE number IN (?, ?)",
            (head.count, head.count + 1),
        )
    }
    before = START.hash if head.count == 0 else rows.get(head.count, ("", None))[1]
    return before, rows.get(head.count + 1, (None, ""))[0]


def _check_chain(connection: sqlite3.Connection, findings: list[str]) -> tuple[list[str], set[int]]:
    """The hash of each entry, by its place, and the numbers of those after which the anchor may
    begin."""
    hashes: list[str] = []
    accepted = {1}
    before = START.hash
    sql = "SELECT number, content, hash FROM audit ORDER BY number"
    for number, content, own in connection.execute(sql):
        place = len(hashes) + 1
        if number != place:
            findings.append(f"entry {place} must be there, however: {number} comes in its place")
            return hashes, accepted
        if chained(before, str(content)) != own:
            findings.append(
                f"entry {number} must have the hash of its content and of all before it, however: "
                "another; it or one before it was changed"
            )
        try:
            entry = entry_of(str(content), str(own))
        except StoreError:
            findings.append(f"entry {number} must be an entry, however: it is none")
        else:
            if entry.number != number:
                findings.append(f"entry {number} must stand in its place, however: it is another's")
            if entry.action == ACCEPTED:
                accepted.add(number)
        before = str(own)
        hashes.append(before)
    return hashes, accepted


def _check_anchor(
    lines: list[Head], hashes: list[str], accepted: set[int], findings: list[str]
) -> None:
    if lines and lines[0].count not in accepted:
        findings.append(
            f"{ANCHOR_FILE} must begin with the log, however: it begins at entry {lines[0].count}"
        )
    for place, line in enumerate(lines):
        if place and line.count != lines[place - 1].count + 1:
            findings.append(
                f"the lines of {ANCHOR_FILE} must follow one another, however: entry "
                f"{line.count} comes after {lines[place - 1].count}"
            )
        if 0 < line.count <= len(hashes) and hashes[line.count - 1] != line.hash:
            findings.append(
                f"entry {line.count} must have the hash that is anchored, however: another"
            )


def _unwritable(error: OSError) -> StoreError:
    return StoreError(
        f"the audit log's {ANCHOR_FILE} must be writable, however: error {error.errno}; make room "
        "and see to its permissions"
    )
