"""Decisions as they stand: what counts, what a second reviewer has to confirm, what is undone, and
when a rejected account is to be looked at again."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from stillwatch.data.errors import InputError, StoreError
from stillwatch.serving.desk.audit import Writer, entry_of
from stillwatch.serving.desk.names import check_account, check_name, check_reason, same_person
from stillwatch.serving.desk.records import Cause, Decision, Entry, Refused, Ruling, Shown, Undone
from stillwatch.serving.stores.base import id_bytes, id_text
from stillwatch.serving.verdict import Verdict

Expected = int | None | Literal["any"]
"""The id of the decision that a reviewer saw as the present one, None for none; `any` is for what
decides whatever stands."""
RULINGS: tuple[Ruling, ...] = ("confirm", "reject", "needs_more")
DECIDED, UNDONE = "account.decided", "decision.undone"
RISEN = 1.0
"""Log-odds by which risk or evidence has to have grown: the odds 2.7 times what they were."""
LIKELY = 0.5
"""Intents of at least this probability are what a confirmed account is after, if none is named."""
_CLIP = 1e-4

_ROWS = """
SELECT d.id, d.account, a.content, a.hash, u.content, u.hash
FROM decisions d JOIN audit a ON a.number = d.id LEFT JOIN audit u ON u.number = d.undone
"""


class Overtaken(InputError):  # noqa: N818 - it names what happened, as Refused does
    """What a reviewer saw as the present decision on an account is not that any more. It is no
    Refused: who goes on where a decision is undone already must not go on where one has followed
    it."""

    def __init__(self, account_id: str, present: Decision | None, was: Decision | None) -> None:
        """`present` is the decision that stands now, `was` the one that was seen; None for none."""
        super().__init__(
            "the decision that was shown must still stand, however: one was made or taken back "
            "meanwhile; look at the account again"
        )
        self.account_id = account_id
        self.present = present
        self.was = was


def decide(
    writer: Writer, account_id: str, verdict: Ruling, reason: str, reviewer: str,
    seen: Verdict | None, intents: Sequence[str], two_person: bool, expected: Expected = "any",
) -> int:  # fmt: skip
    """Add a decision; its id. InputError, Overtaken if another than `expected` stands."""
    if verdict not in RULINGS:
        raise InputError(
            f"a decision must be one of {', '.join(RULINGS)}, however: it is another; give one "
            "of these"
        )
    account_id, reviewer = check_account(account_id), check_name("a reviewer", reviewer)
    if seen is not None and seen.account_id != account_id:
        raise InputError(
            "a decision must be on the account that was shown, however: it is on another; decide "
            "on each for itself"
        )
    fields: dict[str, Any] = {
        "account_id": account_id, "verdict": verdict, "reason": check_reason(reason),
        "intents": _intents_of(verdict, intents, seen), "needs_second": two_person,
    }  # fmt: skip
    if seen is not None:
        shown = seen.to_fields()
        for name in ("risk", "threshold", "flagged", "events", "bundle"):
            fields[name] = shown[name]
        # Never the excerpts: they are prompts.
        fields["evidence"] = [[item[name] for name in Shown._fields] for item in shown["evidence"]]
    check_present(writer.connection, account_id, expected)
    writer.append(DECIDED, reviewer, fields)
    writer.connection.execute(
        "INSERT INTO decisions (id, account) VALUES (?, ?)", (writer.number, id_bytes(account_id))
    )
    return writer.number


def undo(writer: Writer, decision_id: int, reviewer: str, reason: str) -> None:
    """Take a decision back. KeyError if there is none, Refused if it is undone already, Overtaken
    if another has followed it: undone, it would change what that one rests on, unseen."""
    decision = by_id(writer.connection, decision_id)
    if decision.undone is not None:
        raise Refused("a decision must stand to be undone, however: it is undone already")
    check_present(writer.connection, decision.account_id, decision_id)
    fields = {
        "decision": decision_id, "account_id": decision.account_id,
        "reason": check_reason(reason),
    }  # fmt: skip
    writer.append(UNDONE, check_name("a reviewer", reviewer), fields)
    mark_undone(writer, [decision_id])


def check_present(connection: sqlite3.Connection, account_id: str, expected: Expected) -> None:
    """Overtaken unless this is the present decision on an account."""
    if expected == "any":
        return
    history = of_account(connection, id_bytes(account_id))
    standing = present(history)
    if (standing.id if standing else None) != expected:
        was = next((one for one in history if one.id == expected), None)
        raise Overtaken(account_id, standing, was)


def mark_undone(writer: Writer, decisions: Sequence[int]) -> None:
    """Note that the writer's entry undoes these."""
    writer.connection.executemany(
        "UPDATE decisions SET undone = ? WHERE id = ? AND undone IS NULL",
        [(writer.number, decision) for decision in decisions],
    )


