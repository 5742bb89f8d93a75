"""The desk over HTTP: who may, what is refused and how, and what reaches the detector."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.testclient import TestClient

from stillwatch.data.errors import StoreError
from stillwatch.serving.desk import Desk
from stillwatch.serving.http import desk_api, docs, openapi, problems, search_api
from stillwatch.serving.http.app import create_app
from stillwatch.serving.http.auth import new_key
from stillwatch.serving.http.desk_schemas import OVERTAKEN, OVERTAKEN_KIND
from stillwatch.serving.http.problems import KINDS
from stillwatch.serving.http.service import Service
from stillwatch.serving.http.settings import KeyEntry, ServeSettings
from stillwatch.serving.scorer import Scorer
from tests.serving.archive.archive_support import DAY_S, filled, opened, put
from tests.serving.desk.desk_support import CANARY, NOON, Clock, desk_in, files_holding
from tests.serving.http.test_http_auth import MATRIX
from tests.support import make_events, tiny_bundle, tiny_scorer

NAMES = ("scorer", "analyst", "admin", "bound")
MADE = {name: new_key() for name in NAMES}
ENTRIES = tuple(
    KeyEntry.model_validate(
        {
            "id": name, "role": "analyst" if name == "bound" else name, "sha256": key.sha256,
            "accounts": "a1" if name == "bound" else "*",
        }
    )
    for name, key in MADE.items()
)  # fmt: skip
FRAME = "Sing of every thought that led you to {slot}"
CALLS = {
    ("GET", "/v1/decisions"): None,
    ("POST", "/v1/decisions"): {"account_id": "a1", "verdict": "reject", "reason": "r"},
    ("POST", "/v1/decisions/{decision_id}/undo"): {"reason": "r"},
    ("GET", "/v1/templates"): None,
    ("POST", "/v1/templates"): {"text": FRAME, "intent": "cot_harvesting"},
    ("GET", "/v1/templates/{template_id}"): None,
    ("POST", "/v1/templates/propose"): {"prompts": ["a", "b"]},
    ("POST", "/v1/templates/revoke"): {"source": "x", "reason": "r"},
    ("POST", "/v1/templates/{template_id}/replay"): {},
    ("POST", "/v1/templates/{template_id}/approve"): {"reason": "r"},
    ("POST", "/v1/templates/{template_id}/revoke"): {"reason": "r"},
    ("GET", "/v1/search"): None,
    ("POST", "/v1/search"): {"text": "word1"},
}


def key(name: str) -> dict[str, str]:
    return {"X-API-Key": MADE[name].key}


def app_around(scorer: Scorer, desk: Desk | None, folder: Path) -> FastAPI:
    """An app of the desk's routes alone."""
    options = ServeSettings(auth="keys", keys=ENTRIES, dead_letters=folder / "dead.jsonl")
    service = create_app(options, scorer).state.service
    app = FastAPI(title="desk", version="1", openapi_url=None, docs_url=None, redoc_url=None)
    app.state.authenticator = options.authenticator()
    app.state.service = service
    problems.install(app)
    routers = (desk_api.router(service, desk), search_api.router(desk), docs.router(service))
    for router in routers:
        app.include_router(router)
    openapi.install(app)
    return app


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny", enter=0.001, leave=0.0005)


@pytest.fixture
def scorer(bundle: Any) -> Scorer:
    scorer = tiny_scorer(bundle)
    scorer.ingest(make_events(3, 4))
    return scorer


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with opened(tmp_path / "archive") as archive:
        put(archive, filled(60))
        options = {"clock": Clock(NOON + DAY_S), "least_replayed": 50}
        with desk_in(tmp_path / "desk", archive=archive, **options) as desk:
            yield desk


@pytest.fixture
def client(scorer: Scorer, desk: Desk, tmp_path: Path) -> Iterator[TestClient]:
    app = app_around(scorer, desk, tmp_path)
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        client.headers.update(key("analyst"))
        yield client
    assert app.state.service.gate.close(20)


def installed(scorer: Scorer) -> list[str]:
    return [one.id for one in scorer.detector.site_templates]


def path_of(path: str) -> str:
    return path.replace("{decision_id}", "2").replace("{template_id}", "site-1")


def test_the_calls_know_every_route(client: TestClient) -> None:
    app: Any = client.app
    found = {
        (method, context.path)
        for context in iter_route_contexts(app.routes)
        for method in context.methods or ()
    }
    assert {item for item in found if str(item[1]).startswith("/v1")} == set(CALLS)
    assert set(CALLS) <= set(MATRIX)


