"""A long slot is divided at its lines, and nothing of it is lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillwatch.model.lexical import ngram_chunks
from stillwatch.model.parts import (
    BREAK,
    EDGE_PART_CHARS,
    LONG_CHARS,
    encode_parts,
    in_parts,
    split_parts,
)
from stillwatch.model.text import normalise
from tests.support import DIMENSIONS, TinyEncoder

QUESTION = "Which of the two lamps burns longer, and why?"
PAGE = "\n".join(
    f"The {n}th lamp on the quay was lit at dusk by the same old man." for n in range(12)
)


def test_a_normalised_text_holds_no_break() -> None:
    assert BREAK not in normalise(f"one{BREAK}two")


@pytest.mark.parametrize("text", ["", "a line", "two\nlines", "x" * 5000, QUESTION + "\n" * 3])
def test_what_is_short_or_of_one_line_is_read_whole(text: str) -> None:
    assert in_parts(text) == text
    assert split_parts(text) == [text]


def test_the_last_and_the_first_lines_stand_apart() -> None:
    after, before = in_parts(f"{PAGE}\n{QUESTION}"), in_parts(f"{QUESTION}\n{PAGE}")
    assert split_parts(after)[-1].endswith(QUESTION)
    assert split_parts(before)[0].startswith(QUESTION)
    for text in (after, before):
        edges = split_parts(text)[0], split_parts(text)[-1]
        assert all(len(edge) <= EDGE_PART_CHARS for edge in edges)
        assert len(split_parts(text)) == 3


def test_a_longer_line_at_an_end_stands_apart_by_itself() -> None:
    paragraph = "and so on " * 60
    assert split_parts(in_parts(f"{PAGE}\n{paragraph}"))[-1] == paragraph
    assert split_parts(in_parts(f"{paragraph}\n{QUESTION}")) == [paragraph, QUESTION]


@given(st.lists(st.sampled_from(["a", "好", " ", "\n", "b" * 90]), max_size=40).map("".join))
def test_parts_are_the_text(text: str) -> None:
    parts = split_parts(in_parts(text))
    assert "\n".join(parts) == text
    assert 1 <= len(parts) <= 3
    assert len(parts) == 1 or len(text) > LONG_CHARS


def test_a_text_has_the_windows_of_its_parts() -> None:
    encoder = TinyEncoder(max_windows=1)
    long = in_parts(f"{PAGE}\n{QUESTION}")
    whole, divided = encode_parts(encoder, ["a line", long])
    (plain,) = encoder.encode(["a line"])
    np.testing.assert_array_equal(whole.windows, plain.windows)
    of_parts = encoder.encode(split_parts(long))
    np.testing.assert_array_equal(
        divided.windows, np.concatenate([part.windows for part in of_parts])
    )
    assert divided.windows.shape[1] == DIMENSIONS
    assert divided.tokens == sum(part.tokens for part in of_parts)
    assert divided.truncated
    assert not whole.truncated
    assert encode_parts(encoder, []) == []


def test_the_n_grams_of_parts_are_counted_apart() -> None:
    long = in_parts(f"{PAGE}\n{QUESTION}")
    counted = ngram_chunks(long)
    expected = [own for part in split_parts(long) for own in ngram_chunks(part)]
    assert len(counted) == len(expected) == 3
    for one, other in zip(counted, expected, strict=True):
        np.testing.assert_array_equal(one, other)
