"""Search over HTTP: what is found, by what, and who may."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from stillwatch.serving.archive import PromptArchive
from tests.serving.archive.archive_support import NOON, opened, put, row
from tests.serving.desk.desk_support import desk_in
from tests.serving.desk.test_desk_api import app_around, key
from tests.serving.http import conftest
from tests.support import INTENTS, tiny_bundle, tiny_scorer

FRUIT, BIRDS, RAIN = "apples and pears", "ducks and geese", "rain over the hills"
SECRET = "heliotrope petticoat"


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[PromptArchive]:
    with opened(tmp_path / "archive") as archive:
        put(
            archive,
            [
                row(FRUIT, "ann", "e1", NOON, template="T1", intent=0, flagged=True),
                row(FRUIT, "bob", "e2", NOON + 10, template="T2", intent=1),
                row(BIRDS, "bob", "e3", NOON + 20, template="T1", intent=1, flagged=True),
                row("wo ist der Bahnhof und die Post", "eve\ud800", "e4", NOON + 30, template="T1"),
                row(RAIN, "eve\ud800", "e5", NOON + 40, frame="tell me of"),
            ],
        )
        yield archive


@pytest.fixture
def client(archive: PromptArchive, tmp_path: Path) -> Iterator[TestClient]:
    scorer = tiny_scorer(tiny_bundle(tmp_path / "tiny"))
    with desk_in(tmp_path / "desk", archive=archive) as desk:
        app = app_around(scorer, desk, tmp_path)
        with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
            client.headers.update(key("analyst"))
            yield client
        assert app.state.service.gate.close(20)


log = conftest.log
"""The fixture: what the service logs while a test runs."""


def ids(client: TestClient, **query: Any) -> list[str]:
    """Event ids of an answer; the body's is the same as the address's."""
    given = client.get("/v1/search", params=query)
    assert given.status_code == 200, given.text
    body = {**query, **({"account": [query["account"]]} if "account" in query else {})}
    assert client.post("/v1/search", json=body).json() == given.json()
    fields = given.json()
    return [one["event_id"] for one in fields.get("hits", fields.get("events"))]


def test_the_nearest_come_first(client: TestClient) -> None:
    answer = client.get("/v1/search", params={"text": FRUIT}).json()["hits"]
    assert [hit["event_id"] for hit in answer[:2]] == ["e2", "e1"]
    first = answer[0]
    assert (first["similarity"], first["part"], first["same_text"]) == (1.0, "prompt", 2)
    assert (first["prompt"], first["account_id"], first["timestamp"]) == (FRUIT, "bob", NOON + 10)
    assert [hit["similarity"] for hit in answer] == sorted(
        (hit["similarity"] for hit in answer), reverse=True
    )
    assert len(ids(client, text=FRUIT, k=3)) == 3


def test_the_same_words_alone(client: TestClient) -> None:
    assert ids(client, text="\uff41pples and pears", exact=True) == ["e2", "e1"]
    assert ids(client, text="apples", exact=True) == []
    assert ids(client, text="tell me of", exact=True) == ["e5"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"account": "bob"}, {"e2", "e3"}),
        ({"account": "nobody"}, set()),
        ({"since": "2023-11-14T22:13:40Z"}, {"e3", "e4", "e5"}),
        ({"since": "1700000020.0", "until": "1700000040"}, {"e3", "e4"}),
        ({"intent": INTENTS[1]}, {"e2", "e3"}),
        ({"flagged": True}, {"e1", "e3"}),
        ({"flagged": False, "account": "bob"}, {"e2"}),
        ({"language": "de"}, {"e4"}),
        ({"template": "T2"}, {"e2"}),
    ],
)
def test_filters_leave_out_the_rest(
    client: TestClient, query: dict[str, Any], found: set[str]
) -> None:
    assert set(ids(client, text=FRUIT, k=50, **query)) == found


def test_more_like_an_event(client: TestClient) -> None:
    like = {"like_account": "ann", "like_event": "e1"}
    assert ids(client, **like)[0] == "e2"
    assert "e1" not in ids(client, **like)
    assert ids(client, like_account="bob", like_event="e3", elsewhere=True, k=50).count("e2") == 0
    assert ids(client, like_account="bob", like_event="e3", parts="frame") == []
    for wrong in ({"like_account": "ann", "like_event": "none"}, {"like_event": "e1"},
                  {"like_account": "ann"}, {**like, "text": "x"}):  # fmt: skip
        assert client.get("/v1/search", params=wrong).status_code in (404, 422)


def test_the_latest_of_a_template(client: TestClient, archive: PromptArchive) -> None:
    # Its nearest template, and not near enough for a hit.
    put(archive, [row("far off", "far", "e6", NOON + 50, template="T1", similarity=0.69)])
    answer = client.get("/v1/search", params={"template": "T1", "k": 2}).json()
    assert [event["event_id"] for event in answer["events"]] == ["e4", "e3"]
    assert (answer["total"], answer["total_accounts"]) == (3, 3)
    assert ids(client, template="T1", account="ann") == ["e1"]


def test_who_else_asked_this(client: TestClient) -> None:
    query: dict[str, Any] = {"text": FRUIT, "by_account": True, "min_similarity": 0.99}
    answer = client.get("/v1/search", params=query).json()["accounts"]
    assert {one["account_id"] for one in answer} == {"ann", "bob"}
    assert answer[0]["best"]["prompt"] == FRUIT


@pytest.mark.parametrize(
    "query",
    [
        {}, {"text": ""}, {"k": 0, "text": "x"}, {"k": 201, "text": "x"}, {"text": "x", "q": "y"},
        {"text": "x", "since": "soon"}, {"text": "x", "since": "nan"}, {"text": "x", "parts": "z"},
        {"text": "x", "until": "9" * 400}, {"text": "x", "language": "tlh"},
        {"by_account": True, "template": "T1"}, {"text": "x", "min_similarity": "nan"},
        {"text": "x", "by_account": True, "exact": True}, {"text": "x", "account": [""]},
    ],
)  # fmt: skip
def test_what_is_no_search_is_refused(client: TestClient, query: dict[str, Any]) -> None:
    for answer in (
        client.get("/v1/search", params=query),
        client.post("/v1/search", json=query),
    ):
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), answer.text


@pytest.mark.parametrize("text", [" ", "\n\t", "\u200b", "\u2060\u00ad \u3000\u2800", "\ufe0f"])
def test_what_cannot_be_seen_is_not_searched(client: TestClient, text: str) -> None:
    for more in ({}, {"exact": True}, {"by_account": True}, {"account": ["nobody"]}):
        query: dict[str, Any] = {"text": text, **more}
        for answer in (
            client.get("/v1/search", params=query),
            client.post("/v1/search", json=query),
        ):
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
            assert "nothing of it can be seen" in answer.json()["detail"]


def test_nothing_of_a_search_is_logged_or_told(client: TestClient, log: io.StringIO) -> None:
    for query in (
        {"text": SECRET},
        {"text": SECRET, "since": "soon"},
        {"template": SECRET},
        {"text": SECRET, "q": SECRET},
        {"like_account": SECRET, "like_event": SECRET},
    ):
        for answer in (
            client.get("/v1/search", params=query),
            client.post("/v1/search", json=query),
        ):
            assert SECRET not in answer.text
    assert SECRET.split()[0] not in log.getvalue()  # fmt: skip


def test_a_bound_key_searches_nothing(client: TestClient) -> None:
    for answer in (
        client.get("/v1/search", params={"text": "x"}, headers=key("bound")),
        client.post("/v1/search", json={"text": "x"}, headers=key("bound")),
    ):
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden_account")
