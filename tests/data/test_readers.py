"""Each log format: what becomes the prompt, whose word counts, and how formats are told apart."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from stillwatch.data.events import Event, InvalidEvent, Turn, parse_event
from stillwatch.data.log import Reject, read_log
from stillwatch.data.readers import READERS, reader_named, sniff
from stillwatch.data.readers.base import ACCOUNT_FIELDS, hashed

Write = Callable[..., Path]

ENVELOPE = {"request_id": "r1", "api_key_id": "k1", "timestamp": "2025-03-01T10:00:00Z"}

CHAT = {
    "model": "m-1",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Which river is longest?"},
        {"role": "assistant", "content": "The Nile.", "tool_calls": []},
        {"role": "tool", "content": "6650 km"},
        {"role": "developer", "content": "Answer in French."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "And in"},
                {"type": "image_url", "image_url": {"url": "data:"}},
                {"type": "text", "text": "Europe?"},
            ],
        },
    ],
    "temperature": 1,
    "max_completion_tokens": 50,
    "n": 4,
    "logprobs": True,
    "user": "caller-said",
}
RESPONSES = {
    "model": "m-1",
    "instructions": "Be brief.",
    "input": [
        {"role": "user", "content": "Which river is longest?"},
        {"type": "message", "role": "assistant", "content": [
            {"type": "output_text", "text": "The Nile."},
        ]},
        {"type": "function_call", "name": "length", "arguments": "{}"},
        {"type": "function_call_output", "output": "6650 km"},
        {"type": "reasoning", "summary": []},
        {"role": "developer", "content": "Answer in French."},
        {"role": "user", "content": [
            {"type": "input_text", "text": "And in"},
            {"type": "input_image", "image_url": "data:"},
            {"type": "input_text", "text": "Europe?"},
        ]},
    ],
    "temperature": 1,
    "max_output_tokens": 50,
    "top_logprobs": 3,
    "safety_identifier": "caller-said",
}  # fmt: skip
ANTHROPIC = {
    "model": "claude-x",
    "system": [
        {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Answer in French."},
    ],
    "messages": [
        {"role": "user", "content": "Which river is longest?"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm"},
            {"type": "text", "text": "The Nile."},
            {"type": "tool_use", "id": "t", "name": "length", "input": {}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t", "content": "6650 km"},
            {"type": "text", "text": "And in"},
            {"type": "text", "text": "Europe?"},
        ]},
    ],
    "temperature": 1,
    "max_tokens": 50,
    "metadata": {"user_id": "caller-said"},
}  # fmt: skip
LITELLM = {
    "id": "r1",
    "trace_id": "t1",
    "call_type": "acompletion",
    "startTime": 1740823200.0,
    "endTime": 1740823201.0,
    "model": "m-1",
    "custom_llm_provider": "openai",
    "messages": CHAT["messages"],
    "response": {"choices": []},
    "end_user": "caller-said",
    "requester_ip_address": "192.0.2.7",
    "user_agent": "curl/8",
    "model_parameters": {"temperature": 1, "max_tokens": 50, "n": 4, "stream": False},
    "metadata": {"user_api_key_hash": "k1", "user_api_key_team_id": "team"},
}
BODIES = {"openai_chat": CHAT, "openai_responses": RESPONSES, "anthropic": ANTHROPIC}


def shapes(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A request as logs hold it: beside its envelope or inside it."""
    return [
        {**ENVELOPE, **body},
        {**ENVELOPE, "request": body},
        {**ENVELOPE, "body": body},
        {**ENVELOPE, "request": {"url": "/v1", "body": body}},
    ]


def read(name: str, record: Mapping[str, Any]) -> Event:
    return parse_event(reader_named(name).to_fields(record))


@pytest.mark.parametrize("shape", range(4))
@pytest.mark.parametrize("name", BODIES)
def test_a_request_becomes_an_event(write_lines: Write, name: str, shape: int) -> None:
    path = write_lines([shapes(BODIES[name])[shape]])
    (event,) = read_log([path], strict=True)
    assert event == read(name, shapes(BODIES[name])[shape])
    assert event.event_id == "r1"
    assert event.account_id == "k1"
    assert event.timestamp == 1740823200.0
    assert event.prompt == "And in\nEurope?"
    assert event.system == "Be brief.\nAnswer in French."
    assert event.turns == (
        Turn("user", "Which river is longest?"),
        Turn("assistant", "The Nile."),
        Turn("tool", "6650 km"),
    )
    assert event.model == BODIES[name]["model"]
    assert (event.temperature, event.max_tokens) == (1.0, 50)
    assert event.session_id == "caller-said"
    assert "caller-said" in event.extra.values()


