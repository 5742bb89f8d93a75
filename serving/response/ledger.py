"""The ledger: what was enforced, by which rule, on which decision, and what was undone.

It is the audit log read forwards: nothing is kept beside it, so that what stands is what the log
says, and whoever changes one is found out by the other. Undoing an action brings back the one that
stood before it.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from stillwatch.data.errors import StoreError
from stillwatch.serving.desk import Desk
from stillwatch.serving.desk.names import check_name, check_reason
from stillwatch.serving.desk.records import Decision, Entry, Refused, Shown, Undone
from stillwatch.serving.response.advice import RANK, TOUCHING, Action, Advice, ruled
from stillwatch.serving.verdict import Verdict

APPLIED, UNDONE = "response.applied", "response.undone"
LOCK = "response.lock"
ACTOR = "stillwatch"
"""Who applies what a policy says, and takes it back when it says so no more."""
_PAGE = 1000
_BUSY_S = 10.0


@dataclass(frozen=True, slots=True)
class Applied:
    """An action that was enforced. `id` is its entry in the audit log; `decision` the confirmation
    that it rests on; `reviewer` and `reason` are the rule's. What the verdict said then is kept
    without prompts. Times are seconds since the epoch."""

    id: int
    account_id: str
    action: Action
    rule: str
    line: int | None
    text: str
    because: tuple[str, ...]
    policy: str
    reviewer: str
    reason: str
    decision: int
    time: float
    risk: float
    threshold: float
    flagged: bool
    events: int
    bundle: str
    evidence: tuple[Shown, ...]
    undone: Undone | None = None
    automatic: bool = False
    """Whether it was undone because the policy or the decision behind it went, by nobody's word."""

    def to_fields(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "id": self.id, "account_id": self.account_id, "action": self.action,
            "rule": self.rule, "line": self.line, "text": self.text,
            "because": list(self.because), "policy": self.policy, "reviewer": self.reviewer,
            "reason": self.reason, "decision": self.decision, "time": self.time,
            "risk": self.risk, "threshold": self.threshold, "flagged": self.flagged,
            "events": self.events, "bundle": self.bundle,
            "evidence": [shown._asdict() for shown in self.evidence],
            "undone": self.undone and self.undone._asdict(), "automatic": self.automatic,
        }  # fmt: skip


