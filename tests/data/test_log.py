"""Whole logs: formats guessed or named, what is refused with its line and reason."""

import gzip
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zstandard

from stillwatch.data import files, log
from stillwatch.data.errors import ConfigError, InputError
from stillwatch.data.log import Reject, read_log, rejects_to

Line = Callable[..., dict[str, Any]]
Write = Callable[..., Path]

MALFORMED = [
    (b'{"account_id": ', "no JSON at column"),
    (b'{"a": 1} {"b": 2}', "no JSON at column"),
    (b"[1]", "another JSON value"),
    (b'"text"', "another JSON value"),
    (b'{"x": NaN}', "NaN or infinity"),
    (b'{"x": -Infinity}', "NaN or infinity"),
    (b'{"x": 1e999}', "beyond the range of a float"),
    (b'{"x": 1, "x": 1}', "stands twice"),
    (b'{"y": {"x": 1, "x": 1}}', "stands twice"),
    (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "too deep"),
    (b'{"x": ' + b"9" * 5000 + b"}", "4,300 digits"),
    (b'{"x": "\xff"}', "another encoding at byte 7"),
    (b'{"x": "\xed\xa0\x80"}', "another encoding"),
    (b"{}", "account_id must"),
    (b'{"account_id": "a", "timestamp": 1, "prompt": "\\ud800"}', "a lone surrogate"),
    (b'{"account_id": "a", "timestamp": true, "prompt": "x"}', "timestamp must"),
]


def test_malformed_lines_are_rejected_with_line_and_reason(
    line: Line, write_lines: Write, canary: str
) -> None:
    records: list[Any] = []
    for bad, _ in MALFORMED:
        records += [line(event_id=f"e{len(records)}"), b"", bad]
    path = write_lines(records)
    rejects: list[Reject] = []
    events = list(read_log([path], on_reject=rejects.append))
    assert [event.event_id for event in events] == [f"e{i * 3}" for i in range(len(MALFORMED))]
    assert [reject.line for reject in rejects] == [3 + i * 3 for i in range(len(MALFORMED))]
    for reject, (_, reason) in zip(rejects, MALFORMED, strict=True):
        assert reject.file == str(path)
        assert reason in reject.reason


def test_no_reason_tells_anything_of_the_prompt(
    line: Line, write_lines: Write, canary: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = json.dumps(line()).encode()
    spoiled = [
        whole[:-1],
        whole[:-2] + b"\xff" + whole[-2:],
        whole.replace(b'"e1"', canary.encode()),
        whole.replace(b'"a1"', b"null"),
        whole.replace(canary.encode(), canary.encode() + b"\\ud800"),
        whole[:-1] + b', "prompt": "again"}',
        whole[:-1] + b', "temperature": "' + canary.encode() + b'"}',
        whole[:-1] + b', "turns": [{"role": "' + canary.encode() + b'"}]}',
        whole[:-1] + b', "' + canary.encode() + b'": NaN}',
        whole[:-1] + b', "' + canary.encode() + b'": 1, "' + canary.encode() + b'": 1}',
    ]
    path = write_lines([line(), *spoiled])
    rejects: list[Reject] = []
    assert len(list(read_log([path], on_reject=rejects.append))) == 1
    assert len(rejects) == len(spoiled)
    assert canary not in repr(rejects)
    with caplog.at_level(logging.DEBUG):
        list(read_log([path]))
    assert f"{len(spoiled)} of {len(spoiled) + 1} lines are no events" in caplog.text
    assert canary not in caplog.text
    for bad in spoiled:
        with pytest.raises(InputError, match="line 2: ") as caught:
            list(read_log([write_lines([line(), bad])], strict=True))
        assert canary not in str(caught.value)


def test_strict_stops_at_the_first(line: Line, write_lines: Write) -> None:
    path = write_lines([line(), b"x", line(event_id="e2")])
    events = read_log([path], strict=True)
    assert next(events).event_id == "e1"
    with pytest.raises(InputError) as caught:
        next(events)
    assert str(caught.value).startswith(f"{path}, line 2: a line must be one JSON object")


def test_the_file_of_rejects_is_json_lines(line: Line, write_lines: Write, tmp_path: Path) -> None:
    path = write_lines([line(), b"x"])
    with rejects_to(tmp_path / "rejects.jsonl") as on_reject:
        list(read_log([path], on_reject=on_reject))
    (text,) = (tmp_path / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(text) == {
        "file": str(path),
        "line": 2,
        "reason": "a line must be one JSON object, however: no JSON at column 1",
    }


def test_files_are_read_in_order_each_in_its_own_format(line: Line, write_lines: Write) -> None:
    chat = {
        "api_key_id": "k",
        "timestamp": 2,
        "messages": [{"role": "user", "content": "hello"}],
    }
    paths = [write_lines([line()], "a.jsonl"), write_lines([chat], "b.jsonl")]
    packed = paths[0].with_suffix(".gz")
    packed.write_bytes(gzip.compress(paths[0].read_bytes()))
    events = list(read_log([*paths, packed]))
    assert [event.account_id for event in events] == ["a1", "k", "a1"]


def test_standard_input(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    data = zstandard.compress(b"\xef\xbb\xbf" + json.dumps(line()).encode() + b"\r\n")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    assert [event.event_id for event in read_log(["-"])] == ["e1"]


def test_standard_input_is_named_in_rejects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"{}")))
    rejects: list[Reject] = []
    list(read_log(["-"], format="stillwatch", on_reject=rejects.append))
    assert rejects[0].file == "standard input"


