"""Stillwatch's own event lines: the names of the class `Event`, unknown fields kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

name = "stillwatch"


def matches(record: Mapping[str, Any]) -> bool:
    """A `prompt` that is an object belongs to the OpenAI responses API."""
    return "prompt" in record and not isinstance(record["prompt"], Mapping)


def to_fields(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The record as it is."""
    return record
