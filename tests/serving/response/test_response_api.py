"""`/v1/actions`: who may, what is answered, and that it is as described; the page of docs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import positive_data_acceptance

from stillwatch.serving.desk import Desk
from stillwatch.serving.http import docs, openapi, problems, schemas
from stillwatch.serving.http.app import create_app
from stillwatch.serving.http.problems import KINDS
from stillwatch.serving.response import api
from stillwatch.serving.response.advice import ACTIONS
from stillwatch.serving.response.ledger import Ledger
from stillwatch.serving.response.reading import read_policy
from stillwatch.serving.response.responder import Responder
from tests.serving.desk.desk_support import desk_in
from tests.serving.http.http_support import (
    ScriptedScorer,
    client_of,
    make_keys,
    settings_in,
)
from tests.serving.response.response_support import served
from tests.serving.response.test_ledger import confirm, enforce

KEYS = make_keys()


def test_actions_are_for_those_who_may(tmp_path: Path) -> None:
    keys = make_keys()
    bound = next(one for one in keys.entries if one.id == "bound").model_copy(
        update={"role": "analyst"}
    )
    entries = (*(one for one in keys.entries if one.id != "bound"), bound)
    with served(tmp_path, auth="keys", keys=entries) as here:
        here.flag("acme/1")
        here.flag("other")
        for account in ("acme/1", "other"):
            here.decide("confirm", account)
        here.client.headers["X-API-Key"] = keys.admin
        ids = {one["account_id"]: one["id"] for one in here.actions()}
        assert set(ids) == {"acme/1", "other"}
        here.client.headers["X-API-Key"] = keys.bound
        assert [one["account_id"] for one in here.actions()] == ["acme/1"]
        assert here.client.get("/v1/actions", params={"account_id": "other"}).status_code == 403
        for number in (ids["other"], 999):
            assert here.undo(number).status_code == 404
        assert here.undo(ids["acme/1"]).json()["undone"]["reviewer"] == "bound"
        here.client.headers["X-API-Key"] = keys.scorer
        assert here.undo(ids["other"]).status_code == 403
        here.client.headers["X-API-Key"] = keys.admin
        for bad in ({}, {"reason": ""}, {"reason": "r", "more": 1}, {"reason": 5}):
            answer = here.client.post(f"/v1/actions/{ids['other']}/undo", json=bad)
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
        assert [one["account_id"] for one in here.actions(active=True)] == ["other"]
        assert len(here.actions(limit=1)) == 1


def test_without_a_desk_every_route_says_so(tmp_path: Path) -> None:
    with client_of(settings_in(tmp_path), ScriptedScorer()) as client:
        for answer in (
            client.get("/v1/actions"), client.post("/v1/actions/1/undo", json={"reason": "r"}),
        ):  # fmt: skip
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_answers_are_as_described(tmp_path: Path, mode: GenerationMode) -> None:
    with desk_in(tmp_path / "desk") as desk:
        own = Ledger(desk, tmp_path / "desk")
        made = [enforce(own, confirm(desk, name)) for name in ("a1", "a2")]
        assert made[0] is not None
        found = described(tmp_path, desk)
        paths = (("/v1/actions", "get"), ("/v1/actions/{action_id}/undo", "post"))
        for path, method in paths:

            @given(case=found[path][method].as_strategy(generation_mode=mode))
            @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
            def answers(case: schemathesis.Case[Any]) -> None:
                answer = case.call(headers={"X-API-Key": KEYS.admin})
                case.validate_response(answer, excluded_checks=[positive_data_acceptance])
                if answer.status_code >= 400:
                    assert KINDS[answer.json()["code"]].status == answer.status_code

            answers()
        # What there is, too, not only refusals: standing, being undone, and undone.
        undo = {"path_parameters": {"action_id": made[0].id}, "body": {"reason": "r"},
                "media_type": "application/json"}  # fmt: skip
        calls: list[dict[str, Any]] = [{}, undo, {}]
        for (path, method), fields in zip((*paths, paths[0]), calls, strict=True):
            case = found[path][method].Case(**fields)
            answer = case.call(headers={"X-API-Key": KEYS.admin})
            assert answer.status_code == 200, answer.text
            case.validate_response(answer, excluded_checks=[positive_data_acceptance])


def described(folder: Path, desk: Desk) -> Any:
    """The description of an app of these routes alone, as schemathesis reads it."""
    options = settings_in(folder, auth="keys", keys=KEYS.entries)
    service = create_app(options, ScriptedScorer()).state.service
    app = FastAPI(title="response", version="1", openapi_url=None, docs_url=None, redoc_url=None)
    app.state.authenticator = options.authenticator()
    problems.install(app)
    responder = Responder(None, desk, folder / "desk", service.scorer, service.gate)
    for router in (api.router(responder), docs.router(service)):
        app.include_router(router)
    openapi.install(app)
    config = SchemathesisConfig.from_dict({"generation": {"with-security-parameters": False}})
    return schemathesis.openapi.from_asgi("/openapi.json", app, config=config)


def test_advice_is_as_described(tmp_path: Path) -> None:
    with served(tmp_path) as here:
        here.flag()
        here.decide("confirm")
        schema = schemas.SCHEMAS["Advice"]
        found = here.advice()
        assert set(found) == set(schema["properties"]) == set(schema["required"])
        assert schema["properties"]["action"]["enum"] == list(ACTIONS)
        assert "advice" not in schemas.SCHEMAS["Verdict"]["required"]


def test_the_page_of_the_policy_holds() -> None:
    from tests.serving.http.litellm_processes import ROOT, block

    page = (ROOT / "docs" / "response.md").read_text(encoding="utf-8")
    made = read_policy(block(page, "yaml").encode(), "docs/response.md")
    assert made.enforces
    # Every condition that there is stands on the page.
    from stillwatch.serving.response import reading

    for name in {**reading._ACCOUNT, **reading._CAMPAIGN}:
        assert f"`{name}" in page, name
