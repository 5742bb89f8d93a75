"""Features: named one by one, independent of neighbours, finite whatever comes, of fixed size."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from stillwatch.data.events import Event, Turn
from stillwatch.model.classifier import ClassifierConfig
from stillwatch.model.features import (
    SCALARS,
    TOP,
    EventFacts,
    advance,
    event_scalars,
    feature_names,
    feature_state_fields,
)
from stillwatch.model.framing import FRAMING_STATE, Split
from stillwatch.model.heads import class_names
from stillwatch.model.signals import SignalLayout
from stillwatch.model.stream import read_event, state_dtype
from tests.support import INTENTS

CLASSES = class_names(INTENTS)
LAYOUT = SignalLayout(len(CLASSES))
NAMES = feature_names(CLASSES, INTENTS)


def empty_state(accounts: int) -> np.ndarray:
    return np.zeros(accounts, dtype=feature_state_fields(len(CLASSES), len(INTENTS)))


def random_event(rng: np.random.Generator, accounts: int) -> dict[str, Any]:
    """Arguments of `advance` for one event of each account."""
    framed = rng.random(accounts) < 0.6
    return {
        "frame": rng.normal(size=(accounts, LAYOUT.width)).astype(np.float32) * framed[:, None],
        "slot": rng.normal(size=(accounts, LAYOUT.width)).astype(np.float32),
        "facts": EventFacts(
            1.7e9 + rng.uniform(0, 1e6, accounts),
            (rng.integers(1, 9, accounts) * framed).astype(np.uint32),
            rng.random((accounts, len(SCALARS))).astype(np.float32),
        ),
    }


def step(state: np.ndarray, event: dict[str, Any]) -> np.ndarray:
    return advance(state, **event, layout=LAYOUT, intents=len(INTENTS))


def only(event: dict[str, Any], row: int) -> dict[str, Any]:
    facts = event["facts"]
    own = [value[row : row + 1] for value in (facts.times, facts.frame_hash, facts.scalars)]
    return {
        "frame": event["frame"][row : row + 1],
        "slot": event["slot"][row : row + 1],
        "facts": EventFacts(*own),
    }


def one_event(
    time: float = 1.7e9, frame_hash: int = 0, fill: float = 0.0, **scalars: float
) -> dict[str, Any]:
    """One event of one account, every signal of its slot `fill`."""
    row = np.array([[scalars.get(name, 0.0) for name in SCALARS]], dtype=np.float32)
    return {
        "frame": np.zeros((1, LAYOUT.width), np.float32),
        "slot": np.full((1, LAYOUT.width), fill, np.float32),
        "facts": EventFacts(np.array([time]), np.array([frame_hash], np.uint32), row),
    }


def named(features: np.ndarray) -> dict[str, float]:
    """The features of the first account by name."""
    return dict(zip(NAMES, features[0].tolist(), strict=True))


def test_each_feature_has_one_name() -> None:
    features = step(empty_state(4), random_event(np.random.default_rng(0), 4))
    assert features.shape == (4, len(NAMES))
    assert features.dtype == np.float32
    assert len(set(NAMES)) == len(NAMES)


def test_names_stand_at_their_values() -> None:
    state = empty_state(1)
    event = one_event(frame_hash=7, latin_share=0.25, temperature=0.7)
    event["frame"][0, LAYOUT.template] = 0.5
    event["slot"][0, LAYOUT.benign] = 0.125
    event["frame"][0, LAYOUT.lexical] = np.arange(len(CLASSES))
    event["slot"][0, LAYOUT.lexical] = -np.arange(len(CLASSES))
    event["slot"][0, LAYOUT.dense.start] = 40
    found = named(step(state, event))
    # What is asked for is the frame's reading; the slot's own is kept beside it.
    assert found[f"frame.ngram.{CLASSES[0]}"] == found[f"mean.asked.dense.{CLASSES[0]}"] == 0
    assert found[f"mean.slot.dense.{CLASSES[0]}"] == 40
    state = empty_state(1)
    event["slot"][0, LAYOUT.dense.start] = 0
    found = named(step(state, event))
    for number, name in enumerate(CLASSES):
        assert found[f"frame.ngram.{name}"] == number
        assert found[f"slot.ngram.{name}"] == -number
        assert found[f"slot.dense.{name}"] == 0
        for stat in ("mean", "recent"):
            # Of a frame the n-grams speak for the vector as well.
            assert found[f"{stat}.asked.dense.{name}"] == number
            assert found[f"{stat}.asked.ngram.{name}"] == number
            assert found[f"{stat}.slot.dense.{name}"] == 0
            assert found[f"{stat}.slot.ngram.{name}"] == -number
    assert (found["frame.template"], found["slot.benign"]) == (0.5, 0.125)
    assert (found["mean.frame.template"], found["mean.slot.benign"]) == (0.5, 0.125)
    assert found["temperature"] == pytest.approx(0.7)
    assert (found["latin_share"], found["latin_mean"], found["latin_change"]) == (0.25, 0.25, 0)
    assert (found["frames_new_share"], found["framed_share"], found["frame_known"]) == (1, 1, 0)
    found = named(step(state, one_event(1.7e9 + 9, frame_hash=7, latin_share=0.75, repeat=1)))
    assert (found["frames_new_share"], found["framed_share"], found["frame_known"]) == (0.5, 1, 1)
    assert (found["repeat_share"], found["latin_change"], found["latin_mean"]) == (0.5, 0.5, 0.5)
    assert found["gap_log"] == pytest.approx(np.log1p(9) / 10)
    assert found["events_log"] == pytest.approx(np.log1p(2))
    assert found["hours_share"] == pytest.approx(1 / 24)


def test_accounts_do_not_know_their_neighbours() -> None:
    accounts, rounds = 7, 30
    rng = np.random.default_rng(1)
    together, alone_states = empty_state(accounts), [empty_state(1) for _ in range(accounts)]
    for _ in range(rounds):
        # Not all of them send something each time, so that their numbers of events differ.
        rows = np.flatnonzero(rng.random(accounts) < 0.6)
        event, part = random_event(rng, len(rows)), together[rows]
        features = step(part, event)
        together[rows] = part
        for position, row in enumerate(rows):
            own = step(alone_states[row], only(event, position))[0]
            np.testing.assert_allclose(own, features[position], rtol=1e-5, atol=1e-5)
    assert len(set(together["events"].tolist())) > 2
    for number, alone in enumerate(alone_states):
        for name in alone.dtype.names or ():
            np.testing.assert_allclose(
                alone[name][0], together[name][number], rtol=1e-5, atol=1e-5, err_msg=name
            )


def test_an_account_that_waits_is_not_changed() -> None:
    rng = np.random.default_rng(2)
    state = empty_state(3)
    step(state, random_event(rng, 3))
    before = state[2].copy()
    step(state[:2], random_event(rng, 2))
    assert state[2] == before
    assert state["events"].tolist() == [2, 2, 1]


@pytest.mark.parametrize(
    "times",
    [
        [1.7e9 - 1e5 * n for n in range(40)],
        [1.7e9] * 40,
        [0.0, 7.2e9, 0.0, 7.2e9],
        [-1e9, -1e-12, 0.0],
        [1.7e9 + 1e-7 * n for n in range(40)],
    ],
    ids=["backwards", "same", "huge gaps", "before the epoch", "tiny gaps"],
)
def test_times_of_any_kind_give_finite_features(times: list[float]) -> None:
    state = empty_state(1)
    for time in times:
        found = named(step(state, one_event(time)))
        assert np.isfinite(list(found.values())).all()
        assert found["gap_log"] >= 0
    assert state["last_time"][0] == max(times)


def test_a_time_that_goes_back_is_no_gap() -> None:
    state = empty_state(1)
    for time in (1.7e9, 1.7e9 - 500):
        found = named(step(state, one_event(time)))
    assert found["gap_log"] == 0
    assert named(step(state, one_event(1.7e9 + 60)))["gap_log"] == pytest.approx(np.log1p(60) / 10)


def test_the_pace_of_the_last_hour_is_that_of_the_order_of_time() -> None:
    times = [1.7e9 + 400.0 * number for number in range(20)]
    shuffled = [*times[::2], *times[1::2]]
    found = []
    for order in (times, shuffled):
        state = empty_state(1)
        for time in order:
            step(state, one_event(time))
        found.append(state[0])
    for name in ("hour_count", "day_count", "last_time", "hours_seen"):
        assert found[1][name] == pytest.approx(found[0][name], rel=1e-5)


def test_a_late_event_changes_nothing_of_the_gaps() -> None:
    state = empty_state(1)
    for time in (1.7e9, 1.7e9 + 100, 1.7e9 + 200):
        step(state, one_event(time))
    before = state[["gap_mean", "gap_square"]][0].copy()
    step(state, one_event(1.7e9 - 86400))
    assert state[["gap_mean", "gap_square"]][0] == before


def test_pace_is_forgotten_with_time() -> None:
    state = empty_state(1)
    for number in range(100):
        found = named(step(state, one_event(1.7e9 + number)))
    assert found["hour_count_log"] == pytest.approx(np.log1p(100), abs=0.03)
    later = named(step(state, one_event(1.7e9 + 100 + 86400)))
    assert later["hour_count_log"] == pytest.approx(np.log1p(1), abs=1e-3)
    assert later["day_count_log"] == pytest.approx(np.log1p(1 + 100 / np.e), abs=0.05)


@pytest.mark.parametrize("value", [0.0, 60.0, -60.0, 3e4])
def test_a_long_stream_of_any_signal_stays_finite(value: float) -> None:
    state = empty_state(1)
    for name in ("events", "framed", "strong_count"):
        state[name] = 10**5
    state["logit_mean"] = value
    state["logit_square"] = value**2
    state["top"] = value
    for number in range(200):
        features = step(state, one_event(1.7e9 + number, frame_hash=number % 3, fill=value))
    assert np.isfinite(features).all()
    assert named(features)["mean.asked.dense.person"] == pytest.approx(value, rel=2e-3)


def test_a_hundred_thousand_events_keep_mean_and_spread() -> None:
    # What so many events leave behind, and a few more.
    rng = np.random.default_rng(3)
    state = empty_state(1)
    state["events"] = 10**5
    state["logit_mean"], state["logit_square"] = 2.0, 2.0**2 + 1.5**2
    for _ in range(300):
        event = one_event(fill=0.0)
        event["slot"][0, LAYOUT.dense] = rng.normal(2.0, 1.5, len(CLASSES))
        event["slot"][0, LAYOUT.lexical] = rng.normal(2.0, 1.5, len(CLASSES))
        found = named(step(state, event))
    assert found["mean.asked.dense.person"] == pytest.approx(2.0, abs=0.02)
    assert found["spread.slot.ngram.person"] == pytest.approx(1.5, abs=0.02)


def test_the_strongest_evidence_is_kept() -> None:
    rng = np.random.default_rng(4)
    values = rng.permutation(np.linspace(-5, 5, 50)).astype(np.float32)
    state = empty_state(1)
    for value in values:
        event = one_event()
        event["slot"][0, LAYOUT.dense.start] = value + 1
        event["slot"][0, LAYOUT.lexical.start] = value - 1
        found = named(step(state, event))
    best = np.sort(values)[::-1]
    np.testing.assert_allclose(np.sort(state["top"][0, 0])[::-1], best[:TOP])
    intent = INTENTS[0]
    assert found[f"top1.asked.{intent}"] == pytest.approx(best[0])
    assert found[f"top3.slot.{intent}"] == pytest.approx(best[:3].mean())
    assert found[f"top8.asked.{intent}"] == pytest.approx(best[:8].mean())
    assert found[f"strong_share.asked.{intent}"] == pytest.approx(0.5)
    assert found[f"strong_share.slot.{INTENTS[1]}"] == 0


def test_a_single_weak_event_is_no_evidence() -> None:
    event = one_event()
    event["slot"][0, LAYOUT.dense] = event["slot"][0, LAYOUT.lexical] = -3
    found = named(step(empty_state(1), event))
    assert found[f"top1.slot.{INTENTS[0]}"] == -3
    assert found[f"top8.slot.{INTENTS[0]}"] < -5


def test_likeness_to_the_past_is_that_of_the_slot() -> None:
    state = empty_state(1)
    first, other = one_event(), one_event()
    first["slot"][0, 0], other["slot"][0, 1] = 3.0, 0.5
    assert named(step(state, first))["past.nearest"] == 0
    found = named(step(state, other))
    assert (found["past.nearest"], found["past.mean"]) == (0, 0)
    assert found["past.concentration"] == pytest.approx(np.sqrt(0.5))
    found = named(step(state, first))
    assert found["past.nearest"] == pytest.approx(1, abs=1e-3)
    assert found["past.mean"] == pytest.approx(np.sqrt(0.5), abs=1e-3)


def test_scalars_follow_their_names() -> None:
    assert len(event_scalars(Event("e", "a", 0.0, "x"), Split("", "x", 0, 1, False), "x")) == len(
        SCALARS
    )
    event = Event(
        "e", "a", 0.0, "…", system="Be brief.", temperature=9.0, n=4, logprobs=True,
        max_tokens=2**53, turns=(Turn("user", "hello"),),
    )  # fmt: skip
    split = Split("a frame of words", "привет", 4, 1, True)
    found = dict(zip(SCALARS, event_scalars(event, split, "привет"), strict=True))
    assert found == {
        "has_frame": 1, "has_system": 1, "repeat": 1, "frame_words_log": np.log(5),
        "slot_words_log": np.log(2), "frame_share": 0.8, "temperature_given": 1, "temperature": 2,
        "n_log": np.log(4), "logprobs": 1, "max_tokens_log": pytest.approx(np.log(2**53) / 8),
        "turns_log": np.log(2), "latin_share": 0,
    }  # fmt: skip
    bare = dataclasses.replace(
        event, system="", temperature=None, n=-3, logprobs=None, max_tokens=-1, turns=()
    )
    found = dict(zip(SCALARS, event_scalars(bare, Split("", "", 0, 0, False), ""), strict=True))
    assert {name for name, value in found.items() if value} == {"latin_share"}


def test_the_system_prompt_belongs_to_the_frame() -> None:
    record = np.zeros(1, dtype=FRAMING_STATE)[0]
    bare = read_event(Event("e1", "a", 0.0, "How are you?"), record)
    assert (bare.frame, bare.frame_hash, bare.slot) == ("", 0, "How are you?")
    system = read_event(Event("e2", "a", 1.0, "Well?", system="Be  brief."), record)
    assert (system.frame, system.slot) == ("Be brief.", "Well?")
    assert system.frame_hash != 0
    prompts = [f"Sort this letter of a customer into one of five heaps: {n}" for n in "pq"]
    *_, last = [read_event(Event("e3", "a", 2.0, p, system="Be brief."), record) for p in prompts]
    assert (last.frame, last.slot) == (f"Be brief.\n{prompts[0][:-2]}", "q")
    assert last.frame_hash != system.frame_hash


def test_an_account_s_state_is_small() -> None:
    config = ClassifierConfig(len(NAMES), len(INTENTS))
    record = state_dtype(len(CLASSES), len(INTENTS), config.state_shape)
    assert record["classifier"].shape == config.state_shape
    assert record.itemsize < 16 * 1024
    assert not record.hasobject
