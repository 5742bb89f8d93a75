"""The table of the site's templates, and what the audit log tells of each."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stillwatch.serving.desk.audit import Writer, entry_of
from stillwatch.serving.desk.records import Entry, Replay, SiteTemplate, TemplateState
from stillwatch.serving.stores.base import id_bytes, id_text

PREFIX = "site-"

ADDED, REPLAYED, APPROVED = "template.added", "template.replayed", "template.approved"
REVOKED, EXPIRED, BLANKED = "template.revoked", "template.expired", "template.blanked"
_STATES: Mapping[str, TemplateState] = {
    ADDED: "quarantined", APPROVED: "live", REVOKED: "revoked", EXPIRED: "expired",
    BLANKED: "revoked",
}  # fmt: skip
_ROWS = """
SELECT t.number, t.text, t.source, t.state, t.expires, a.content, a.hash, c.content, c.hash,
    r.content, r.hash
FROM templates t JOIN audit a ON a.number = t.added JOIN audit c ON c.number = t.changed
    LEFT JOIN audit r ON r.number = t.replayed
"""


def select(
    connection: sqlite3.Connection, where: str, values: Sequence[Any] = ()
) -> list[SiteTemplate]:
    """Templates that a WHERE clause over `t` finds."""
    return [_template(row) for row in connection.execute(f"{_ROWS} {where}", values).fetchall()]


def get(connection: sqlite3.Connection, template_id: str) -> SiteTemplate:
    """One template; KeyError."""
    found = select(connection, "WHERE t.number = ?", (number_of(template_id),))
    if not found:
        raise KeyError(template_id)
    return found[0]


def number_of(template_id: str) -> int:
    """The number in an id, -1 if it is none of ours."""
    digits = template_id.removeprefix(PREFIX)
    usable = template_id.startswith(PREFIX) and digits.isascii() and digits.isdigit()
    return int(digits) if usable and len(digits) <= 15 and str(int(digits)) == digits else -1


def change(writer: Writer, ids: Iterable[str], state: TemplateState) -> None:
    """Note that the writer's entry puts these into a state."""
    writer.connection.executemany(
        "UPDATE templates SET state = ?, changed = ? WHERE number = ?",
        [(state, writer.number, number_of(one)) for one in ids],
    )


def note_accounts(connection: sqlite3.Connection, number: int, account_ids: Iterable[str]) -> None:
    """Keep of whose prompts a template was made."""
    connection.executemany(
        "INSERT OR IGNORE INTO template_accounts (template, account) VALUES (?, ?)",
        [(number, id_bytes(one)) for one in account_ids],
    )


def accounts_of(connection: sqlite3.Connection, template_id: str) -> list[str]:
    """Of whose prompts a template was made, as far as that is recorded; none that are erased."""
    sql = "SELECT account FROM template_accounts WHERE template = ? ORDER BY account"
    return [id_text(name) for (name,) in connection.execute(sql, (number_of(template_id),))]


def made_of(
    connection: sqlite3.Connection, account_id: str, most: int
) -> tuple[list[str], list[str]]:
    """At most `most` templates made of an account's prompts: of its alone, and of others' too."""
    alone: list[str] = []
    shared: list[str] = []
    sql = """
        SELECT template, (SELECT count(*) FROM template_accounts o WHERE o.template = t.template)
        FROM template_accounts t WHERE account = ? ORDER BY template LIMIT ?
    """
    for number, accounts in connection.execute(sql, (id_bytes(account_id), most)):
        (alone if accounts == 1 else shared).append(f"{PREFIX}{number}")
    return alone, shared


def forget(writer: Writer, account_id: str, alone: Iterable[str], shared: Iterable[str]) -> None:
    """Note that the writer's entry takes the text of some templates, and that no template is of
    this account any more. The file still holds the bytes until it is purged."""
    alone, numbers = list(alone), [number_of(one) for one in (*alone, *shared)]
    change(writer, alone, "revoked")
    writer.connection.executemany(
        "UPDATE templates SET text = '' WHERE number = ?", [(number_of(one),) for one in alone]
    )
    writer.connection.executemany(
        "DELETE FROM template_accounts WHERE template = ? AND account = ?",
        [(number, id_bytes(account_id)) for number in numbers],
    )


def with_text(connection: sqlite3.Connection, ids: Iterable[str]) -> list[str]:
    """Those of some templates that still have their text."""
    sql = "SELECT 1 FROM templates WHERE number = ? AND text != ''"
    return [one for one in ids if connection.execute(sql, (number_of(one),)).fetchone()]


def unrecorded(connection: sqlite3.Connection) -> int:
    """How many templates with a text have no record of whose prompts they were made of."""
    sql = """
        SELECT count(*) FROM templates WHERE text != ''
        AND NOT EXISTS (SELECT 1 FROM template_accounts WHERE template = number)
    """
    return int(connection.execute(sql).fetchone()[0])


def digest(text: str) -> str:
    """What the audit log has of a text."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def findings(connection: sqlite3.Connection, entries: Mapping[int, Entry]) -> list[str]:
    """What the table of templates has that the log does not, and the other way round. `entries`
    are those on templates."""
    expected: dict[int, list[Any]] = {}
    for number, entry in sorted(entries.items()):
        fields = entry.fields
        ids = [fields["template"]] if "template" in fields else fields.get("templates", [])
        for one in map(number_of, map(str, ids)):
            if entry.action == ADDED:
                expected[one] = [
                    fields.get("text_sha256"), fields.get("source"), fields.get("expires"),
                    "quarantined", number, number, None,
                ]  # fmt: skip
            elif one in expected and entry.action == REPLAYED:
                expected[one][6] = number
            elif one in expected:
                if entry.action == BLANKED:
                    expected[one][0] = digest("")
                expected[one][3], expected[one][5] = _STATES.get(entry.action), number
    sql = "SELECT number, text, source, expires, state, added, changed, replayed FROM templates"
    found = {
        number: [digest(str(text)), *others]
        for number, text, *others in connection.execute(sql).fetchall()
    }
    return [
        f"template {PREFIX}{number} must be as the log tells of it, however: the table has another"
        for number in sorted(set(expected) | set(found))
        if expected.get(number) != found.get(number)
    ]


def _template(row: tuple[Any, ...]) -> SiteTemplate:
    (
        number, text, source, state, expires, added, added_hash, changed, changed_hash, replayed,
        replayed_hash,
    ) = row  # fmt: skip
    first, last = entry_of(added, added_hash), entry_of(changed, changed_hash)
    replay = None
    if replayed is not None:
        fields = dict(entry_of(replayed, replayed_hash).fields["replay"])
        for derived in ("share", "account_share", "passes"):
            del fields[derived]
        fields["examples"] = tuple((one, other) for one, other in fields["examples"])
        replay = Replay(**fields)
    return SiteTemplate(
        id=f"{PREFIX}{number}", text=text, intent=first.fields["intent"],
        language=first.fields["language"], source=source, state=state, added=first.time,
        added_by=first.actor, changed=last.time, changed_by=last.actor,
        reason=str(last.fields.get("reason", "")), expires=expires, replay=replay,
    )  # fmt: skip
