from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stillwatch.model.campaigns.communities import Community, find_communities
from stillwatch.model.campaigns.evidence import (
    MAX_KEY_ACCOUNTS,
    Evidence,
    key_evidence,
    skeleton_evidence,
)
from stillwatch.model.campaigns.index import Key
from stillwatch.model.campaigns.skeletons import find_skeletons
from tests.model.campaigns.campaign_support import campaign, indexed, ordinary

NOTHING = np.zeros(0, dtype=np.int64)


def piece(name: str, *accounts: int) -> Evidence:
    return Evidence("skeleton", name, np.array(sorted(accounts)), NOTHING)


def sets(found: list[Community]) -> list[tuple[set[str], set[int]]]:
    return [({e.identity for e in c.evidence}, set(c.accounts.tolist())) for c in found]


def test_evidence_of_the_same_accounts_is_one_community() -> None:
    one = [piece("a", *range(10)), piece("b", *range(2, 12)), piece("c", *range(40, 50))]
    assert sets(find_communities(one)) == [
        ({"a", "b"}, set(range(12))),
        ({"c"}, set(range(40, 50))),
    ]


def test_a_few_accounts_in_common_join_nothing() -> None:
    pieces = [piece("a", *range(40)), piece("b", *range(38, 80))]
    assert [own for own, _ in sets(find_communities(pieces))] == [{"b"}, {"a"}]


def test_a_small_campaign_is_not_swallowed_by_a_large_one() -> None:
    pieces = [piece(f"big{n}", *range(5000)) for n in range(3)]
    pieces += [piece("small", *range(4995, 5045)), piece("small too", *range(4995, 5045))]
    assert sets(find_communities(pieces))[1] == ({"small", "small too"}, set(range(4995, 5045)))


def test_what_lies_within_a_larger_community_is_a_part_of_it() -> None:
    pieces = [piece("frame", *range(100))]
    pieces += [piece(f"card{n:02}", *range(5 * n, 5 * n + 5)) for n in range(20)]
    (only,) = find_communities(pieces)
    assert (len(only.evidence), len(only.accounts)) == (21, 100)


def test_an_account_may_be_in_two() -> None:
    found = sets(find_communities([piece("a", *range(20)), piece("b", *range(19, 40))]))
    assert [19 in accounts for _, accounts in found] == [True, True]


def test_the_order_of_evidence_does_not_matter() -> None:
    pieces = [piece(f"p{n}", *range(n * 3, n * 3 + 30)) for n in range(30)]
    assert sets(find_communities(pieces)) == sets(find_communities(pieces[::-1]))
    assert find_communities([]) == []


def test_a_further_piece_leaves_what_it_does_not_touch() -> None:
    rng = np.random.default_rng(3)
    pieces = [
        piece(f"p{n:04}", *np.unique(rng.integers(at, at + 30, 18)).tolist())
        for n, at in enumerate(rng.integers(0, 6000, 2500).tolist())
    ]
    before = {frozenset(names) for names, _ in sets(find_communities(pieces))}
    more = [*pieces, piece("more", *range(100, 120))]
    after = {frozenset(names) for names, _ in sets(find_communities(more))}
    assert len(before) > 200
    assert len(before - after) < 10


@pytest.mark.parametrize(("texts", "expected"), [(1, 0), (2, 0), (48, 1)])
def test_one_prompt_that_goes_round_ties_nobody(texts: int, expected: int) -> None:
    rng = np.random.default_rng(1)
    events = campaign(rng)
    if texts < len(events):
        events = [
            type(e)(e.event_id, e.account_id, e.timestamp, events[n % texts].prompt)
            for n, e in enumerate(events)
        ]
    table = indexed(events).table()
    found = find_skeletons(table.pairs, table.account, table.identity)
    assert len(skeleton_evidence(table, found)) == expected


@pytest.mark.parametrize(("texts", "expected"), [(60, 0), (100, 1)])
def test_a_list_that_is_worked_through_again_and_again_ties(texts: int, expected: int) -> None:
    rng = np.random.default_rng(3)
    events = campaign(rng, accounts=400)
    events = [
        replace(event, prompt=events[n % texts].prompt, account_id=f"c{n // 4}")
        for n, event in enumerate(events)
    ]
    table = indexed(events).table()
    found = find_skeletons(table.pairs, table.account, table.identity)
    # Each text of the list is a skeleton of its own, too, which alone ties nobody.
    assert [own.words > 20 for own in skeleton_evidence(table, found)] == [True] * expected


def test_what_people_say_in_passing_ties_nobody() -> None:
    rng = np.random.default_rng(2)
    passing = campaign(rng, accounts=12, each=1, name="o")
    said = ordinary(rng, accounts=12, each=30)
    for events, expected in ((passing, 1), ([*passing, *said], 0)):
        table = indexed(events).table()
        found = find_skeletons(table.pairs, table.account, table.identity)
        assert len(skeleton_evidence(table, found)) == expected


def test_rare_keys_tie_accounts_through_others() -> None:
    keys = {
        Key("network", "n"): {1, 2}, Key("payment", "p"): {2, 3}, Key("payment", "q"): {7, 8},
        Key("client", "sdk"): set(range(200)),
    }  # fmt: skip
    (only,) = key_evidence(keys, 300)
    assert only.accounts.tolist() == [1, 2, 3]
    assert set(only.keys) == {Key("network", "n"), Key("payment", "p")}
    assert (only.kind, len(only.events)) == ("keys", 0)


def test_what_many_have_ties_nobody() -> None:
    for kind, most in MAX_KEY_ACCOUNTS.items():
        many = {Key(kind, "one"): set(range(most + 1))}
        assert key_evidence(many, 100) == []
        assert len(key_evidence(many, 100_000)) == 1
        assert len(key_evidence({Key(kind, "one"): set(range(most))}, 100)) == 1
    assert key_evidence({}, 5) == []
