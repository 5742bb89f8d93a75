"""The spool: order of time, no duplicates, little memory, nothing left behind."""

import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillwatch.data import spool as spool_module
from stillwatch.data.errors import OutputError
from stillwatch.data.events import Event, Turn
from stillwatch.data.spool import EventSpool

SMALL = st.builds(
    Event,
    event_id=st.sampled_from("abcd"),
    account_id=st.sampled_from(["x", "y"]),
    timestamp=st.sampled_from([0.0, 1.0, 2.5]),
    prompt=st.text(),
)


def event(number: int, timestamp: float = 0.0, account: str = "a", **fields: Any) -> Event:
    return Event(f"e{number}", account, timestamp, f"prompt {number}", **fields)


def read(spool: EventSpool, size: int = 3) -> list[Event]:
    return [event for chunk in spool.chunks(size) for event in chunk]


@given(st.lists(SMALL, max_size=20), st.integers(1, 5))
def test_it_gives_the_first_of_each_event_in_order_of_time(events: list[Event], size: int) -> None:
    first: dict[tuple[str, str], Event] = {}
    for item in events:
        first.setdefault((item.account_id, item.event_id), item)
    with EventSpool(events) as spool:
        chunks = list(spool.chunks(size))
        assert [item for chunk in chunks for item in chunk] == sorted(
            first.values(), key=lambda item: item.timestamp
        )
        assert all(len(chunk) == size for chunk in chunks[:-1])
        assert len(spool) == len(first)
        assert spool.duplicates == len(events) - len(first)
        assert spool.accounts == len({item.account_id for item in events})


def test_every_field_survives() -> None:
    whole = Event(
        "e", "a", 1.1, "prompt \N{SNOWMAN}\x00", "system",
        (Turn("user", "x"), Turn("tool", "y")), "m", "p", "n", "pay", "c", "s",
        0.7, 10, 2, True, {"deep": [{"x": None}], "half": "\ud800"},
    )  # fmt: skip
    with EventSpool([whole]) as spool:
        (back,) = read(spool)
    assert back == whole
    assert isinstance(back.turns[0], Turn)


def test_equal_times_stay_in_order_of_arrival() -> None:
    rng = np.random.default_rng(0)
    events = [event(i, float(t)) for i, t in enumerate(rng.integers(0, 5, 500))]
    with EventSpool(events) as spool:
        assert read(spool, 64) == sorted(events, key=lambda item: item.timestamp)


def test_ordered_events_are_read_in_sequence() -> None:
    events = [event(i, i / 10) for i in range(100)]
    with EventSpool(events) as spool:
        assert read(spool) == events


def test_events_are_read_by_their_place_in_time() -> None:
    events = [event(i, -i / 10) for i in range(100)]
    with EventSpool([*events, events[3]]) as spool:
        assert spool.at([0, 99, 42]) == [events[99], events[0], events[57]]
        assert spool.at([]) == []
    with pytest.raises(ValueError, match="inside its with block"):
        spool.at([0])


def test_long_records_are_read_whole() -> None:
    events = [Event(f"e{i}", "a", -i, "é" * size) for i, size in enumerate((0, 2000, 5000, 10**6))]
    with EventSpool(events) as spool:
        assert read(spool) == events[::-1]


def test_ids_of_other_accounts_are_no_duplicates() -> None:
    with EventSpool([event(1, account="a"), event(1, account="b")]) as spool:
        assert (len(spool), spool.duplicates, spool.accounts) == (2, 0, 2)


def test_half_a_digest_alike_is_no_duplicate() -> None:
    high = np.array([5, 5, 5, 9, 5], np.uint64)
    low = np.array([1, 2, 1, 1, 2], np.uint64)
    assert sorted(spool_module._repeated(high, low).tolist()) == [2, 4]


def test_no_events() -> None:
    with EventSpool([]) as spool:
        assert (len(spool), spool.accounts, read(spool)) == (0, 0, [])


def test_it_can_be_read_twice_and_at_the_same_time() -> None:
    events = [event(i, -i) for i in range(10)]
    with EventSpool(events) as spool:
        assert read(spool) == read(spool)
        pairs = list(zip(spool.chunks(1), spool.chunks(1), strict=True))
        assert all(one == other for one, other in pairs)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_nothing_is_left_on_disk(tmp_path: Path, error: type[BaseException]) -> None:
    def events() -> Iterator[Event]:
        yield event(1)
        # Not even now has it a name that could be left behind.
        assert [*tmp_path.iterdir()] == []
        raise error

    spool = EventSpool(events(), folder=tmp_path)
    with pytest.raises(error), spool:
        pass
    assert spool._file is None
    assert [*tmp_path.iterdir()] == []


def test_after_its_block_it_is_closed() -> None:
    with EventSpool([event(1)]) as spool:
        pass
    with pytest.raises(ValueError, match="inside its with block"):
        next(spool.chunks(1))


def test_a_full_disk_is_an_output_error(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    full = Path("/dev/full").open("r+b", 0)  # noqa: SIM115 - the spool closes it
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: full)
    with pytest.raises(OutputError, match="set TMPDIR"), EventSpool([event(1)]):
        pass


@pytest.mark.parametrize("kind", ["ordered", "shuffled", "repeated"])
def test_memory_does_not_grow_with_the_prompts(kind: str) -> None:
    count = 40_000
    step = {"ordered": 1, "shuffled": 7919, "repeated": 1}[kind]
    ids = count // 2 if kind == "repeated" else count

    def events() -> Iterator[Event]:
        for i in range(count):
            yield Event(f"e{i % ids}", f"a{i % 100}", float(i * step % count), "x" * 300)

    tracemalloc.start()
    try:
        with EventSpool(events()) as spool:
            for _ in spool.chunks(100):
                pass
            _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # What does not grow with the number of events is a chunk and the file's buffer.
    assert (peak - 300_000) / count < 70