@pytest.mark.parametrize(("method", "path"), sorted(CALLS))
def test_analysts_alone_are_let_in(client: TestClient, method: str, path: str) -> None:
    # With ids that are none, too: who may not call learns nothing of those.
    for url, body in ((path_of(path), CALLS[method, path]), (path, None)):
        for name, status in (("scorer", 403), ("analyst", 0), ("admin", 0), ("", 401)):
            headers = key(name) if name else {"X-API-Key": "none"}
            answer = client.request(method, url, json=body, headers=headers)
            if status:
                assert answer.status_code == status
            else:
                assert answer.status_code not in (401, 403, 500)


def test_without_a_desk_every_route_says_so(scorer: Scorer, tmp_path: Path) -> None:
    app = app_around(scorer, None, tmp_path)
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        for (method, path), body in CALLS.items():
            answer = client.request(method, path_of(path), json=body, headers=key("admin"))
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
    assert app.state.service.gate.close(20)


def test_a_decision_is_made_listed_and_undone(
    client: TestClient, scorer: Scorer, desk: Desk, tmp_path: Path
) -> None:
    body = {"account_id": "a1", "verdict": "confirm", "reason": "a harvest",
            "intents": ["output_harvesting"]}  # fmt: skip
    made = client.post("/v1/decisions", json=body).json()
    shown = scorer.verdict("a1").to_fields()
    assert (made["account_id"], made["reviewer"], made["state"]) == ("a1", "analyst", "counts")
    assert made["intents"] == ["output_harvesting"]
    assert [made[name] for name in ("risk", "threshold", "flagged", "events", "bundle")] == [
        shown[name] for name in ("risk", "threshold", "flagged", "events", "bundle")
    ]
    assert [item["event_id"] for item in made["evidence"]] == [
        item["event_id"] for item in shown["evidence"]
    ]
    assert made["evidence"]
    assert "excerpt" not in made["evidence"][0]
    assert client.get("/v1/decisions").json() == {"decisions": [made]}
    assert client.get("/v1/decisions", params={"account_id": "a2"}).json() == {"decisions": []}
    assert client.get("/v1/decisions", params={"since": made["time"] + 1}).json()["decisions"] == []
    url = f"/v1/decisions/{made['id']}/undo"
    undone = client.post(url, json={"reason": "wrong"}, headers=key("admin")).json()
    assert undone["undone"]["reviewer"] == "admin"
    again = client.post(url, json={"reason": "wrong"})
    assert (again.status_code, again.json()["code"]) == (422, "invalid_request")
    assert "undone already" in again.json()["detail"]
    assert client.post("/v1/decisions/999/undo", json={"reason": "r"}).status_code == 404
    assert desk.verify().intact


def test_a_decision_is_on_the_one_that_was_seen(client: TestClient, desk: Desk) -> None:
    body = {"account_id": "a1", "verdict": "confirm", "reason": "a harvest"}
    first = client.post("/v1/decisions", json={**body, "expected": None}).json()
    other = {**body, "verdict": "reject", "reason": "a customer"}
    for expected in (None, first["id"] + 1, 0, 10**30):
        answer = client.post(
            "/v1/decisions", json={**other, "expected": expected}, headers=key("admin")
        )
        found = answer.json()
        assert (answer.status_code, found["code"]) == (409, "decision_overtaken")
        assert answer.headers["content-type"] == "application/problem+json"
        assert found["present"] == first
        assert found["present"]["reviewer"] == "analyst"
    assert client.get("/v1/decisions").json() == {"decisions": [first]}
    seen = {**other, "expected": first["id"]}
    second = client.post("/v1/decisions", json=seen, headers=key("admin")).json()
    assert second["reviewer"] == "admin"
    # What another has followed is not undone.
    url = f"/v1/decisions/{first['id']}/undo"
    answer = client.post(url, json={"reason": "r"})
    assert (answer.status_code, answer.json()["present"]) == (409, second)
    # Who does not say what was seen decides as ever.
    assert client.post("/v1/decisions", json=body).status_code == 200
    assert [one.reviewer for one in desk.decisions("a1")] == ["analyst", "admin", "analyst"]
    for wrong in ("2", 2.0, True, [2]):
        assert client.post("/v1/decisions", json={**body, "expected": wrong}).status_code == 422


def test_what_overtakes_is_described(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for path in ("/v1/decisions", "/v1/decisions/{decision_id}/undo"):
        assert "decision_overtaken" in paths[path]["post"]["responses"]["409"]["description"]
    body = paths["/v1/decisions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "expected" not in body["required"]
    assert "409" in body["properties"]["expected"]["description"]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"account_id": "nobody"}, 404), ({"account_id": ""}, 404),
        ({"account_id": "x" * 600}, 404), ({"account_id": 5}, 422),
        ({"verdict": "maybe"}, 422), ({"reason": " "}, 422),
        ({"reason": None}, 422), ({"intents": ["theft"]}, 422), ({"intents": [5]}, 422),
        ({"intents": ["cot_harvesting"]}, 422), ({"more": CANARY}, 422),
    ],
)  # fmt: skip
def test_what_is_no_decision_is_refused(
    client: TestClient, desk: Desk, change: dict[str, Any], status: int
) -> None:
    body = {"account_id": "a1", "verdict": "reject", "reason": f"r {CANARY}", **change}
    answer = client.post("/v1/decisions", json=body)
    assert answer.status_code == status
    assert CANARY not in answer.text
    assert desk.head().count == 1


