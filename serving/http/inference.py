"""The Open Inference Protocol, version 2: events as tensors, verdicts as tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, NoReturn

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from stillwatch.serving.http import openapi
from stillwatch.serving.http.auth import Caller, require
from stillwatch.serving.http.dead_letters import DeadLetter
from stillwatch.serving.http.gate import DeadLettered
from stillwatch.serving.http.problems import Problem
from stillwatch.serving.http.requests import (
    MAX_ID_CHARS,
    JsonResponse,
    check_count,
    read_object,
    score,
    to_events,
)
from stillwatch.serving.http.service import Service
from stillwatch.serving.verdict import Verdict

MODEL = "stillwatch"
BINARY_HEADER = "Inference-Header-Content-Length"
REQUIRED = {"account_id": "BYTES", "event_id": "BYTES", "prompt": "BYTES"}
OPTIONAL = {"timestamp": "FP64", "system": "BYTES"}
INPUTS = REQUIRED | OPTIONAL
OUTPUTS = {"risk": "FP32", "flagged": "BOOL", "intents": "FP32", "bundle": "BYTES"}
DIGITS = 6


def router(service: Service) -> APIRouter:
    """`/v2` and what lies under it."""
    routes = APIRouter(tags=["inference"])

    @routes.get("/v2", **openapi.SERVER_METADATA)
    async def server_metadata() -> Response:
        return JsonResponse({"name": MODEL, "version": service.version, "extensions": []})

    @routes.get("/v2/health/live", **openapi.LIVE)
    async def live() -> Response:
        return JsonResponse({"live": True})

    @routes.get("/v2/health/ready", **openapi.READY)
    async def ready() -> Response:
        await service.check_ready()
        return JsonResponse({"ready": True})

    @routes.get("/v2/models/stillwatch", **openapi.MODEL_METADATA)
    async def model_metadata() -> Response:
        return JsonResponse(
            {
                "name": MODEL,
                "versions": [service.scorer.bundle_id],
                "platform": "stillwatch_bundle",
                "inputs": [
                    {"name": name, "datatype": datatype, "shape": [-1]}
                    for name, datatype in INPUTS.items()
                ],
                "outputs": [
                    {"name": name, "datatype": datatype, "shape": _shape(name, -1, service)}
                    for name, datatype in OUTPUTS.items()
                ],
                "parameters": {"intents": list(service.scorer.intents)},
            }
        )

    @routes.get("/v2/models/stillwatch/ready", **openapi.MODEL_READY)
    async def model_ready() -> Response:
        await service.check_ready()
        return JsonResponse({"name": MODEL, "ready": True})

    @routes.post("/v2/models/stillwatch/infer", **openapi.INFER)
    async def infer(
        request: Request, caller: Annotated[Caller, Depends(require("scorer", "admin"))]
    ) -> Response:
        service.gate.check_room()
        if BINARY_HEADER in request.headers:
            _refuse_binary()
        fields = await read_object(request)
        wanted = _wanted(fields)
        request_id = fields.get("id")
        if request_id is not None and not _is_id(request_id):
            raise _malformed(f"id must be a text of at most {MAX_ID_CHARS} characters")
        verdicts = []
        for outcome in await score(request, service, caller, to_events(service, _records(fields))):
            if isinstance(outcome, DeadLetter):
                raise DeadLettered
            verdicts.append(outcome)
        answer: dict[str, Any] = {"model_name": MODEL, "model_version": verdicts[-1].bundle}
        if request_id is not None:
            answer["id"] = request_id
        answer["outputs"] = [
            {
                "name": name,
                "datatype": OUTPUTS[name],
                "shape": _shape(name, len(verdicts), service),
                "data": _data(name, verdicts),
            }
            for name in wanted
        ]
        return JsonResponse(answer)

    return routes


def _shape(name: str, count: int, service: Service) -> list[int]:
    return [count, len(service.scorer.intents)] if name == "intents" else [count]


def _data(name: str, verdicts: list[Verdict]) -> list[Any]:
    """One output of all verdicts, flat, row by row."""
    if name == "intents":
        return [round(value, DIGITS) for verdict in verdicts for value in verdict.intents.values()]
    if name == "risk":
        return [round(verdict.risk, DIGITS) for verdict in verdicts]
    return [getattr(verdict, name) for verdict in verdicts]


def _wanted(fields: Mapping[str, Any]) -> list[str]:
    """The outputs asked for; all of them if the request names none."""
    _check_parameters(fields)
    outputs = fields.get("outputs")
    if outputs is None:
        return list(OUTPUTS)
    if not isinstance(outputs, list):
        raise _malformed("outputs must be a list")
    names = []
    for output in outputs:
        if not isinstance(output, dict) or output.get("name") not in list(OUTPUTS):
            raise _malformed(f"each of outputs must be named {', '.join(OUTPUTS)}")
        _check_parameters(output)
        names.append(output["name"])
    return list(dict.fromkeys(names)) or list(OUTPUTS)


def _records(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The fields of each event, from the tensors of a request."""
    inputs = fields.get("inputs")
    if not isinstance(inputs, list) or not all(isinstance(item, dict) for item in inputs):
        raise _malformed("inputs must be a list of tensors")
    columns: dict[str, list[Any]] = {}
    for tensor in inputs:
        name = tensor.get("name")
        if not isinstance(name, str) or name not in INPUTS or name in columns:
            raise _malformed(f"inputs must be named {', '.join(INPUTS)}, each once")
        columns[name] = _column(name, tensor)
    if missing := [name for name in REQUIRED if name not in columns]:
        raise _malformed(f"inputs must have {', '.join(missing)}")
    count = len(columns["prompt"])
    if any(len(column) != count for column in columns.values()):
        raise _malformed("inputs must have the same length")
    check_count(count)
    return [
        {name: column[position] for name, column in columns.items()} for position in range(count)
    ]


