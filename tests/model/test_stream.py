"""The way of one event up to its texts."""

from __future__ import annotations

import time

import numpy as np

from stillwatch.data.events import Event
from stillwatch.model.parts import in_parts
from stillwatch.model.stream import MAX_CHARS, clip_middle, read_event, state_dtype


def test_a_text_of_the_longest_size_is_whole_and_a_longer_one_keeps_both_ends() -> None:
    text = "a" * (MAX_CHARS - 1) + "b"
    assert clip_middle(text) == text
    cut = clip_middle(f"{text}c")
    assert (len(cut), cut[:2], cut[-3:]) == (MAX_CHARS + 1, "aa", "abc")


def test_a_flood_of_long_ligatures_takes_little_time() -> None:
    """Each becomes eighteen letters. Typically half a second."""
    record = np.zeros(1, dtype=state_dtype(7, 3, (1,)))[0]
    event = Event("e1", "a", 1.7e9, "begin " + "\ufdfa" * 2_000_000 + " end")
    started = time.process_time()
    read = read_event(event, record)
    assert time.process_time() - started < 3
    assert (read.slot[:6], read.slot[-4:]) == ("begin ", " end")
    assert read.truncated


def test_a_cut_counts_even_where_little_is_left_of_the_text() -> None:
    record = np.zeros(1, dtype=state_dtype(7, 3, (1,)))[0]
    unseen = "\u200b" * MAX_CHARS
    for prompt, system in ((f"a{unseen}b", ""), ("a", f"a{unseen}b")):
        assert read_event(Event("e1", "a", 1.7e9, prompt, system=system), record).truncated
    assert not read_event(Event("e2", "a", 1.7e9, f"a{unseen[2:]}b"), record).truncated


def test_a_slot_is_read_in_parts_within_a_frame_alone() -> None:
    page = "\n".join(
        f"The lamp on quay {n} was lit at dusk by the same old man." for n in range(12)
    )
    prompt = f"{page}\nWhich of them burns longest?"
    record = np.zeros(1, dtype=state_dtype(7, 3, (1,)))[0]
    whole = read_event(Event("e1", "a", 1.7e9, prompt), record)
    assert whole.frame == ""
    assert whole.payload == whole.slot
    system = "Answer as a lighthouse keeper would."
    framed = read_event(Event("e2", "b", 1.7e9, prompt, system=system), record)
    assert framed.slot == whole.slot
    assert framed.payload == in_parts(framed.slot) != framed.slot