def test_parameters_of_each_api() -> None:
    assert (read("openai_chat", shapes(CHAT)[0]).n, CHAT["n"]) == (4, 4)
    assert read("openai_chat", shapes(CHAT)[0]).logprobs is True
    assert read("openai_responses", shapes(RESPONSES)[0]).logprobs is True
    assert read("anthropic", shapes(ANTHROPIC)[0]).logprobs is None


def test_litellm_payload(write_lines: Write) -> None:
    (event,) = read_log([write_lines([LITELLM])], strict=True)
    assert (event.event_id, event.account_id, event.timestamp) == ("r1", "k1", 1740823200.0)
    assert event.prompt == "And in\nEurope?"
    assert event.system == "Be brief.\nAnswer in French."
    assert (event.temperature, event.max_tokens, event.n) == (1.0, 50, 4)
    assert (event.session_id, event.platform) == ("caller-said", "openai")
    assert event.network == hashed("192.0.2.7") != hashed("192.0.2.8")
    assert event.client == hashed("curl/8")
    assert "192.0.2.7" not in repr(event)
    assert "curl/8" not in repr(event)


def test_litellm_falls_back_to_the_team_never_to_the_end_user() -> None:
    team = {**LITELLM, "metadata": {"user_api_key_team_id": "team", "user_api_key_hash": None}}
    assert read("litellm", team).account_id == "team"
    nobody = {**LITELLM, "metadata": {"user_api_key_end_user_id": "x", "user_id": "x"}}
    with pytest.raises(InvalidEvent, match="user_api_key_hash"):
        read("litellm", nobody)


@pytest.mark.parametrize(
    "messages", ["redacted-by-litellm", [{"role": "user", "content": "redacted-by-litellm"}]]
)
def test_litellm_redacted_messages_are_refused(messages: object) -> None:
    with pytest.raises(InvalidEvent, match="turn message logging on"):
        read("litellm", {**LITELLM, "messages": messages})


@pytest.mark.parametrize("name", BODIES)
def test_nobody_can_frame_another_account(name: str) -> None:
    """Inside the body an account's name is the caller's word."""
    body = {
        **BODIES[name],
        **dict.fromkeys(ACCOUNT_FIELDS, "victim"),
        "user": "victim",
        "safety_identifier": "victim",
        "metadata": {"user_id": "victim"},
        "timestamp": 1,
        "request_id": "other",
    }
    record = {**ENVELOPE, "request": body}
    assert read(name, record).account_id == "k1"
    assert read(name, record).event_id == "r1"
    without = {key: value for key, value in record.items() if key != "api_key_id"}
    with pytest.raises(InvalidEvent, match="must stand beside the request"):
        read(name, without)


def test_the_narrowest_account_is_taken() -> None:
    for position, field in enumerate(ACCOUNT_FIELDS):
        record = {name: name for name in ACCOUNT_FIELDS[position:]}
        event = read("openai_chat", {"timestamp": 1, **record, "request": CHAT})
        assert event.account_id == field


@pytest.mark.parametrize("word", [7, ["x"], {"x": 1}, "", "\ud800"])
def test_the_callers_word_gets_no_event_refused(word: object) -> None:
    body = {**CHAT, "user": word, "safety_identifier": word, "metadata": {"user_id": word}}
    assert read("openai_chat", {**ENVELOPE, "request": body}).prompt == "And in\nEurope?"


def test_addresses_are_hashed() -> None:
    record = {**ENVELOPE, "ip_address": "192.0.2.7", "user_agent": "curl/8", "request": CHAT}
    event = read("openai_chat", record)
    assert (event.network, event.client) == (hashed("192.0.2.7"), hashed("curl/8"))
    assert event.network is not None
    assert len(event.network) == len("sha256:") + 16
    named = read("openai_chat", {**record, "network": "n1", "client": "c1"})
    assert (named.network, named.client) == ("n1", "c1")


