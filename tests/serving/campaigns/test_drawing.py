"""Drawings of a campaign: nothing is drawn without end, and what is left out is counted."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stillwatch.serving.campaigns import Change, Tie
from stillwatch.serving.pages import campaign_words
from stillwatch.serving.pages.campaign_drawing import (
    HEIGHT,
    MOST_DOTS,
    MOST_EVIDENCE,
    MOST_LINES,
    WIDTH,
    evidence_groups,
    graph,
    timeline,
)


def ties(*places: range) -> list[Tie]:
    return [Tie("skeleton", "some words", (), tuple(own)) for own in places]


@pytest.mark.parametrize(
    ("links", "accounts"),
    [
        (ties(range(5)), 5),
        (ties(range(3000), range(2500, 5000)), 5000),
        (ties(*[range(n, n + 40) for n in range(0, 2000, 10)]), 2100),
        (ties(*[range(n, n + 1) for n in range(100)]), 100),
        (ties(), 7),
    ],
)
def test_every_account_is_drawn_or_counted(links: list[Tie], accounts: int) -> None:
    names = {place: f"a{place}" for place in range(accounts)}
    drawn = graph(links, names, {"a1"})
    dots = [dot for group in drawn.groups for dot in group.dots]
    assert len(dots) == drawn.drawn <= MOST_DOTS
    assert drawn.drawn + drawn.hidden == accounts
    assert len(drawn.nodes) + drawn.hidden_evidence == len(links)
    assert len(drawn.nodes) <= MOST_EVIDENCE
    for group in drawn.groups:
        assert len(group.dots) + group.hidden == group.accounts
    for x, y in [(dot.x, dot.y) for dot in dots] + [(node.x, node.y) for node in drawn.nodes]:
        assert 0 <= x <= WIDTH
        assert 0 <= y <= HEIGHT
    assert graph(links, names, {"a1"}) == drawn


def test_an_account_stands_with_those_that_have_the_same_links() -> None:
    names = {place: f"a{place}" for place in range(9)}
    drawn = graph(ties(range(6), range(4, 9)), names, {"a4"})
    assert evidence_groups(drawn) == [((0,), 4), ((1,), 3), ((0, 1), 2)]
    assert sum(dot.excluded for group in drawn.groups for dot in group.dots) == 1
    assert len(drawn.edges) == 4
    between = next(group for group in drawn.groups if group.evidence == (0, 1))
    first, second = drawn.nodes
    apart = math.dist((first.x, first.y), (second.x, second.y))
    for node in (first, second):
        assert math.dist((between.x, between.y), (node.x, node.y)) < apart


def test_accounts_that_are_gone_are_not_drawn() -> None:
    drawn = graph(ties(range(5)), {0: "a0", 3: "a3"}, frozenset())
    assert (drawn.drawn, drawn.hidden) == (2, 0)


def test_a_timeline_has_a_line_an_account_and_the_rest_as_a_shape() -> None:
    rng = np.random.default_rng(0)
    names = [f"a{n}" for n in range(200)]
    owner = np.concatenate([np.arange(200), rng.integers(0, 200, 2000)])
    time = 1.7e9 + rng.uniform(0, 1e6, len(owner))
    drawn = timeline(names, owner, time, {"a5"})
    assert drawn is not None
    assert len(drawn.lines) == MOST_LINES
    assert drawn.others == 200 - MOST_LINES
    assert drawn.density.startswith("M")
    starts = [line.start for line in drawn.lines]
    assert starts == sorted(starts), "in the order in which they began"
    most = np.sort(np.bincount(owner))[-MOST_LINES]
    assert min(line.events for line in drawn.lines) >= most - drawn.outside
    assert timeline(names[:3], np.array([0, 1, 2]), np.array([5.0, 5.0, 5.0]), set()) is not None
    assert timeline([], np.empty(0, np.int64), np.empty(0), set()) is None


def test_a_clock_that_is_off_does_not_press_the_others_together() -> None:
    owner = np.repeat(np.arange(10), 100)
    time = 1.7e9 + np.tile(np.linspace(0, 86_400, 100), 10)
    time[0], time[-1] = 0.0, 7e9
    drawn = timeline([f"a{n}" for n in range(10)], owner, time, set())
    assert drawn is not None
    assert drawn.outside == 2
    assert drawn.marks[-1][1] - drawn.marks[0][1] < 2 * 86_400
    for line in drawn.lines:
        assert line.stop - line.start > 0.8 * (WIDTH - 150)


def test_reasons_and_changes_are_told_in_words() -> None:
    found = campaign_words.reasons(
        [("dedication", 0.86, 1.2), ("unevenness", -2.9, -0.8), ("kinship", 0.0, 0.4),
         ("accounts", math.log(5000), 0.01), ("unheard-of", 1.0, 9.0)]
    )  # fmt: skip
    assert [(one.told, one.speaks_for) for one in found] == [
        ("an account gives 86% of its prompts to it", True),
        ("each account sends about as many", False),
        ("payloads of one account are as unlike as those of two accounts", True),
    ]
    told = campaign_words.change
    assert told(Change("grown", 0.0, 1)) == "grown by 1 account"
    assert told(Change("merged", 0.0, 3, ("c-1", "c-2"))) == "c-1, c-2 merged into it"
    assert told(Change("split", 0.0, 3, ("c-1",))) == "split from c-1"
    assert told(Change("split", 0.0, -3, ("c-1",))) == "c-1 split from it"
    assert told(Change("shrunk", 0.0, -2)) == "2 accounts left it"
