"""Templates that a site adds to those of the bundle: in quarantine first, live once a replay shows
that they hit next to nothing that is ordinary, and for a limited time.

The audit log names a template's text by its hash alone: it is a part of customers' prompts.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

import numpy as np

from stillwatch.data.errors import ConfigError, InputError
from stillwatch.model.encoder import Encoder
from stillwatch.model.stream import read_text
from stillwatch.model.templates import MAX_TEXT_CHARS, SLOT
from stillwatch.serving.archive import PromptArchive
from stillwatch.serving.archive.language import guess_language
from stillwatch.serving.desk import decisions, ordinary, skeleton, template_rows
from stillwatch.serving.desk.audit import AuditLog
from stillwatch.serving.desk.database import Database
from stillwatch.serving.desk.names import (
    check_account,
    check_name,
    check_reason,
    check_source,
    same_person,
)
from stillwatch.serving.desk.records import (
    Forgotten,
    Proposal,
    Refused,
    Replay,
    Revoked,
    SiteTemplate,
    TemplateState,
    iso_day,
    told_share,
)
from stillwatch.serving.desk.template_rows import (
    ADDED,
    APPROVED,
    BLANKED,
    EXPIRED,
    PREFIX,
    REPLAYED,
    REVOKED,
)

SIMILARITY = 0.7
"""Cosine from which on a text is a template's hit, in a replay and on the pages. With the released
encoder a template of the library is so near to 0.002% of ordinary texts on average, and to 0.06% of
harvesters' prompts."""
DAYS = 30.0
"""Of ordinary traffic that a template is replayed against."""
KEPT_DAYS, MOST_DAYS = 90, 365
"""How long a template is searched, unless its expiry says otherwise, and at most."""
MOST_LIVE, MOST_WAITING = 500, 2000
"""Templates that are live, and in quarantine, at most."""
_MOST_FORGOTTEN = 1000
"""Templates that one entry of the audit log takes the text of, and such entries that are read."""


