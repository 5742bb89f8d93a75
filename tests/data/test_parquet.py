"""Parquet logs: types of columns, gaps, and what is refused."""

import math
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from stillwatch.data.errors import InputError
from stillwatch.data.events import Turn
from stillwatch.data.log import Reject, read_log

MOMENT = datetime(2025, 3, 1, 10, 0, 0, 250_000, tzinfo=UTC)


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    base = {"account_id": ["a", "b"], "timestamp": [1.5, 2.5], "prompt": ["x", "y"]}
    parquet.write_table(pyarrow.table({**base, **columns}), path, **options)
    return path


@pytest.mark.parametrize("row_group_size", [1, 100])
def test_columns_become_fields_and_gaps_are_unknown(tmp_path: Path, row_group_size: int) -> None:
    columns = {
        "temperature": [math.nan, 0.5],
        "max_tokens": [100.0, math.nan],
        "n": [None, 3],
        "model": [None, "m"],
        "network": pyarrow.nulls(2),
        "platform": pyarrow.array(["p", None]).dictionary_encode(),
        "turns": [[{"role": "user", "text": "before"}], None],
        "region": ["north", None],
        "score": [math.nan, 1.0],
        "seen": [MOMENT, None],
        "price": [None, Decimal("1.10")],
    }
    path = write(tmp_path / "log", columns, row_group_size=row_group_size)
    first, second = read_log([path], strict=True)
    assert (first.temperature, first.max_tokens, first.n, first.model) == (None, 100, None, None)
    assert (first.platform, second.platform) == ("p", None)
    assert (second.temperature, second.max_tokens, second.n) == (0.5, None, 3)
    assert first.turns == (Turn("user", "before"),)
    assert first.extra == {"region": "north", "seen": MOMENT.timestamp()}
    assert second.extra == {"score": 1.0, "price": "1.10"}


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "+05:00"])
def test_columns_of_times(tmp_path: Path, unit: str, zone: str | None) -> None:
    factor = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    ticks = int(1740823200.25 * factor)
    times = pyarrow.array([ticks, None], pyarrow.int64()).cast(pyarrow.timestamp(unit, zone))
    rejects: list[Reject] = []
    path = write(tmp_path / "log", {"timestamp": times})
    (event,) = read_log([path], on_reject=rejects.append)
    assert event.timestamp == ticks / factor
    assert [reject.line for reject in rejects] == [2]
    assert rejects[0].reason.endswith("missing")


def test_rows_that_are_no_events_are_rejected(tmp_path: Path, canary: str) -> None:
    columns: dict[str, Any] = {
        "account_id": ["a", None, "c", "d", "e"],
        "timestamp": [1.0, 1.0, math.inf, 1.0, 1.0],
        "prompt": pyarrow.array(
            [b"fine", b"x", b"x", canary.encode() + b"\xff", b"x"]
        ).cast(pyarrow.string(), safe=False),
        "extra": [None, None, None, None, "{"],
    }  # fmt: skip
    path = tmp_path / "log"
    # Written as bytes: pyarrow itself would check the text.
    raw = pyarrow.array([b"fine", b"x", b"x", canary.encode() + b"\xff", b"x"])
    text = pyarrow.StringArray.from_buffers(5, raw.buffers()[1], raw.buffers()[2])
    parquet.write_table(pyarrow.table({**columns, "prompt": text}), path)
    rejects: list[Reject] = []
    events = list(read_log([path], on_reject=rejects.append))
    assert [event.account_id for event in events] == ["a"]
    assert [reject.line for reject in rejects] == [2, 3, 4, 5]
    for reject, part in zip(rejects, ("account_id", "timestamp", "prompt", "extra"), strict=True):
        assert reject.reason.startswith(part)
        assert canary not in reject.reason


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"account_id": ["a"], "text": ["x"]}), tmp_path / "log")
    with pytest.raises(InputError, match="however: timestamp, prompt is not there"):
        list(read_log([tmp_path / "log"]))


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    columns = [pyarrow.array(["a"]), pyarrow.array([1]), pyarrow.array(["x"]), pyarrow.array(["y"])]
    names = ["account_id", "timestamp", "prompt", "prompt"]
    parquet.write_table(pyarrow.Table.from_arrays(columns, names), tmp_path / "log")
    with pytest.raises(InputError, match="each column once"):
        list(read_log([tmp_path / "log"]))


@pytest.mark.parametrize("keep", [4, 100, -1])
def test_a_damaged_file_is_an_input_error(tmp_path: Path, keep: int) -> None:
    path = write(tmp_path / "log", {})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="must be a whole Parquet file"):
        list(read_log([path]))


def test_text_named_as_parquet_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("{}")
    with pytest.raises(InputError, match="must be a whole Parquet file"):
        list(read_log([tmp_path / "log"], format="parquet"))


def test_parquet_is_not_read_from_standard_input() -> None:
    with pytest.raises(InputError, match="standard input; save it"):
        list(read_log(["-"], format="parquet"))
