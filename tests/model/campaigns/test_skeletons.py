from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stillwatch.data.errors import InputError
from stillwatch.data.events import Event
from stillwatch.model.campaigns.index import CampaignIndex
from stillwatch.model.campaigns.shingles import HASH_BITS, distinct, pack_pairs, read_shingles
from stillwatch.model.campaigns.skeletons import (
    HASHES,
    SkeletonFinder,
    Skeletons,
    find_skeletons,
    shared_shingles,
)
from tests.model.campaigns.campaign_support import FRAME, campaign, indexed, ordinary, words


def found_in(index: CampaignIndex) -> Skeletons:
    table = index.table()
    return find_skeletons(table.pairs, table.account, table.identity)


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


def test_documents_of_one_markup_share_nothing() -> None:
    one = of('### <a name="harbour-dues"></a> Dues for boats\n| 3 | 17 | 4 |')
    other = of('### <a name="parcel-sizes"></a> How large a parcel is\n| 3 | 9 | 12 |')
    assert one
    assert one.isdisjoint(other)
    # A mark between words is a part of what they say.
    assert len(of("Judge it: rubric, then marks.") & of("Judge it: rubric, and judge.")) == 1


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
    monkeypatch.setattr("stillwatch.model.campaigns.index.EVENT_BITS", 3)
    rng = np.random.default_rng(7)
    events = [Event(f"e{n}", f"a{n}", 0.0, words(rng, 9)) for n in range(9)]
    index = indexed(events[:8])
    with pytest.raises(InputError, match="must be at most 8, however"):
        index.add(events[8:])
    assert len(index.table()) == 8


def test_a_shingle_of_three_accounts_is_shared() -> None:
    account = np.array([4, 4, 9, 4, 9, 7, 2, 5])
    shingle = np.array([1, 1, 1, 2, 2, 2, 3, 3], dtype=np.uint64) << np.uint64(36)
    pairs = np.sort(pack_pairs(shingle, np.arange(8)))
    orders = np.arange(8, dtype=np.uint32)[None] ^ np.arange(HASHES, dtype=np.uint32)[:, None]
    shared, smallest = shared_shingles(pairs, account, orders)
    assert (shared >> np.uint64(36)).tolist() == [2]
    # The least of 3, 4 and 5 in each order.
    assert smallest[0, :3].tolist() == [3, 2, 1]


def test_what_is_added_later_is_found_as_all_at_once() -> None:
    rng = np.random.default_rng(8)
    other = "Write a question about {slot} and below it the answer that a patient tutor would give."
    events = [
        *campaign(rng, accounts=20), *ordinary(rng), *campaign(rng, name="d", frame=other),
        # Shares half of the first one's words: groups of shingles change as it comes.
        *campaign(rng, name="f", frame="{slot} " + " ".join(FRAME.split()[6:])),
    ]  # fmt: skip
    events = [events[int(n)] for n in rng.permutation(len(events))]
    finder, index = SkeletonFinder(), CampaignIndex()
    changed = 0
    for start in range(0, len(events), 17):
        index.add(events[start : start + 17])
        table = index.table()
        found = finder.find(table.pairs, table.account, table.identity)
        whole = found_in(index)
        for name in ("event", "skeleton", "words", "identity"):
            assert getattr(found, name).tolist() == getattr(whole, name).tolist()
        changed += len(found) > 0
    assert changed > 3
    assert len(found) > 1


def test_a_finder_that_is_given_other_events_forgets() -> None:
    rng = np.random.default_rng(9)
    finder = SkeletonFinder()
    for events in ([*campaign(rng), *ordinary(rng)], [*ordinary(rng), *campaign(rng)]):
        table = indexed(events).table()
        found = finder.find(table.pairs, table.account, table.identity)
        whole = find_skeletons(table.pairs, table.account, table.identity)
        assert found.event.tolist() == whole.event.tolist()
        assert len(found) == 1
