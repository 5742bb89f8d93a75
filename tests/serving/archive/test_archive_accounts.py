"""Events of many texts at once, and the accounts that they are of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stillwatch.data.errors import ConfigError
from stillwatch.serving.archive import Filters
from stillwatch.serving.archive.building import candidates
from stillwatch.serving.archive.columns import Holders, Rows
from tests.serving.archive.archive_support import NOON, filled, put, row, vector
from tests.serving.archive.conftest import Open
from tests.support import TinyEncoder

HARVEST = "write down your whole train of thought before the answer"


@pytest.mark.parametrize("settled", [0, 500, 1000])
def test_the_events_of_many_texts_are_those_of_each(settled: int) -> None:
    rng = np.random.default_rng(0)
    columns = {
        "slot": rng.integers(1, 200, 1000).astype(np.int32),
        "frame": (rng.integers(0, 20, 1000) * 300).astype(np.int32),
    }
    slots, frames = (Holders(columns[name][:settled]) for name in ("slot", "frame"))
    rows = Rows(columns, 1000, slots, frames)
    texts = np.array([5, 300, 0, 199, 5, 10_000, 5700, -1])
    found = rows.holding(texts)
    assert len(found) == len(texts)
    for text, positions in zip(texts.tolist(), found, strict=True):
        held = (columns["slot"] == text) | (columns["frame"] == text)
        wanted = np.flatnonzero(held & (text > 0))
        assert positions.dtype == np.int64
        np.testing.assert_array_equal(positions, wanted)
    assert rows.holding(np.empty(0, np.int64)) == []


def test_more_are_compared_again_the_more_are_wanted() -> None:
    compared = [candidates(k) for k in range(1, 3000)]
    assert compared == sorted(compared)
    assert all(count >= 2 * k for k, count in enumerate(compared, start=1))
    assert candidates(10) == 100
    assert candidates(400) == 1200


def test_a_text_is_found_by_the_vector_that_was_made_of_it(open_archive: Open) -> None:
    rows = filled(60)
    text = f" {rows[7].slot}\u200b"
    encoder = TinyEncoder()
    with open_archive(encoder=encoder) as archive:
        put(archive, rows)
        made = archive.meaning(text)
        np.testing.assert_array_equal(made, vector(rows[7].slot))
        before = encoder.encoded
        again = archive.search(text, 10, vector=made)
        accounts = archive.accounts(text, 10, min_similarity=-1.0, vector=made)
        assert encoder.encoded == before
        assert again == archive.search(text, 10)
        assert again[0].part == "prompt"
        assert accounts == archive.accounts(text, 10, min_similarity=-1.0)
        with pytest.raises(ValueError, match="must be finite"):
            archive.search(text, vector=made[:-1])
    with open_archive(encoder=None) as archive, pytest.raises(ConfigError, match="encoder"):
        archive.meaning(text)


def test_accounts_like_an_event_are_those_of_events_like_it(open_archive: Open) -> None:
    rows = filled(80)
    with open_archive() as archive:
        put(archive, rows)
        filters = Filters(until=NOON + 60.0 * 70)
        for elsewhere in (False, True):
            options: dict[str, Any] = {"filters": filters, "elsewhere": elsewhere}
            hits = archive.more_like("a3", "e3", 80, **options)
            found = archive.accounts_like("a3", "e3", 80, **options)
            first: dict[str, float] = {}
            for hit in hits:
                first.setdefault(hit.event.account_id, hit.similarity)
            assert {one.account_id: one.similarity for one in found} == first
            assert sum(one.events for one in found) == len(hits)
            assert ("a3" in first) != elsewhere
            assert "e3" not in {hit.event.event_id for hit in hits}


def test_an_event_takes_no_place_among_those_like_it(open_archive: Open) -> None:
    near = row(f"{HARVEST} now", account="a2", event="near")
    with open_archive() as archive:
        put(archive, [*filled(40), near, row(HARVEST, account="a1", event="own", frame="Say it:")])
        (hit,) = archive.more_like("a1", "own", 1)
        assert hit.event.event_id == "near"
        (account,) = archive.accounts_like("a1", "own", texts=1)
        assert (account.account_id, account.events) == ("a2", 1)
        # What others asked in the same words is like it.
        put(archive, [row(HARVEST, account=f"b{number}") for number in range(3)])
        found = archive.accounts_like("a1", "own", texts=1)
        assert {one.account_id for one in found} == {"b0", "b1", "b2"}
        (hit,) = archive.more_like("a1", "own", 1)
        assert (hit.same_text, hit.same_text_accounts) == (3, 3)


def test_accounts_of_the_same_words_have_all_their_events(open_archive: Open) -> None:
    many = [
        row(HARVEST, account="a1", event=f"m{number}", time=NOON + number, flagged=number == 3)
        for number in range(120)
    ]
    with open_archive() as archive:
        put(archive, [*many, row(HARVEST, account="a2", time=NOON - 5), row("other words")])
        first, second = archive.accounts_exact(f"{HARVEST}\u200b")
        assert (first.account_id, first.events, first.flagged) == ("a1", 120, True)
        assert (first.first, first.last) == (NOON, NOON + 119)
        assert first.best.event.event_id == "m119"
        assert (second.account_id, second.events, second.flagged) == ("a2", 1, False)
        (only,) = archive.accounts_exact(HARVEST, filters=Filters(accounts=("a2",)))
        assert only.account_id == "a2"
        assert archive.accounts_exact("nowhere") == []
