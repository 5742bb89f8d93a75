from __future__ import annotations

from dataclasses import replace

import numpy as np

from stillwatch.data.events import Event
from stillwatch.model.campaigns.timing import timing_links
from tests.model.campaigns.campaign_support import DAY_S, START_S, campaign, indexed, ordinary


def links(events: list[Event], prefix: str = "c") -> dict[str, set[str]]:
    index = indexed(events)
    own = np.array([n for n, event in enumerate(events) if event.account_id.startswith(prefix)])
    found = timing_links(index.table(), own, index.models)
    return {link.kind: {index.accounts[int(a)] for a in link.accounts} for link in found}


def test_accounts_that_begin_together() -> None:
    rng = np.random.default_rng(1)
    said = ordinary(rng, accounts=60)
    assert len(links([*campaign(rng), *said])["timing"]) >= 6
    assert "timing" not in links(said, "o")


def relay(gap_s: float) -> list[Event]:
    """Accounts that work for a day each, one after another."""
    rng = np.random.default_rng(2)
    return [
        replace(event, timestamp=START_S + n // 4 * (DAY_S + gap_s) + n % 4 * DAY_S / 3)
        for n, event in enumerate(campaign(rng))
    ]


def test_accounts_that_replace_one_another() -> None:
    assert links(relay(600.0))["handover"] == {f"c{n}" for n in range(1, 12)}
    assert "handover" not in links(relay(3 * DAY_S))


def test_accounts_that_begin_at_any_time_hand_nothing_over() -> None:
    rng = np.random.default_rng(3)
    assert "handover" not in links(campaign(rng, accounts=200))


def test_a_move_to_a_new_model_within_a_day() -> None:
    rng = np.random.default_rng(4)
    release = START_S + 5 * DAY_S
    events = [replace(e, model="old") for e in [*campaign(rng), *ordinary(rng)]]
    for place, event in enumerate(events):
        if event.account_id[0] == "c" and event.event_id.endswith("-3"):
            moved = release + rng.uniform(0, DAY_S / 2)
            events[place] = replace(event, model="new", timestamp=moved)
    assert links(events)["pivot"] == {f"c{n}" for n in range(12)}
    late = [
        replace(e, timestamp=e.timestamp + 9 * DAY_S) if e.model == "new" else e for e in events
    ]
    late.append(Event("first", "o0", release, "hello", model="new"))
    assert "pivot" not in links(late)


def test_a_model_that_was_always_there_is_no_move() -> None:
    rng = np.random.default_rng(5)
    events = [replace(e, model=str(rng.choice(["one", "two"]))) for e in campaign(rng)]
    assert "pivot" not in links(events)


def test_a_clock_that_is_off_moves_its_account_alone() -> None:
    rng = np.random.default_rng(6)
    events = [*campaign(rng), *ordinary(rng, accounts=60)]
    events = [
        replace(e, timestamp=e.timestamp + 400 * DAY_S) if e.account_id == "c0" else e
        for e in events
    ]
    assert len(links(events)["timing"]) >= 5


def test_two_accounts_say_nothing() -> None:
    assert links(campaign(np.random.default_rng(7), accounts=2)) == {}