def by_id(connection: sqlite3.Connection, decision_id: int) -> Decision:
    """One decision; KeyError."""
    row = connection.execute(
        "SELECT account FROM decisions WHERE id = ?", (decision_id,)
    ).fetchone()
    if row is None:
        raise KeyError(decision_id)
    return next(one for one in of_account(connection, row[0]) if one.id == decision_id)


def of_account(connection: sqlite3.Connection, account: bytes) -> list[Decision]:
    """Every decision on an account, by its `id_bytes`, oldest first."""
    rows = connection.execute(f"{_ROWS} WHERE d.account = ? ORDER BY d.id", (account,)).fetchall()
    return settled([_decision(row) for row in rows])


def latest(
    connection: sqlite3.Connection, account_id: str | None, since: float | None, limit: int
) -> list[Decision]:
    """Decisions, the latest first."""
    if account_id is not None:
        found = of_account(connection, id_bytes(account_id))[::-1]
        return [one for one in found if since is None or one.time >= since][:limit]
    found, histories = [], {}
    for row in connection.execute(f"{_ROWS} ORDER BY d.id DESC"):
        raw = _decision(row)
        # Times never go back by more than a clock was set back: good enough to end at.
        if len(found) >= limit or (since is not None and raw.time < since):
            break
        if raw.account_id not in histories:
            own = of_account(connection, id_bytes(raw.account_id))
            histories[raw.account_id] = {one.id: one for one in own}
        found.append(histories[raw.account_id][raw.id])
    return found


def present(history: Sequence[Decision]) -> Decision | None:
    """The last of an account's decisions that stands."""
    return next((one for one in reversed(history) if one.undone is None), None)


def all_present(connection: sqlite3.Connection) -> dict[str, Decision]:
    """The present decision on every account that has one."""
    histories: dict[str, list[Decision]] = {}
    for row in connection.execute(f"{_ROWS} ORDER BY d.id").fetchall():
        one = _decision(row)
        histories.setdefault(one.account_id, []).append(one)
    found = {name: present(settled(history)) for name, history in histories.items()}
    return {name: one for name, one in found.items() if one is not None}


def settled(history: Sequence[Decision]) -> list[Decision]:
    """An account's decisions, oldest first, each with its state.

    Confirmations without a rejection or a wish for more between them second one another, if they
    are of different reviewers. What is undone has not been.
    """
    run: list[Decision] = []
    pending: set[int] = set()

    def close() -> None:
        for one in run:
            alone = all(same_person(one.reviewer, other.reviewer) for other in run)
            if one.needs_second and alone:
                pending.add(one.id)
        run.clear()

    for one in history:
        if one.undone is None:
            if one.verdict == "confirm":
                run.append(one)
            else:
                close()
    close()
    return [
        replace(one, state="undone" if one.undone else "pending" if one.id in pending else "counts")
        for one in history
    ]


def cause_of(verdict: Verdict, decision: Decision | None) -> Cause | None:
    """Why an account is to be reviewed, None if it is not: it is not flagged, or it was decided on
    and nothing that was decided on has changed."""
    if not verdict.flagged:
        return None
    if decision is None:
        return "new"
    if decision.verdict == "needs_more":
        return "more"
    if decision.verdict == "confirm":
        return "second" if decision.state == "pending" else None
    return "changed" if has_changed(verdict, decision) else None


