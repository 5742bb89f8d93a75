"""What is kept up of every account as events come and go: its totals, and what it shares."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from stillwatch.data.errors import ConfigError
from stillwatch.serving.archive import PromptArchive, Row
from stillwatch.serving.archive.traits import KINDS
from tests.serving.archive.archive_support import DAY_S, NOON, opened, put, row
from tests.serving.archive.conftest import Open

MOST = dict.fromkeys(KINDS, 1000)


def drawn(rng: np.random.Generator, count: int, first: int) -> list[Row]:
    """Events of few accounts, in no order of time, that share this and that."""
    return [
        row(
            f"prompt {first + n}", f"a{rng.integers(6)}", f"e{first + n}",
            NOON + float(rng.integers(10**6)), risk=float(rng.random()),
            flagged=bool(rng.random() < 0.5), network=f"n{rng.integers(4)}",
            payment=f"p{rng.integers(9)}" if rng.random() < 0.5 else None, client="lib",
        )
        for n in range(count)
    ]  # fmt: skip


def check(archive: PromptArchive, rows: list[Row]) -> None:
    """That totals and traits are those of a count of `rows`, which are in the order of scoring."""
    totals = archive.totals()
    own: dict[str, list[Row]] = {}
    for one in rows:
        own.setdefault(one.event.account_id, []).append(one)
    numbers = archive.account_numbers(f"a{n}" for n in range(6))
    assert set(numbers) == set(own)
    assert totals.accounts == len(own)
    for name, number in numbers.items():
        times = [one.event.timestamp for one in own[name]]
        assert totals.events[number] == len(times)
        assert (totals.first[number], totals.last[number]) == (min(times), max(times))
        assert totals.risk[number] == np.float32(own[name][-1].risk)
        assert totals.flagged[number] == own[name][-1].flagged
        shared = archive.shared_with(number, MOST)
        expected_kinds: dict[int, set[str]] = {}
        expected_events: Counter[int] = Counter()
        for kind in KINDS:
            values = {getattr(one.event, kind) for one in own[name]} - {None}
            for one in rows:
                other = numbers[one.event.account_id]
                if other != number and getattr(one.event, kind) in values:
                    expected_kinds.setdefault(other, set()).add(kind)
                    expected_events[other] += 1
        assert shared.kinds == expected_kinds
        assert shared.events == expected_events
        assert shared.common == set()


@pytest.mark.parametrize("seed", range(3))
def test_they_are_those_of_a_count(open_archive: Open, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    with open_archive() as archive:
        for turn in range(6):
            new = drawn(rng, int(rng.integers(1, 20)), len(rows) + 1000 * turn)
            rows += new
            put(archive, new)
            # What came before counts once, whatever comes again.
            put(archive, new[:3])
            check(archive, rows)
        archive.erase("a2")
        rows = [one for one in rows if one.event.account_id != "a2"]
        check(archive, rows)
        new = drawn(rng, 9, 10**6)
        rows += new
        put(archive, new)
        check(archive, rows)
    with open_archive() as archive:
        check(archive, rows)


def test_what_was_read_before_stays_as_it_was(tmp_path: Path) -> None:
    with opened(tmp_path / "archive") as archive:
        put(archive, [row("one", "a0", risk=0.25)])
        before = archive.totals()
        put(archive, [row("two", "a0", risk=0.75), row("three", "a1")])
        assert before.events.tolist() == [0, 1]
        assert before.risk[1] == 0.25
        assert archive.totals().events.tolist() == [0, 2, 1]
        assert archive.totals() is archive.totals()


def test_the_riskiest_flagged_come_first(tmp_path: Path) -> None:
    with opened(tmp_path / "archive") as archive:
        put(archive, [row(f"p{n}", f"a{n}", risk=n / 10, flagged=n != 3) for n in range(6)])
        totals = archive.totals()
        names = archive.account_names(range(len(totals.events)))
        assert [names[n] for n in totals.riskiest_flagged(3)] == ["a5", "a4", "a2"]


def test_what_its_time_is_over_of_is_not_shared(tmp_path: Path) -> None:
    now = [NOON]
    with opened(tmp_path / "archive", clock=lambda: now[0]) as archive:
        put(archive, [row("one", "a0", network="n1"), row("two", "a1", network="n1")])
        now[0] += 10 * DAY_S
        kept = [row("three", "a0", network="n1"), row("four", "a2", network="n1")]
        put(archive, kept)
        archive.retain(NOON + DAY_S)
        check(archive, kept)


def test_a_value_of_too_many_tells_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "archive") as archive:
        put(archive, [row(f"p{n}", f"a{n}", network="n1", payment="p1") for n in range(5)])
        number = archive.account_numbers(["a0"])["a0"]
        shared = archive.shared_with(number, {**MOST, "network": 4})
        assert shared.common == {"network"}
        assert set(map(frozenset, shared.kinds.values())) == {frozenset({"payment"})}
        assert archive.shared_with(number, {**MOST, "network": 5}).common == set()


def test_an_older_archive_is_brought_up_to_date(tmp_path: Path) -> None:
    rows = drawn(np.random.default_rng(7), 30, 0)
    with opened(tmp_path / "archive") as archive:
        put(archive, rows)
    with closing(sqlite3.connect(tmp_path / "archive" / "archive.db")) as tables, tables:
        tables.execute("DROP TABLE traits")
        tables.execute("UPDATE meta SET value = '1' WHERE name = 'version'")
    with (
        pytest.raises(ConfigError, match="brought up to date when the service opens it"),
        opened(tmp_path / "archive", read_only=True),
    ):
        pass
    with opened(tmp_path / "archive") as archive:
        check(archive, rows)
        put(archive, more := drawn(np.random.default_rng(8), 5, 100))
        check(archive, rows + more)
    with opened(tmp_path / "archive", read_only=True) as archive:
        check(archive, rows + more)
