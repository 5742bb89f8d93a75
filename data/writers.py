"""Events as files that `read_log` reads back unchanged."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import zstandard

from stillwatch.data.events import KNOWN_FIELDS, Event, event_to_fields
from stillwatch.data.files import atomic_writer

_GROUP_ROWS = 10_000


def write_events(path: Path | str, events: Iterable[Event]) -> int:
    """Write the events as JSON Lines, or as Parquet if the name ends in .parquet.

    JSON Lines are compressed if the name ends in .gz or .zst. In Parquet the unknown fields are
    one column `extra` of JSON objects. The file appears whole or not at all. Returns the number
    of events. Raises OutputError.
    """
    if Path(path).suffix == ".parquet":
        with atomic_writer(path) as file:
            return _write_parquet(file, events)
    with open_json_lines(path) as file:
        count = 0
        for event in events:
            file.write(json_line(event_to_fields(event)))
            count += 1
        return count


@contextmanager
def open_json_lines(path: Path | str) -> Iterator[IO[bytes]]:
    """`atomic_writer` for lines, compressed as the name says. Raises OutputError."""
    suffix = Path(path).suffix
    with atomic_writer(path) as file:
        if suffix == ".gz":
            # No name and time inside: equal events give equal files.
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed:
                yield cast(IO[bytes], packed)
        elif suffix == ".zst":
            compressor = zstandard.ZstdCompressor(write_checksum=True)
            with compressor.stream_writer(file, closefd=False) as packed:
                yield packed
        else:
            yield file


def json_line(fields: Mapping[str, Any]) -> bytes:
    """One line of JSON with its line end. ValueError if it holds NaN or infinity."""
    try:
        return json.dumps(fields, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:
        # An unknown field holds a lone surrogate.
        return json.dumps(fields, allow_nan=False).encode() + b"\n"


def _write_parquet(file: BinaryIO, events: Iterable[Event]) -> int:
    import pyarrow
    from pyarrow import parquet

    text = pyarrow.large_string()
    turn = pyarrow.struct([("role", text), ("text", text)])
    schema = pyarrow.schema(
        [
            ("event_id", text),
            ("account_id", text),
            ("timestamp", pyarrow.float64()),
            ("prompt", text),
            ("system", text),
            ("turns", pyarrow.list_(turn)),
            ("model", text),
            ("platform", text),
            ("network", text),
            ("payment", text),
            ("client", text),
            ("session_id", text),
            ("temperature", pyarrow.float64()),
            ("max_tokens", pyarrow.int64()),
            ("n", pyarrow.int64()),
            ("logprobs", pyarrow.bool_()),
            ("extra", text),
        ]
    )
    if set(schema.names) != KNOWN_FIELDS | {"extra"}:
        raise AssertionError("The columns must be the fields of an event.")
    count = 0
    events = iter(events)
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        while group := list(islice(events, _GROUP_ROWS)):
            rows = [_row(event) for event in group]
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
            count += len(group)
    return count


def _row(event: Event) -> dict[str, Any]:
    fields = event_to_fields(event)
    known = {name: value for name, value in fields.items() if name in KNOWN_FIELDS}
    if event.extra:
        unknown = {name: value for name, value in fields.items() if name not in KNOWN_FIELDS}
        known["extra"] = json.dumps(unknown, allow_nan=False)
    return known
