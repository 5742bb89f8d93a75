"""The Open Inference Protocol: the same verdicts, as tensors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.serving.http.http_support import FLAGGED, POISON, ScriptedScorer
from tests.support import INTENTS

INFER = "/v2/models/stillwatch/infer"


def tensor(name: str, data: list[Any], datatype: str = "BYTES", **fields: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(data)], "data": data, **fields}


def request_of(count: int = 2, **fields: Any) -> dict[str, Any]:
    prompts = ["hello", f"your {FLAGGED}"] * count
    return {
        "inputs": [
            tensor("account_id", [f"a{i}" for i in range(count)]),
            tensor("event_id", [f"e{i}" for i in range(count)]),
            tensor("prompt", prompts[:count]),
        ],
        **fields,
    }


def with_tensor(given: dict[str, Any], replaced: dict[str, Any]) -> dict[str, Any]:
    kept = [item for item in given["inputs"] if item["name"] != replaced.get("name")]
    return {**given, "inputs": [*kept, replaced]}


def test_verdicts_are_tensors(client: TestClient, scorer: ScriptedScorer) -> None:
    given = request_of(id="call-7")
    given["inputs"].append(tensor("timestamp", [1.7e9, 1_700_000_001], "FP64"))
    given["inputs"].append(tensor("system", ["", "Answer briefly."]))
    answer = client.post(INFER, json=given).json()
    assert answer["model_name"] == "stillwatch"
    assert answer["model_version"] == scorer.bundle_id
    assert answer["id"] == "call-7"
    outputs = {item["name"]: item for item in answer["outputs"]}
    assert outputs["risk"]["data"] == [0.125, 1.0]
    assert outputs["flagged"] == {
        "name": "flagged", "datatype": "BOOL", "shape": [2], "data": [False, True],
    }  # fmt: skip
    assert outputs["intents"]["shape"] == [2, len(INTENTS)]
    assert outputs["intents"]["data"] == [0.125] * 3 + [1.0] * 3
    assert outputs["bundle"]["data"] == [scorer.bundle_id] * 2
    first, second = scorer.scored
    assert (first.system, second.system) == ("", "Answer briefly.")
    assert second.timestamp == 1_700_000_001


def test_the_outputs_are_those_asked_for(client: TestClient) -> None:
    wanted = [{"name": "flagged"}, {"name": "risk"}]
    answer = client.post(INFER, json=request_of(outputs=wanted)).json()
    assert [item["name"] for item in answer["outputs"]] == ["flagged", "risk"]


def test_a_column_may_be_a_matrix_of_one_column(client: TestClient) -> None:
    column = {**tensor("prompt", [["x"], ["y"]]), "shape": [2, 1]}
    assert client.post(INFER, json=with_tensor(request_of(), column)).status_code == 200


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"inputs": {}},
        {"inputs": [1]},
        {"inputs": request_of()["inputs"][:2]},
        {"inputs": request_of()["inputs"] * 2},
        request_of(0),
        request_of(outputs=[{"name": "weights"}]),
        request_of(outputs=[{"name": ["risk"]}]),
        request_of(outputs="risk"),
        request_of(id=7),
        request_of(id="\ud800"),
        request_of(parameters=[]),
        with_tensor(request_of(), tensor("prompt", ["one"])),
        with_tensor(request_of(), tensor("prompt", [1, 2])),
        with_tensor(request_of(), tensor("prompt", ["x", "y"], "FP32")),
        with_tensor(request_of(), tensor("prompt", ["x", "y"], shape=[3])),
        with_tensor(request_of(), tensor("prompt", ["x", "y"], shape=[-1, -2])),
        with_tensor(request_of(), tensor("prompt", ["x", "y"], shape=[2.0])),
        with_tensor(request_of(), tensor("prompt", ["x", "y"], shape=[1] * 100)),
        with_tensor(request_of(), tensor("timestamp", [True, 1.0], "FP64")),
        with_tensor(request_of(), tensor("unknown", ["x", "y"])),
        with_tensor(request_of(), {"name": ["prompt"], "datatype": "BYTES"}),
    ],
)
def test_what_is_no_request_is_refused(
    client: TestClient, scorer: ScriptedScorer, given: dict[str, Any]
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = client.post(INFER, content=json.dumps(given), headers=headers)
    assert answer.status_code == 422
    problem = answer.json()
    assert problem["code"] == "invalid_request"
    assert problem["error"] == problem["detail"], "what clients of the protocol read"
    assert not scorer.calls


def test_a_malformed_event_is_named(client: TestClient) -> None:
    answer = client.post(INFER, json=with_tensor(request_of(), tensor("account_id", ["a", " "])))
    assert answer.json()["code"] == "invalid_event"
    assert answer.json()["position"] == 1


@pytest.mark.parametrize("where", ["header", "input", "output", "request"])
def test_binary_tensors_are_refused_clearly(client: TestClient, where: str) -> None:
    given = request_of()
    headers = {}
    if where == "header":
        headers = {"Inference-Header-Content-Length": "100"}
    elif where == "input":
        given["inputs"][2]["parameters"] = {"binary_data_size": 12}
    elif where == "output":
        given["outputs"] = [{"name": "risk", "parameters": {"binary_data": True}}]
    else:
        given["parameters"] = {"binary_data_output": True}
    answer = client.post(INFER, json=given, headers=headers)
    assert answer.status_code == 415
    assert answer.json()["code"] == "binary_unsupported"


def test_an_event_that_cannot_be_scored_fails_the_request(
    client: TestClient, scorer: ScriptedScorer
) -> None:
    answer = client.post(INFER, json=with_tensor(request_of(), tensor("prompt", ["x", POISON])))
    assert answer.status_code == 422
    assert answer.json()["code"] == "dead_letter"
    assert [e.event_id for e in scorer.scored] == ["e0"]


def test_the_metadata_describe_the_tensors(client: TestClient) -> None:
    assert client.get("/v2").json()["name"] == "stillwatch"
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/stillwatch/ready").json()["ready"] is True
    model = client.get("/v2/models/stillwatch").json()
    answer = client.post(INFER, json=request_of()).json()
    described = {item["name"]: item for item in model["outputs"]}
    for output in answer["outputs"]:
        expected = described[output["name"]]
        assert output["datatype"] == expected["datatype"]
        assert len(output["shape"]) == len(expected["shape"])
    assert model["parameters"]["intents"] == list(INTENTS)
    assert client.get("/v2/models/another").status_code == 404
