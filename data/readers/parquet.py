"""Parquet files with the columns of an event line, and further ones, which are kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from stillwatch.data.errors import InputError
from stillwatch.data.events import KNOWN_FIELDS, InvalidEvent
from stillwatch.data.strict_json import InvalidJson, parse_object

name = "parquet"

REQUIRED = ("account_id", "timestamp", "prompt")
BATCH_ROWS = 2000

_TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def matches(record: Mapping[str, Any]) -> bool:
    """Never: Parquet is told by the first bytes of the file."""
    return False


def rows(path: Path | str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows with their numbers from 1. At most `BATCH_ROWS` are held at once.

    Columns of times become epoch seconds. Raises InputError if the file is damaged or lacks a
    column that events need.
    """
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            present = file.schema_arrow.names
            missing = [column for column in REQUIRED if column not in present]
            if missing:
                raise InputError(
                    f"{path} must have the columns {', '.join(REQUIRED)}, however: "
                    f"{', '.join(missing)} is not there; rename or add it"
                )
            if len(set(present)) < len(present):
                raise InputError(
                    f"{path} must have each column once, however: two have one name; rename one"
                )
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                # A column without a value says nothing, and costs.
                filled = [
                    index for index, column in enumerate(batch.columns)
                    if column.null_count < len(column)
                ]  # fmt: skip
                names = [batch.schema.names[index] for index in filled]
                columns = [_values(batch.column(index)) for index in filled]
                for row in zip(*columns, strict=True) if columns else [()] * len(batch):
                    number += 1
                    yield number, dict(zip(names, row, strict=True))
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(
            f"{path} must be a whole Parquet file, however: it is damaged after row {number}; "
            "copy or write it anew"
        ) from error


def to_fields(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row without its gaps; NaN is one, since many tools have no other.

    A column `extra` with objects as JSON text holds the unknown fields of `write_events`.
    """
    fields = {
        name: value if name in KNOWN_FIELDS else _plain(value)
        for name, value in record.items()
        if value is not None and value == value
    }
    extra = fields.get("extra")
    if not isinstance(extra, str):
        return fields
    try:
        unknown = parse_object(extra)
    except InvalidJson as error:
        raise InvalidEvent("extra must hold JSON objects, however: " + error.reason) from None
    del fields["extra"]
    return {**unknown, **fields}


def _values(column: Any) -> list[Any]:
    """A column as Python values, times as seconds since the epoch, UTC."""
    import pyarrow

    if pyarrow.types.is_timestamp(column.type):
        # With a zone it counts in UTC; without one it is UTC, as in event lines.
        ticks = column.cast(pyarrow.int64()).to_pylist()
        second = _TICKS[column.type.unit]
        return [None if tick is None else tick / second for tick in ticks]
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [_value(scalar) for scalar in column]


def _value(scalar: Any) -> Any:
    """One value; bytes, which no field may be, if it is text that is not UTF-8."""
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return b""


def _plain(value: Any) -> Any:
    """An unknown value as JSON can hold it."""
    if isinstance(value, str | int | float) or value is None:
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    return f"({type(value).__name__})"
