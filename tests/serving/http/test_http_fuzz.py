"""Whatever is sent, the answer is never a fault, and is what the description says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.testclient import TestClient

from stillwatch.serving.http.app import create_app
from stillwatch.serving.http.problems import KINDS
from tests.serving.http.http_support import client_of, make_keys, settings_in
from tests.support import tiny_bundle, tiny_scorer

KEYS = make_keys()
KEY = {"X-API-Key": KEYS.admin}
JSON = {"Content-Type": "application/json"}
POSTS = (
    "/v1/events", "/v2/models/stillwatch/infer", "/beta/litellm_basic_guardrail_api",
    "/v1/litellm/logs",
)  # fmt: skip
EXAMPLES = 60
TOO_STRICT: list[Any] = [positive_data_acceptance]
"""A schema cannot say all that must hold, such as that tensors have one length."""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The description of an app around a real scorer, as schemathesis reads it."""
    folder = tmp_path_factory.mktemp("api")
    options = settings_in(folder, auth="keys", keys=KEYS.entries, max_wait_s=60)
    app = create_app(options, tiny_scorer(tiny_bundle(folder / "tiny")))
    # Every case has a valid key; what other keys may do is the matrix's matter.
    config = SchemathesisConfig.from_dict({"generation": {"with-security-parameters": False}})
    yield schemathesis.openapi.from_asgi("/openapi.json", app, config=config)
    assert app.state.gate.close(20)


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_answers_are_as_described(api: Any, mode: GenerationMode) -> None:
    count = 0
    for found in api.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
        def answers(case: schemathesis.Case[Any]) -> None:
            answer = case.call(headers=KEY)
            # A case may ask for more haste than a busy machine has.
            if answer.status_code != 504:
                case.validate_response(answer, excluded_checks=TOO_STRICT)

        try:
            answers()
        except Unsatisfiable:
            # Nothing about a route without parameters can be wrong.
            assert mode is GenerationMode.NEGATIVE
            assert operation.path not in POSTS
            continue
        count += 1
    assert count >= len(POSTS)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("fuzzed")
    scorer = tiny_scorer(tiny_bundle(folder / "tiny"))
    with client_of(settings_in(folder, max_wait_s=60), scorer) as client:
        yield client


def check(answer: Any) -> None:
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert KINDS[answer.json()["code"]].status == answer.status_code


# Halves of surrogate pairs too, which JSON can spell.
TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
FIELDS = (
    "event_id", "account_id", "timestamp", "prompt", "system", "turns", "model", "temperature",
    "max_tokens", "n", "logprobs", "session_id", "events", "inputs", "outputs", "id", "name",
    "datatype", "shape", "data", "parameters",
)  # fmt: skip
OBJECT = st.dictionaries(st.sampled_from(FIELDS) | TEXT, VALUE, max_size=8)
EVENT = st.fixed_dictionaries({"account_id": TEXT, "prompt": TEXT}, optional={
    name: VALUE for name in FIELDS[:12] if name not in ("account_id", "prompt")
})  # fmt: skip
TENSOR = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["account_id", "event_id", "prompt", "timestamp"]),
        "datatype": st.sampled_from(["BYTES", "FP64"]) | VALUE,
        "shape": st.just([1]) | VALUE,
        "data": st.lists(TEXT, min_size=1, max_size=1) | VALUE,
    },
    optional={"parameters": VALUE},
)
BODY = (
    OBJECT
    | EVENT
    | st.fixed_dictionaries({"events": st.lists(EVENT | VALUE, max_size=4)})
    | st.fixed_dictionaries({"inputs": st.lists(TENSOR | VALUE, max_size=5)})
    | VALUE
)


@pytest.mark.parametrize("path", POSTS)
@given(body=BODY)
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_no_json_is_a_fault(fuzzed: TestClient, path: str, body: Any) -> None:
    check(fuzzed.post(path, content=json.dumps(body), headers=JSON))


@pytest.mark.parametrize("path", POSTS)
@given(body=st.binary(max_size=200))
@settings(max_examples=200)
def test_no_bytes_are_a_fault(fuzzed: TestClient, path: str, body: bytes) -> None:
    check(fuzzed.post(path, content=body, headers=JSON))
    for encoding in ("gzip", "zstd"):
        check(fuzzed.post(path, content=body, headers={**JSON, "Content-Encoding": encoding}))


@given(path=TEXT, value=st.binary(max_size=30))
@settings(max_examples=200)
def test_no_path_and_no_header_is_a_fault(fuzzed: TestClient, path: str, value: bytes) -> None:
    quoted = quote(path.encode("utf-8", "surrogatepass"), safe="")
    line = bytes(byte for byte in value if byte >= 32 and byte != 127)
    headers: Any = dict.fromkeys(("X-Request-Timeout", "X-Request-ID", "Authorization"), line)
    check(fuzzed.get(f"/v1/accounts/{quoted}", headers=headers))
    check(fuzzed.get(f"/{quoted}", headers=headers))
