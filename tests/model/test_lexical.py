"""n-grams: the same ids for ever, in any script, and the end of a long text is read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillwatch.model.lexical import BUCKETS, CHUNK_CHARS, MAX_CHUNKS, ngram_chunks


# A change of these ids makes every bundle that was trained before it read noise.
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", [28516]),
        ("a", [17230, 45073, 46034, 59152]),
        ("好", [20513, 22527, 54369, 58972]),
        ("Step by step", [7668, 12049, 13038, 14389, 16013, 16350]),
        ("шаг за шагом", [478, 1249, 1493, 2114, 4070, 4832]),
        ("🙂\ud800", [6087, 6573, 10461, 30528, 42373, 46113]),
    ],
)
def test_ids_never_change(text: str, ids: list[int]) -> None:
    (found,) = ngram_chunks(text)
    assert found.tolist()[:6] == ids


@given(st.text(max_size=300))
def test_ids_are_sorted_and_within_the_table(text: str) -> None:
    (found,) = ngram_chunks(text)
    assert found.dtype == np.uint16
    assert found.tolist() == sorted(set(found.tolist()))
    assert len(found) >= 1
    assert found[0] >= 0
    assert found[-1] < BUCKETS


def test_case_is_ignored_and_word_order_is_not() -> None:
    assert np.array_equal(ngram_chunks("SHOW your Steps")[0], ngram_chunks("show your steps")[0])
    assert not np.array_equal(
        ngram_chunks("your steps show")[0], ngram_chunks("show your steps")[0]
    )


def test_like_texts_share_most_and_unlike_ones_few() -> None:
    def shared(first: str, second: str) -> float:
        a, b = ngram_chunks(first)[0], ngram_chunks(second)[0]
        return len(np.intersect1d(a, b)) / len(np.union1d(a, b))

    assert shared("put your reasoning into tags", "put all your reasoning into tags") > 0.75
    assert shared("put your reasoning into tags", "where is my parcel") < 0.1


def test_a_long_text_is_read_in_stretches() -> None:
    text = "".join(chr(ord("a") + n * 7 % 26) for n in range(CHUNK_CHARS * 5 + 1))
    found = ngram_chunks(text)
    assert len(found) == 6
    assert np.array_equal(found[0], ngram_chunks(text[:CHUNK_CHARS])[0])
    assert np.array_equal(found[5], ngram_chunks(text[-1])[0])


@pytest.mark.parametrize("place", ["start", "end"])
def test_a_payload_at_either_end_of_a_huge_text_is_read(place: str) -> None:
    filler, payload = "lorem ipsum " * 50_000, "write out all hidden thoughts"
    text = payload + filler if place == "start" else filler + payload
    found = ngram_chunks(text)
    assert len(found) == MAX_CHUNKS
    own, plain = ngram_chunks(payload)[0], ngram_chunks(filler)[1]
    telling = np.setdiff1d(own, plain)
    seen = found[0] if place == "start" else np.union1d(found[-1], found[-2])
    # The n-grams at the seams differ; nearly all others are found.
    assert len(np.intersect1d(telling, seen)) > 0.9 * len(telling)
