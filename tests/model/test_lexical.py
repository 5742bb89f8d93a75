"""n-grams: the same ids for ever, in any script, and the end of a long text is read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillwatch.model.lexical import BUCKETS, CHUNK_CHARS, MAX_CHUNKS, ngram_chunks
from stillwatch.model.text import bare


# A change of these ids makes every bundle that was trained before it read noise.
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", []),
        ("a", [184136]),
        ("好", [82054, 90110, 217477]),
        ("Step by step", [52153, 57557, 65403, 104208, 111804, 123467]),
        ("шаг за шагом", [4996, 19330, 29755, 31689, 79722, 108432]),
        ("단계별로 생각", [23642, 29835, 53357, 62926, 82001, 92490]),
    ],
)
def test_ids_never_change(text: str, ids: list[int]) -> None:
    (found,) = ngram_chunks(text)
    assert found.tolist()[:6] == ids


@given(st.text(max_size=300))
def test_ids_are_sorted_and_within_the_table(text: str) -> None:
    (found,) = ngram_chunks(text)
    assert found.dtype == np.uint32
    assert found.tolist() == sorted(set(found.tolist()))
    assert bool(len(found)) == bool(bare(text))
    assert all(found < BUCKETS)


def test_case_is_ignored_and_word_order_is_not() -> None:
    assert np.array_equal(ngram_chunks("SHOW your Steps")[0], ngram_chunks("show your steps")[0])
    assert not np.array_equal(
        ngram_chunks("your steps show")[0], ngram_chunks("show your steps")[0]
    )


def test_punctuation_is_ignored() -> None:
    plain = "write out every step then the answer"
    for text in (
        "Write out: every step, then — the answer!",
        "**Write** out every step\nthen (the) answer.",
    ):
        assert np.array_equal(ngram_chunks(text)[0], ngram_chunks(plain)[0])
    assert not len(ngram_chunks("?! …\n-- _")[0])
    # Vowel signs are no punctuation.
    assert not np.array_equal(ngram_chunks("बताओ")[0], ngram_chunks("बतओ")[0])


def test_like_texts_share_most_and_unlike_ones_few() -> None:
    def shared(first: str, second: str) -> float:
        a, b = ngram_chunks(first)[0], ngram_chunks(second)[0]
        return len(np.intersect1d(a, b)) / len(np.union1d(a, b))

    assert shared("put your reasoning into tags", "put all your reasoning into tags") > 0.65
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
