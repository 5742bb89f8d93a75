"""Requests to Anthropic's messages API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stillwatch.data.readers import openai_chat
from stillwatch.data.readers.base import split_record

name = "anthropic"

_OWN_FIELDS = ("system", "anthropic_version", "anthropic_beta", "stop_sequences", "thinking")
_OWN_PARTS = ("tool_use", "tool_result", "thinking", "document")
_ROLES = ("user", "assistant")


def matches(record: Mapping[str, Any]) -> bool:
    """Messages of user and assistant alone, and a sign of this API: one of its fields or kinds
    of content, or a model named claude."""
    body = split_record(record)
    messages = body.get("messages")
    if not isinstance(messages, list):
        return False
    parts: list[Any] = []
    for message in messages:
        if not isinstance(message, Mapping) or message.get("role") not in _ROLES:
            return False
        content = message.get("content")
        parts.extend(content if isinstance(content, list) else [])
    return (
        any(field in body for field in _OWN_FIELDS)
        or "claude" in str(body.get("model"))
        or any(isinstance(part, Mapping) and part.get("type") in _OWN_PARTS for part in parts)
    )


def to_fields(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """As for OpenAI: its reader knows the system prompt apart and the kinds of content, so that
    a wrong guess between the two loses nothing."""
    return openai_chat.to_fields(record)