def has_changed(verdict: Verdict, rejected: Decision) -> bool:
    """Whether an account is not any more what its rejection was about:

    - its risk has risen by RISEN in log-odds, over the threshold of its time, so that a bundle
      with another calibration does not bring every account back;
    - an event speaks for an intent that nothing shown then spoke for, or more strongly, by RISEN
      in log-odds, than everything shown then;
    - or nothing of what was shown then is among what the verdict rests on now.

    An account whose verdict was not shown has changed whatever it does.
    """
    if rejected.risk is None or rejected.threshold is None:
        return True
    margin = _log_odds(verdict.risk) - _log_odds(verdict.threshold)
    if margin >= _log_odds(rejected.risk) - _log_odds(rejected.threshold) + RISEN:
        return True
    known = {shown.event_id for shown in rejected.evidence}
    fresh = [item for item in verdict.evidence if item.event_id not in known]
    if not fresh:
        return False
    intents = {shown.intent for shown in rejected.evidence}
    strongest = max((_log_odds(shown.contribution) for shown in rejected.evidence), default=-10.0)
    return len(fresh) == len(verdict.evidence) or any(
        item.intent not in intents or _log_odds(item.contribution) >= strongest + RISEN
        for item in fresh
    )


def findings(connection: sqlite3.Connection, entries: Mapping[int, Entry]) -> list[str]:
    """What the table of decisions has that the log does not, and the other way round. `entries`
    are those that decide or undo."""
    expected: dict[int, tuple[bytes, int | None]] = {}
    for number, entry in sorted(entries.items()):
        fields = entry.fields
        if entry.action == DECIDED:
            expected[number] = (id_bytes(str(fields.get("account_id"))), None)
        undone = fields.get("undone", [])
        for decision in [fields.get("decision")] if entry.action == UNDONE else undone:
            if decision in expected:
                expected[decision] = (expected[decision][0], number)
    rows = connection.execute("SELECT id, account, undone FROM decisions").fetchall()
    found = {number: (account, undone) for number, account, undone in rows}
    return [
        f"decision {number} must be as the log tells of it, however: the table has another"
        for number in sorted(set(expected) | set(found))
        if expected.get(number) != found.get(number)
    ]


def _intents_of(verdict: Ruling, named: Sequence[str], seen: Verdict | None) -> list[str]:
    if verdict != "confirm":
        if named:
            raise InputError(
                "intents must be named of a confirmed account alone, however: the account is not "
                "confirmed; leave them out"
            )
        return []
    if named:
        return [check_name("an intent", name) for name in dict.fromkeys(named)]
    if seen is None or not seen.intents:
        raise InputError(
            "a confirmed account must have an intent, however: none is named and none was shown; "
            "name what the account is after"
        )
    likely = [name for name, chance in seen.intents.items() if chance >= LIKELY]
    return likely or [max(seen.intents, key=lambda name: seen.intents[name])]


def _decision(row: tuple[Any, ...]) -> Decision:
    """Its state is not known yet. StoreError if its entry is none."""
    try:
        return _read(row)
    except (KeyError, TypeError, ValueError):
        raise StoreError(
            "a decision must be as Stillwatch wrote it, however: one is not; run `stillwatch audit "
            "verify`"
        ) from None


def _read(row: tuple[Any, ...]) -> Decision:
    number, account, content, own, undone_content, undone_hash = row
    entry = entry_of(content, own)
    fields = entry.fields
    undone = None
    if undone_content is not None:
        taken = entry_of(undone_content, undone_hash)
        undone = Undone(taken.time, taken.actor, str(taken.fields.get("reason", "")))
    return Decision(
        id=number, account_id=id_text(account), verdict=fields["verdict"],
        reason=fields["reason"], reviewer=entry.actor, time=entry.time,
        intents=tuple(fields["intents"]), risk=fields.get("risk"),
        threshold=fields.get("threshold"), flagged=fields.get("flagged"),
        events=fields.get("events"), bundle=fields.get("bundle"),
        evidence=tuple(Shown(*item) for item in fields.get("evidence", [])),
        needs_second=fields["needs_second"], state="undone" if undone else "counts", undone=undone,
    )  # fmt: skip


def _log_odds(probability: float) -> float:
    clipped = min(max(probability, _CLIP), 1 - _CLIP)
    return math.log(clipped / (1 - clipped))
