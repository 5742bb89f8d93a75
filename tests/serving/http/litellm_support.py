"""What LiteLLM sends for one call: the guardrail's request, and the log's payload afterwards.

The fields are those that a LiteLLM 1.106.2 proxy sent, as far as they are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from tests.serving.http.http_support import ScriptedScorer, client_of, settings_in

GUARDRAIL = "/beta/litellm_basic_guardrail_api"
LOGS = "/v1/litellm/logs"
KEY_HASH = "ab" * 32
CALL_ID = "5f0f7a4e-3a52-4d57-9f57-0b6b7d3f1c11"
CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "You answer for a parcel service."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "How can I help?"},
    {"role": "user", "content": [{"type": "text", "text": "Where is my parcel?"}]},
]


@contextmanager
def door(folder: Path, scorer: ScriptedScorer, **litellm: Any) -> Iterator[TestClient]:
    """A client of an app whose guardrail answers once the request is scored, unless said."""
    own = {"mode": "wait", "deadline_s": 30, **litellm}
    with client_of(settings_in(folder, litellm=own), scorer) as client:
        yield client


def guarded(
    messages: object = CHAT,
    call_id: object = CALL_ID,
    headers: Mapping[str, str] | None = None,
    **data: Any,
) -> dict[str, Any]:
    """What the guardrail is asked; `data` are ids of the key and its owners."""
    return {
        "input_type": "request",
        "litellm_call_id": call_id,
        "litellm_trace_id": "trace-of-the-guardrail",
        "structured_messages": messages,
        "texts": ["Where is my parcel?"],
        "request_headers": {"user-agent": "curl/8", **(headers or {})},
        "request_data": {"user_api_key_hash": KEY_HASH, **data},
        "model": "assistant",
        "tools": None,
    }


def logged(
    messages: object = CHAT,
    call_id: object = CALL_ID,
    headers: Mapping[str, str] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """The same call in the log."""
    return {
        "id": "chatcmpl-1",
        "litellm_call_id": call_id,
        "trace_id": "trace-of-the-log",
        "status": "success",
        "startTime": 1.79e9,
        "model": "openai/assistant",
        "messages": messages,
        "model_parameters": {"temperature": 0.7, "max_tokens": 5},
        "end_user": None,
        "user_agent": "curl/8",
        "metadata": {
            "user_api_key_hash": KEY_HASH,
            "user_api_key_team_id": None,
            "requester_custom_headers": headers or {},
        },
        **changes,
    }
