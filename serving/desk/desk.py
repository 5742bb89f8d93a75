"""The desk: what reviewers decide, kept in a folder beside its audit log."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from stillwatch.data.errors import InputError, StoreError
from stillwatch.serving.archive import PromptArchive
from stillwatch.serving.desk import decisions, labels, template_rows
from stillwatch.serving.desk.audit import AuditLog, entry_of
from stillwatch.serving.desk.database import Database
from stillwatch.serving.desk.decisions import Expected
from stillwatch.serving.desk.names import check_account, check_name, check_reason
from stillwatch.serving.desk.records import (
    Cause,
    Decision,
    Entry,
    EntryPage,
    Erased,
    Erasure,
    Exported,
    Head,
    Ruling,
    Verification,
)
from stillwatch.serving.desk.site_templates import SiteTemplates
from stillwatch.serving.stores.base import id_bytes
from stillwatch.serving.verdict import Verdict

LEAST_REPLAYED = 10_000
"""Ordinary prompts without which a replay cannot tell of a share of 0.01%."""
ERASING, ERASED = "account.erasing", "account.erased"
EXPORTED = "labels.exported"
_OWN = ("log.", "account.", "decision.", "template.", "labels.")
"""Beginnings of the actions that the desk itself notes: nobody else may."""
_ACTION = re.compile(r"[a-z]+\.[a-z_]{1,60}")


class ForgetsAccounts(Protocol):
    """A store that can let go of an account."""

    def erase(self, account_id: str) -> object:
        """Leave nothing of the account."""


class Desk:
    """Safe to share between threads; several processes may have a folder open. What a method wrote
    is durable when it returns, with its entry in the audit log, or nothing of it is.

    Every method raises StoreError if the folder cannot be used; those that write raise AuditError
    if the audit log is not what its anchor says, and InputError for a name or reason that is none.
    """

    def __init__(
        self, folder: Path, archive: PromptArchive | None, two_person: bool, least_replayed: int,
        clock: Callable[[], float], read_only: bool,
    ) -> None:  # fmt: skip
        """Use `open`."""
        self._database = Database(folder, read_only)
        self.archive = archive
        """What labels, erasures and replays are of; None for a desk without one."""
        self.also_forget: list[ForgetsAccounts] = []
        """What else an erasure has to reach, after the archive has let go of the account."""
        self.two_person = two_person
        self._log = AuditLog(self._database, folder, clock)
        self.templates = SiteTemplates(
            self._log, self._database, archive, two_person, least_replayed, clock
        )
        """Add, propose, replay, approve, revoke: see there."""

    @classmethod
    def open(
        cls,
        folder: Path,
        archive: PromptArchive | None = None,
        *,
        two_person: bool = False,
        least_replayed: int = LEAST_REPLAYED,
        read_only: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """Open a desk, new or not. Under `two_person` a confirmation counts only when a second
        reviewer has confirmed too. A template goes live only after a replay against at least
        `least_replayed` ordinary prompts. With `read_only` nothing in the folder is changed."""
        desk = cls(folder, archive, two_person, least_replayed, clock, read_only)
        if not read_only:
            try:
                desk._log.open()
            except BaseException:
                desk.close()
                raise
        return desk

    def decide(
        self, account_id: str, verdict: Ruling, reason: str, reviewer: str,
        seen: Verdict | None, intents: Sequence[str] = (), expected: Expected = "any",
    ) -> Decision:  # fmt: skip
        """Decide on an account. `seen` is the verdict that the reviewer was shown: its figures and
        the ids of its evidence are kept. `intents` are what a confirmed account is after; left out,
        those that `seen` holds for likely. `expected` is the id of the present decision that the
        reviewer was shown, None for none: if another stands by now, decisions.Overtaken tells which
        and nothing is changed."""
        with self._log.writing() as writer:
            number = decisions.decide(
                writer, account_id, verdict, reason, reviewer, seen, intents, self.two_person,
                expected,
            )  # fmt: skip
            return decisions.by_id(writer.connection, number)

    def undo(self, decision_id: int, reviewer: str, reason: str) -> Decision:
        """Take a decision back: what was decided before it stands again. KeyError if there is no
        such decision, Refused if it is undone already, decisions.Overtaken if another has
        followed it."""
        with self._log.writing() as writer:
            decisions.undo(writer, decision_id, reviewer, reason)
            return decisions.by_id(writer.connection, decision_id)

    def decision(self, decision_id: int) -> Decision:
        """One decision; KeyError."""
        with self._database.reading() as connection:
            return decisions.by_id(connection, decision_id)

    def decisions(
        self, account_id: str | None = None, since: float | None = None, limit: int = 100
    ) -> list[Decision]:
        """Decisions, undone ones too, the latest first."""
        with self._database.reading() as connection:
            return decisions.latest(connection, account_id, since, limit)

    def present(self, account_id: str) -> Decision | None:
        """The last decision on an account that is not undone; it may be pending."""
        with self._database.reading() as connection:
            return decisions.present(decisions.of_account(connection, id_bytes(account_id)))

    def check_present(self, account_id: str, expected: Expected) -> None:
        """decisions.Overtaken unless this is the id of the present decision, None for none."""
        with self._database.reading() as connection:
            decisions.check_present(connection, account_id, expected)

    def all_present(self) -> dict[str, Decision]:
        """The present decision on every account that has one."""
        with self._database.reading() as connection:
            return decisions.all_present(connection)

    def review(self, verdict: Verdict) -> Cause | None:
        """Why an account is to be reviewed, None if it is not: see decisions.cause_of."""
        return decisions.cause_of(verdict, self.present(verdict.account_id))

    def queue(self, verdicts: Iterable[Verdict]) -> list[tuple[Verdict, Cause]]:
        """Those of some accounts that are to be reviewed, by their risk, the highest first."""
        present = self.all_present()
        found = [
            (verdict, cause)
            for verdict in verdicts
            if (cause := decisions.cause_of(verdict, present.get(verdict.account_id))) is not None
        ]
        return sorted(found, key=lambda item: -item[0].risk)

    def record(self, action: str, actor: str, fields: Mapping[str, Any]) -> Entry:
        """Note something else in the audit log, such as `bundle.reloaded`; `fields` are JSON and
        hold no prompts."""
        if not _ACTION.fullmatch(action) or action.startswith(_OWN):
            raise InputError(
                "an action must be two words with a dot and none of the desk's own, however: it "
                "is not; name it as bundle.reloaded is"
            )
        with self._log.writing() as writer:
            return writer.append(action, check_name("an actor", actor), fields)

    def entries(self, before: int | None = None, limit: int = 100) -> list[Entry]:
        """Entries of the audit log with numbers below `before`, the latest first."""
        return self._log.entries(before, limit)

    def find_entries(
        self, page: int = 0, size: int = 50, action: str | None = None,
        actor: str | None = None, account_id: str | None = None,
    ) -> EntryPage:  # fmt: skip
        """A page, counted from 0, of the audit log, the latest first: all of it, or the entries of
        an action, of an actor, or on an account."""
        return self._log.find(page, size, action, actor, account_id)

    def actions(self) -> list[str]:
        """Every action that an entry of the audit log has."""
        return self._log.actions()

    def anchored(self) -> Head | None:
        """The last head that is anchored, which may be one entry behind; None before the first.
        AuditError if the anchor is missing or damaged."""
        return self._log.anchored()

    def head(self) -> Head:
        """The audit log's state now: write it down elsewhere, to verify by."""
        return self._log.head()

    def verify(self, anchor: Head | None = None) -> Verification:
        """Check the whole audit log against its hashes, its anchor, the tables, and a head that
        was written down elsewhere."""
        return self._log.verify(anchor, _check_tables)

    def accept_log(self, reviewer: str, reason: str) -> Entry:
        """Go on from an audit log that is not what its anchor says, after a copy was put back, say.
        What `verify` finds in the log itself it goes on finding."""
        return self._log.accept(check_name("a reviewer", reviewer), check_reason(reason))

    def export_labels(self, folder: Path, reviewer: str, reason: str = "") -> Exported:
        """Write every confirmed account, with its intents, and every rejected one, as ordinary,
        into a new folder: what `stillwatch train --labelled+=FOLDER` reads. Prompts are in it."""
        reviewer = check_name("a reviewer", reviewer)
        reason = check_reason(reason) if reason else ""
        archive = labels.archive_of(self.archive)
        exported, digest = labels.export(folder, archive, self.all_present())
        fields = {
            "attacking": exported.attacking, "ordinary": exported.ordinary,
            "events": exported.events, "missing": exported.missing, "labels_sha256": digest,
            "reason": reason,
        }  # fmt: skip
        with self._log.writing() as writer:
            writer.append(EXPORTED, reviewer, fields)
        return exported

    def erase(
        self, account_id: str, reviewer: str, reason: str, store: ForgetsAccounts | None = None
    ) -> Erased:
        """Leave nothing of an account in the archive and the state store, nor a template that was
        made of its prompts alone; decisions on it stay, which hold no prompts. Takes as long as the
        archive needs. If it is interrupted, `unfinished_erasures` names the account; erase it
        again.

        Copies elsewhere are their owners': exported labels, dead letters, backups.
        """
        account_id, reason = check_account(account_id), check_reason(reason)
        reviewer = check_name("a reviewer", reviewer)
        archive = labels.archive_of(self.archive)
        with self._log.writing() as writer:
            fields: dict[str, Any] = {"account_id": account_id, "reason": reason}
            begun = writer.append(ERASING, reviewer, fields)
        if store is not None:
            store.erase(account_id)
        removed = archive.erase(account_id)
        # After the archive: what follows it cannot take the account over again.
        for other in self.also_forget:
            other.erase(account_id)
        forgotten = self.templates.forget(account_id, reviewer)
        done = {
            "account_id": account_id, "begun": begun.number, "events": removed.events,
            "texts": removed.texts, "states": store is not None,
        }  # fmt: skip
        with self._log.writing() as writer:
            entry = writer.append(ERASED, reviewer, done)
        return Erased(removed.events, removed.texts, store is not None, entry.number, forgotten)

    def unfinished_erasures(self) -> list[str]:
        """Accounts whose erasure was begun and not finished."""
        sql = "SELECT content, hash FROM audit WHERE content LIKE ? ORDER BY number"
        begun: dict[str, None] = {}
        with self._database.reading() as connection:
            # A pattern that also finds other entries with these words in them: looked at below.
            for content, own in connection.execute(sql, ('%"action":"account.eras%',)):
                entry = entry_of(content, own)
                if entry.action == ERASING:
                    begun[str(entry.fields["account_id"])] = None
                elif entry.action == ERASED:
                    begun.pop(str(entry.fields["account_id"]), None)
        return list(begun)

    def erasure(self, account_id: str) -> Erasure | None:
        """The last erasure of an account, None if there was none. What it sent since is another's,
        as far as anything here knows."""
        begun = self._log.find(0, 1, ERASING, account_id=account_id).entries
        if not begun:
            return None
        done = self._log.find(0, 1, ERASED, account_id=account_id).entries
        finished = bool(done) and done[0].number > begun[0].number
        fields = begun[0].fields
        return Erasure(
            begun[0].time, begun[0].actor, str(fields.get("reason", "")),
            done[0].time if finished else None, done[0].number if finished else begun[0].number,
            self.templates.forgotten(account_id),
        )  # fmt: skip

    def close(self) -> None:
        """Closing twice does nothing."""
        self._database.close()


def _check_tables(connection: sqlite3.Connection) -> list[str]:
    decided, changed = {}, {}
    for content, own in connection.execute("SELECT content, hash FROM audit ORDER BY number"):
        try:
            entry = entry_of(str(content), str(own))
        except StoreError:
            # Told of already, by its number.
            continue
        if entry.action in (decisions.DECIDED, decisions.UNDONE, template_rows.REVOKED):
            decided[entry.number] = entry
        if entry.action.startswith("template."):
            changed[entry.number] = entry
    return decisions.findings(connection, decided) + template_rows.findings(connection, changed)