@pytest.mark.parametrize(
    ("records", "found"),
    [
        ([{"colour": "red"}] * 60, "none of its first 50 records fits one"),
        ([b"not JSON"], "no line is an object"),
    ],
)
def test_an_unknown_format_is_an_error_that_lists_the_known(
    write_lines: Write, records: list[Any], found: str
) -> None:
    path = write_lines(records)
    with pytest.raises(InputError, match=found) as caught:
        list(read_log([path]))
    assert "stillwatch, litellm, anthropic, openai_chat, openai_responses" in str(caught.value)
    assert "--format" in str(caught.value)


def test_a_wrong_format_name_is_an_error(write_lines: Write) -> None:
    with pytest.raises(ConfigError, match="must be one of stillwatch"):
        list(read_log([write_lines([{}])], format="csv"))


def test_a_named_format_is_not_guessed(line: Line, write_lines: Write) -> None:
    rejects: list[Reject] = []
    path = write_lines([line()])
    assert not list(read_log([path], format="openai_chat", on_reject=rejects.append))
    assert "messages must be a list" in rejects[0].reason


def test_an_empty_file_has_no_events(write_lines: Write) -> None:
    assert list(read_log([write_lines([b"", b"  "])])) == []


def test_guessing_reads_a_bounded_part(
    line: Line, write_lines: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lines read ahead are bounded, and none is lost or read twice."""
    monkeypatch.setattr(log, "SNIFFED_LINES", 5)
    path = write_lines([b"x"] * 3 + [line(event_id=f"e{i}") for i in range(20)])
    events = list(read_log([path], on_reject=lambda _: None))
    assert [event.event_id for event in events] == [f"e{i}" for i in range(20)]
    with pytest.raises(InputError, match="no line is an object"):
        list(read_log([write_lines([b"x"] * 5 + [line()])]))


def test_an_overlong_line_is_a_reject(
    line: Line, write_lines: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 200)
    monkeypatch.setattr(files, "_CHUNK_BYTES", 64)
    rejects: list[Reject] = []
    path = write_lines([line(), line(prompt="x" * 300), line()])
    assert len(list(read_log([path], on_reject=rejects.append))) == 2
    assert [(reject.line, reject.reason.split(",")[0]) for reject in rejects] == [
        (2, "a line must be at most 64 MiB")
    ]
