"""LiteLLM's StandardLoggingPayload: what its `generic_api` callback and its log stores hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stillwatch.data.events import InvalidEvent
from stillwatch.data.readers.base import caller_word, first_of, hashed, request_parameters
from stillwatch.data.readers.conversation import read_messages

name = "litellm"

ACCOUNT_FIELDS = ("user_api_key_hash", "user_api_key_team_id", "user_api_key_org_id")
"""In `metadata`, set by the proxy once it has checked the key; the narrowest first."""

REDACTED = "redacted-by-litellm"


def matches(record: Mapping[str, Any]) -> bool:
    """The proxy's metadata, or the two fields that no API's body has together."""
    if "messages" not in record:
        return False
    metadata = record.get("metadata")
    return (
        isinstance(metadata, Mapping) and any(field in metadata for field in ACCOUNT_FIELDS)
    ) or ("model_parameters" in record and "startTime" in record)


def to_fields(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Addresses and user agents become plain hashes, see `base.hashed`.

    `end_user` is the caller's word and becomes the session. Raises InvalidEvent for a payload
    without an authenticated key or with its messages redacted.
    """
    metadata = _mapping(record.get("metadata"))
    parameters = _mapping(record.get("model_parameters"))
    account = first_of(metadata, ACCOUNT_FIELDS)
    if account is None:
        raise InvalidEvent(
            "the authenticated account must stand in metadata as one of "
            f"{', '.join(ACCOUNT_FIELDS)}, however: none is there"
        )
    system = first_of(parameters, ("system", "instructions"))
    conversation = read_messages(record.get("messages"), system)
    if conversation.prompt == REDACTED:
        raise InvalidEvent(
            "the messages must be logged, however: LiteLLM redacted them; turn message logging on"
        )
    end_user = caller_word(record.get("end_user"))
    trace = caller_word(record.get("trace_id"))
    fields = {
        "event_id": first_of(record, ("litellm_call_id", "id")),
        "account_id": account,
        "timestamp": record.get("startTime"),
        "model": record.get("model"),
        "platform": record.get("custom_llm_provider"),
        "network": hashed(
            record.get("requester_ip_address") or metadata.get("requester_ip_address")
        ),
        "client": hashed(record.get("user_agent") or metadata.get("user_agent")),
        "session_id": end_user or trace,
        **request_parameters(parameters),
        **conversation.fields(),
    }
    kept = {
        "end_user": end_user,
        "trace_id": trace,
        "team_id": metadata.get("user_api_key_team_id"),
        "organization_id": metadata.get("user_api_key_org_id"),
    }
    fields.update({name: value for name, value in kept.items() if value is not None})
    return fields


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
