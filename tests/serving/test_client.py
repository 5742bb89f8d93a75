"""The client against the real app: the same verdicts as the scorer in process, and what it does
when the service refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from stillwatch.data.events import Event
from stillwatch.serving import client as client_module
from stillwatch.serving.client import Client, ServiceError
from tests.serving.http.http_support import POISON, ScriptedScorer, client_of, settings_in
from tests.support import make_events, tiny_bundle, tiny_scorer

URL = "http://localhost"


def through(app: TestClient) -> httpx.MockTransport:
    """Hands each request to the app, whose loop runs in another thread."""

    def answer(request: httpx.Request) -> httpx.Response:
        found = app.request(
            request.method, str(request.url), content=request.read(), headers=request.headers
        )
        return httpx.Response(found.status_code, headers=found.headers, content=found.content)

    return httpx.MockTransport(answer)


def client_through(app: TestClient, patience_s: float = 30.0) -> Client:
    return Client(URL, transport=through(app), wait=lambda _: None, patience_s=patience_s)


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[tuple[Client, ScriptedScorer]]:
    scorer = ScriptedScorer()
    with (
        client_of(settings_in(tmp_path), scorer) as app,
        client_through(app, patience_s=0) as client,
    ):
        yield client, scorer


def check_alike(found: Any, wanted: Any) -> None:
    """The same but for the last digits, which depend on what was scored together."""
    assert type(found) is type(wanted)
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            check_alike(found[name], value)
    elif isinstance(wanted, list):
        for own, value in zip(found, wanted, strict=True):
            check_alike(own, value)
    else:
        assert found == (pytest.approx(wanted, abs=1e-5) if isinstance(wanted, float) else wanted)


def test_it_gives_the_verdicts_of_the_scorer_in_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = make_events()
    bundle = tiny_bundle(tmp_path / "bundle")
    expected = tiny_scorer(bundle)
    wanted = [verdict.to_fields() for verdict in expected.update(events)]
    monkeypatch.setattr(client_module, "BATCH_EVENTS", 7)
    settings = settings_in(tmp_path, max_wait_s=60)
    with client_of(settings, tiny_scorer(bundle)) as app, client_through(app) as client:
        found = client.update(iter(events))
        client.ingest(events)
        check_alike(client.verdict("a1").to_fields(), expected.verdict("a1").to_fields())
        with pytest.raises(KeyError):
            client.verdict("nobody/ at all")
    assert [(v.account_id, v.events) for v in found] == [
        (fields["account_id"], fields["events"]) for fields in wanted
    ]
    assert [v.risk for v in found] == pytest.approx([fields["risk"] for fields in wanted], abs=1e-5)


def test_batches_are_bounded_in_bytes_and_lose_nothing(
    scripted: tuple[Client, ScriptedScorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, scorer = scripted
    monkeypatch.setattr(client_module, "BATCH_BYTES", 2500)
    events = [Event(f"e{n}", "a", 1.7e9 + n, "x" * (n % 5) * 500) for n in range(40)]
    assert len(client.update(events)) == 40
    assert [event.event_id for event in scorer.scored] == [event.event_id for event in events]


def test_a_store_that_is_away_is_a_refusal_with_its_code(
    scripted: tuple[Client, ScriptedScorer],
) -> None:
    client, scorer = scripted
    scorer.down = True
    with pytest.raises(ServiceError) as refused:
        client.update([Event("e1", "a", 1.7e9, "hello")])
    assert refused.value.status == 503
    scorer.down = False
    assert client.update([Event("e1", "a", 1.7e9, "hello")])[0].events == 1


def test_an_event_that_cannot_be_scored_is_told(scripted: tuple[Client, ScriptedScorer]) -> None:
    client, _ = scripted
    with pytest.raises(ServiceError) as refused:
        client.update([Event("e1", "a", 1.7e9, POISON), Event("e2", "a", 1.7e9, "fine")])
    assert refused.value.code == "dead_letter"
    assert POISON not in str(refused.value)
    assert client.verdict("a").events == 1


def answering(*answers: httpx.Response | Exception) -> httpx.MockTransport:
    left = iter(answers)

    def answer(_: httpx.Request) -> httpx.Response:
        found = next(left)
        if isinstance(found, Exception):
            raise found
        return found

    return httpx.MockTransport(answer)


def test_what_passes_is_tried_again_after_the_time_it_states() -> None:
    waits: list[float] = []
    transport = answering(
        httpx.Response(429, headers={"Retry-After": "2"}, json={"code": "overloaded"}),
        httpx.ConnectError("refused"),
        httpx.Response(200, json={"verdicts": []}),
    )
    with closing(Client(URL, transport=transport, wait=waits.append)) as client:
        assert client.update([Event("e1", "a", 1.7e9, "hello")]) == []
    assert 2 <= waits[0] <= 2.6
    assert len(waits) == 2


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (lambda: httpx.ConnectError("refused"), "unreachable"),
        (lambda: httpx.Response(401, json={"detail": "no", "code": "bad_key"}), "bad_key"),
        (lambda: httpx.Response(502, text="<html>"), "unknown"),
        (lambda: httpx.Response(200, text="<html>"), "no_json"),
    ],
)
def test_what_does_not_pass_is_an_error(
    answer: Callable[[], httpx.Response | Exception], code: str
) -> None:
    with closing(Client(URL, transport=answering(answer()), patience_s=0)) as client:
        with pytest.raises(ServiceError) as refused:
            client.verdict("a")
        assert refused.value.code == code
