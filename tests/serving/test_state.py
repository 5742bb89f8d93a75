"""The bytes that a store keeps of an account."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillwatch.data.errors import StoreError
from stillwatch.data.events import MAX_ID_BYTES
from stillwatch.model.bundle import load_bundle, released_bundle
from stillwatch.model.stream import state_dtype
from stillwatch.serving.state import (
    EVIDENCE_KEPT,
    MAX_BYTES,
    Kept,
    Standing,
    from_bytes,
    to_bytes,
)
from stillwatch.serving.verdict import EXCERPT_CHARS, Evidence

MANIFEST = load_bundle(released_bundle()).manifest
DTYPE = state_dtype(len(MANIFEST.classes), len(MANIFEST.intents), MANIFEST.classifier_state)
"""Of the released bundle, as sizes are what it is about."""
STATE_ID = "0123456789abcdef"


def record(seed: int = 0) -> np.void:
    raw = np.random.default_rng(seed).bytes(DTYPE.itemsize)
    return np.frombuffer(raw, dtype=DTYPE)[0]


def standing(event_ids: list[str], excerpt: str = "an excerpt") -> Standing:
    kept = [
        Kept(number, Evidence(name, "cot_harvesting", 0.5 - number / 8, None, 0.25, excerpt))
        for number, name in enumerate(event_ids)
    ]
    return Standing(
        "0123456789ab", 0.5, 123_456, 0.125, 0.75, dict.fromkeys(MANIFEST.intents, 0.3333333333),
        True, 17, 3, 5, tuple(kept),
    )  # fmt: skip


def parsed(value: bytes) -> tuple[np.void | None, Standing]:
    return from_bytes(value, STATE_ID, DTYPE)


any_id = st.text(st.characters(categories=None), max_size=MAX_ID_BYTES // 4)


@given(ids=st.lists(any_id, max_size=EVIDENCE_KEPT), seed=st.integers(0, 99))
def test_it_is_read_as_it_was_written(ids: list[str], seed: int) -> None:
    own = standing(ids, excerpt="".join(ids)[:EXCERPT_CHARS])
    value = to_bytes(STATE_ID, record(seed), own)
    found, read = parsed(value)
    assert found is not None
    assert found.tobytes() == record(seed).tobytes()
    assert read == own
    assert len(value) <= MAX_BYTES
    # What is read can be changed without changing what was.
    found["events"] += 1
    assert parsed(value)[0] != found


@pytest.mark.parametrize("char", ["\0", '"', "\\", "\x7f", "é", "\u2028", "\U0001f600", "\ud800"])
def test_hostile_ids_leave_it_small(char: str) -> None:
    width = len(char.encode("utf-8", "surrogatepass"))
    ids = [char * (MAX_ID_BYTES // width)] * EVIDENCE_KEPT
    own = standing(ids, excerpt="\U0001f600" * EXCERPT_CHARS)
    value = to_bytes(STATE_ID, record(), own)
    assert len(value) <= MAX_BYTES
    found, read = parsed(value)
    assert found is not None
    assert found.tobytes() == record().tobytes()
    # The strongest evidence stays, and all that is no evidence.
    assert read.kept == own.kept[: len(read.kept)]
    # A NUL takes six characters of JSON: of such ids two are left.
    assert len(read.kept) >= (2 if char == "\0" else 3)
    assert replace(read, kept=()) == replace(own, kept=())


def test_another_detectors_record_is_never_misread() -> None:
    value = to_bytes(STATE_ID, record(), standing(["e1"]))
    for other in ("0123456789abcdee", "f" * 16):
        found, read = from_bytes(value, other, DTYPE)
        assert found is None
        assert read == standing(["e1"])
    # Of another size and shape, too.
    found, _ = from_bytes(value, "f" * 16, state_dtype(3, 2, (1, 2, 3, 4)))
    assert found is None


VALUE = to_bytes(STATE_ID, record(), standing(["e1", "e2"]))


@given(st.binary(max_size=200))
def test_garbage_is_refused(garbage: bytes) -> None:
    for value in (garbage, VALUE[:21] + garbage, garbage + VALUE, VALUE + garbage):
        if value != VALUE:
            with pytest.raises(StoreError, match="must hold states"):
                parsed(value)


@given(position=st.integers(0, len(VALUE) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found(position: int, bit: int) -> None:
    damaged = bytearray(VALUE)
    damaged[position] ^= 1 << bit
    with pytest.raises(StoreError, match="damaged"):
        parsed(bytes(damaged))


@given(length=st.integers(0, len(VALUE) - 1))
def test_a_cut_is_found(length: int) -> None:
    with pytest.raises(StoreError):
        parsed(VALUE[:length])


@pytest.mark.parametrize(
    ("size", "tail"),
    [
        (DTYPE.itemsize, b"[]"),
        (DTYPE.itemsize, b"[[]]"),
        (DTYPE.itemsize, b"{}"),
        (DTYPE.itemsize, b"7"),
        (DTYPE.itemsize, b"[1,2,3"),
        (DTYPE.itemsize, b"\xff"),
        (DTYPE.itemsize, b"[" * 100_000),
        (DTYPE.itemsize, b'["b",0.5,1,0.5,0.5,{},false,null,0,0,[[1,2]]]'),
        (DTYPE.itemsize, b'["b",0.5,1,0.5,0.5,{},false,null,0,0,0,[]]'),
        # Right in itself, with a record that is too long, or too short.
        (2 * DTYPE.itemsize, b'["b",0.5,1,0.5,0.5,{},false,null,0,0,[]]'),
        (DTYPE.itemsize - 1, b'["b",0.5,1,0.5,0.5,{},false,null,0,0,[]]'),
        (0, b'["b",0.5,1,0.5,0.5,{},false,null,0,0,[]]'),
    ],
)
def test_a_form_that_nobody_wrote_is_refused(size: int, tail: bytes) -> None:
    """Though its checksum is right."""
    value = struct.pack("<B16sI", 1, STATE_ID.encode(), size) + bytes(size) + tail
    with pytest.raises(StoreError):
        parsed(value + struct.pack("<I", zlib.crc32(value)))
