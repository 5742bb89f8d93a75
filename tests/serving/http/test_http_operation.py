"""What whoever runs the service sees: metrics, pages, log lines, safe headers."""

from __future__ import annotations

import io
import json
import logging
import re
from typing import Any

from starlette.testclient import TestClient

from tests.serving.http.http_support import (
    FLAGGED,
    ScriptedScorer,
    client_of,
    event,
    settings_in,
)


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


def test_a_request_is_one_line_of_json(client: TestClient, log: io.StringIO) -> None:
    client.post("/v1/events?note=secret-q", json=event(), headers={"X-Request-ID": "abc-1"})
    client.get("/v1/accounts/a1")
    first, second = [line for line in lines(log) if line["event"] == "request"]
    assert first["route"] == "/v1/events"
    assert first["method"] == "POST"
    assert first["status"] == 200
    assert first["events"] == 1
    assert first["request_id"] == "abc-1"
    assert first["ms"] >= 0
    assert second["route"] == "/v1/accounts/{account_id:any}"
    assert "secret-q" not in log.getvalue()


def test_a_request_id_is_kept_only_if_it_is_safe(client: TestClient) -> None:
    kept = client.get("/healthz", headers={"X-Request-ID": "A-1_b.2"})
    assert kept.headers["x-request-id"] == "A-1_b.2"
    for given in ("x" * 65, "a b", '"}', "", "ü"):
        headers: Any = {"X-Request-ID": given.encode()}
        answer = client.get("/healthz", headers=headers)
        assert re.fullmatch("[0-9a-f]{16}", answer.headers["x-request-id"])


def test_every_answer_has_safe_headers(client: TestClient) -> None:
    for path in ("/healthz", "/nothing", "/docs"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


def test_metrics_count_what_happened(client: TestClient, scorer: ScriptedScorer) -> None:
    client.post("/v1/events", json={"events": [event("e1"), event("e2", prompt=FLAGGED)]})
    client.post("/v1/events", content=b"{")
    for path in ("/secret-path-1", "/secret-path-2", "/v1/accounts/secret-account"):
        client.get(path)
    client.request("BREW", "/healthz")
    page = client.get("/metrics").text
    for sample in (
        'stillwatch_requests_total{method="POST",route="/v1/events",status="200"} 1.0',
        'stillwatch_requests_total{method="POST",route="/v1/events",status="415"} 1.0',
        'stillwatch_requests_total{method="GET",route="unknown",status="404"} 2.0',
        'stillwatch_requests_total{method="other",',
        'stillwatch_refused_total{code="unknown_account"} 1.0',
        "stillwatch_events_total 2.0",
        "stillwatch_flagged_verdicts_total 1.0",
        "stillwatch_queue_events 0.0",
        "stillwatch_batch_events_count 1.0",
        "stillwatch_score_seconds_count 1.0",
        f'stillwatch_bundle_info{{bundle="{scorer.bundle_id}"}} 1.0',
        "stillwatch_build_info{",
    ):
        assert sample in page, sample
    assert "secret" not in page
    names = re.findall(r"^# TYPE (\S+)", page, re.M)
    assert all(name.startswith("stillwatch_") for name in names)


def test_two_apps_do_not_share_their_metrics(client: TestClient, tmp_path: Any) -> None:
    client.get("/healthz")
    with client_of(settings_in(tmp_path), ScriptedScorer()) as other:
        assert 'route="/healthz"' not in other.get("/metrics").text


def test_the_page_of_the_api_needs_nothing_from_outside(client: TestClient) -> None:
    answer = client.get("/docs")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    page = answer.text
    assert "<script" not in page
    assert not re.search(r"(src|href)=.?(https?:)?//", page)
    described = client.get("/openapi.json").json()
    for path in described["paths"]:
        assert path in page
    for name in described["components"]["schemas"]:
        assert f'id="schema-{name}"' in page
    for target in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{target}"' in page, target


def test_the_description_is_whole(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    schemas = described["components"]["schemas"]
    for reference in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(described)):
        assert reference in schemas
    assert "HTTPValidationError" not in json.dumps(described)
    for path, operations in described["paths"].items():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                (media_type,) = answer["content"]
                expected = "application/problem+json" if int(status) >= 400 else None
                assert expected in (None, media_type), (path, status)
            needs_key = bool(operation["security"])
            assert needs_key == ("401" in operation["responses"]), path


def test_a_stopping_service_is_not_ready(client: TestClient) -> None:
    client.app.state.service.draining = True  # type: ignore[attr-defined]
    for path in ("/readyz", "/v2/health/ready", "/v2/models/stillwatch/ready"):
        answer = client.get(path)
        assert answer.status_code == 503
        assert answer.json()["code"] == "draining"
    assert client.get("/healthz").status_code == 200


def test_the_scorer_is_closed_when_the_service_stops(tmp_path: Any) -> None:
    scorer = ScriptedScorer()
    with client_of(settings_in(tmp_path), scorer):
        assert not scorer.closed
    assert scorer.closed


def test_what_libraries_log_is_told_without_values(log: io.StringIO) -> None:
    secret = "canary-9"
    try:
        raise ValueError(secret)
    except ValueError as error:
        caught = error
    logging.getLogger("uvicorn.error").error("Exception in ASGI application\n", exc_info=caught)
    logging.getLogger("uvicorn.error").error("%s - bad", secret)
    logging.getLogger("asyncio").error(f"never retrieved {secret}", exc_info=caught)
    logging.getLogger("another").warning(secret)
    logging.getLogger("another").debug(secret)
    found = lines(log)
    assert len(found) == 4
    assert found[0]["error"] == "ValueError"
    assert found[0]["event"] == "Exception in ASGI application"
    assert secret not in log.getvalue()
