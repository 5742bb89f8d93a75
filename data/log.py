"""Request logs of any format as events, with what was refused and why."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from stillwatch.data.errors import InputError
from stillwatch.data.events import Event, InvalidEvent, parse_event
from stillwatch.data.files import (
    MAX_LINE_BYTES,
    OVERLONG,
    PARQUET_MAGIC,
    STANDARD,
    atomic_writer,
    file_name,
    magic_bytes,
    open_lines,
)
from stillwatch.data.readers import FORMATS, parquet, reader_named, sniff
from stillwatch.data.readers.base import Reader
from stillwatch.data.strict_json import InvalidJson, parse_object

SNIFFED_RECORDS = 50
SNIFFED_LINES = 1000
SNIFFED_BYTES = 16 * 2**20

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

logger = logging.getLogger(__name__)


class Reject(NamedTuple):
    """A line, or row of a Parquet file, that is no event. `reason` quotes nothing of it."""

    file: str
    line: int
    reason: str


def read_log(
    paths: Iterable[Path | str],
    format: str | None = None,  # noqa: A002 - named as the option of the command line
    on_reject: Callable[[Reject], None] | None = None,
    strict: bool = False,
) -> Iterator[Event]:
    """The events of the files, in their order; "-" is standard input.

    Each file has one format, `format` or else what fits most of its first records. A line that
    is no event goes to `on_reject`; without it, each file's count is logged as a warning.
    `strict` raises InputError at the first one instead. Raises InputError for a file that is
    missing, damaged or of no known format, ConfigError for an unknown `format`.
    """
    reader = reader_named(format) if format is not None else None
    for path in paths:
        yield from _read_file(path, reader, on_reject, strict)


@contextmanager
def rejects_to(path: Path | str) -> Iterator[Callable[[Reject], None]]:
    """An `on_reject` that writes JSON Lines: {"file", "line", "reason"}. Raises OutputError."""
    with atomic_writer(path) as file:

        def write(reject: Reject) -> None:
            file.write(json.dumps(reject._asdict()).encode() + b"\n")

        yield write


def _read_file(
    path: Path | str,
    reader: Reader | None,
    on_reject: Callable[[Reject], None] | None,
    strict: bool,
) -> Iterator[Event]:
    name = file_name(path)
    lines = 0
    rejects: list[Reject] = []
    count = 0
    for number, event in _events(path, reader):
        lines += 1
        if isinstance(event, Event):
            yield event
            continue
        if strict:
            raise InputError(f"{name}, line {number}: {event}")
        reject = Reject(name, number, event)
        if on_reject is not None:
            on_reject(reject)
        elif not rejects:
            rejects.append(reject)
        count += 1
    if rejects:
        logger.warning(
            "%s: %d of %d lines are no events, the first is line %d: %s",
            name, count, lines, rejects[0].line, rejects[0].reason,
        )  # fmt: skip


def _events(path: Path | str, reader: Reader | None) -> Iterator[tuple[int, Event | str]]:
    """Each line's number with its event or the reason why it is none."""
    magic = magic_bytes(path)
    if reader is parquet or (reader is None and magic == PARQUET_MAGIC):
        if str(path) == STANDARD:
            raise InputError("Parquet must be read from a file, however: standard input; save it")
        yield from _row_events(path)
        return
    lines = _content(open_lines(path))
    if reader is None:
        reader, lines = _sniffed(path, lines)
    to_fields = reader.to_fields
    for number, line in lines:
        try:
            yield number, parse_event(to_fields(_record(line)))
        except (InvalidEvent, InvalidJson) as error:
            yield number, error.reason


def _row_events(path: Path | str) -> Iterator[tuple[int, Event | str]]:
    for number, row in parquet.rows(path):
        try:
            yield number, parse_event(parquet.to_fields(row))
        except InvalidEvent as error:
            yield number, error.reason


def _content(lines: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, without a byte order mark."""
    for number, line in lines:
        if number == 1 and line.startswith(_BYTE_ORDER_MARK):
            line = line[len(_BYTE_ORDER_MARK) :]
        if line and not line.isspace():
            yield number, line


def _record(line: bytes) -> Mapping[str, Any]:
    if line is OVERLONG:
        raise InvalidJson(
            f"a line must be at most {MAX_LINE_BYTES // 2**20} MiB, however: a longer one"
        )
    return parse_object(line)


def _sniffed(
    path: Path | str, lines: Iterator[tuple[int, bytes]]
) -> tuple[Reader, Iterator[tuple[int, bytes]]]:
    """The reader that fits the first records, and all lines from the first again."""
    held: list[tuple[int, bytes]] = []
    size = 0
    records: list[Mapping[str, Any]] = []
    for number, line in lines:
        held.append((number, line))
        size += len(line)
        with suppress(InvalidJson):
            records.append(_record(line))
        if len(records) == SNIFFED_RECORDS or len(held) == SNIFFED_LINES or size > SNIFFED_BYTES:
            break
    reader = sniff(records)
    if reader is None and held:
        found = f"none of its first {len(records)} records" if records else "no line is an object"
        raise InputError(
            f"{file_name(path)} must be in a format of {', '.join(FORMATS)}, however: "
            f"{found}{' fits one' if records else ''}; name one with --format"
        )
    # An empty file is in any format.
    return reader or reader_named("stillwatch"), chain(held, lines)
