"""Decisions: what stands, what waits for a second reviewer, what comes back into the queue."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillwatch.data.errors import InputError
from stillwatch.serving.desk import Decision, Refused, Shown
from stillwatch.serving.desk.decisions import (
    Overtaken,
    cause_of,
    has_changed,
    present,
    settled,
)
from tests.serving.desk.desk_support import CANARY, NOON, Clock, desk_in, files_holding, verdict


def test_a_decision_keeps_what_was_shown(tmp_path: Path) -> None:
    seen = verdict(evidence=(("e1", "cot_harvesting", 0.9), ("e2", "output_harvesting", 0.25)))
    with desk_in(tmp_path, clock=Clock()) as desk:
        made = desk.decide("a1", "confirm", " A harvest: <b>x</b>\n", " ann ", seen)
        assert made == Decision(
            id=2, account_id="a1", verdict="confirm", reason="A harvest: <b>x</b>", reviewer="ann",
            time=NOON + 2, intents=("cot_harvesting",), risk=0.8, threshold=0.5, flagged=True,
            events=40, bundle="0123456789ab",
            evidence=(
                Shown("e1", "cot_harvesting", 0.9, "T1", 0.8),
                Shown("e2", "output_harvesting", 0.25, "T1", 0.8),
            ),
            needs_second=False, state="counts", undone=None,
        )  # fmt: skip
        assert desk.present("a1") == made == desk.decision(made.id)
        assert desk.all_present() == {"a1": made}
        assert made.to_fields()["evidence"][0]["event_id"] == "e1"
    with desk_in(tmp_path) as desk:
        assert desk.decisions() == [made]
    assert not files_holding(tmp_path, CANARY.encode())


def test_an_undone_decision_gives_way_to_the_one_before(tmp_path: Path) -> None:
    with desk_in(tmp_path) as desk:
        first = desk.decide("a1", "reject", "a product", "ann", verdict())
        second = desk.decide("a1", "confirm", "a harvest", "bob", verdict())
        undone = desk.undo(second.id, "cat", "it is their test suite")
        assert undone.state == "undone"
        assert undone.undone is not None
        assert undone.undone[1:] == ("cat", "it is their test suite")
        assert desk.present("a1") == first
        assert [one.id for one in desk.decisions("a1")] == [second.id, first.id]
        with pytest.raises(Refused, match="undone already"):
            desk.undo(second.id, "cat", "again")
        with pytest.raises(KeyError):
            desk.undo(999, "cat", "again")
        desk.undo(first.id, "cat", "too early")
        assert desk.present("a1") is None
        assert desk.verify().intact


def test_decisions_are_found_by_account_time_and_number(tmp_path: Path) -> None:
    with desk_in(tmp_path) as desk:
        made = [
            desk.decide(f"a{n % 2}", "reject", "fine", "ann", verdict(f"a{n % 2}"))
            for n in range(6)
        ]
        assert desk.decisions() == made[::-1]
        assert desk.decisions(limit=2) == made[:-3:-1]
        assert desk.decisions("a1") == made[5::-2]
        assert desk.decisions(since=made[3].time) == made[:2:-1]
        assert desk.decisions("a1", since=made[3].time) == [made[5], made[3]]
        assert desk.decisions("a9") == []


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "maybe"}, {"reason": " \n"}, {"reason": "\u200b"}, {"reason": "x" * 2001},
        {"reviewer": ""}, {"reviewer": "x" * 129}, {"reviewer": "a\u202enn"}, {"reviewer": "a\nb"},
        {"account_id": " "}, {"account_id": "x" * 257}, {"account_id": "a2"},
        {"seen": None}, {"verdict": "reject", "intents": ["cot_harvesting"]}, {"intents": [""]},
    ],
)  # fmt: skip
def test_what_is_no_decision_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    asked: dict[str, Any] = {
        "account_id": "a1", "verdict": "confirm", "reason": "r", "reviewer": "ann",
        "seen": verdict(), **change,
    }  # fmt: skip
    with desk_in(tmp_path) as desk:
        with pytest.raises(InputError):
            desk.decide(**asked)
        assert desk.head().count == 1


@pytest.mark.parametrize("reason", ["\ud800", "a\0b", "\x1b[2J", "<script>", '"},{"', "‮abc"])
def test_hostile_reasons_and_ids_are_kept(tmp_path: Path, reason: str) -> None:
    account = f"a{reason}"
    with desk_in(tmp_path) as desk:
        desk.decide(account, "reject", f"r{reason}", "ann", verdict(account))
        found = desk.present(account)
        assert found is not None
        assert found.account_id == account
        assert found.reason == f"r{reason}".replace("\ud800", "?")
        assert desk.verify().intact


def test_what_a_confirmed_account_is_after(tmp_path: Path) -> None:
    with desk_in(tmp_path) as desk:
        weak = desk.decide("a1", "confirm", "r", "ann", verdict(risk=0.3))
        assert weak.intents == ("cot_harvesting",)
        named = desk.decide("a1", "confirm", "r", "ann", None, ["output_harvesting", "x", "x"])
        assert named.intents == ("output_harvesting", "x")


class TestOvertaken:
    def test_a_decision_is_on_the_one_that_was_shown(self, tmp_path: Path) -> None:
        with desk_in(tmp_path) as desk, desk_in(tmp_path) as other:
            first = desk.decide("a1", "confirm", "a harvest", "ann", verdict(), expected=None)
            for expected in (None, first.id + 1):
                with pytest.raises(Overtaken) as told:
                    other.decide("a1", "reject", "r", "bob", verdict(), expected=expected)
                assert (told.value.present, told.value.was) == (first, None)
            assert desk.decisions() == [first]
            # On another account nobody has decided.
            assert other.decide("a2", "reject", "r", "bob", verdict("a2"), expected=None)
            second = other.decide("a1", "reject", "r", "bob", verdict(), expected=first.id)
            assert desk.present("a1") == second
            # As before for who does not say what was shown.
            assert desk.decide("a1", "confirm", "r", "ann", verdict())
            assert desk.verify().intact

    def test_what_was_taken_back_is_told(self, tmp_path: Path) -> None:
        with desk_in(tmp_path) as desk:
            first = desk.decide("a1", "confirm", "a harvest", "ann", verdict())
            desk.undo(first.id, "bob", "a customer")
            with pytest.raises(Overtaken) as told:
                desk.decide("a1", "confirm", "r", "cat", verdict(), expected=first.id)
            assert told.value.present is None
            assert told.value.was == desk.decision(first.id)

    def test_of_many_at_once_one_decides(self, tmp_path: Path) -> None:
        together = Barrier(8)

        def decide(number: int) -> bool:
            with desk_in(tmp_path) as desk:
                together.wait(20)
                try:
                    desk.decide("a1", "reject", "r", f"r{number}", verdict(), expected=None)
                except Overtaken:
                    return False
                return True

        with desk_in(tmp_path) as desk, ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(decide, range(8))) == 1
            assert len(desk.decisions()) == 1

    def test_what_another_has_followed_is_not_undone(self, tmp_path: Path) -> None:
        with desk_in(tmp_path) as desk:
            first = desk.decide("a1", "confirm", "a harvest", "ann", verdict())
            second = desk.decide("a1", "reject", "a customer", "bob", verdict())
            before = desk.head()
            with pytest.raises(Overtaken) as told:
                desk.undo(first.id, "ann", "by mistake")
            assert (told.value.present, told.value.was) == (second, first)
            assert desk.head() == before
            desk.undo(second.id, "bob", "r")
            assert desk.undo(first.id, "ann", "by mistake").state == "undone"


class TestTwoPersons:
    def test_a_second_reviewer_makes_it_count(self, tmp_path: Path) -> None:
        with desk_in(tmp_path, two_person=True) as desk:
            first = desk.decide("a1", "confirm", "r", "ann", verdict())
            assert first.state == "pending"
            assert desk.review(verdict()) == "second"
            # Nobody seconds himself, however he writes his name.
            for name in ("ann", " ANN ", "\uff21nn"):
                assert desk.decide("a1", "confirm", "r", name, verdict()).state == "pending"
            second = desk.decide("a1", "confirm", "r", "bob", verdict())
            assert second.state == "counts"
            assert desk.decision(first.id).state == "counts"
            assert desk.review(verdict()) is None
            desk.undo(second.id, "cat", "wrong")
            assert desk.decision(first.id).state == "pending"

    def test_a_rejection_lies_between(self, tmp_path: Path) -> None:
        with desk_in(tmp_path, two_person=True) as desk:
            desk.decide("a1", "confirm", "r", "ann", verdict())
            rejected = desk.decide("a1", "reject", "r", "bob", verdict())
            assert rejected.state == "counts"
            again = desk.decide("a1", "confirm", "r", "bob", verdict())
            assert again.state == "pending"
            # What was undone does not.
            desk.undo(again.id, "bob", "r")
            desk.undo(rejected.id, "bob", "r")
            assert desk.decide("a1", "confirm", "r", "bob", verdict()).state == "counts"

    def test_the_rule_holds_for_what_was_made_under_it(self, tmp_path: Path) -> None:
        with desk_in(tmp_path, two_person=True) as desk:
            desk.decide("a1", "confirm", "r", "ann", verdict())
        with desk_in(tmp_path) as desk:
            assert desk.decisions()[0].state == "pending"
            assert desk.decide("a2", "confirm", "r", "ann", verdict("a2")).state == "counts"


def decided(number: int, ruling: str, reviewer: str, undone: bool, needs: bool = True) -> Decision:
    made: Any = {"undone": (0.0, "x", "r")} if undone else {"undone": None}
    fields: dict[str, Any] = {
        "id": number, "account_id": "a", "verdict": ruling, "reason": "r", "reviewer": reviewer,
        "time": 0.0, "intents": (), "risk": None, "threshold": None, "flagged": None,
        "events": None, "bundle": None, "evidence": (), "needs_second": needs, "state": "counts",
    }  # fmt: skip
    return Decision(**fields, **made)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["confirm", "reject", "needs_more"]), st.sampled_from("ab"),
            st.booleans(), st.booleans(),
        ),
        max_size=8,
    )
)  # fmt: skip
def test_nobody_confirms_alone(history: list[tuple[str, str, bool, bool]]) -> None:
    made = settled([decided(n, *item) for n, item in enumerate(history)])
    standing = [one for one in made if one.undone is None]
    assert all((one.state == "undone") == (one.undone is not None) for one in made)
    assert present(made) == (standing[-1] if standing else None)
    for place, one in enumerate(standing):
        if one.verdict != "confirm" or not one.needs_second:
            assert one.state == "counts"
            continue
        around = [one]
        for step in (-1, 1):
            at = place + step
            while 0 <= at < len(standing) and standing[at].verdict == "confirm":
                around.append(standing[at])
                at += step
        assert (one.state == "counts") == (len({other.reviewer for other in around}) > 1)


@pytest.fixture
def rejected(tmp_path: Path) -> Decision:
    with desk_in(tmp_path) as desk:
        shown = (("e1", "cot_harvesting", 0.9), ("e2", "cot_harvesting", 0.7))
        return desk.decide("a1", "reject", "a product", "ann", verdict(evidence=shown))


SHOWN = (("e1", "cot_harvesting", 0.9), ("e2", "cot_harvesting", 0.7))


@pytest.mark.parametrize(
    ("changes", "comes_back"),
    [
        ({}, False),
        ({"flagged": False, "risk": 0.99}, False),
        # Log-odds of risk: 0.8 is 1.39, 0.91 is 2.31, 0.92 is 2.44.
        ({"risk": 0.91}, False),
        ({"risk": 0.92}, True),
        ({"risk": 0.3}, False),
        # Another bundle, whose risks and threshold are lower or higher alike.
        ({"risk": 0.5, "threshold": 0.2}, False),
        ({"risk": 0.97, "threshold": 0.9}, False),
        ({"risk": 0.8, "threshold": 0.2}, True),
        # More of the same.
        ({"evidence": (("e1", "cot_harvesting", 0.9), ("e3", "cot_harvesting", 0.95))}, False),
        ({"evidence": (("e1", "cot_harvesting", 0.9),)}, False),
        # Much stronger, of another kind, or nothing left of what was shown.
        ({"evidence": (("e1", "cot_harvesting", 0.9), ("e3", "cot_harvesting", 0.97))}, True),
        ({"evidence": (("e1", "cot_harvesting", 0.9), ("e3", "output_harvesting", 0.3))}, True),
        ({"evidence": (("e3", "cot_harvesting", 0.6), ("e4", "cot_harvesting", 0.5))}, True),
        ({"evidence": ()}, False),
    ],
)
def test_a_rejected_account_comes_back_when_it_has_changed(
    rejected: Decision, changes: dict[str, Any], comes_back: bool
) -> None:
    now = verdict(**{"evidence": SHOWN, **changes})
    assert cause_of(now, rejected) == ("changed" if comes_back else None)


@given(
    st.floats(0.01, 0.99), st.floats(0.01, 0.99),
    st.lists(
        st.tuples(st.text("abc", min_size=1, max_size=3), st.sampled_from(["p", "q"]),
                  st.floats(0.0, 1.0)),
        max_size=5, unique_by=lambda item: item[0],
    ),
)  # fmt: skip
def test_what_was_rejected_has_not_changed_by_itself(
    risk: float, threshold: float, evidence: list[tuple[str, str, float]]
) -> None:
    same = verdict(risk=risk, threshold=threshold, evidence=tuple(evidence))
    shown = tuple(Shown(*item, "T1", 0.8) for item in evidence)
    made = Decision(
        1, "a1", "reject", "r", "ann", 0.0, (), risk, threshold, True, 4, "b", shown, False,
        "counts", None,
    )  # fmt: skip
    assert not has_changed(same, made)


def test_the_queue_is_what_is_to_be_reviewed(tmp_path: Path) -> None:
    found = {name: verdict(name, risk=risk) for name, risk in zip("abcdef", (
        0.6, 0.7, 0.8, 0.9, 0.95, 0.97), strict=True)}  # fmt: skip
    with desk_in(tmp_path) as desk:
        desk.decide("a", "confirm", "r", "ann", found["a"])
        desk.decide("b", "reject", "r", "ann", found["b"])
        desk.decide("c", "needs_more", "r", "ann", found["c"])
        desk.decide("d", "reject", "r", "ann", None)
        calm = verdict("g", flagged=False)
        queue = desk.queue([*found.values(), calm])
        assert [(one.account_id, cause) for one, cause in queue] == [
            ("f", "new"), ("e", "new"), ("d", "changed"), ("c", "more"),
        ]  # fmt: skip
        assert all(desk.review(one) == cause for one, cause in queue)
        assert desk.review(calm) is None
