"""What is shown of hostile text, and what of it leaves as a file."""

from __future__ import annotations

import csv
import io
import json
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from stillwatch.serving.archive.results import ArchivedEvent
from stillwatch.serving.pages import display, wording
from stillwatch.serving.pages.display import Piece
from stillwatch.serving.pages.exporting import COLUMNS, defused, to_csv, to_jsonl
from stillwatch.serving.pages.projection import project
from stillwatch.serving.pages.queries import to_filters, to_query
from tests.serving.pages.pages_support import HARM, HARM_ACCOUNT, LONG

EVENT = ArchivedEvent(
    1, "e1", "a1", 1.7e9, 1.7e9, "prompt", "", None, None, None, None, None, None,
    "cot_harvesting", {"cot_harvesting": 0.5}, 0.25, True, "T1", 0.5, "en", "bundle", 0, 1,
)  # fmt: skip


@pytest.fixture
def wide_cells() -> Iterator[None]:
    """The reader of CSV takes long cells, while a test runs."""
    before = csv.field_size_limit(10**6)
    yield
    csv.field_size_limit(before)


def printable(text: str) -> bool:
    return all(
        char.isprintable() or char in "\n\t" or unicodedata.category(char) == "Zs" for char in text
    )


@pytest.mark.parametrize(
    "text", [*HARM, LONG, "\u200b" * 5000, "\ud800\u202e" * 3000, "", "a\n\tb"]
)
def test_whatever_is_shown_is_printable_and_bounded(text: str) -> None:
    found = display.pieces(text)
    assert all(printable(piece.text) for piece in found)
    assert sum(piece.kind == "mark" for piece in found) <= display.MAX_MARKS
    # Nothing that can be seen is left out.
    seen = "".join(char for char in text if printable(char))
    shown = "".join(piece.text for piece in found if piece.kind == "text")
    assert shown.replace("\ufffd", "") == seen


def test_what_has_no_glyph_is_named() -> None:
    found = display.pieces("a\u200b\u200b\u202eb\x00")
    assert found == [
        Piece("text", "a"), Piece("mark", "U+200B ×2"), Piece("mark", "U+202E"),
        Piece("text", "b"), Piece("mark", "U+0000"),
    ]  # fmt: skip


def test_a_word_that_differs_is_told() -> None:
    left, right = wording.compare("Please WRITE the steps, slowly", "write all the steps: {slot}")
    assert left == [
        Piece("differ", "Please"), Piece("same", "WRITE the steps,"), Piece("differ", "slowly"),
    ]  # fmt: skip
    assert right == [
        Piece("same", "write"), Piece("differ", "all"), Piece("same", "the steps:"),
        Piece("slot", "{slot}"),
    ]  # fmt: skip


def test_of_a_long_prompt_the_part_like_the_template_is_compared() -> None:
    rest = "word " * 20_000
    left, _ = wording.compare(f"{rest}think aloud in tags {rest}", "think aloud in tags")
    assert Piece("same", "think aloud in tags") in left
    assert left[0] == left[-1] == Piece("gap", "…")


def test_a_comparison_takes_a_bounded_time() -> None:
    started = time.perf_counter()
    for text in (LONG, "a b " * 50_000, "x" * 200_000, " ".join(map(str, range(40_000)))):
        wording.compare(text, "a b c " * 600)
    assert time.perf_counter() - started < 4


@pytest.mark.parametrize(
    ("cell", "wanted"),
    [
        ("=1+1", "'=1+1"), ("+1", "'+1"), ("-1", "'-1"), ("@SUM(1)", "'@SUM(1)"),
        ("\t=1", "'\t=1"), ("\r=1", "'\r=1"), ("\n=1", "'\n=1"), ("  =1", "'  =1"),
        ("＝1", "'＝1"), ("\ufeff=1", "'\ufeff=1"), ("a=1", "a=1"), ("", ""), (None, ""),
        (-0.5, "-0.5"), (True, "yes"), ("a\x00b", "a\ufffdb"),
    ],
)  # fmt: skip
def test_no_cell_is_a_formula(cell: object, wanted: str) -> None:
    assert defused(cell) == wanted


def test_files_hold_hostile_prompts_harmlessly(wide_cells: None) -> None:
    events = [
        replace(EVENT, prompt=text, account_id=HARM_ACCOUNT, event_id="=e")
        for text in (*HARM, LONG)
    ]
    table = list(csv.reader(io.StringIO(to_csv(events).decode("utf-8-sig"), newline="")))
    assert tuple(table[0]) == COLUMNS
    assert len(table) == len(events) + 1
    for row in table[1:]:
        assert len(row) == len(COLUMNS)
        for name, cell in zip(COLUMNS, row, strict=True):
            numeric = name in ("risk", "contribution", "similarity")
            assert numeric or not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    lines = to_jsonl(events).split(b"\n")[:-1]
    assert [json.loads(line)["prompt"] for line in lines] == [event.prompt for event in events]
    assert all(line.isascii() for line in lines)


def test_a_map_keeps_the_two_widest_axes() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 8)) * np.array([9, 4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    found = project(vectors.astype(np.float32))
    assert found.places.shape == (50, 2)
    assert found.places.min() == 0
    assert found.places.max() == 1
    assert abs(np.corrcoef(found.places[:, 0], vectors[:, 0])[0, 1]) > 0.99
    assert found.variance[0] > found.variance[1] > 0.05
    np.testing.assert_array_equal(project(vectors.astype(np.float32)).places, found.places)


@pytest.mark.parametrize("shape", [(30, 80), (80, 30), (40, 40)])
def test_a_map_is_that_of_all_singular_vectors(shape: tuple[int, int]) -> None:
    vectors = np.random.default_rng(1).normal(size=shape) * np.linspace(3, 0.1, shape[1])
    found = project(vectors.astype(np.float32))
    centred = vectors - vectors.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    shares = sizes[:2] ** 2 / (sizes**2).sum()
    np.testing.assert_allclose(found.variance, shares, rtol=1e-5)
    for axis in range(2):
        wanted = left[:, axis]
        assert abs(np.corrcoef(found.places[:, axis], wanted)[0, 1]) > 1 - 1e-6


def test_a_map_of_two_lies_on_one_axis() -> None:
    found = project(np.array([[1, 0, 0], [0, 1, 0]], np.float32))
    assert sorted(found.places[:, 0]) == [0, 1]
    assert found.places[:, 1].tolist() == [0.5, 0.5]
    assert found.variance == pytest.approx((1.0, 0.0))


def test_times_are_told_in_utc() -> None:
    assert display.when(1.7e9 + 59.9) == "2023-11-14 22:14"
    assert display.day(1.7e9) == "2023-11-14"
    assert display.when(0.0) == "1970-01-01 00:00"


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_a_map_of_few_has_them_all(count: int) -> None:
    same = np.ones((count, 4), np.float32)
    assert np.isfinite(project(same).places).all()
    assert project(same).places.shape == (count, 2)


def test_a_date_to_which_is_meant_is_in() -> None:
    found = to_filters({"since": "2026-03-01", "until": "2026-03-01", "flagged": "no"})
    assert found.until is not None
    assert found.since is not None
    assert found.until - found.since == 86_400
    assert found.flagged is False


@pytest.mark.parametrize(
    "fields", [{"text": " "}, {"text": "x" * 200_001}, {"text": "x", "since": "soon"},
               {"text": "x", "until": "9999-12-31T23:59:59+99:00"}, {}],
)  # fmt: skip
def test_a_search_that_is_none_is_refused(fields: dict[str, str]) -> None:
    with pytest.raises(Exception, match="must"):
        to_query(fields)