class Ledger:
    """Safe to share between threads; several processes may use one desk. Methods raise StoreError,
    those that write AuditError and InputError too."""

    def __init__(self, desk: Desk, folder: Path) -> None:
        """`folder` is the desk's."""
        self._desk = desk
        self._folder = folder
        self._lock = threading.RLock()
        self._last: tuple[int, str] = (0, "")
        self._actions: dict[int, Applied] = {}
        self._of: dict[str, list[int]] = {}

    def refresh(self) -> frozenset[str]:
        """Read what the audit log has since the last time; the actions of those entries. All of it
        is read again if the log is not the one that was read."""
        with self._lock:
            head = self._desk.head()
            if (head.count, head.hash) == self._last:
                return frozenset()
            fresh = self._unread()
            for entry in fresh:
                self._take(entry)
            if fresh:
                self._last = (fresh[-1].number, fresh[-1].hash)
            return frozenset(entry.action for entry in fresh)

    def active(self) -> dict[str, Applied]:
        """The action that stands on each account that has one, as of the last refresh."""
        with self._lock:
            standing = ((name, self.standing(name)) for name in self._of)
            return {name: found for name, found in standing if found is not None}

    def standing(self, account_id: str) -> Applied | None:
        """The action that stands on an account: the last one that is not undone."""
        with self._lock:
            every = (self._actions[number] for number in reversed(self._of.get(account_id, ())))
            return next((one for one in every if one.undone is None), None)

    def action(self, action_id: int) -> Applied:
        """One action; KeyError."""
        with self._lock:
            return self._actions[action_id]

    def actions(self, account_id: str | None = None) -> list[Applied]:
        """Actions, undone ones too, the latest first."""
        with self._lock:
            numbers = self._actions if account_id is None else self._of.get(account_id, ())
            return [self._actions[number] for number in sorted(numbers, reverse=True)]

    def is_due(self, advice: Advice, account_id: str, decision: Decision | None) -> bool:
        """Whether advice is to be enforced that is not yet. What a person has undone, or anything
        harder, is not enforced again on the same decision."""
        if not advice.enforce or advice.action not in TOUCHING or ruled(decision) != "confirmed":
            return False
        assert decision is not None
        rank = RANK[advice.action]
        for one in self.actions(account_id):
            if one.undone is None and RANK[one.action] >= rank:
                return False
            by_person = one.undone is not None and not one.automatic
            if by_person and one.decision >= decision.id and RANK[one.action] <= rank:
                return False
        return True

    def apply(self, advice: Advice, verdict: Verdict, decision: Decision) -> Applied | None:
        """Note that advice is enforced on the account of a verdict; None if it is not due any
        more. Refused unless the rule says so, with a reviewer's name, and the decision is a
        confirmation of this account that counts."""
        stands = decision.account_id == verdict.account_id and ruled(decision) == "confirmed"
        if not (advice.enforce and advice.reviewer and advice.reason and stands):
            raise Refused(
                "an action must rest on a rule that enforces it, with a reviewer, and on a "
                "confirmed decision, however: it does not; nothing is enforced on a score"
            )
        shown = verdict.to_fields()
        fields = {
            "account_id": verdict.account_id, **advice.to_fields(), "decision": decision.id,
            **{name: shown[name] for name in ("risk", "threshold", "flagged", "events", "bundle")},
            # Never the excerpts: they are prompts.
            "evidence": [[item[name] for name in Shown._fields] for item in shown["evidence"]],
        }  # fmt: skip
        with self._alone():
            if not self.is_due(advice, verdict.account_id, decision):
                return None
            entry = self._desk.record(APPLIED, ACTOR, fields)
            self.refresh()
            return self.action(entry.number)

    def undo(self, action_id: int, reviewer: str, reason: str, automatic: bool = False) -> Applied:
        """Take an action back: what stood before it stands again. KeyError if there is no such
        action, Refused if it is undone already."""
        reviewer, reason = check_name("a reviewer", reviewer), check_reason(reason)
        with self._alone():
            found = self.action(action_id)
            if found.undone is not None:
                raise Refused("an action must stand to be undone, however: it is undone already")
            fields = {
                "applied": action_id, "account_id": found.account_id, "action": found.action,
                "reason": reason, "automatic": automatic,
            }  # fmt: skip
            self._desk.record(UNDONE, reviewer, fields)
            self.refresh()
            return self.action(action_id)

    def _unread(self) -> list[Entry]:
        """Entries after the last one that was read, in order."""
        number, own = self._last
        found: list[Entry] = []
        before: int | None = None
        while True:
            page = self._desk.entries(before, _PAGE)
            found += [entry for entry in page if entry.number > number]
            if any((entry.number, entry.hash) == (number, own) for entry in page):
                break
            if len(page) < _PAGE:
                if number:
                    # A log that was put back: what was read of the other is void.
                    self._last, self._actions, self._of = (0, ""), {}, {}
                    return self._unread()
                break
            before = page[-1].number
        return found[::-1]

    def _take(self, entry: Entry) -> None:
        if entry.action == APPLIED:
            made = _read(entry)
            self._actions[made.id] = made
            self._of.setdefault(made.account_id, []).append(made.id)
        elif entry.action == UNDONE:
            found = self._actions.get(_whole(entry.fields.get("applied")))
            if found is not None and found.undone is None:
                undone = Undone(entry.time, entry.actor, str(entry.fields.get("reason", "")))
                automatic = entry.fields.get("automatic") is True
                self._actions[found.id] = replace(found, undone=undone, automatic=automatic)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process writes to the ledger, and all that it holds has been read."""
        with self._lock, _locked(self._folder / LOCK):
            self.refresh()
            yield


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(
            f"the desk's folder must be writable, however: {error.strerror}; see to its permissions"
        ) from error
    try:
        until = time.monotonic() + _BUSY_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise StoreError(
                        "the ledger must be free to write, however: another process holds it; try "
                        "again, or find what holds it"
                    ) from None
            time.sleep(0.01)
        yield
    finally:
        # Closing gives the lock back.
        os.close(descriptor)


def _read(entry: Entry) -> Applied:
    """The action that an entry tells of; StoreError if it tells of none."""
    fields: Mapping[str, Any] = entry.fields
    try:
        return Applied(
            id=entry.number, account_id=str(fields["account_id"]),
            action=cast(Action, str(fields["action"])), rule=str(fields["rule"]),
            line=fields["line"], text=str(fields["text"]),
            because=tuple(map(str, fields["because"])), policy=str(fields["policy"]),
            reviewer=str(fields["reviewer"]), reason=str(fields["reason"]),
            decision=int(fields["decision"]), time=entry.time, risk=float(fields["risk"]),
            threshold=float(fields["threshold"]), flagged=bool(fields["flagged"]),
            events=int(fields["events"]), bundle=str(fields["bundle"]),
            evidence=tuple(Shown(*item) for item in fields["evidence"]),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError):
        raise StoreError(
            "an action must be as Stillwatch wrote it, however: one is not; run `stillwatch audit "
            "verify`"
        ) from None


def _whole(value: object) -> int:
    return value if isinstance(value, int) else -1