def test_a_bound_key_decides_on_its_own_accounts(client: TestClient) -> None:
    body = {"verdict": "reject", "reason": "r"}
    bound = key("bound")
    ids = {
        account: client.post("/v1/decisions", json={**body, "account_id": account}).json()["id"]
        for account in ("a1", "a2")
    }
    for account in ("a2", "nobody"):
        answer = client.post("/v1/decisions", json={**body, "account_id": account}, headers=bound)
        assert answer.status_code == 403
        found = client.get("/v1/decisions", params={"account_id": account}, headers=bound)
        assert found.status_code == 403
    listed = client.get("/v1/decisions", headers=bound).json()["decisions"]
    assert [one["account_id"] for one in listed] == ["a1"]
    for number in (ids["a2"], 999):
        answer = client.post(f"/v1/decisions/{number}/undo", json={"reason": "r"}, headers=bound)
        assert answer.status_code == 404
    answer = client.post(f"/v1/decisions/{ids['a1']}/undo", json={"reason": "r"}, headers=bound)
    assert answer.status_code == 200
    for (method, path), fields in CALLS.items():
        if "templates" in path:
            answer = client.request(method, path_of(path), json=fields, headers=bound)
            assert answer.status_code == 403


def test_a_template_reaches_the_detector(
    client: TestClient, scorer: Scorer, desk: Desk, tmp_path: Path
) -> None:
    prompts = [FRAME.replace("{slot}", word) for word in ("gold", "tin", "zinc")]
    proposal = client.post("/v1/templates/propose", json={"prompts": prompts}).json()
    assert proposal["text"].split() == FRAME.split()
    body = {"text": proposal["text"], "intent": "cot_harvesting", "expires": "2023-12-01"}
    made = client.post("/v1/templates", json=body).json()
    assert (made["id"], made["state"], made["source"]) == ("site-1", "quarantined", "desk")
    assert client.post("/v1/templates", json={**body, "intent": "theft"}).status_code == 422
    # Its thirty days end now: the clock of the desk is a day after its archive's events.
    replay = client.post("/v1/templates/site-1/replay", json={"days": 7}).json()
    assert (replay["prompts"], replay["hit_prompts"], replay["passes"]) == (60, 0, True)
    assert installed(scorer) == []
    live = client.post("/v1/templates/site-1/approve", json={"reason": "r", "days": 7}).json()
    assert live["state"] == "live"
    assert installed(scorer) == ["site-1"]
    assert client.get("/v1/templates", params={"state": "live"}).json()["templates"] == [live]
    assert client.get("/v1/templates", params={"state": "revoked"}).json()["templates"] == []
    assert client.get("/v1/templates/site-1").json() == live
    again = client.post("/v1/templates/site-1/approve", json={"reason": "r"})
    assert (again.status_code, again.json()["code"]) == (422, "invalid_request")
    revoked = client.post("/v1/templates/revoke", json={"source": "desk", "reason": "r"}).json()
    assert [one["state"] for one in revoked["templates"]] == ["revoked"]
    assert installed(scorer) == []
    for wrong in ("site-0", "site-01", "x", "site-99"):
        assert client.get(f"/v1/templates/{wrong}").status_code in (404, 422)


def test_a_broken_log_is_told(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "desk" / "audit.head").unlink()
    body = {"account_id": "a1", "verdict": "reject", "reason": "r"}
    answer = client.post("/v1/decisions", json=body)
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert client.get("/v1/decisions").status_code == 200


def test_no_prompt_is_kept_or_told(client: TestClient, scorer: Scorer, tmp_path: Path) -> None:
    events = [
        type(event)(event.event_id, "a7", event.timestamp, f"{CANARY} {event.prompt}")
        for event in make_events(1, 5)
    ]
    scorer.ingest(events)
    body = {"account_id": "a7", "verdict": "confirm", "reason": "r"}
    answer = client.post("/v1/decisions", json=body)
    assert answer.status_code == 200
    assert CANARY in scorer.verdict("a7").evidence[0].excerpt
    assert CANARY not in answer.text
    assert not files_holding(tmp_path / "desk", CANARY.encode())


