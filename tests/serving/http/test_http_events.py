"""Events in, account lines out: one or many, all or none, each in its place."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from tests.serving.http.http_support import (
    FLAGGED,
    POISON,
    ScriptedScorer,
    client_of,
    event,
    settings_in,
)
from tests.support import make_events, tiny_bundle, tiny_scorer

CANARY = "canary-4711"


def post(client: TestClient, body: Any, **headers: str) -> Any:
    return client.post("/v1/events", json=body, headers=headers)


def test_one_event_gives_one_account_line(client: TestClient) -> None:
    answer = post(client, event(prompt=f"Show your {FLAGGED}"))
    assert answer.status_code == 200
    (line,) = answer.json()["verdicts"]
    assert line["account_id"] == "a1"
    assert line["flagged"] is True
    assert line["evidence"][0]["event_id"] == "e1"
    assert list(line) == [
        "account_id", "events", "risk", "peak_risk", "intents", "flagged", "threshold",
        "flagged_after", "evidence", "bundle", "truncated",
    ]  # fmt: skip


def test_verdicts_come_in_the_order_of_the_events(client: TestClient) -> None:
    accounts = ["b", "a", "b", "c", "a"]
    events = [event(f"e{i}", account) for i, account in enumerate(accounts)]
    verdicts = post(client, {"events": events}).json()["verdicts"]
    assert [line["account_id"] for line in verdicts] == accounts
    # What one call scored stands together, so the scripted count is that after the whole batch.
    assert len(verdicts) == 5


def test_the_service_gives_the_scorers_own_numbers(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "tiny")
    events = make_events(accounts=3, each=4)
    alone = {v.account_id: v.to_fields() for v in tiny_scorer(bundle).update(events)}
    fields = [
        {
            "event_id": e.event_id, "account_id": e.account_id, "timestamp": e.timestamp,
            "prompt": e.prompt, "system": e.system,
        }
        for e in events
    ]  # fmt: skip
    with client_of(settings_in(tmp_path), tiny_scorer(bundle)) as client:
        post(client, {"events": fields[:5]})
        for one in fields[5:]:
            assert post(client, one).status_code == 200
        for account_id, expected in alone.items():
            found = client.get(f"/v1/accounts/{account_id}").json()
            assert found["events"] == expected["events"]
            assert found["risk"] == pytest.approx(expected["risk"], abs=1e-5)
        assert "stillwatch_encode_seconds_count 0.0" not in client.get("/metrics").text
        again = post(client, {"events": fields}).json()["verdicts"]
        assert {line["events"] for line in again} == {4}


@pytest.mark.parametrize("bad", [{"account_id": "x"}, 7, None, {"prompt": CANARY}, event(n="x")])
def test_a_malformed_event_of_many_stops_all(
    client: TestClient, scorer: ScriptedScorer, bad: object
) -> None:
    answer = post(client, {"events": [event("e1"), bad, event("e2")]})
    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid_event"
    assert answer.json()["position"] == 1
    assert "Event 1 of 3" in answer.json()["detail"]
    assert CANARY not in answer.text
    assert not scorer.calls


def test_too_many_events_say_how_many_may_be(client: TestClient, scorer: ScriptedScorer) -> None:
    answer = post(client, {"events": [event(f"e{i}") for i in range(1001)]})
    assert answer.status_code == 413
    assert answer.json()["code"] == "batch_too_large"
    assert "1,000" in answer.json()["detail"]
    assert not scorer.calls
    assert post(client, {"events": []}).status_code == 422


NESTED = '{"account_id":"a","prompt":"p","x":' + "[" * 90_000 + "]" * 90_000 + "}"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"null", 400),
        (b"[1]", 400),
        (b'"text"', 400),
        (b"{", 400),
        (b"\xff\xfe{}", 400),
        (b'{"account_id":"a","prompt":"p","timestamp":NaN}', 400),
        (b'{"account_id":"a","prompt":"p","temperature":1e999}', 400),
        (b'{"account_id":"a","account_id":"b","prompt":"p"}', 400),
        (b'{"account_id":"a","prompt":"p","n":' + b"9" * 5000 + b"}", 400),
        (b'{"account_id":"a","prompt":"\x00"}', 400),
        (NESTED.encode(), 400),
        (NESTED[:135].encode() + b"]" * 100 + b"}", 422),
        (rb'{"account_id":"a\u0000","prompt":"p"}', 422),
        (rb'{"account_id":"a","prompt":"\ud800"}', 422),
        (rb'{"account_id":"a","prompt":"p","event_id":"\udfff"}', 422),
        (b'{"account_id":"a","prompt":"p","timestamp":1e300}', 422),
        (b'{"account_id":" ","prompt":"p"}', 422),
        (b'{"account_id":"' + b"a" * 513 + b'","prompt":"p"}', 422),
        (b'{"events":[{"account_id":"a","prompt":"p"}],"prompt":"p"}', 422),
        (b'{"events":{"account_id":"a","prompt":"p"}}', 422),
    ],
)
def test_hostile_bodies_are_refused(
    client: TestClient, scorer: ScriptedScorer, body: bytes, status: int
) -> None:
    answer = client.post("/v1/events", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert not scorer.calls


def test_hostile_text_in_a_prompt_is_scored(tmp_path: Path) -> None:
    # To refuse it would be a way past the detector.
    with client_of(settings_in(tmp_path), tiny_scorer(tiny_bundle(tmp_path / "tiny"))) as client:
        prompt = "\0\x1b[2J\u202e\ufffe" + "e\u0301" * 100
        for one in (event(prompt=prompt), event("e2", note="\ud800", x={"\udfff": [{"\0": 1}]})):
            headers = {"Content-Type": "application/json"}
            answer = client.post("/v1/events", content=json.dumps(one), headers=headers)
            assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", None])
def test_other_content_types_are_refused(client: TestClient, media_type: str | None) -> None:
    headers = {} if media_type is None else {"Content-Type": media_type}
    answer = client.post("/v1/events", content=json.dumps(event()), headers=headers)
    assert answer.status_code == 415
    assert answer.json()["code"] == "unsupported_media_type"


@pytest.mark.parametrize(
    ("ahead_s", "corrected"),
    [(None, True), (86_400.0, True), (300.0, False), (-3e7, False)],
)
def test_a_clock_ahead_gets_the_time_of_arrival(
    client: TestClient, scorer: ScriptedScorer, ahead_s: float | None, corrected: bool
) -> None:
    before = time.time()
    timestamp = None if ahead_s is None else before + ahead_s
    assert post(client, event(timestamp=timestamp)).status_code == 200
    (scored,) = scorer.scored
    if corrected:
        assert before <= scored.timestamp <= time.time()
    else:
        assert scored.timestamp == timestamp
    skewed = "stillwatch_skewed_clocks_total 1.0" in client.get("/metrics").text
    assert skewed == (corrected and timestamp is not None)


@pytest.mark.parametrize("account_id", ["acme/7", "a b?c#d%", "größe/ü", "a//b", "x/", "a\n"])
def test_an_account_is_found_by_any_id(client: TestClient, account_id: str) -> None:
    post(client, event(account_id=account_id))
    found = client.get("/v1/accounts/" + quote(account_id, safe=""))
    assert found.json()["account_id"] == account_id


def test_an_unknown_account_is_not_found(client: TestClient) -> None:
    for path in ("nobody", "", "a" * 2000, "%00", "%ff"):
        answer = client.get(f"/v1/accounts/{path}")
        assert answer.status_code == 404
        assert answer.json()["code"] == "unknown_account"


def test_a_poison_event_is_set_aside_and_the_rest_go_on(
    client: TestClient, scorer: ScriptedScorer, tmp_path: Path
) -> None:
    events = [event("e1"), event("e2", prompt=f"{POISON} {CANARY}"), event("e3")]
    answer = post(client, {"events": events})
    assert answer.status_code == 200
    first, second, third = answer.json()["verdicts"]
    assert first["account_id"] == third["account_id"] == "a1"
    assert second == {"event_id": "e2", "error": {"code": "dead_letter"}}
    assert [e.event_id for e in scorer.scored] == ["e1", "e3"]
    assert scorer.calls.count(["e2"]) == 3

    file = tmp_path / "dead.jsonl"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (line,) = file.read_text().splitlines()
    kept = json.loads(line)
    assert kept["error"] == "ValueError"
    assert kept["event"] == events[1]

    # Known again: no fourth try, no second line.
    before = len(scorer.calls)
    assert post(client, events[1]).json()["verdicts"] == [second]
    assert len(scorer.calls) == before
    assert len(file.read_text().splitlines()) == 1
    assert "stillwatch_dead_letters_total 1.0" in client.get("/metrics").text


def test_what_cannot_be_set_aside_is_a_fault_of_its_request_alone(
    scorer: ScriptedScorer, tmp_path: Path
) -> None:
    with client_of(settings_in(tmp_path, dead_letters=tmp_path / "no" / "dead"), scorer) as client:
        assert post(client, event(prompt=POISON)).status_code == 500
        assert post(client, event("e2")).status_code == 200


def test_a_store_that_fails_is_told_and_recovers(
    client: TestClient, scorer: ScriptedScorer
) -> None:
    scorer.down = True
    answer = post(client, event())
    assert answer.status_code == 503
    assert answer.json()["code"] == "store_unavailable"
    assert int(answer.headers["retry-after"]) >= 1
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200
    assert client.get("/v1/accounts/a1").status_code == 503
    assert len(scorer.calls) == 1, "a store's failure is no event's fault"
    scorer.down = False
    assert client.get("/readyz").status_code == 200
    assert post(client, event()).status_code == 200


def test_another_bundle_tries_again_what_the_last_failed_on(
    client: TestClient, scorer: ScriptedScorer
) -> None:
    post(client, event(prompt=POISON))
    before = len(scorer.calls)
    scorer.bundle_id = "another"
    client.app.state.service.bundle_changed()  # type: ignore[attr-defined]
    post(client, event(prompt=POISON))
    assert len(scorer.calls) > before
    assert 'bundle="another"' in client.get("/metrics").text
