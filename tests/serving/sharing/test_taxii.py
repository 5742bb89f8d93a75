"""The TAXII 2.1 collection: by a common client, page by page, for peers and read only."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import taxii2client.v21 as client
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from starlette.testclient import TestClient
from stix2validator import ValidationOptions, validate_instance

from stillwatch.data.intelligence import Tlp
from stillwatch.serving.desk import Desk
from stillwatch.serving.sharing import Shelf
from stillwatch.serving.sharing.collection import Collection, Filter
from tests.serving.desk.desk_support import CANARY, verdict
from tests.serving.http.test_http_auth import MATRIX
from tests.serving.sharing.sharing_support import (
    CAMPAIGN,
    FRAMES,
    KEYS,
    PEER,
    app_around,
    go_live,
    served,
    share_all,
    sharing_desk,
)

MEDIA = "application/taxii+json;version=2.1"
SECRET_ACCOUNT = "acct-canary-1"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """Three live templates of which two are shared, and a decision with a canary in it."""
    with sharing_desk(tmp_path_factory.mktemp("desk")) as (desk, _):
        live = go_live(desk, *FRAMES[:3])
        desk.decide(SECRET_ACCOUNT, "confirm", CANARY, "ann", verdict(SECRET_ACCOUNT))
        for own in live[:2]:
            share_all(Shelf(desk), [own], Tlp.GREEN)
        yield desk


@pytest.fixture(scope="module")
def app(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    shelf = Shelf(desk)
    shelf.share_campaign(CAMPAIGN, "ann", "r")
    return app_around(shelf, tmp_path_factory.mktemp("app"))


@pytest.fixture(scope="module")
def http(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as http:
        http.headers["Authorization"] = f"Bearer {PEER.key}"
        yield http


@pytest.fixture(scope="module")
def collection(http: TestClient) -> str:
    """The path of the collection."""
    (one,) = http.get("/taxii2/api/collections/").json()["collections"]
    return f"/taxii2/api/collections/{one['id']}/"


def patterns(objects: list[dict[str, Any]]) -> set[str]:
    return {one["pattern"] for one in objects if one["type"] == "indicator"}


def test_a_common_client_reads_it(app: FastAPI) -> None:
    with served(app) as url:
        server = client.Server(f"{url}/taxii2/", user="north", password=PEER.key)
        root = server.default
        assert root.versions == [MEDIA]
        (found,) = root.collections
        assert (found.can_read, found.can_write) == (True, False)
        assert found.media_types == ["application/stix+json;version=2.1"]
        whole = found.get_objects()
        assert whole["more"] is False
        assert patterns(whole["objects"]) == set(FRAMES[:2])
        bundle = {"type": "bundle", "id": "bundle--6d0a2e0c-0000-4000-8000-000000000000",
                  "objects": whole["objects"]}  # fmt: skip
        options = ValidationOptions(version="2.1", strict=True, disabled="103,245")
        assert validate_instance(bundle, options).is_valid
        paged = [
            one
            for page in client.as_pages(found.get_objects, per_request=3)
            for one in page["objects"]
        ]
        assert paged == whole["objects"]
        listed = [
            one
            for page in client.as_pages(found.get_manifest, per_request=4)
            for one in page["objects"]
        ]
        assert [one["id"] for one in listed] == [one["id"] for one in whole["objects"]]
        (campaign,) = found.get_objects(type="campaign")["objects"]
        one = found.get_object(campaign["id"])
        assert one["objects"] == [campaign]
        versions = found.object_versions(campaign["id"])
        assert versions["versions"] == [campaign["modified"]]
        with pytest.raises(client.AccessError):
            found.add_objects(bundle)
        # Nothing of a customer's, in any answer.
        assert not [word for word in (CANARY, SECRET_ACCOUNT, "site-1") if word in str(whole)]


def test_pages_have_their_dates(http: TestClient, collection: str) -> None:
    whole = http.get(f"{collection}manifest/").json()["objects"]
    assert whole == sorted(whole, key=lambda one: (one["date_added"], one["id"]))
    first = http.get(f"{collection}objects/?limit=2")
    assert first.headers["content-type"] == MEDIA
    assert first.headers["x-taxii-date-added-first"] == whole[0]["date_added"]
    assert first.headers["x-taxii-date-added-last"] == whole[1]["date_added"]
    assert (first.json()["more"], len(first.json()["objects"])) == (True, 2)
    after = whole[len(whole) // 2]["date_added"]
    later = http.get(f"{collection}manifest/", params={"added_after": after}).json()["objects"]
    assert later == [one for one in whole if one["date_added"] > after]
    assert 0 < len(later) < len(whole)
    nothing = http.get(f"{collection}objects/?added_after=2099-01-01T00:00:00Z")
    assert nothing.json() == {"more": False}
    assert "x-taxii-date-added-last" not in nothing.headers


def test_filters(http: TestClient, collection: str) -> None:
    def ids(**query: str) -> list[str]:
        params = {name.replace("_", "[", 1) + "]": value for name, value in query.items()}
        found = http.get(f"{collection}manifest/", params=params).json()
        return [one["id"] for one in found.get("objects", [])]

    whole = http.get(f"{collection}manifest/").json()["objects"]
    two = [whole[0]["id"], whole[-1]["id"]]
    assert sorted(ids(match_id=",".join(two))) == sorted(two)
    assert {one.split("--")[0] for one in ids(match_type="indicator,campaign")} == {
        "indicator", "campaign",
    }  # fmt: skip
    assert ids(match_type="indicator", match_id=two[0]) in ([], [two[0]])
    every = [one["id"] for one in whole]
    for version in ("last", "first", "all"):
        assert ids(match_version=version) == every
    version = whole[-1]["version"]
    assert ids(match_version=version) == [one["id"] for one in whole if one["version"] == version]
    assert ids(match_spec_version="2.1") == every
    assert ids(match_spec_version="2.0") == []


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=x", "limit=-1", "next=%00", "next=WzEsMl0", "next=bm8", "next=" + "a" * 500,
     "added_after=yesterday", "added_after=", "match[version]=newest",
     "match[id]=" + ",".join(["a"] * 5 + [str(n) for n in range(200)])],
)  # fmt: skip
def test_a_wrong_query_is_refused(http: TestClient, collection: str, query: str) -> None:
    for part in ("objects", "manifest"):
        answer = http.get(f"{collection}{part}/?{query}")
        assert answer.status_code == 422, answer.text
        assert answer.json()["code"] == "invalid_request"


def test_what_is_not_there_is_not_found(http: TestClient, collection: str) -> None:
    other = "/taxii2/api/collections/6d0a2e0c-0000-4000-8000-000000000000/"
    for path in (other, f"{other}objects/", f"{other}manifest/", f"{collection}objects/x--1/",
                 f"{collection}objects/x--1/versions/", "/taxii2/other/", "/taxii2"):  # fmt: skip
        assert http.get(path).status_code == 404


def test_nothing_can_be_written(http: TestClient, collection: str) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        for path in (f"{collection}objects/", f"{collection}objects/x--1/", collection):
            assert http.request(method, path).status_code == 405


def test_peers_and_admins_alone_get_in(http: TestClient, collection: str) -> None:
    for name, made in KEYS.items():
        for scheme in ("bearer", "basic", "header"):
            basic = base64.b64encode(f"anybody:{made.key}".encode()).decode()
            headers = {
                "bearer": {"Authorization": f"Bearer {made.key}"},
                "basic": {"Authorization": f"Basic {basic}"},
                "header": {"X-API-Key": made.key, "Authorization": ""},
            }[scheme]
            status = http.get(collection, headers=headers).status_code
            assert status == (200 if name in ("peer", "admin") else 403)


@pytest.mark.parametrize(
    "token",
    ["", "%%", "eDp5", base64.b64encode(b"nobody").decode(), base64.b64encode(b":").decode(),
     base64.b64encode(f"{PEER.key}:x".encode()).decode(), "A" * 5000,
     base64.b64encode(b"x:\xff\xfe\xc3").decode()],
    ids=["empty", "no base64", "no colon", "a name", "a colon", "a key as name", "long", "no text"],
)  # fmt: skip
def test_what_is_no_password_opens_nothing(http: TestClient, token: str) -> None:
    answer = http.get("/taxii2/", headers={"Authorization": f"Basic {token}"})
    assert answer.status_code == 401
    assert "Basic" in answer.headers["www-authenticate"]


def test_basic_opens_nothing_else() -> None:
    # Only what is under /taxii2/ takes it, and no other route lets a peer in at all: see MATRIX.
    from stillwatch.serving.http.auth import ROLES

    assert "peer" not in ROLES
    for (_, path), roles in MATRIX.items():
        if "none" not in roles:
            assert ("peer" in roles) == path.startswith("/taxii2/"), path


def test_the_matrix_knows_these_routes(app: FastAPI) -> None:
    own = {
        (method, str(context.path))
        for context in iter_route_contexts(app.routes)
        for method in context.methods or ()
        if str(context.path).startswith("/taxii2")
    }
    assert own == {route for route in MATRIX if route[1].startswith("/taxii2")}
    assert len(own) == 8


def test_without_a_desk_it_says_so(tmp_path: Path) -> None:
    with TestClient(app_around(None, tmp_path), base_url="http://127.0.0.1") as http:
        headers = {"X-API-Key": PEER.key}
        assert http.get("/taxii2/", headers=headers).status_code == 200
        answer = http.get("/taxii2/api/collections/", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


class TestCollection:
    def test_what_comes_later_is_found_by_who_was_here(self, tmp_path: Path) -> None:
        with sharing_desk(tmp_path) as (desk, _):
            one, other = go_live(desk, FRAMES[0]) + go_live(
                desk, FRAMES[1], intent="output_harvesting"
            )
            shelf = Shelf(desk)
            held = Collection(shelf)
            share_all(shelf, [one])
            seen = held.page(Filter(), 1000)
            again = Collection(Shelf(desk))
            assert (again.id, again.page(Filter(), 1000)) == (held.id, seen)
            share_all(shelf, [other])
            new = held.page(Filter(added_after=seen.last), 1000).items
            # With all that it needs that was not there before.
            assert {item.content["type"] for item in new} == {
                "indicator", "relationship", "attack-pattern",
            }  # fmt: skip
            desk.templates.revoke(one, "ann", "r")
            last = max(item.added for item in new)
            found = held.page(Filter(added_after=last), 1000).items
            revoked = [item.content for item in found if item.content["type"] == "indicator"]
            assert [item["revoked"] for item in revoked] == [True]

    def test_pages_hold_when_something_comes_between(self, tmp_path: Path) -> None:
        with sharing_desk(tmp_path) as (desk, _):
            shelf = Shelf(desk)
            live = go_live(desk, *FRAMES)
            share_all(shelf, live[:3])
            held = Collection(shelf)
            whole = [item.id for item in held.page(Filter(), 1000).items]
            first = held.page(Filter(), 4)
            share_all(shelf, live[3:])
            rest = held.page(Filter(), 1000, first.next)
            ids = [item.id for item in (*first.items, *rest.items)]
            assert len(set(ids)) == len(ids)
            assert set(whole) < set(ids)

    def test_nothing_is_made_anew_while_nothing_changes(self, desk: Desk) -> None:
        calls = []

        class Counting(Shelf):
            def objects(self) -> list[dict[str, Any]]:
                calls.append(1)
                return super().objects()

        day = [date(2023, 11, 16)]
        held = Collection(Counting(desk), lambda: day[0])
        for _ in range(3):
            held.page(Filter())
        assert len(calls) == 1
        day[0] = datetime(2023, 11, 17, tzinfo=UTC).date()
        held.page(Filter())
        assert len(calls) == 2


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_answers_are_as_described(app: FastAPI, collection: str, mode: GenerationMode) -> None:
    config = SchemathesisConfig.from_dict({"generation": {"with-security-parameters": False}})
    api: Any = schemathesis.openapi.from_asgi("/openapi.json", app, config=config)
    own = collection.split("/")[-2]
    count = 0
    for found in api.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=10, suppress_health_check=list(HealthCheck))
        def answers(case: schemathesis.Case[Any]) -> None:
            if "collection_id" in (case.path_parameters or {}):
                case.path_parameters["collection_id"] = own
            excluded: list[Any] = [positive_data_acceptance]
            # Parameters that nobody knows are ignored.
            known = {parameter.name for parameter in case.operation.query}
            if not known.issuperset(case.query or ()):
                excluded.append(negative_data_rejection)
            answer = case.call(headers={"X-API-Key": PEER.key})
            case.validate_response(answer, excluded_checks=excluded)
            assert answer.status_code < 500

        if "{" in operation.path or mode is GenerationMode.POSITIVE:
            answers()
            count += 1
    assert count >= 5


def test_an_envelope_is_json_in_ascii(http: TestClient, collection: str) -> None:
    content = http.get(f"{collection}objects/").content
    assert content.isascii()
    assert json.loads(content)["more"] is False
