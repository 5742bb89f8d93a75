"""Who may call what: every route with every role, with no key and with a wrong one."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.testclient import TestClient

from stillwatch.serving.http.app import create_app
from stillwatch.serving.http.auth import ROLES, new_key
from stillwatch.serving.http.settings import ServeSettings
from tests.serving.http.http_support import (
    Keys,
    ScriptedScorer,
    client_of,
    event,
    make_keys,
    settings_in,
)

EVERYONE = frozenset({"none", "wrong", "peer", *ROLES})
ANY_KEY = frozenset(ROLES)
SCORING = frozenset({"scorer", "admin"})
DESK = frozenset({"analyst", "admin"})
PEERS = frozenset({"peer", "admin"})

MATRIX = {
    ("GET", "/healthz"): EVERYONE,
    ("GET", "/readyz"): EVERYONE,
    ("GET", "/metrics"): ANY_KEY,
    ("POST", "/v1/events"): SCORING,
    ("GET", "/v1/accounts/{account_id:any}"): ANY_KEY,
    ("GET", "/v1/bundle"): frozenset({"analyst", "admin"}),
    ("POST", "/v1/bundle/reload"): frozenset({"admin"}),
    ("GET", "/v2"): EVERYONE,
    ("GET", "/v2/health/live"): EVERYONE,
    ("GET", "/v2/health/ready"): EVERYONE,
    ("GET", "/v2/models/stillwatch"): EVERYONE,
    ("GET", "/v2/models/stillwatch/ready"): EVERYONE,
    ("POST", "/v2/models/stillwatch/infer"): SCORING,
    ("POST", "/beta/litellm_basic_guardrail_api"): SCORING,
    ("POST", "/v1/litellm/logs"): SCORING,
    ("GET", "/v1/decisions"): DESK,
    ("POST", "/v1/decisions"): DESK,
    ("POST", "/v1/decisions/{decision_id}/undo"): DESK,
    ("GET", "/v1/templates"): DESK,
    ("POST", "/v1/templates"): DESK,
    ("GET", "/v1/templates/{template_id}"): DESK,
    ("POST", "/v1/templates/propose"): DESK,
    ("POST", "/v1/templates/revoke"): DESK,
    ("POST", "/v1/templates/{template_id}/replay"): DESK,
    ("POST", "/v1/templates/{template_id}/approve"): DESK,
    ("POST", "/v1/templates/{template_id}/revoke"): DESK,
    ("GET", "/v1/campaigns"): DESK,
    ("GET", "/v1/campaigns/{campaign_id}"): DESK,
    ("GET", "/v1/actions"): DESK,
    ("POST", "/v1/actions/{action_id}/undo"): DESK,
    ("GET", "/v1/search"): DESK,
    ("POST", "/v1/search"): DESK,
    ("GET", "/taxii2/"): PEERS,
    ("GET", "/taxii2/api/"): PEERS,
    ("GET", "/taxii2/api/collections/"): PEERS,
    ("GET", "/taxii2/api/collections/{collection_id}/"): PEERS,
    ("GET", "/taxii2/api/collections/{collection_id}/manifest/"): PEERS,
    ("GET", "/taxii2/api/collections/{collection_id}/objects/"): PEERS,
    ("GET", "/taxii2/api/collections/{collection_id}/objects/{object_id}/"): PEERS,
    ("GET", "/taxii2/api/collections/{collection_id}/objects/{object_id}/versions/"): PEERS,
    ("GET", "/docs"): EVERYONE,
    ("GET", "/openapi.json"): EVERYONE,
}
"""Who may call each route. A new route needs a line here."""

KEYS = make_keys()


def routes_of(app: FastAPI) -> set[tuple[str, str]]:
    found = set()
    for context in iter_route_contexts(app.routes):
        assert context.path is not None
        assert context.methods, "a route without methods, such as a mount, cannot be checked"
        found |= {(method, context.path) for method in context.methods}
    return found


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    settings = settings_in(tmp_path_factory.mktemp("auth"), auth="keys", keys=KEYS.entries)
    with client_of(settings, ScriptedScorer()) as client:
        yield client


def headers_of(keys: Keys, role: str) -> dict[str, str]:
    if role == "none":
        return {}
    key = new_key().key if role == "wrong" else getattr(keys, role)
    return {"Authorization": f"Bearer {key}"}


def test_the_matrix_knows_every_route(guarded: TestClient) -> None:
    assert routes_of(guarded.app) == set(MATRIX)  # type: ignore[arg-type]


@pytest.mark.parametrize("role", sorted(EVERYONE))
@pytest.mark.parametrize(("method", "path"), sorted(MATRIX))
def test_a_route_serves_only_its_roles(
    guarded: TestClient, method: str, path: str, role: str
) -> None:
    url = path.replace("{account_id:any}", "a1")
    answer = guarded.request(method, url, headers=headers_of(KEYS, role))
    if role in MATRIX[method, path]:
        assert answer.status_code not in (401, 403)
    elif role in ("none", "wrong"):
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.json()["code"] == "unauthenticated"
    else:
        assert answer.status_code == 403
        assert answer.json()["code"] == "forbidden_role"


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": KEYS.scorer},
        {"Authorization": f"bearer {KEYS.scorer}"},
        {"Authorization": f"Bearer  {KEYS.scorer} "},
        {"Authorization": "Basic eDp5", "X-API-Key": KEYS.scorer},
    ],
)
def test_a_key_is_taken_from_either_header(guarded: TestClient, headers: dict[str, str]) -> None:
    assert guarded.post("/v1/events", json=event(), headers=headers).status_code == 200


@pytest.mark.parametrize(
    "key",
    ["", " ", "x" * 5000, KEYS.scorer[:-1], KEYS.scorer + "x", KEYS.entries[0].sha256, "\xff\xfe"],
    ids=["empty", "blank", "long", "cut", "longer", "digest", "no text"],
)
def test_what_is_no_key_opens_nothing(guarded: TestClient, key: str) -> None:
    for name, value in (("X-API-Key", key), ("Authorization", f"Bearer {key}")):
        headers: Any = {name: value.encode("latin-1")}
        answer = guarded.post("/v1/events", json=event(), headers=headers)
        assert answer.status_code == 401


def test_a_key_speaks_of_its_own_accounts_only(tmp_path: Path) -> None:
    scorer = ScriptedScorer()
    bound = {"X-API-Key": KEYS.bound}
    settings = settings_in(tmp_path, auth="keys", keys=KEYS.entries)
    with client_of(settings, scorer) as client:

        def post(*accounts: str) -> int:
            events = [event(f"e{i}", account) for i, account in enumerate(accounts)]
            return client.post("/v1/events", json={"events": events}, headers=bound).status_code

        assert post("acme/1", "acme/2") == 200
        for framed in ("other", "acme", "ACME/1", "x/acme/", " acme/1"):
            assert post("acme/1", framed) == 403
            tensors = [
                {"name": name, "datatype": "BYTES", "shape": [1], "data": [value]}
                for name, value in (("account_id", framed), ("event_id", "e"), ("prompt", "p"))
            ]
            answer = client.post(
                "/v2/models/stillwatch/infer", json={"inputs": tensors}, headers=bound
            )
            assert answer.status_code == 403
            assert answer.json()["code"] == "forbidden_account"
        assert {e.account_id for e in scorer.scored} == {"acme/1", "acme/2"}
        assert client.get("/v1/accounts/acme/1", headers=bound).status_code == 200
        # Neither whether another's account exists is told.
        for other in ("other", "nobody"):
            assert client.get(f"/v1/accounts/{other}", headers=bound).status_code == 403


@pytest.mark.parametrize("path", ["/v1/accounts/nobody", "/v1/search?text=x", "/metrics"])
def test_without_keys_only_this_machine_s_names_are_served(tmp_path: Path, path: str) -> None:
    with client_of(settings_in(tmp_path), ScriptedScorer()) as client:
        for host in (
            "evil.example",
            "evil.example:8080",
            "127.0.0.1.evil.example",
            "[2001:db8::1]",
        ):
            answer = client.get(path, headers={"Host": host})
            assert answer.status_code == 403, host
            assert answer.json()["code"] == "forbidden_host"
            assert "evil" not in answer.text
        for host in ("localhost:8080", "127.0.0.1", "[::1]:8080"):
            assert client.get(path, headers={"Host": host}).status_code != 403
        # What orchestrators ask for tells nothing of anybody.
        assert client.get("/healthz", headers={"Host": "10.0.0.7:8080"}).status_code == 200


def test_metrics_may_be_open(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, auth="keys", keys=KEYS.entries, metrics_open=True)
    with client_of(settings, ScriptedScorer()) as client:
        assert client.get("/metrics").status_code == 200


def test_a_body_is_not_read_without_a_key() -> None:
    read = []

    async def receive() -> dict[str, object]:
        read.append(1)
        return {"type": "http.disconnect"}

    sent: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)
        if message["type"] == "http.response.start":
            assert not read

    settings = ServeSettings(keys=KEYS.entries)
    scope = {
        "type": "http", "method": "POST", "path": "/v1/events", "raw_path": b"/v1/events",
        "query_string": b"", "headers": [(b"content-length", b"100")], "http_version": "1.1",
        "asgi": {"version": "3.0"}, "scheme": "http", "server": ("t", 80), "client": ("c", 1),
        "root_path": "",
    }  # fmt: skip
    asyncio.run(create_app(settings, ScriptedScorer())(scope, receive, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 401


def test_a_new_key_is_long_and_matches_its_hash() -> None:
    first, second = new_key(), new_key()
    assert first.key != second.key
    assert len(first.key) >= 43
    assert first.sha256 == hashlib.sha256(first.key.encode()).hexdigest()
