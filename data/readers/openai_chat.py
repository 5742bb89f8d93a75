"""Requests to OpenAI's chat completions and whatever speaks like it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stillwatch.data.readers.base import envelope_fields, request_parameters, split_record
from stillwatch.data.readers.conversation import read_messages

name = "openai_chat"


def matches(record: Mapping[str, Any]) -> bool:
    """Any list of messages: the anthropic reader is asked first."""
    return isinstance(split_record(record).get("messages"), list)


def to_fields(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The account comes from the envelope alone, see `base.ACCOUNT_FIELDS`."""
    body = split_record(record)
    return {
        **envelope_fields(record, body),
        **request_parameters(body),
        **read_messages(body.get("messages"), body.get("system")).fields(),
    }
