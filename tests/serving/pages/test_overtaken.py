"""Two analysts at once: who decides second sees the decision of the first, and nothing is lost."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest

from stillwatch.serving.desk import Desk
from stillwatch.serving.pages.tokens import to_token
from tests.serving.pages.pages_support import Place, place, queued, text_of

HOSTILE = "<b>a product</b> of theirs\u202e"


@pytest.fixture
def other(desk: Place) -> Place:
    """Another reviewer, logged in beside the first."""
    return desk.beside("second")


def fields_of(page: str) -> dict[str, Any]:
    """What the form on a page that decides would post, without verdict and reason."""
    form = re.search(r"<form[^>]* data-decision>(.*?)</form>", page, re.DOTALL)
    assert form, page
    found: dict[str, Any] = {}
    for name, value in re.findall(r'name="([^"]+)" value="([^"]*)"', form[1]):
        if name not in ("csrf", "verdict", "intent"):
            found.setdefault(name, []).append(html.unescape(value))
    return found


def on_selection(desk: Place, *accounts: str) -> dict[str, Any]:
    """The form of the page that decides on several accounts."""
    answer = desk.post("/desk/selected/accounts", account=[to_token(one) for one in accounts])
    return fields_of(answer.text)


def told(answer: Any) -> str:
    assert answer.status_code == 409, answer.text
    return text_of(answer.text)


def test_the_second_on_an_account_page_sees_the_first(desk: Place, other: Place) -> None:
    path = f"/desk/accounts/{to_token('a0')}"
    older = other.shown("a0")
    assert desk.decide("a0", "confirm", HOSTILE).status_code == 303
    (first,) = desk.desk.decisions("a0")
    given = {"verdict": "confirm", "reason": "mine", "intent": "cot_harvesting"}
    answer = other.post(f"{path}/decide", **given, **older)
    page = told(answer)
    assert desk.desk.decisions("a0") == [first]
    assert "Nothing was changed" in page
    assert re.search(r"confirmed \d{4}-\d\d-\d\d \d\d:\d\d\S* analyst : <b>a product</b>", page)
    assert "<b>a product" not in answer.text
    # Decided again with that seen: what was typed and chosen is still there.
    assert re.search(r"<textarea[^>]*>mine</textarea>", answer.text)
    assert 'name="intent" value="cot_harvesting"' in answer.text
    again = {**fields_of(answer.text), "intent": "cot_harvesting"}
    assert again[f"expected.{to_token('a0')}"] == [str(first.id)]
    assert other.post("/desk/decide", verdict="confirm", reason="two", **again).status_code == 303
    second, before = desk.desk.decisions("a0")
    assert before == first
    assert (second.reviewer, second.intents) == ("second", ("cot_harvesting",))


def test_the_second_in_the_queue_sees_the_first(desk: Place, other: Place) -> None:
    page = other.page("/desk/queue?account=a0")
    row = re.search(r'data-decide="([^"]+)" data-shown="([^"]+)"', page)
    assert row
    assert queued(page) == ["a0"]
    assert desk.decide("a0", "confirm", "one suffix").status_code == 303
    given = {"shown": row[2], "verdict": "reject", "reason": "mine", "back": "queue"}
    page = told(other.post(row[1], **given))
    assert "analyst : one suffix" in page
    (only,) = desk.desk.decisions("a0")
    assert only.reviewer == "analyst"
    # The queue as it is now leads to a decision on the first's.
    page = other.page("/desk/queue?account=a0&show=all")
    row = re.search(r'data-decide="([^"]+)" data-shown="([^"]+)"', page)
    assert row
    assert row[1].endswith(f"?expected={only.id}")
    assert other.post(row[1], **{**given, "shown": row[2]}).status_code == 303
    assert len(desk.desk.decisions("a0")) == 2


def test_on_several_accounts_nothing_or_all_is_decided(desk: Place, other: Place) -> None:
    older = on_selection(other, "a0", "a1", "a2")
    assert desk.decide("a1", "reject", "a customer").status_code == 303
    (first,) = desk.desk.decisions()
    given = {"verdict": "confirm", "reason": "one operation"}
    answer = other.post("/desk/decide", **given, **older)
    page = told(answer)
    assert "Nothing was changed: on 1 of them" in page
    assert "analyst : a customer" in page
    assert desk.desk.decisions() == [first]
    again = fields_of(answer.text)
    assert again["account"] == [to_token(one) for one in ("a0", "a1", "a2")]
    assert other.post("/desk/decide", **given, **again).status_code == 303
    assert {one.account_id for one in desk.desk.decisions(limit=3)} == {"a0", "a1", "a2"}
    # The same form again would decide twice.
    assert "on 3 of them" in told(other.post("/desk/decide", **given, **again))
    # One that was not ticked does not count.
    older = {**on_selection(other, "a3", "a4"), "account": [to_token("a4")]}
    desk.decide("a3", "reject")
    assert other.post("/desk/decide", **given, **older).status_code == 303


def test_what_is_decided_between_two_of_several_is_left(
    desk: Place, other: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = on_selection(other, "a0", "a1", "a2")
    check = Desk.check_present

    def late(self: Desk, account_id: str, expected: Any) -> None:
        check(self, account_id, expected)
        if account_id == "a2":
            self.decide("a1", "reject", "in between", "analyst", None)

    monkeypatch.setattr(Desk, "check_present", late)
    answer = other.post("/desk/decide", verdict="confirm", reason="r", **older)
    page = told(answer)
    assert "2 accounts are confirmed; these are left as they were" in page
    assert "analyst : in between" in page
    assert fields_of(answer.text)["account"] == [to_token("a1")]
    made = {one.account_id: one.reviewer for one in desk.desk.decisions()}
    assert made == {"a0": "second", "a1": "analyst", "a2": "second"}


def test_what_was_taken_back_meanwhile_is_told(desk: Place, other: Place) -> None:
    desk.decide("a0", "confirm")
    (first,) = desk.desk.decisions("a0")
    older = other.shown("a0")
    desk.post(f"/desk/decisions/{first.id}/undo", reason="wrong account")
    path = f"/desk/accounts/{to_token('a0')}/decide"
    page = told(other.post(path, verdict="confirm", reason="r", **older))
    assert "taken back" in page
    assert "analyst : wrong account" in page
    assert desk.desk.present("a0") is None


def test_only_the_present_decision_is_undone(desk: Place, other: Place) -> None:
    desk.decide("a0", "confirm")
    (first,) = desk.desk.decisions("a0")
    other.decide("a0", "reject")
    page = told(desk.post(f"/desk/decisions/{first.id}/undo", reason="by mistake"))
    assert "must still stand" in page
    standing = desk.desk.present("a0")
    assert standing is not None
    assert standing.reviewer == "second"
    assert standing.undone is None


def test_a_second_reviewer_seconds_what_he_has_seen(tmp_path: Path) -> None:
    with place(tmp_path, offset=3.0, desk_two_person=True) as desk:
        other = desk.login().beside("second")
        older = other.shown("a0")
        desk.decide("a0", "confirm", "mine")
        path = f"/desk/accounts/{to_token('a0')}/decide"
        answer = other.post(path, verdict="confirm", reason="r", **older)
        assert "confirmed, pending" in told(answer)
        again = fields_of(answer.text)
        assert other.post("/desk/decide", verdict="confirm", reason="r", **again).status_code == 303
        assert {one.state for one in desk.desk.decisions("a0")} == {"counts"}
