"""The ledger: what may be noted, what undoing brings back, and that it is the audit log."""

from __future__ import annotations

import fcntl
import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stillwatch.data.errors import InputError, StoreError
from stillwatch.serving.desk import Decision, Desk, Refused
from stillwatch.serving.desk.audit import AuditLog
from stillwatch.serving.response.advice import Advice, Case
from stillwatch.serving.response.ledger import APPLIED, LOCK, UNDONE, Applied, Ledger
from tests.serving.desk.desk_support import desk_in, files_holding
from tests.serving.response.response_support import BLOCK, THROTTLE, policy, verdict

CANARY = b"prompt-canary"
"""What stands in the excerpts of the verdict's evidence."""


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with desk_in(tmp_path / "desk") as desk:
        yield desk


@pytest.fixture
def ledger(desk: Desk, tmp_path: Path) -> Ledger:
    return Ledger(desk, tmp_path / "desk")


def confirm(desk: Desk, account: str = "a1") -> Decision:
    return desk.decide(account, "confirm", "a harvest", "ann", verdict(account))


def advise(decision: Decision, text: str = BLOCK) -> Advice:
    return policy(text).advise(Case(verdict(decision.account_id), decision))


def enforce(ledger: Ledger, decision: Decision, text: str = BLOCK) -> Applied | None:
    return ledger.apply(advise(decision, text), verdict(decision.account_id), decision)


def test_an_action_keeps_what_it_rests_on(desk: Desk, ledger: Ledger, tmp_path: Path) -> None:
    decision = confirm(desk)
    made = enforce(ledger, decision)
    assert made is not None
    assert ledger.active() == {"a1": made}
    assert (made.action, made.rule, made.line) == ("block", "confirmed-harvest", 3)
    assert (made.reviewer, made.reason) == ("R. Viewer", "agreed with legal")
    assert (made.decision, made.policy) == (decision.id, policy(BLOCK).sha256)
    assert (made.risk, made.threshold, made.events) == (0.8, 0.5, 40)
    assert made.bundle == "0123456789ab"
    assert [shown.event_id for shown in made.evidence] == ["e1", "e2"]
    (entry,) = desk.entries(limit=1)
    assert (entry.number, entry.action, entry.actor) == (made.id, APPLIED, "stillwatch")
    assert desk.verify().intact
    # Ids of the evidence, never its prompts.
    assert not files_holding(tmp_path / "desk", CANARY)
    # Another that opens the desk knows the same, field by field.
    other = Ledger(desk, tmp_path / "desk")
    other.refresh()
    assert other.actions() == [made]


def test_nothing_is_applied_without_rule_reviewer_and_decision(desk: Desk, ledger: Ledger) -> None:
    decision = confirm(desk)
    good, seen = advise(decision), verdict()
    for advice, held in (
        (replace(good, enforce=False), decision),
        (replace(good, reviewer=None), decision),
        (replace(good, reason=""), decision),
        (good, replace(decision, verdict="reject")),
        (good, replace(decision, state="pending")),
        (good, replace(decision, state="undone")),
        (good, replace(decision, account_id="a2")),
    ):
        with pytest.raises(Refused, match="must rest on a rule that enforces it"):
            ledger.apply(advice, seen, held)
    assert desk.head().count == decision.id
    assert ledger.active() == {}


def test_undoing_brings_back_what_was_before(desk: Desk, ledger: Ledger) -> None:
    decision = confirm(desk)
    throttle, block = enforce(ledger, decision, THROTTLE), enforce(ledger, decision)
    assert throttle is not None
    assert block is not None
    assert ledger.standing("a1") == block
    undone = ledger.undo(block.id, "bob", "a customer")
    assert undone.undone is not None
    assert (undone.undone.reviewer, undone.undone.reason) == ("bob", "a customer")
    assert ledger.standing("a1") == throttle
    (entry,) = desk.entries(limit=1)
    assert (entry.action, entry.actor, entry.fields["applied"]) == (UNDONE, "bob", block.id)
    ledger.undo(throttle.id, "bob", "a customer")
    assert ledger.active() == {}
    assert [one.undone is None for one in ledger.actions()] == [False, False]
    assert desk.verify().intact


def test_undoing_what_stands_behind_another_leaves_that(desk: Desk, ledger: Ledger) -> None:
    decision = confirm(desk)
    throttle, block = enforce(ledger, decision, THROTTLE), enforce(ledger, decision)
    assert throttle is not None
    assert block is not None
    ledger.undo(throttle.id, "bob", "r")
    assert ledger.standing("a1") == block
    ledger.undo(block.id, "bob", "r")
    assert ledger.standing("a1") is None


