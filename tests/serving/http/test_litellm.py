"""The doors of a LiteLLM gateway: what counts, what is answered, and that nothing harms it."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.testclient import TestClient

from stillwatch.serving.http.litellm_settings import LiteLLMSettings
from stillwatch.serving.http.settings import load_settings
from tests.serving.http.http_support import (
    FLAGGED,
    POISON,
    ScriptedScorer,
    client_of,
    make_keys,
    settings_in,
)
from tests.serving.http.litellm_processes import ROOT, block
from tests.serving.http.litellm_support import CALL_ID, GUARDRAIL, KEY_HASH, LOGS, door
from tests.serving.http.litellm_support import guarded as asked
from tests.serving.http.litellm_support import logged as logs

NONE = {"action": "NONE"}
OWN_ID = {"x-litellm-call-id": CALL_ID}


def asking(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def ask(client: TestClient, body: Any) -> Any:
    answer = client.post(GUARDRAIL, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def send(client: TestClient, *payloads: Any) -> Any:
    answer = client.post(LOGS, json=list(payloads))
    assert answer.status_code == 200, answer.text
    return answer.json()


def raw(client: TestClient, path: str, body: str) -> Any:
    return client.post(path, content=body.encode(), headers={"Content-Type": "application/json"})


def count(client: TestClient, line: str) -> float:
    """The value of a metric, 0 if it was never counted."""
    for text in client.get("/metrics").text.splitlines():
        if text.startswith(line + " "):
            return float(text.rsplit(" ", 1)[1])
    return 0.0


def test_a_request_becomes_an_event_of_its_key(tmp_path: Path, scorer: ScriptedScorer) -> None:
    with door(tmp_path, scorer) as client:
        assert ask(client, asked()) == NONE
    (event,) = scorer.scored
    assert (event.account_id, event.event_id) == (KEY_HASH, CALL_ID)
    assert event.prompt == "Where is my parcel?"
    assert event.system == "You answer for a parcel service."
    assert event.turns == (("user", "Hello"), ("assistant", "How can I help?"))
    assert event.model == "assistant"


def test_texts_stand_in_where_there_are_no_messages(tmp_path: Path, scorer: ScriptedScorer) -> None:
    with door(tmp_path, scorer) as client:
        ask(client, {**asked(None), "texts": ["One sentence.", "Another."]})
    (event,) = scorer.scored
    assert event.prompt == "Another."
    assert event.turns == (("user", "One sentence."),)


@pytest.mark.parametrize("headers", [None, OWN_ID])
def test_a_call_is_one_event_by_both_doors(
    tmp_path: Path, scorer: ScriptedScorer, headers: Any
) -> None:
    with door(tmp_path, scorer) as client:
        ask(client, asked(headers=headers))
        assert send(client, logs(headers=headers)) == {"accepted": 1, "rejected": []}
    guarded, logged = scorer.scored
    assert guarded.event_id == logged.event_id
    assert guarded.account_id == logged.account_id
    # What the guardrail is not told, the log says.
    assert (guarded.temperature, logged.temperature) == (None, 0.7)


def test_an_id_of_the_customers_hides_no_other_request(
    tmp_path: Path, scorer: ScriptedScorer
) -> None:
    later = [*asking("Payload"), {"role": "assistant", "content": "."}, *asking("Go on")]
    with door(tmp_path, scorer) as client:
        for messages in (asking("Go on"), asking("Payload"), later):
            ask(client, asked(messages, headers={"X-LiteLLM-Call-ID": CALL_ID}))
        # A long one is a customer's too.
        send(client, logs(call_id="x" * 5000), logs(asking("Else"), call_id="x" * 5000))
    assert len({event.event_id for event in scorer.scored}) == 5


def test_answers_are_not_scored(tmp_path: Path, scorer: ScriptedScorer) -> None:
    with door(tmp_path, scorer) as client:
        assert ask(client, {**asked(), "input_type": "response"}) == NONE
    assert scorer.calls == []


TEAM = {"user_api_key_hash": None, "user_api_key_team_id": "t7"}
USER = {"user_api_key_user_id": "u7", "user_api_key_end_user_id": "e7"}


@pytest.mark.parametrize(
    ("wanted", "data", "account"),
    [
        (["key_hash", "team"], {"user_api_key_team_id": "t7"}, KEY_HASH),
        (["key_hash", "team"], TEAM, "team:t7"),
        (["org", "user"], USER, "user:u7"),
        (["end_user", "key_hash"], USER, f"{KEY_HASH}/end_user:e7"),
        (["end_user"], {"user_api_key_hash": "", "user_api_key_end_user_id": "e7"}, "end_user:e7"),
        (["end_user", "key_hash"], {}, KEY_HASH),
        # The customer's word never passes for another's key.
        (["end_user"], {"user_api_key_end_user_id": "cd" * 32}, f"{KEY_HASH}/end_user:{'cd' * 32}"),
    ],
)
def test_the_account_is_the_first_id_wanted(
    tmp_path: Path, scorer: ScriptedScorer, wanted: list[str], data: Any, account: str
) -> None:
    payload = logs()
    payload["metadata"] |= data
    with door(tmp_path, scorer, account=wanted) as client:
        ask(client, asked(**data))
        send(client, payload)
    assert [event.account_id for event in scorer.scored] == [account, account]


def test_without_an_account_nothing_is_scored(tmp_path: Path, scorer: ScriptedScorer) -> None:
    with door(tmp_path, scorer) as client:
        assert ask(client, asked(user_api_key_hash=None)) == NONE
        assert count(client, 'stillwatch_litellm_unscored_total{reason="no_account"}') == 1
    assert scorer.calls == []


def test_a_long_id_is_hashed_behind_the_gateways_prefix(
    tmp_path: Path, scorer: ScriptedScorer
) -> None:
    keys = make_keys()
    settings = settings_in(tmp_path, auth="keys", keys=keys.entries, litellm={"mode": "wait"})
    with client_of(settings, scorer) as client:
        headers = {"X-API-Key": keys.bound}
        for key_hash in (KEY_HASH, "é" * 300):
            body = asked(user_api_key_hash=key_hash)
            assert client.post(GUARDRAIL, json=body, headers=headers).json() == NONE
        client.post(LOGS, json=[logs()], headers=headers)
    first, long, logged = [event.account_id for event in scorer.scored]
    assert first == logged == f"acme/{KEY_HASH}"
    assert long.startswith("acme/sha256:")


def test_only_scorers_and_admins_may_speak(tmp_path: Path, scorer: ScriptedScorer) -> None:
    keys = make_keys()
    with client_of(settings_in(tmp_path, auth="keys", keys=keys.entries), scorer) as client:
        for path, body in ((GUARDRAIL, asked()), (LOGS, [logs()])):
            for key, status in (("", 401), (keys.analyst, 403), (keys.admin, 200)):
                answer = client.post(path, json=body, headers={"X-API-Key": key})
                assert answer.status_code == status, path


@pytest.mark.parametrize(
    "odd",
    ['"temperature": NaN', '"temperature": "hot"', f'"n": {"9" * 5000}', '"logprobs": "yes"'],
)
def test_a_customers_odd_parameter_hides_nothing(
    tmp_path: Path, scorer: ScriptedScorer, odd: str
) -> None:
    body = json.dumps([logs(), logs(call_id="other")])
    with door(tmp_path, scorer) as client:
        answer = raw(client, LOGS, body.replace('"temperature": 0.7', odd, 1))
        assert answer.json() == {"accepted": 2, "rejected": []}
    assert len(scorer.scored) == 2


def test_odd_characters_hide_nothing(tmp_path: Path, scorer: ScriptedScorer) -> None:
    with door(tmp_path, scorer) as client:
        for text in ("half \ud800 of a pair", "half at the end \ud800", "a\0b"):
            body = json.dumps(asked(asking(text), headers=OWN_ID))
            assert raw(client, GUARDRAIL, body).json() == NONE
        # LiteLLM leaves NULs out of its log.
        send(client, logs(asking("ab"), headers=OWN_ID))
    prompts = [event.prompt for event in scorer.scored]
    assert prompts == ["half \ufffd of a pair", "half at the end \ufffd", "ab", "ab"]
    assert scorer.scored[2].event_id == scorer.scored[3].event_id


def test_a_flagged_account_passes_and_is_counted(tmp_path: Path, scorer: ScriptedScorer) -> None:
    with door(tmp_path, scorer) as client:
        assert ask(client, asked(asking(f"Show your {FLAGGED}"))) == NONE
        assert count(client, "stillwatch_litellm_flagged_total") == 1
        assert count(client, 'stillwatch_litellm_answers_total{action="NONE"}') == 1


def test_nothing_that_fails_here_harms_the_gateway(tmp_path: Path, scorer: ScriptedScorer) -> None:
    with door(tmp_path, scorer) as client:
        assert ask(client, asked(7)) == NONE
        assert ask(client, asked(asking(POISON))) == NONE
        assert ask(client, asked(asking("x" * 2_000_000))) == NONE
        scorer.down = True
        assert ask(client, asked()) == NONE
        for reason in ("invalid_event", "dead_letter", "body_too_large", "store_unavailable"):
            line = f'stillwatch_litellm_unscored_total{{reason="{reason}"}}'
            assert count(client, line) == 1, reason


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("{", "invalid_json"), ("[]", "invalid_request"), ("{}", "invalid_request"),
        ('{"input_type": "request"}', "invalid_request"), ("[" * 100_000, "invalid_json"),
        ('{"input_type": "other", "request_data": {}}', "invalid_request"),
    ],
)  # fmt: skip
def test_what_no_gateway_sends_is_refused(
    tmp_path: Path, scorer: ScriptedScorer, body: str, code: str
) -> None:
    with door(tmp_path, scorer) as client:
        answer = raw(client, GUARDRAIL, body)
        assert 400 <= answer.status_code < 500
        assert answer.json()["code"] == code
        plain = client.post(LOGS, content=b"[]", headers={"Content-Type": "text/plain"})
        assert plain.json()["code"] == "unsupported_media_type"
        assert raw(client, LOGS, "7").json()["code"] == "invalid_request"


@pytest.mark.parametrize(
    "litellm", [{"mode": "background"}, {"mode": "wait", "deadline_s": 0.01}, {"mode": "off"}]
)
def test_a_slow_scorer_delays_no_answer(
    tmp_path: Path, scorer: ScriptedScorer, litellm: dict[str, Any]
) -> None:
    scorer.gate.clear()
    with door(tmp_path, scorer, **litellm) as client:
        assert ask(client, asked()) == NONE
        assert scorer.scored == []
        if litellm["mode"] != "off":
            assert scorer.entered.wait(20)
        scorer.gate.set()
    # What was taken is finished before the service stops.
    assert len(scorer.scored) == (litellm["mode"] != "off")


def test_an_answer_can_wait_for_the_score(tmp_path: Path, scorer: ScriptedScorer) -> None:
    scorer.gate.clear()

    def release() -> None:
        assert scorer.entered.wait(20)
        # Long enough for an answer that does not wait to come first.
        time.sleep(0.05)
        scorer.gate.set()

    thread = threading.Thread(target=release)
    thread.start()
    with door(tmp_path, scorer, mode="wait") as client:
        assert ask(client, asked()) == NONE
        assert len(scorer.scored) == 1
    thread.join()


def test_overload_is_no_error_of_the_gateway(tmp_path: Path, scorer: ScriptedScorer) -> None:
    scorer.gate.clear()
    own = {"mode": "background", "log_patience_s": 0.01}
    settings = settings_in(tmp_path, max_queue=1, max_batch=1, litellm=own)
    with client_of(settings, scorer) as client:
        for number in range(6):
            assert ask(client, asked(call_id=f"c{number}")) == NONE
            assert scorer.entered.wait(20)
        refused = count(client, 'stillwatch_litellm_unscored_total{reason="overloaded"}')
        assert refused == 4
        # LiteLLM sends a batch of its log again after a 5xx, never after a 429.
        answer = client.post(LOGS, json=[logs(call_id="late")])
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert answer.headers["retry-after"] == "1"
        scorer.gate.set()


def test_a_malformed_call_does_not_stop_the_rest_of_a_log(
    tmp_path: Path, scorer: ScriptedScorer
) -> None:
    turned_away = {"error_class": "ProxyException", "llm_provider": ""}
    failed = {"error_class": "BadRequestError", "llm_provider": "openai"}
    batch = [
        logs(call_id="c0"),
        7,
        logs(messages=None),
        logs(metadata={}),
        logs(asking("redacted-by-litellm")),
        logs(status="failure", error_information=turned_away),
        logs(asking(POISON)),
        logs(call_id="c7", status="failure", error_information=failed),
        logs(call_id="c8"),
    ]
    with door(tmp_path, scorer) as client:
        answer = send(client, *batch)
        assert send(client) == {"accepted": 0, "rejected": []}
        assert count(client, 'stillwatch_litellm_payloads_total{outcome="accepted"}') == 3
    assert answer["accepted"] == 3
    assert [(item["position"], item["code"]) for item in answer["rejected"]] == [
        (1, "no_account"), (2, "invalid_event"), (3, "no_account"), (4, "invalid_event"),
        (5, "not_served"), (6, "dead_letter"),
    ]  # fmt: skip
    assert [event.event_id for event in scorer.scored] == ["c0", "c7", "c8"]


def test_a_log_may_come_call_by_call(tmp_path: Path, scorer: ScriptedScorer) -> None:
    with door(tmp_path, scorer) as client:
        assert client.post(LOGS, json=logs()).json() == {"accepted": 1, "rejected": []}
    assert len(scorer.scored) == 1


def test_a_log_of_many_goes_through_a_small_gate(tmp_path: Path, scorer: ScriptedScorer) -> None:
    settings = settings_in(tmp_path, max_queue=8, body_limit_bytes=10_000_000)
    with client_of(settings, scorer) as client:
        batch = [logs(call_id=f"c{number}") for number in range(200)]
        assert send(client, *batch) == {"accepted": 200, "rejected": []}
    assert len(scorer.scored) == 200


def test_a_log_waits_for_the_store(tmp_path: Path, scorer: ScriptedScorer) -> None:
    scorer.down = True
    with door(tmp_path, scorer) as client:
        answer = client.post(LOGS, json=[logs()])
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")


def test_no_prompt_is_told(
    tmp_path: Path, scorer: ScriptedScorer, capsys: pytest.CaptureFixture[str]
) -> None:
    canary = "canary-4711"
    with door(tmp_path, scorer) as client:
        bad = [{"role": "user", "content": {canary: canary}}]
        told = [
            client.post(LOGS, json=[logs(bad), logs(asking(f"{POISON} {canary}"))]).text,
            raw(client, LOGS, f'["{canary}').text,
            client.post(GUARDRAIL, json=asked(asking(f"{canary} {FLAGGED}"))).text,
            client.post(GUARDRAIL, json=asked(bad, call_id=canary)).text,
            client.get("/metrics").text,
            *capsys.readouterr(),
        ]
        assert "a flagged account asked" in told[-2] + told[-1]
    assert not any(canary in text or KEY_HASH in text for text in told)


@pytest.mark.parametrize(
    "bad",
    [
        {"policy": "block_listed"}, {"listed": "accounts.jsonl"}, {"account": []},
        {"account": ["team", "team"]}, {"account": ["ip"]}, {"deadline_s": 0}, {"moed": "off"},
    ],
)  # fmt: skip
def test_settings_that_cannot_be_meant_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LiteLLMSettings(**bad)


VALUE = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8) | st.just("\ud800\0"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text"]), inner, max_size=3)
    ),
    max_leaves=8,
)
MESSAGES = st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": VALUE}), max_size=3)


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(
    field=st.sampled_from([*logs(), "litellm_call_id", "error_information"]),
    data=st.sampled_from([*asked()]),
    key=st.sampled_from(["user_api_key_hash", "requester_custom_headers", "user_agent"]),
    value=VALUE | MESSAGES,
)
def test_no_value_is_a_fault(tmp_path: Path, field: str, data: str, key: str, value: Any) -> None:
    with door(tmp_path, ScriptedScorer(), account=["end_user", "key_hash"]) as client:
        payload = logs()
        payload["metadata"] |= {key: value}
        answer = raw(client, LOGS, json.dumps([{**logs(), field: value}, payload, value])).json()
        assert answer["accepted"] + len(answer["rejected"]) == 3
        body = {**asked(), data: value}
        assert raw(client, GUARDRAIL, json.dumps(body)).status_code in (200, 422)


def test_the_page_holds(tmp_path: Path, scorer: ScriptedScorer) -> None:
    page = (ROOT / "docs" / "litellm.md").read_text(encoding="utf-8")
    config = tmp_path / "stillwatch.toml"
    config.write_text(block(page, "toml").replace("<from stillwatch keys new>", "0" * 64))
    assert load_settings(config).litellm == LiteLLMSettings()
    (body,) = re.findall(r"-d '([^']+)'", page)
    with door(tmp_path, scorer) as client:
        assert ask(client, json.loads(body)) == NONE
        assert client.get("/v1/accounts/check").json()["events"] == 1
        # Every metric that the page names is there.
        names = set(re.findall(r"`(stillwatch_litellm_\w+)", page))
        assert len(names) == 5
        assert all(name in client.get("/metrics").text for name in names)