class SiteTemplates:
    """Part of a Desk, as safe as it to share between threads. Ids are `site-1` and so on; an
    unknown one is a KeyError. What contradicts the state of a template is Refused."""

    def __init__(
        self, log: AuditLog, database: Database, archive: PromptArchive | None,
        two_person: bool, least_replayed: int, clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self._log = log
        self._reading = database.reading
        self._purge = database.purge
        self._archive = archive
        self._two_person = two_person
        self._least = least_replayed
        self._clock = clock

    def add(
        self, text: str, intent: str, source: str, reviewer: str, expires: str | None = None,
        reason: str = "", accounts: Iterable[str] = (),
    ) -> SiteTemplate:  # fmt: skip
        """Put a template into quarantine. `text` has at most one `{slot}`; `expires` is an ISO date
        within MOST_DAYS, None is in KEPT_DAYS. `accounts` are those of whose prompts it was made:
        without them no erasure reaches it."""
        text = _check_text(text)
        made_of = [check_account(one) for one in accounts]
        fields = {
            "text_sha256": template_rows.digest(text), "intent": check_name("an intent", intent),
            "language": guess_language(text.replace(SLOT, " ")), "source": check_source(source),
            "expires": self._check_expiry(expires),
            "reason": check_reason(reason) if reason else "",
        }  # fmt: skip
        reviewer = check_name("a reviewer", reviewer)
        with self._log.writing() as writer:
            for state, most in (("quarantined", MOST_WAITING), ("live", MOST_LIVE)):
                self._check_room(writer.connection, state, most)
            same = (
                "SELECT number FROM templates WHERE text = ? AND state IN ('quarantined', 'live')"
            )
            if writer.connection.execute(same, (text,)).fetchone():
                raise Refused(
                    "a template must be new, however: one with this text waits or is live; use "
                    "that one"
                )
            last = "SELECT coalesce(max(number), 0) FROM templates"
            number = writer.connection.execute(last).fetchone()[0] + 1
            writer.append(ADDED, reviewer, {"template": f"{PREFIX}{number}", **fields})
            writer.connection.execute(
                "INSERT INTO templates (number, text, source, state, expires, added, changed) "
                "VALUES (?, ?, ?, 'quarantined', ?, ?, ?)",
                (number, text, source, fields["expires"], writer.number, writer.number),
            )
            template_rows.note_accounts(writer.connection, number, made_of)
        return self.get(f"{PREFIX}{number}")

    def get(self, template_id: str) -> SiteTemplate:
        """One template; KeyError."""
        with self._reading() as connection:
            return template_rows.get(connection, template_id)

    def find(self, state: TemplateState | None = None) -> list[SiteTemplate]:
        """Every template, or those in a state, the latest first."""
        with self._reading() as connection:
            found = template_rows.select(connection, "ORDER BY t.number DESC")
        return [one for one in found if state in (None, one.state)]

    def live(self) -> list[SiteTemplate]:
        """Those that are to be searched now, the oldest first."""
        today = iso_day(self._clock())
        with self._reading() as connection:
            return template_rows.select(
                connection, "WHERE t.state = 'live' AND t.expires > ? ORDER BY t.number", (today,)
            )

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """What some prompts have in common, for `add`; see skeleton.propose."""
        return skeleton.propose(prompts)

    def propose_from(self, prompts: Sequence[str]) -> tuple[Proposal, list[int]]:
        """As `propose`, with the places of the prompts that share it; see
        skeleton.propose_from."""
        return skeleton.propose_from(prompts)

    def replay(
        self, template_id: str, encoder: Encoder, reviewer: str, days: float = DAYS
    ) -> Replay:
        """What a template would have hit in the ordinary traffic of the last `days`; kept with it.
        `encoder` is that of the archive. ConfigError without an archive. Takes seconds."""
        if self._archive is None:
            raise ConfigError(
                "a replay must have an archive of ordinary traffic, however: there is none; "
                "configure one"
            )
        if not 0 < days <= 3660:
            raise InputError("days must be above 0 and at most 3660, however: they are not")
        reviewer = check_name("a reviewer", reviewer)
        vector = template_vector(self.get(template_id).text, encoder)
        with self._reading() as connection:
            known = _known_accounts(connection)
        found = ordinary.replay(
            self._archive, vector, known, SIMILARITY, days, self._least, self._clock()
        )
        with self._log.writing() as writer:
            number = template_rows.number_of(template_id)
            fields = found.to_fields()
            writer.append(REPLAYED, reviewer, {"template": template_id, "replay": fields})
            sql = "UPDATE templates SET replayed = ? WHERE number = ?"
            writer.connection.execute(sql, (writer.number, number))
        return found

    def approve(
        self, template_id: str, encoder: Encoder, reviewer: str, reason: str, days: float = DAYS
    ) -> SiteTemplate:
        """Let a template out of quarantine, after a replay now. Refused if that hits more than
        ordinary.MOST_SHARE of the ordinary prompts, or there are too few of them to tell, or, under
        the two-person rule, by whoever added it."""
        template = self.get(template_id)
        _check_state(template, "quarantined")
        reviewer, reason = check_name("a reviewer", reviewer), check_reason(reason)
        if self._two_person and same_person(template.added_by, reviewer):
            raise Refused(
                "a template must be approved by another than whoever added it, however: it is the "
                "same; let a second reviewer approve it"
            )
        found = self.replay(template_id, encoder, reviewer, days)
        if not found.passes:
            raise Refused(_why_not(found))
        with self._log.writing() as writer:
            _check_state(template_rows.get(writer.connection, template_id), "quarantined")
            self._check_room(writer.connection, "live", MOST_LIVE)
            fields = {"template": template_id, "reason": reason}
            writer.append(APPROVED, reviewer, fields)
            template_rows.change(writer, [template_id], "live")
        return self.get(template_id)

    def revoke(self, template_id: str, reviewer: str, reason: str, undo: bool = False) -> Revoked:
        """Take a template out of use for good, waiting or live. With `undo`, confirmations whose
        evidence named it are undone; they are told either way."""
        template = self.get(template_id)
        if template.state in ("revoked", "expired"):
            raise Refused(f"a template must be in use to be revoked, however: it is "
                          f"{template.state}")  # fmt: skip
        return self._revoke([template_id], {}, reviewer, reason, undo)

    def revoke_source(self, source: str, reviewer: str, reason: str, undo: bool = False) -> Revoked:
        """As `revoke`, of everything that came from a source. Refused if nothing of it is in
        use."""
        sql = "WHERE t.source = ? AND t.state IN ('quarantined', 'live') ORDER BY t.number"
        with self._reading() as connection:
            ids = [one.id for one in template_rows.select(connection, sql, (check_source(source),))]
        if not ids:
            raise Refused("a source must have templates in use to be revoked, however: none is")
        return self._revoke(ids, {"source": source}, reviewer, reason, undo)

    def accounts_of(self, template_id: str) -> list[str]:
        """Of whose prompts a template was made, as far as that is recorded and they are not
        erased."""
        with self._reading() as connection:
            return template_rows.accounts_of(connection, template_id)

    def forget(self, account_id: str, reviewer: str) -> Forgotten:
        """For an erasure: revoke the templates that were made of an account's prompts alone, and
        leave no byte of their texts in the desk's files. What others' prompts have in common with
        its own stays, until the last of them is erased too."""
        reviewer = check_name("a reviewer", reviewer)
        while self._forget_some(account_id, reviewer):
            pass
        # Also if there was nothing: what an interrupted erasure blanked may be in the file yet.
        self._purge()
        return self.forgotten(account_id)

    def forgotten(self, account_id: str) -> Forgotten:
        """What became of the templates of an account that was erased, at any time."""
        entries = self._log.find(0, _MOST_FORGOTTEN, BLANKED, account_id=account_id).entries
        blanked, shared = (
            [str(one) for entry in entries for one in entry.fields[name]]
            for name in ("templates", "shared")
        )
        with self._reading() as connection:
            return Forgotten(
                tuple(blanked), tuple(template_rows.with_text(connection, shared)),
                template_rows.unrecorded(connection),
            )  # fmt: skip

    def expire(self) -> int:
        """Note of templates whose day has come that they are not searched any more; how many."""
        today = iso_day(self._clock())
        due = "WHERE t.state IN ('quarantined', 'live') AND t.expires <= ?"
        with self._reading() as connection:
            if not template_rows.select(connection, due, (today,)):
                return 0
        with self._log.writing() as writer:
            ids = [one.id for one in template_rows.select(writer.connection, due, (today,))]
            if ids:
                writer.append(EXPIRED, "stillwatch", {"templates": ids})
                template_rows.change(writer, ids, "expired")
        return len(ids)

    def _forget_some(self, account_id: str, reviewer: str) -> bool:
        with self._log.writing() as writer:
            found = template_rows.made_of(writer.connection, account_id, _MOST_FORGOTTEN)
            alone, shared = found
            if not (alone or shared):
                return False
            told = {
                "account_id": account_id, "templates": alone, "shared": shared,
                "reason": "made of the prompts of an account that is erased",
            }  # fmt: skip
            writer.append(BLANKED, reviewer, told)
            template_rows.forget(writer, account_id, alone, shared)
        return True

    def _revoke(
        self, ids: Sequence[str], more: Mapping[str, str], reviewer: str, reason: str, undo: bool
    ) -> Revoked:
        reviewer, reason = check_name("a reviewer", reviewer), check_reason(reason)
        with self._log.writing() as writer:
            present = decisions.all_present(writer.connection).values()
            resting = [
                one
                for one in present
                if one.verdict == "confirm"
                and any(shown.template_id in ids for shown in one.evidence)
            ]
            taken = [one.id for one in resting] if undo else []
            fields = {"templates": list(ids), "reason": reason, "undone": taken, **more}
            writer.append(REVOKED, reviewer, fields)
            template_rows.change(writer, ids, "revoked")
            decisions.mark_undone(writer, taken)
            found = [template_rows.get(writer.connection, one) for one in ids]
            resting = [decisions.by_id(writer.connection, one.id) for one in resting]
        return Revoked(tuple(found), tuple(resting), undo)

    def _check_room(self, connection: sqlite3.Connection, state: str, most: int) -> None:
        sql = "SELECT count(*) FROM templates WHERE state = ?"
        if connection.execute(sql, (state,)).fetchone()[0] >= most:
            raise Refused(
                f"at most {most} templates must be {state}, however: there are as many; revoke some"
            )

    def _check_expiry(self, expires: str | None) -> str:
        today = datetime.fromtimestamp(self._clock(), UTC).date()
        if expires is None:
            return (today + timedelta(days=KEPT_DAYS)).isoformat()
        try:
            day = date.fromisoformat(expires)
        except ValueError:
            day = None
        # fromisoformat also takes 20260331 and 2026-W13-2.
        if day is None or day.isoformat() != expires or not 0 < (day - today).days <= MOST_DAYS:
            raise InputError(
                f"expires must be a date such as 2026-03-31, within {MOST_DAYS} days from now, "
                "however: it is not; give another"
            )
        return expires


def template_vector(text: str, encoder: Encoder) -> np.ndarray:
    """The unit vector float32 (D,) by which a template is searched."""
    frame = " ".join(text.replace(SLOT, " ").split())
    return encoder.encode([read_text(frame)])[0].vector


def _check_state(template: SiteTemplate, wanted: TemplateState) -> None:
    if template.state != wanted:
        raise Refused(f"a template must be {wanted} for this, however: it is {template.state}")


def _check_text(text: str) -> str:
    stripped = text.strip()
    try:
        stripped.encode()
    except UnicodeEncodeError:
        raise InputError("a template must be Unicode text, however: a lone surrogate") from None
    if not read_text(stripped.replace(SLOT, " ")).strip() or len(stripped) > MAX_TEXT_CHARS:
        raise InputError(
            f"a template must have text beside its slot, at most {MAX_TEXT_CHARS} characters, "
            "however: it has none or more; give the frame alone"
        )
    if stripped.count(SLOT) > 1 or "\0" in stripped:
        raise InputError(f"a template must have at most one {SLOT} and no NUL, however: it has")
    return stripped


def _known_accounts(connection: sqlite3.Connection) -> ordinary.Known:
    present = decisions.all_present(connection)
    return ordinary.Known(
        [name for name, one in present.items() if one.verdict == "confirm"],
        [name for name, one in present.items() if one.verdict == "reject"],
    )


def _why_not(found: Replay) -> str:
    hit = f"{found.hit_prompts:,} of {found.prompts:,} ({told_share(found.share)})"
    if found.prompts < found.least:
        return (
            f"a template must be replayed against {found.least:,} ordinary prompts, however: there "
            f"are {found.prompts:,}, and it hits {hit}; replay more days, or wait for more traffic"
        )
    return (
        f"a template must hit at most {found.most:.2%} of the ordinary prompts, however: it hits "
        f"{hit}, of {found.hit_accounts:,} accounts; make it more specific"
    )