def test_an_action_is_undone_once_by_somebody_with_a_reason(desk: Desk, ledger: Ledger) -> None:
    made = enforce(ledger, confirm(desk))
    assert made is not None
    for reviewer, reason in (("", "r"), ("bob", " "), ("b\x1b[1m", "r")):
        with pytest.raises(InputError):
            ledger.undo(made.id, reviewer, reason)
    with pytest.raises(KeyError):
        ledger.undo(made.id + 1, "bob", "r")
    ledger.undo(made.id, "bob", "r")
    with pytest.raises(Refused, match="undone already"):
        ledger.undo(made.id, "bob", "r")


def test_what_a_person_undid_waits_for_another_decision(desk: Desk, ledger: Ledger) -> None:
    first = confirm(desk)
    block = enforce(ledger, first)
    assert block is not None
    assert enforce(ledger, first) is None, "it stands already"
    assert enforce(ledger, first, THROTTLE) is None, "something harder stands"
    ledger.undo(block.id, "bob", "r")
    assert enforce(ledger, first) is None
    second = confirm(desk)
    assert enforce(ledger, second) is not None


def test_a_throttle_that_a_person_undid_becomes_no_block(desk: Desk, ledger: Ledger) -> None:
    decision = confirm(desk)
    throttle = enforce(ledger, decision, THROTTLE)
    assert throttle is not None
    ledger.undo(throttle.id, "bob", "r")
    assert enforce(ledger, decision) is None


def test_what_went_by_itself_comes_again(desk: Desk, ledger: Ledger) -> None:
    decision = confirm(desk)
    block = enforce(ledger, decision)
    assert block is not None
    gone = ledger.undo(block.id, "stillwatch", "the policy does not say so any more", True)
    assert gone.automatic
    assert enforce(ledger, decision) is not None


def test_ledgers_of_one_desk_know_of_each_other(desk: Desk, ledger: Ledger, tmp_path: Path) -> None:
    other = Ledger(desk, tmp_path / "desk")
    decision = confirm(desk)
    made = enforce(ledger, decision)
    assert made is not None
    # It has not looked since, and yet does not apply it a second time.
    assert enforce(other, decision) is None
    other.undo(made.id, "bob", "r")
    assert ledger.standing("a1") == made
    with pytest.raises(Refused):
        ledger.undo(made.id, "ann", "r")
    assert ledger.standing("a1") is None


def test_a_ledger_reads_on_where_it_was(
    desk: Desk, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stillwatch.serving.response.ledger._PAGE", 3)
    made = [enforce(ledger, confirm(desk, f"a{number}")) for number in range(5)]
    for number in range(10):
        desk.record("bundle.reloaded", "ann", {"number": number})
    assert ledger.refresh() == {"bundle.reloaded"}
    assert ledger.refresh() == frozenset()
    assert list(ledger.active().values()) == made
    asked: list[int] = []
    entries = AuditLog.entries

    def counted(self: AuditLog, before: int | None, limit: int) -> Any:
        found = entries(self, before, limit)
        asked.append(len(found))
        return found

    monkeypatch.setattr(AuditLog, "entries", counted)
    desk.record("bundle.reloaded", "ann", {})
    ledger.refresh()
    assert asked == [3]


def test_a_log_that_was_put_back_is_read_anew(tmp_path: Path) -> None:
    with desk_in(tmp_path / "one") as one, desk_in(tmp_path / "other") as other:
        ledger = Ledger(one, tmp_path / "one")
        made = enforce(ledger, confirm(one))
        assert made is not None
        for number in range(5):
            confirm(other, f"b{number}")
        ledger._desk = other
        assert ledger.refresh()
        assert ledger.active() == {}
        assert ledger.actions() == []


def test_nothing_is_noted_while_another_process_does(
    desk: Desk, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stillwatch.serving.response.ledger._BUSY_S", 0.05)
    decision = confirm(desk)
    with (tmp_path / "desk" / LOCK).open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="must be free to write"):
            enforce(ledger, decision)
    assert ledger.active() == {}
    assert enforce(ledger, decision) is not None


def _apply(folder: Path, found: Any) -> None:
    desk = Desk.open(folder)
    decision = desk.present("a1")
    assert decision is not None
    found.put(enforce(Ledger(desk, folder), decision) is not None)
    desk.close()


def test_two_processes_apply_an_action_once(desk: Desk, tmp_path: Path) -> None:
    confirm(desk)
    context = multiprocessing.get_context("spawn")
    found: Any = context.Queue()
    started = [context.Process(target=_apply, args=(tmp_path / "desk", found)) for _ in range(2)]
    for process in started:
        process.start()
    assert sorted(found.get(timeout=60) for _ in started) == [False, True]
    for process in started:
        process.join()
    ledger = Ledger(desk, tmp_path / "desk")
    ledger.refresh()
    assert len(ledger.actions()) == 1
    assert desk.verify().intact
