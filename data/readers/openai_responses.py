"""Requests to OpenAI's responses API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stillwatch.data.readers.base import envelope_fields, request_parameters, split_record
from stillwatch.data.readers.conversation import read_messages

name = "openai_responses"

_OTHER_APIS = ("messages", "encoding_format", "dimensions", "voice")
"""Embeddings, moderation and speech have an `input` too, some of them these fields."""


def matches(record: Mapping[str, Any]) -> bool:
    """An `input` that is a text or a list of items."""
    body = split_record(record)
    return isinstance(body.get("input"), str | list) and not any(
        field in body for field in _OTHER_APIS
    )


def to_fields(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The account comes from the envelope alone, see `base.ACCOUNT_FIELDS`."""
    body = split_record(record)
    return {
        **envelope_fields(record, body),
        **request_parameters(body),
        **read_messages(body.get("input"), body.get("instructions")).fields(),
    }
