"""What the tests of readers and writers share."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

CANARY = "canary-7f3a-never-shown"


@pytest.fixture
def line() -> Callable[..., dict[str, Any]]:
    """The fields of an event line, with changes; None takes a field away."""

    def fields(**changes: Any) -> dict[str, Any]:
        whole = {
            "event_id": "e1",
            "account_id": "a1",
            "timestamp": 1_700_000_000.5,
            "prompt": CANARY,
            **changes,
        }
        return {name: value for name, value in whole.items() if value is not None}

    return fields


@pytest.fixture
def write_lines(tmp_path: Path) -> Callable[..., Path]:
    """Writes records, or bytes as they are, as lines of a file."""

    def write(records: Iterable[Any], name: str = "log.jsonl") -> Path:
        path = tmp_path / name
        path.write_bytes(
            b"".join(
                (record if isinstance(record, bytes) else json.dumps(record).encode()) + b"\n"
                for record in records
            )
        )
        return path

    return write


@pytest.fixture
def canary() -> str:
    """The prompt of every `line`: no message may hold it."""
    return CANARY