def _column(name: str, tensor: Mapping[str, Any]) -> list[Any]:
    _check_parameters(tensor)
    if tensor.get("datatype") != INPUTS[name]:
        raise _malformed(f"{name} must have the datatype {INPUTS[name]}")
    data, shape = tensor.get("data"), tensor.get("shape")
    if not isinstance(data, list):
        raise _malformed(f"{name} must have its data as a list")
    if data and all(isinstance(row, list) and len(row) == 1 for row in data):
        # Of the shape [N, 1], written as rows.
        data = [row[0] for row in data]
    kind = str if INPUTS[name] == "BYTES" else int | float
    if not all(isinstance(item, kind) and not isinstance(item, bool) for item in data):
        raise _malformed(f"the data of {name} must be {INPUTS[name]} in JSON")
    if (
        not isinstance(shape, list)
        or not 1 <= len(shape) <= 2
        or not all(type(size) is int and 0 <= size <= len(data) + 1 for size in shape)
        or math.prod(shape) != len(data)
    ):
        raise _malformed(f"the shape of {name} must be [N] or [N, 1] and match its data")
    return data


def _check_parameters(fields: Mapping[str, Any]) -> None:
    parameters = fields.get("parameters")
    if parameters is None:
        return
    if not isinstance(parameters, dict):
        raise _malformed("parameters must be an object")
    if any(name.startswith("binary_data") and value for name, value in parameters.items()):
        _refuse_binary()


def _refuse_binary() -> NoReturn:
    raise Problem(
        "binary_unsupported",
        "Tensors must be JSON under data, however: the request uses the binary data extension.",
    )


def _malformed(rule: str) -> Problem:
    return Problem("invalid_request", f"{rule[:1].upper()}{rule[1:]}, however: it is otherwise.")


def _is_id(value: object) -> bool:
    if not isinstance(value, str) or len(value) > MAX_ID_CHARS:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
