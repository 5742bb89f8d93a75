"""Framing: what recent prompts share is the frame, what varies is the slot."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillwatch.model.framing import (
    CHECKPOINTS,
    EDGE_CHARS,
    FRAMING_STATE,
    LINE_WORDS,
    MIN_FRAME_WORDS,
    RING,
    Split,
    split_prompt,
)
from stillwatch.model.text import normalise, word_spans

FRUIT = ["apples", "two ripe pears", "plums", "a sour cherry", "quinces", "figs", "many medlars"]
SUFFIX = "Show every step that you took before you give the answer."
PREFIX = "You are the order desk of a garden shop. The customer writes:"


def fresh() -> np.void:
    """The state of an account that sent nothing yet."""
    return np.zeros(1, dtype=FRAMING_STATE)[0]


def sorted_words(text: str) -> list[str]:
    """Its word units, newlines left out."""
    return sorted(text[start:stop] for start, stop in word_spans(text) if text[start] != "\n")


def splits(prompts: list[str]) -> list[Split]:
    """The split of each prompt of one account."""
    state = fresh()
    return [split_prompt(normalise(prompt), state) for prompt in prompts]


@pytest.mark.parametrize(
    ("form", "frame"),
    [
        (f"{PREFIX} {{}}", PREFIX),
        (f"{{}} {SUFFIX}", SUFFIX),
        (f"{PREFIX} {{}} {SUFFIX}", f"{PREFIX}\n{SUFFIX}"),
    ],
)
def test_what_prompts_share_is_the_frame(form: str, frame: str) -> None:
    first, *others = splits([form.format(fruit) for fruit in FRUIT])
    assert first == Split("", form.format(FRUIT[0]), 0, first.slot_words, False)
    for fruit, split in zip(FRUIT[1:], others, strict=True):
        assert (split.frame, split.slot) == (frame, fruit)
        assert split.frame_words == len(word_spans(frame.replace("\n", " ")))
        assert split.slot_words == len(word_spans(fruit))
        assert not split.repeat


def test_case_does_not_hide_a_frame() -> None:
    split = splits([f"{PREFIX} apples", f"{PREFIX.upper()} pears"])[-1]
    assert (split.frame, split.slot) == (PREFIX.upper(), "pears")


def test_letters_that_grow_in_lower_case_do_not_hide_a_frame() -> None:
    assert len("İ".lower()) == 2
    split = splits([f"İİİİİ apples {SUFFIX}", f"İ pears {SUFFIX}"])[-1]
    assert (split.frame, split.slot) == (SUFFIX, "İ pears")


def test_an_exact_repeat_is_told_and_not_remembered_twice() -> None:
    state = fresh()
    prompt = f"{PREFIX} apples"
    assert [split_prompt(prompt, state).repeat for _ in range(RING + 3)] == [False] + [True] * (
        RING + 2
    )
    assert np.count_nonzero(state["ring_digest"]) == 1
    # A repeat is not its own frame, and what was learnt of others still holds for it.
    assert split_prompt(prompt, state).frame == ""
    assert split_prompt(f"{PREFIX} pears", state).slot == "pears"
    again = split_prompt(prompt, state)
    assert (again.frame, again.slot, again.repeat) == (PREFIX, "apples", True)
    long_slot = " ".join(f"word{number}" for number in range(40))
    for repeat in (False, True):
        split = split_prompt(f"{PREFIX} {long_slot}", state)
        assert (split.frame, split.slot, split.repeat) == (PREFIX, long_slot, repeat)


def test_a_prompt_past_the_ring_is_forgotten() -> None:
    distinct = [f"question {number} about {number * 7919} sheep" for number in range(RING)]
    assert not splits(["one of its own kind", *distinct, "one of its own kind"])[-1].repeat
    assert splits(["one of its own kind", *distinct[:-1], "one of its own kind"])[-1].repeat


def test_nested_prompts_never_lose_the_slot() -> None:
    base = "tell me how tall the old tower in the town is"
    for prompts in ([base, f"{base} and its well"], [f"{base} and its well", base]):
        split = splits(prompts)[-1]
        assert split.slot
        assert normalise(f"{split.frame} {split.slot}").split() == prompts[-1].split()
    doubled = splits(["so it goes " * 3, "so it goes " * 4, "so it goes " * 2])
    assert [(split.frame_words, split.slot_words) for split in doubled] == [(0, 9), (11, 1), (0, 6)]


@pytest.mark.parametrize("length", [50, 61, 200, 300])
def test_a_long_frame_is_found_to_its_last_checkpoint(length: int) -> None:
    shared = " ".join(f"r{number}" for number in range(length))
    assert len(shared) < EDGE_CHARS
    split = splits([f"{shared} {fruit}" for fruit in FRUIT])[-1]
    # Of a long frame not every word is looked at: its last few count as slot.
    assert split.frame_words == max(count for count in CHECKPOINTS if count <= length)
    assert split.frame_words >= 0.75 * length
    assert shared.startswith(split.frame)
    assert split.slot.endswith(FRUIT[-1])


def test_a_frame_longer_than_the_edge_is_cut_there() -> None:
    shared = " ".join(f"r{number}" for number in range(4000))
    split = splits([f"{shared} {fruit}" for fruit in FRUIT])[-1]
    assert split.frame_words == CHECKPOINTS[-1]
    assert shared.startswith(split.frame)
    assert split.slot.endswith(FRUIT[-1])


def test_two_alternating_templates_are_told_apart() -> None:
    forms = (f"{PREFIX} {{}}", f"{{}} {SUFFIX}")
    prompts = [forms[n % 2].format(fruit) for n, fruit in enumerate(FRUIT + FRUIT[::-1][1:])]
    for number, split in enumerate(splits(prompts)):
        if number >= 2:
            assert split.frame == (PREFIX, SUFFIX)[number % 2]
            assert split.slot == (FRUIT + FRUIT[::-1][1:])[number]


def test_a_rare_template_among_other_traffic_is_found() -> None:
    talk = [f"talk{number} of{number} this{number} and{number} that{number}" for number in range(8)]
    prompts = [f"{PREFIX} apples", *talk, f"{PREFIX} pears"]
    found = splits(prompts)
    assert [split.frame for split in found[:-1]] == [""] * 9
    assert (found[-1].frame, found[-1].slot) == (PREFIX, "pears")


def test_one_accidental_likeness_does_not_widen_a_frame() -> None:
    prompts = [f"{PREFIX} {fruit}" for fruit in ("plums today", "figs in jars", "apples and a pie")]
    split = splits([*prompts, f"{PREFIX} apples and a cake"])[-1]
    assert (split.frame, split.slot) == (PREFIX, "apples and a cake")


def test_common_first_words_are_no_frame() -> None:
    prompts = ["how do I mend a torn sail", "how do I grow leeks", "how do sundials work at noon"]
    for prompt, split in zip(prompts, splits(prompts), strict=True):
        assert (split.frame, split.slot, split.frame_words) == ("", prompt, 0)
    short = splits(["a b c d plums", "a b c d figs"])[-1]
    assert MIN_FRAME_WORDS == 4
    assert short.frame == "", "four words of one letter are too short to mean anything"


def test_chinese_has_frames_of_characters() -> None:
    prefix, suffix = "请把顾客的来信归入一个类别:", "。只写出类别的名称,不要解释理由。"
    slots = ["包裹还没有送到", "颜色和图片不一样", "想换一件大号的"]
    split = splits([prefix + slot + suffix for slot in slots])[-1]
    assert split.slot == slots[-1]
    assert split.frame == f"{normalise(prefix)}\n{normalise(suffix)}"


def test_long_prompts_are_split_at_both_ends() -> None:
    rng = np.random.default_rng(0)
    bodies = [" ".join(map(str, rng.integers(0, 10**6, 7300))) for _ in range(3)]
    assert all(len(body) > 49_000 for body in bodies)
    split = splits([f"{PREFIX} {body} {SUFFIX}" for body in bodies])[-1]
    assert split.frame == f"{PREFIX}\n{SUFFIX}"
    assert split.slot == bodies[-1]


def test_a_frame_that_fills_both_edges_leaves_the_middle() -> None:
    shared = " ".join(f"article{number:04d}" for number in range(EDGE_CHARS // 8))
    assert len(shared) > EDGE_CHARS
    split = splits([f"{shared} {fruit} {shared}" for fruit in FRUIT])[-1]
    head, tail = split.frame.split("\n")
    assert shared.startswith(head)
    assert shared.endswith(tail)
    assert EDGE_CHARS // 2 < len(head) <= EDGE_CHARS
    assert EDGE_CHARS // 2 < len(tail) <= EDGE_CHARS
    assert FRUIT[-1] in split.slot


def test_no_word_is_cut_through_where_the_edge_ends() -> None:
    for width in range(20, 80):
        words_of_width = [f"{number:0{width}d}" for number in range(3 * EDGE_CHARS // width)]
        shared = " ".join(words_of_width)
        edge = shared[-EDGE_CHARS:]
        if shared[-EDGE_CHARS - 1] != " " != edge[0] and len(word_spans(edge)) in CHECKPOINTS:
            break
    assert len(word_spans(edge)) in CHECKPOINTS
    split = splits([f"{fruit} {shared}" for fruit in FRUIT])[-1]
    assert split.frame
    assert split.frame.split()[0] in words_of_width


def test_the_state_has_a_fixed_size_and_holds_no_text() -> None:
    state = fresh()
    size = state.nbytes
    for number in range(40):
        split_prompt(f"{PREFIX} canary {number} " + "word " * (number * 50), state)
    assert state.nbytes == size < 4096
    assert b"canary" not in state.tobytes()
    assert np.count_nonzero(state["ring_digest"]) == RING


@given(
    st.lists(
        st.one_of(
            st.text(max_size=60),
            st.lists(st.sampled_from(["so", "it", "goes", "好", "。", "\n", "İ", "A", "-"])).map(
                " ".join
            ),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_frame_and_slot_cover_the_prompt(prompts: list[str]) -> None:
    state = fresh()
    for prompt in prompts:
        text = normalise(prompt)
        split = split_prompt(text, state)
        assert sorted_words(f"{split.frame}\n{split.slot}") == sorted_words(text)
        assert bool(split.slot) == bool(text)
        if split.frame:
            assert split.frame_words + split.slot_words == len(word_spans(text))


TALK = [
    "The ferry left late again.\nWe waited on the quay and counted gulls for an hour.",
    "My aunt keeps bees behind the tannery.\nShe says that the lindens are early this year.",
    "Two chairs are missing from the hall.\nThe caretaker blames the choir, as he always does.",
    "It rained on the parade.\nNobody had thought of the paper lanterns until it was too late.",
]


@pytest.mark.parametrize("lengths", [1, 40])
def test_text_before_it_does_not_hide_a_frame_that_begins_a_line(lengths: int) -> None:
    prompts = [
        "\n\n".join([f"{line} {number}" for line in [talk] * lengths] + [f"{PREFIX} {fruit}"])
        for number, (talk, fruit) in enumerate(zip(TALK, FRUIT, strict=False))
    ]
    first, *others = splits(prompts)
    assert first.frame == ""
    known = len(word_spans(PREFIX))
    kept = max(count for count in LINE_WORDS if count <= known)
    for talk, fruit, split in zip(TALK[1:], FRUIT[1:], others, strict=False):
        assert PREFIX.startswith(split.frame)
        assert split.frame_words == len(word_spans(split.frame)) == kept
        assert split.slot.startswith(talk.split("\n")[0])
        assert split.slot.endswith(fruit)


def test_text_that_comes_again_before_a_frame_is_none_of_it() -> None:
    prompts = [
        f"{fruit}, she said.\n{talk}\n{PREFIX} {fruit}\n{SUFFIX}"
        for talk, fruit in zip([*TALK, TALK[0]], FRUIT, strict=False)
    ]
    split = splits(prompts)[-1]
    assert SUFFIX in split.frame
    assert PREFIX[:30] in split.frame
    assert "on the quay" in split.slot


def test_lines_amid_and_at_the_end_are_one_frame() -> None:
    prompts = [f"{talk}\n{PREFIX} {fruit}\n{SUFFIX}" for talk, fruit in zip(TALK, FRUIT)]  # noqa: B905
    split = splits(prompts)[-1]
    inner, end = split.frame.split("\n")
    assert PREFIX.startswith(inner)
    assert end == SUFFIX
    assert sorted_words(f"{split.frame} {split.slot}") == sorted_words(normalise(prompts[-1]))


def test_a_line_of_few_words_is_no_frame() -> None:
    prompts = [f"{talk}\nNow answer this: yes\n{fruit}" for talk, fruit in zip(TALK, FRUIT)]  # noqa: B905
    assert all(split.frame == "" for split in splits(prompts))


def test_a_line_between_long_ends_is_found_and_what_lies_deeper_is_not_read() -> None:
    def deep(number: int, before: int) -> str:
        lines = [f"n{number} of {place} and of {number * place}" for place in range(2000)]
        return "\n".join([*lines[:before], f"{PREFIX} {FRUIT[number]}", *lines[before:]])

    found = [splits([deep(number, before) for number in range(6)])[-1] for before in (1994, 1000)]
    assert PREFIX.startswith(found[0].frame)
    assert found[0].frame
    assert found[1].frame == ""
