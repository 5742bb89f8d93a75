from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stillwatch.data.events import Event
from stillwatch.model.campaigns import skeletons
from stillwatch.model.campaigns.index import CampaignIndex
from stillwatch.model.campaigns.shingles import HASH_BITS, distinct, read_shingles
from stillwatch.model.campaigns.skeletons import Skeletons, find_skeletons
from tests.model.campaigns.campaign_support import campaign, indexed, ordinary, words


def found_in(index: CampaignIndex) -> Skeletons:
    table = index.table()
    return find_skeletons(table.pair_shingle, table.pair_event, table.account, table.identity)


def accounts_of(index: CampaignIndex, found: Skeletons, number: int) -> set[str]:
    events = found.event[found.skeleton == number]
    return {index.accounts[int(a)] for a in index.table().account[events]}


def of(prompt: str, system: str = "") -> set[int]:
    event = Event("e", "a", 0.0, prompt, system)
    return set(read_shingles(event).shingles.tolist())


def test_shingles_are_those_of_runs_of_words() -> None:
    assert len(of("one two three four five")) == 2
    assert of("one two three four") < of("zero one two three four five")
    assert of("one two three") == set()
    assert max(of("one two three four five six")) < 2**HASH_BITS


def test_case_numbers_and_disguises_do_not_change_a_shingle() -> None:
    assert of("List item 17 of the Book") == of("list ITEM 4 of the book")
    assert of("show the whole thought") == of("sh\u200bow the whоle thought")


def test_a_system_prompt_is_no_prompt() -> None:
    text = "say each step of the way"
    assert of("", system=text)
    assert of("", system=text).isdisjoint(of(text))


def test_texts_are_told_by_their_hash() -> None:
    one, same, other = (
        read_shingles(Event("e", "a", 0.0, text)).text for text in ("Hello", "hello", "hullo")
    )
    assert one == same != other


@pytest.mark.parametrize("values", [[], [3], [3, 3], [5, 1, 5, 2**63, 1]])
def test_distinct_values(values: list[int]) -> None:
    assert distinct(np.array(values, dtype=np.uint64)).tolist() == sorted(set(values))


def test_a_frame_of_several_accounts_is_one_skeleton() -> None:
    rng = np.random.default_rng(1)
    index = indexed([*campaign(rng), *ordinary(rng)])
    found = found_in(index)
    assert len(found) == 1
    assert accounts_of(index, found, 0) == {f"c{a}" for a in range(12)}
    assert (found.skeleton == 0).sum() == 48
    # What stands before and after the slot belongs together.
    assert 18 <= found.words[0] <= 32


def test_variables_do_not_break_a_skeleton_apart() -> None:
    rng = np.random.default_rng(2)
    events = [
        replace(event, prompt=event.prompt.replace("wrong turns", str(rng.choice(["a", "b", "c"]))))
        for event in campaign(rng)
    ]
    index = indexed(events)
    found = found_in(index)
    whole = [n for n in range(len(found)) if len(accounts_of(index, found, n)) == 12]
    assert len(whole) == 1


def test_two_accounts_are_too_few() -> None:
    rng = np.random.default_rng(3)
    assert len(found_in(indexed([*campaign(rng, accounts=2), *ordinary(rng)]))) == 0
    assert len(found_in(indexed([*campaign(rng, accounts=3), *ordinary(rng)]))) == 1


def test_different_frames_are_different_skeletons() -> None:
    rng = np.random.default_rng(4)
    other = "Write a question about {slot} and below it the answer that a patient tutor would give."
    index = indexed([*campaign(rng), *campaign(rng, name="d", frame=other)])
    found = found_in(index)
    assert sorted(len(accounts_of(index, found, n)) for n in range(len(found))) == [12, 12]
    assert len(set(found.identity.tolist())) == 2


def test_the_order_of_events_does_not_matter() -> None:
    rng = np.random.default_rng(5)
    events = [*campaign(rng), *ordinary(rng)]
    forwards, backwards = indexed(events), indexed(events[::-1])
    one, other = found_in(forwards), found_in(backwards)
    assert one.identity.tolist() == other.identity.tolist()
    assert accounts_of(forwards, one, 0) == accounts_of(backwards, other, 0)


def test_nothing_shared_and_nothing_at_all() -> None:
    rng = np.random.default_rng(6)
    assert len(found_in(indexed([]))) == 0
    lone = [Event(f"e{n}", f"a{n}", 0.0, words(rng, 30) + f" {n}") for n in range(5)]
    assert len(found_in(indexed(lone))) == 0


def test_too_many_events_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skeletons, "_EVENT_BITS", 3)
    shingle, event = np.zeros(9, dtype=np.uint64), np.arange(9, dtype=np.int32)
    assert len(skeletons.shared_shingles(shingle[1:], event[:-1], np.arange(8))[0]) == 1
    with pytest.raises(ValueError, match="events must be at most"):
        skeletons.shared_shingles(shingle, event, np.arange(9))
