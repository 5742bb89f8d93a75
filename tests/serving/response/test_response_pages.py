"""The account's page: the advice, the policy's lines behind it, and what is enforced."""

from __future__ import annotations

from pathlib import Path

from stillwatch.serving.pages.tokens import to_token
from tests.serving.pages.pages_support import HARM_ACCOUNT, Place, harmful_events, place
from tests.serving.response.response_support import BLOCK

FLAGS_ALL = 3.0
HARM = BLOCK.replace("R. Viewer", "'<b>R</b>'").replace(
    "agreed with legal", '"<img src=x onerror=alert(1)> {{ 7*7 }} \\u202e"'
)


def account(here: Place, name: str) -> str:
    return here.page(f"/desk/accounts/{to_token(name)}")


def look(here: Place) -> None:
    assert here.client.portal is not None
    here.client.portal.call(here.app.state.service.responder.refresh)


def test_without_a_policy_there_is_no_advice(tmp_path: Path) -> None:
    with place(tmp_path, offset=FLAGS_ALL) as here:
        here.login()
        assert 'id="advice"' not in account(here, "a1")


def test_advice_stands_with_the_lines_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(BLOCK)
    with place(tmp_path, offset=FLAGS_ALL, policy=path) as here:
        here.login()
        page = account(here, "a1")
        assert "line 11 of the policy" in page
        assert "name: flagged\nadvice: review\nwhen: {flagged: true}</pre>" in page
        assert "Nothing is enforced on this account." in page
        assert here.decide("a1", "confirm").status_code == 303
        look(here)
        page = account(here, "a1")
        assert "line 3 of the policy" in page
        assert "is enforced since" in page
        assert "stillwatch policy undo" in page
        assert here.decide("a1", "reject").status_code == 303
        look(here)
        page = account(here, "a1")
        assert "for the account is rejected" in page
        assert "Nothing is enforced on this account." in page


def test_what_stands_in_a_policy_is_escaped(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(HARM, encoding="utf-8")
    with place(tmp_path, harmful_events(), offset=FLAGS_ALL, policy=path) as here:
        here.login()
        assert here.decide(HARM_ACCOUNT, "confirm").status_code == 303
        look(here)
        page = account(here, HARM_ACCOUNT)
        assert "is enforced since" in page
        assert "&lt;img src=x onerror" in page
        assert "<img" not in page
        assert "<b>R" not in page
        assert "{{ 7*7 }}" in page
        assert "\u202e" not in page
