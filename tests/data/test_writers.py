"""What is written is read back unchanged, and appears whole or not at all."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillwatch.data.errors import OutputError
from stillwatch.data.events import Event, Turn
from stillwatch.data.files import magic_bytes
from stillwatch.data.log import read_log
from stillwatch.data.writers import json_line, write_events

EVENTS = [
    Event("e1", "a", 1.0, "plain"),
    Event(
        "e2", "b\N{SNOWMAN}", 1_700_000_000.123456, "two\nlines\u2028\x00", "system",
        (Turn("user", "x"), Turn("assistant", "y")), "m", "p", "n", "pay", "c", "s",
        0.7, 10, 2, False, {"deep": [{"x": None}], "half": "\ud800", "extra": "{}"},
    ),
]  # fmt: skip
SUFFIXES = {
    ".jsonl": b'{"ev',
    ".jsonl.gz": b"\x1f\x8b\x08\x00",
    ".jsonl.zst": b"\x28\xb5\x2f\xfd",
    ".parquet": b"PAR1",
}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_events_are_read_back_unchanged(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"log{suffix}"
    assert write_events(path, iter(EVENTS)) == 2
    assert magic_bytes(path) == SUFFIXES[suffix]
    assert list(read_log([path], strict=True)) == EVENTS
    assert [*tmp_path.iterdir()] == [path]
    again = path.read_bytes()
    write_events(path, EVENTS)
    assert path.read_bytes() == again


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(texts=st.lists(st.text(), min_size=1, max_size=5))
def test_any_text_is_read_back(tmp_path: Path, suffix: str, texts: list[str]) -> None:
    events = [
        replace(EVENTS[1], event_id=f"e{i}", prompt=text, system=text, extra={"x": text})
        for i, text in enumerate(texts)
    ]
    path = tmp_path / f"log{suffix}"
    write_events(path, events)
    assert list(read_log([path], strict=True)) == events


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nothing_is_left_of_half_a_log(tmp_path: Path, suffix: str) -> None:
    def events() -> Iterator[Event]:
        yield EVENTS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_events(tmp_path / f"log{suffix}", events())
    assert [*tmp_path.iterdir()] == []


def test_an_unwritable_place_is_found_before_the_first_event(tmp_path: Path) -> None:
    def events() -> Iterator[Event]:
        raise AssertionError("Nothing must be read yet.")
        yield

    with pytest.raises(OutputError):
        write_events(tmp_path / "absent" / "log.jsonl", events())


def test_infinity_is_never_written() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        json_line({"x": float("inf")})


def test_many_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillwatch.data.writers._GROUP_ROWS", 3)
    events = [Event(f"e{i}", "a", float(i), "x") for i in range(10)]
    write_events(tmp_path / "log.parquet", events)
    assert list(read_log([tmp_path / "log.parquet"])) == events