def test_a_tool_result_is_no_user_text() -> None:
    last = {"role": "user", "content": [
        {"type": "tool_result", "content": [{"type": "text", "text": "7 km"}]},
    ]}  # fmt: skip
    body = {**ANTHROPIC, "messages": [*ANTHROPIC["messages"], last]}  # type: ignore[misc]
    assert read("anthropic", {**ENVELOPE, "body": body}).prompt == "And in\nEurope?"


def test_an_attached_text_is_user_text() -> None:
    document = {"type": "document", "source": {"type": "text", "data": "hidden here"}}
    body = {**ANTHROPIC, "messages": [{"role": "user", "content": [document]}]}
    assert read("anthropic", {**ENVELOPE, "body": body}).prompt == "hidden here"


def test_a_text_as_input_is_the_prompt() -> None:
    event = read("openai_responses", {**ENVELOPE, "body": {**RESPONSES, "input": "Hello"}})
    assert (event.prompt, event.system, event.turns) == ("Hello", "Be brief.", ())


def test_a_request_without_a_user_is_asked_by_its_system_prompt() -> None:
    body = {**CHAT, "messages": [{"role": "system", "content": "Write a sonnet."}]}
    event = read("openai_chat", {**ENVELOPE, "body": body})
    assert (event.prompt, event.system) == ("Write a sonnet.", "")


@pytest.mark.parametrize(
    "messages",
    [
        None, {}, 7, [], ["x"], [{}], [{"role": "assistant", "content": "x"}],
        [{"role": "user", "content": 7}], [{"role": "user", "content": {"type": "text"}}],
        [{"role": "user", "content": [{"type": "text", "text": 7}]}],
    ],
)  # fmt: skip
def test_malformed_messages_are_refused(messages: object) -> None:
    for name in ("openai_chat", "anthropic"):
        with pytest.raises(InvalidEvent):
            read(name, {**ENVELOPE, "body": {**CHAT, "messages": messages}})
    with pytest.raises(InvalidEvent):
        read("litellm", {**LITELLM, "messages": messages})


def test_reasons_tell_nothing_of_the_messages(write_lines: Write, canary: str) -> None:
    spoiled: list[dict[str, Any]] = [
        {**ENVELOPE, "body": {"messages": [canary]}},
        {**ENVELOPE, "body": {"messages": [{"role": "assistant", "content": canary}]}},
        {**ENVELOPE, "body": {"messages": [{"role": "user", "content": {canary: canary}}]}},
        {**ENVELOPE, "body": {**CHAT, "temperature": canary}},
        {"timestamp": 1, "body": {"messages": [{"role": "user", "content": canary}]}},
        {**ENVELOPE, "timestamp": canary, "body": CHAT},
    ]
    rejects: list[Reject] = []
    path = write_lines(spoiled)
    assert not list(read_log([path], format="openai_chat", on_reject=rejects.append))
    assert len(rejects) == len(spoiled)
    assert canary not in repr(rejects)


STILLWATCH = {"account_id": "a", "timestamp": 1, "prompt": "x"}


@pytest.mark.parametrize(
    ("record", "name"),
    [
        (STILLWATCH, "stillwatch"),
        ({"prompt": "x"}, "stillwatch"),
        (LITELLM, "litellm"),
        *((record, name) for name, body in BODIES.items() for record in shapes(body)),
        ({"messages": [{"role": "user", "content": "x"}]}, "openai_chat"),
        ({"model": "claude-x", "messages": [{"role": "user", "content": "x"}]}, "anthropic"),
        ({"input": "x", "prompt": {"id": "p"}}, "openai_responses"),
    ],
)
def test_each_format_is_recognised(record: dict[str, Any], name: str) -> None:
    reader = sniff([record])
    assert reader is not None
    assert reader.name == name


@pytest.mark.parametrize(
    "record", [{}, {"x": 1}, {"input": "x", "encoding_format": "float"}, {"messages": "x"}]
)
def test_other_records_are_no_format(record: dict[str, Any]) -> None:
    assert sniff([record]) is None


def test_the_format_of_most_records_is_taken() -> None:
    reader = sniff([{"x": 1}, STILLWATCH, LITELLM, LITELLM])
    assert reader is not None
    assert reader.name == "litellm"


def test_each_reader_has_its_own_name() -> None:
    assert len({reader.name for reader in READERS}) == len(READERS)
