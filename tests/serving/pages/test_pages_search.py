"""Searches on the pages, their map and what is selected of them."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from typing import Any

import pytest

from stillwatch.serving.pages.site import INTENT_NAMES
from stillwatch.serving.pages.tokens import to_pick, to_token
from tests.serving.pages.pages_support import (
    Place,
    picks_of,
    rows_of,
    text_of,
)


def test_a_search_finds_by_meaning_by_words_and_by_account(desk: Place) -> None:
    prompt = desk.archive.event("a2", "e2").prompt
    page = desk.search(prompt, "prompts")
    assert picks_of(page)[0] == to_pick("a2", "e2") or "same text" in page
    assert "a2" in text_of(desk.search(prompt))
    assert "Nothing was found" in desk.search("word1 nowhere", "prompts", exact="yes")
    assert picks_of(desk.search(prompt, "prompts", exact="yes"))
    only = desk.search(prompt, "prompts", account="a1")
    assert {pick.split(".")[0] for pick in picks_of(only)} == {to_token("a1")}
    assert not picks_of(desk.search(prompt, "prompts", flagged="no"))
    assert not picks_of(desk.search(prompt, "prompts", until="2001-01-01"))
    assert desk.post("/desk/search", text="x", since="soon").status_code == 422
    for nothing in (" ", "\u200b", "\u3000\u2060\n", ""):
        refused = desk.post("/desk/search", text=nothing)
        assert refused.status_code == 422
        assert "nothing of it can be seen" in text_of(refused.text)


def test_more_like_one_prompt_is_searched(desk: Place) -> None:
    answer = desk.post("/desk/search", like=to_pick("a1", "e1"), text="")
    for view in ("accounts", "prompts", "map"):
        page = desk.page(f"{answer.headers['location']}?view={view}")
        assert "Like this prompt of" in page
        assert to_pick("a1", "e1") not in picks_of(page)
    elsewhere = desk.post("/desk/search", like=to_pick("a1", "e1"), elsewhere="yes", parts="frame")
    page = desk.page(f"{elsewhere.headers['location']}?view=prompts")
    assert to_token("a1") not in {pick.split(".")[0] for pick in picks_of(page)}
    gone = desk.post("/desk/search", like=to_pick("a1", "never"))
    assert desk.get(gone.headers["location"]).status_code == 404


def test_a_text_is_encoded_once_for_all_views(desk: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = desk.archive._encoder
    assert encoder is not None
    encode = encoder.encode
    read: list[str] = []

    def counted(texts: Sequence[str]) -> Any:
        read.extend(texts)
        return encode(texts)

    monkeypatch.setattr(encoder, "encode", counted)
    prompt = desk.archive.event("a2", "e2").prompt
    answer = desk.post("/desk/search", text=prompt)
    pages = {
        view: desk.page(f"{answer.headers['location']}?view={view}")
        for view in ("accounts", "prompts", "map", "accounts")
    }
    assert read == [prompt]
    # Another search is another text's.
    other = desk.archive.event("a1", "e1").prompt
    assert desk.search(other, "prompts") != pages["prompts"]
    assert read == [prompt, other]
    assert all(picks_of(page) for page in pages.values())


@pytest.mark.parametrize("fields", [{"exact": "yes"}, {"like": to_pick("a1", "e1")}])
def test_accounts_are_those_of_the_prompts(desk: Place, fields: dict[str, str]) -> None:
    fields = {"text": desk.archive.event("a1", "e1").prompt} | fields
    prompts = {pick.split(".")[0] for pick in picks_of(desk.search(view="prompts", **fields))}
    accounts = {pick.split(".")[0] for pick in picks_of(desk.search(**fields))}
    assert accounts == prompts
    assert accounts


def test_what_is_searched_for_is_in_no_address_and_no_other_session(desk: Place) -> None:
    answer = desk.post("/desk/search", text="canary 7341")
    place_of = answer.headers["location"]
    assert "canary" not in place_of
    assert "canary 7341" in desk.page(place_of)
    desk.login("admin")
    assert desk.get(place_of).status_code == 404


def test_a_map_has_a_place_for_each_prompt(desk: Place) -> None:
    page = desk.search("word1 word2", "map")
    places = re.findall(r'data-x="([0-9.]+)" data-y="([0-9.]+)"', page)
    assert len(places) == len(picks_of(page)) > 10
    assert all(0 <= float(x) <= 1 and 0 <= float(y) <= 1 for x, y in places)
    assert len(set(places)) > 10


def test_a_selection_leaves_as_a_file_and_is_noted(desk: Place) -> None:
    picks = [to_pick("a0", "e0"), to_pick("a1", "e1"), to_pick("a1", "never"), "nonsense"]
    answer = desk.post("/desk/selection/csv", pick=picks)
    assert answer.headers["content-type"].startswith("text/csv")
    assert "attachment" in answer.headers["content-disposition"]
    table = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"), newline="")))
    assert [row["event_id"] for row in table] == ["e0", "e1"]
    lines = desk.post("/desk/selection/jsonl", pick=picks).text.splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == [row["prompt"] for row in table]
    entry = desk.desk.entries()[0]
    assert (entry.action, entry.actor) == ("prompts.exported", "analyst")
    assert entry.fields == {"format": "jsonl", "events": 2, "accounts": 2}
    assert desk.post("/desk/selection/csv").status_code == 409
    assert desk.post("/desk/selection/csv", pick=["x.y"]).status_code == 404
    assert desk.post("/desk/selection/exe", pick=picks).status_code == 404


def test_a_result_tells_its_nearest_template_and_intent(desk: Place) -> None:
    event = desk.archive.event("a2", "e2")
    told = f"{event.template} {event.template_similarity:.2f}"
    for view in ("prompts", "map"):
        rows = rows_of(desk.search(event.prompt, view, exact="yes"))
        assert rows
        assert all(told in row for row in rows)
    page = rows_of(desk.search(event.prompt, account="a2"))
    assert any(name in page[0] for name in INTENT_NAMES.values())
