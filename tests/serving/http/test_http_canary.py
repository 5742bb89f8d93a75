"""A prompt sent down every way, the broken ones too, turns up nowhere but where it must."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from stillwatch.serving.http import health
from stillwatch.serving.http.app import create_app
from stillwatch.serving.http.dead_letters import DeadLetters
from stillwatch.serving.http.observe import BrokenOff, Observe
from tests.serving.http.http_support import (
    POISON,
    ScriptedScorer,
    client_of,
    event,
    make_keys,
    settings_in,
)

CANARY = "canary-31337"
JSON = {"Content-Type": "application/json"}


def secret(**fields: Any) -> dict[str, Any]:
    return event(prompt=f"{CANARY} in a prompt", system=CANARY, note={CANARY: CANARY}, **fields)


def tensors(*, shape: list[int] | None = None, **columns: str) -> dict[str, Any]:
    values = {"account_id": "a", "event_id": "e", "prompt": CANARY} | columns
    return {
        "inputs": [
            {"name": name, "datatype": "BYTES", "shape": shape or [1], "data": [value]}
            for name, value in values.items()
        ]
    }


def test_a_prompt_is_told_nobody(
    log: io.StringIO,
    scorer: ScriptedScorer,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = make_keys()
    settings = settings_in(tmp_path, auth="keys", keys=keys.entries)
    with client_of(settings, scorer) as client:
        answers = []

        def send(status: int, method: str, path: str, key: str = keys.admin, **given: Any) -> None:
            headers = {"X-API-Key": key, **given.pop("headers", {})}
            answer = client.request(method, path, headers=headers, **given)
            assert answer.status_code == status, (path, answer.text)
            answers.append(answer)

        events, infer = "/v1/events", "/v2/models/stillwatch/infer"
        send(200, "POST", events, json=secret())
        send(200, "POST", events, json={"events": [secret(event_id="e2"), event("e3")]})
        send(200, "POST", infer, json=tensors())
        # Refused: by its form, its place, its key, its size.
        send(422, "POST", events, json=secret(temperature=CANARY))
        send(422, "POST", events, json=secret(account_id=["x", CANARY]))
        send(422, "POST", events, json={"events": [event(), {"prompt": CANARY}]})
        send(422, "POST", events, json={"events": CANARY})
        send(400, "POST", events, content=f'{{"prompt":"{CANARY}"', headers=JSON)
        send(400, "POST", events, content=f'{{"{CANARY}":1,"{CANARY}":2}}', headers=JSON)
        send(400, "POST", events, content=f'"{CANARY}"', headers=JSON)
        send(400, "POST", events, json=event(), headers={"X-Request-Timeout": CANARY})
        send(422, "POST", events, json={"prompt": CANARY, "events": []})
        surrogate = json.dumps(secret(session_id="\ud800" + CANARY))
        send(422, "POST", events, content=surrogate, headers=JSON)
        send(415, "POST", events, data={"prompt": CANARY})
        send(415, "POST", events, content=CANARY, headers={"Content-Type": f"text/{CANARY}"})
        send(415, "POST", events, content=CANARY, headers=JSON | {"Content-Encoding": CANARY})
        send(400, "POST", events, content=CANARY, headers=JSON | {"Content-Encoding": "gzip"})
        send(413, "POST", events, json=event(prompt=CANARY * 100_000))
        send(401, "POST", events, key=CANARY, json=secret())
        send(403, "POST", events, key=keys.analyst, json=secret())
        send(403, "POST", events, key=keys.bound, json=secret(account_id=CANARY))
        send(422, "POST", infer, json=tensors(shape=[2]))
        send(422, "POST", infer, json={"inputs": [{"name": CANARY}]})
        send(404, "GET", f"/{CANARY}?q={CANARY}")
        send(405, "DELETE", f"/v1/accounts/{CANARY}")
        send(405, CANARY.upper(), events, content=CANARY)
        send(404, "GET", f"/v1/accounts/{CANARY}?{CANARY}")
        send(200, "GET", "/healthz", headers={"X-Request-ID": f"{CANARY} x", "Cookie": CANARY})
        # Failing: an event that cannot be scored, a store that does not answer, a fault of ours.
        send(200, "POST", events, json=secret(event_id="bad", session_id=POISON) | poisoned())
        send(422, "POST", infer, json=tensors(prompt=f"{POISON} {CANARY}"))
        scorer.down = True
        send(503, "POST", events, json=secret(event_id="e9"))
        send(503, "POST", infer, json=tensors(event_id="e10"))
        scorer.down = False
        monkeypatch.setattr(scorer, "update", broken)
        monkeypatch.setattr(DeadLetters, "add", broken)
        send(500, "POST", events, json=secret(event_id="e11"))
        send(500, "POST", infer, json=tensors(event_id="e12"))
        send(200, "GET", "/metrics")
        send(200, "GET", "/openapi.json")
        send(200, "GET", "/docs")

    told = [answer.text + str(answer.headers.raw) for answer in answers]
    assert not [text for text in told if CANARY in text or CANARY.upper() in text]
    assert CANARY not in log.getvalue()
    assert CANARY.upper() not in log.getvalue()
    assert len([line for line in log.getvalue().splitlines() if '"request"' in line]) == len(told)
    printed = capfd.readouterr()
    assert CANARY not in printed.out + printed.err
    # The one place that says it keeps prompts.
    assert CANARY in (tmp_path / "dead.jsonl").read_text()


def poisoned() -> dict[str, str]:
    return {"prompt": f"{POISON} {CANARY}"}


def broken(*_: object) -> Any:
    raise RuntimeError(f"broken by {CANARY}")


def test_an_unexpected_fault_is_told_without_its_words(
    log: io.StringIO, scorer: ScriptedScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "JsonResponse", broken)
    with client_of(settings_in(tmp_path), scorer) as client:
        answer = client.get("/healthz")
        assert answer.status_code == 500
        assert answer.json()["code"] == "internal"
        assert answer.headers["x-request-id"]
        assert CANARY not in answer.text
    (fault,) = [json.loads(x) for x in log.getvalue().splitlines() if "a request failed" in x]
    assert fault["error"] == "RuntimeError"
    assert fault["place"].startswith("stillwatch.serving.http.health:")
    assert CANARY not in log.getvalue()


def test_a_refused_parameter_is_not_repeated(scorer: ScriptedScorer, tmp_path: Path) -> None:
    app = create_app(settings_in(tmp_path), scorer)

    @app.get("/count/{count}")
    async def count(count: int) -> int:
        return count

    with TestClient(app, base_url="http://127.0.0.1") as client:
        answer = client.get(f"/count/{CANARY}")
    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid_request"
    assert CANARY not in answer.text


def test_an_answer_that_breaks_off_is_told_without_its_words(
    log: io.StringIO, client: TestClient
) -> None:
    async def breaks(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        broken()

    async def ignore(*_: Any) -> Any:
        pass

    metrics = client.app.state.service.metrics  # type: ignore[attr-defined]
    scope = {"type": "http", "method": "GET", "path": f"/{CANARY}", "headers": []}
    with pytest.raises(BrokenOff) as raised:
        asyncio.run(Observe(breaks, metrics)(scope, ignore, ignore))
    assert raised.value.__suppress_context__
    assert CANARY not in log.getvalue()