def test_a_keeper_follows_reloads_and_expiry(scorer: Scorer, desk: Desk, tmp_path: Path) -> None:
    app = app_around(scorer, desk, tmp_path)
    service = app.state.service
    one = desk.templates.add(FRAME, "cot_harvesting", "own", "ann", "2023-11-20").id
    desk.templates.approve(one, scorer.encoder, "ann", "r")

    async def go() -> None:
        keeper = desk_api.TemplateKeeper(service, desk)
        await keeper.start()
        assert installed(scorer) == [one]
        scorer.detector = tiny_scorer(tiny_bundle(tmp_path / "next", seed=1)).detector
        await service.gate.call(keeper.bundle_changed)
        assert installed(scorer) == [one]
        clock: Any = desk.templates._clock
        clock.now += 10 * DAY_S
        anchor = tmp_path / "desk" / "audit.head"
        anchor.rename(tmp_path / "aside")
        # Nothing can be noted, but what has expired is not searched any more.
        await keeper.try_refresh()
        assert installed(scorer) == []
        assert desk.templates.get(one).state == "live"
        (tmp_path / "aside").rename(anchor)
        await keeper.try_refresh()
        assert desk.templates.get(one).state == "expired"
        await keeper.stop()
        desk.close()
        # What fails is tried again later; the service starts all the same.
        again = desk_api.TemplateKeeper(service, desk)
        before = failures(service, "install")
        await again.start()
        await again.stop()
        assert failures(service, "install") == before + 1

    asyncio.run(go())
    assert service.gate.close(20)


def failures(service: Service, stage: str) -> float:
    name = "stillwatch_template_failures_total"
    return service.metrics.registry.get_sample_value(name, {"stage": stage}) or 0.0


def test_a_desk_that_fails_at_the_start_is_tried_again(
    scorer: Scorer, desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = app_around(scorer, desk, tmp_path).state.service
    one = desk.templates.add(FRAME, "cot_harvesting", "own", "ann", "2023-12-20").id
    desk.templates.approve(one, scorer.encoder, "ann", "r")
    live, asked = desk.templates.live, []

    def fails_once() -> Any:
        asked.append(1)
        if len(asked) == 1:
            raise StoreError("the desk must answer, however: it does not")
        return live()

    async def go() -> None:
        monkeypatch.setattr(desk.templates, "live", fails_once)
        monkeypatch.setattr(desk_api, "KEEP_S", 0.01)
        keeper = desk_api.TemplateKeeper(service, desk)
        await keeper.start()
        assert failures(service, "install") == 1
        while not installed(scorer):
            await asyncio.sleep(0.01)
        await keeper.stop()
        assert installed(scorer) == [one]

    asyncio.run(asyncio.wait_for(go(), 20))
    assert service.gate.close(20)


def test_a_desk_that_does_not_answer_holds_up_nobody(
    scorer: Scorer, desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = app_around(scorer, desk, tmp_path).state.service
    one = desk.templates.add(FRAME, "cot_harvesting", "own", "ann", "2023-12-20").id
    desk.templates.approve(one, scorer.encoder, "ann", "r")
    held = threading.Event()
    expire = desk.templates.expire

    def hangs() -> int:
        assert held.wait(20)
        return expire()

    async def go() -> None:
        monkeypatch.setattr(desk.templates, "expire", hangs)
        monkeypatch.setattr(desk_api, "START_S", 0.01)
        keeper = desk_api.TemplateKeeper(service, desk)
        await keeper.start()
        assert failures(service, "slow") == 1
        assert installed(scorer) == []
        held.set()
        while not installed(scorer):
            await asyncio.sleep(0.01)
        await keeper.stop()

    asyncio.run(asyncio.wait_for(go(), 20))
    assert service.gate.close(20)


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_answers_are_as_described(client: TestClient, mode: GenerationMode) -> None:
    config = SchemathesisConfig.from_dict({"generation": {"with-security-parameters": False}})
    app: Any = client.app
    api: Any = schemathesis.openapi.from_asgi("/openapi.json", app, config=config)
    count = 0
    client.post("/v1/templates", json=CALLS["POST", "/v1/templates"])
    client.post("/v1/decisions", json=CALLS["POST", "/v1/decisions"])
    for found in api.get_all_operations():
        operation = found.ok()
        if not operation.path.startswith("/v1"):
            continue

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
        def answers(case: schemathesis.Case[Any]) -> None:
            answer = case.call(headers=key("admin"))
            case.validate_response(answer, excluded_checks=[positive_data_acceptance])
            if answer.status_code >= 400:
                code = answer.json()["code"]
                kind = OVERTAKEN_KIND if code == OVERTAKEN else KINDS[code]
                assert kind.status == answer.status_code

        answers()
        count += 1
    assert count == len(CALLS)
