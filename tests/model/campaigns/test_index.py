from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stillwatch.model.campaigns import index as index_module
from stillwatch.model.campaigns.index import CampaignIndex, Key
from tests.model.campaigns.campaign_support import campaign, indexed, ordinary, with_keys


def test_an_event_counts_once() -> None:
    events = campaign(np.random.default_rng(1))
    index = CampaignIndex()
    assert index.add(events) == 48
    assert index.add(events) == 0
    assert index.add([replace(events[0], prompt="another text", account_id="z")]) == 1
    assert len(index) == len(index.table()) == 49


def test_columns_are_those_of_the_events() -> None:
    events = [replace(e, model="m1") for e in campaign(np.random.default_rng(2))]
    events[1] = replace(events[1], model=None)
    index = indexed(events)
    table = index.table()
    assert [index.accounts[int(a)] for a in table.account] == [e.account_id for e in events]
    assert table.time.tolist() == [e.timestamp for e in events]
    assert [index.models[m] if m >= 0 else None for m in table.model] == [e.model for e in events]
    own = [e.timestamp for e in events if e.account_id == "c3"]
    assert index.times("c3") == (min(own), max(own))


def test_parts_are_joined_as_if_added_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    events = [*campaign(rng), *ordinary(rng)]
    whole = indexed(events).table()
    monkeypatch.setattr(index_module, "_ROWS", 7)
    index = CampaignIndex()
    for start in range(0, len(events), 10):
        index.add(events[start : start + 10])
        index.table()
    for name in whole.__annotations__:
        assert getattr(index.table(), name).tolist() == getattr(whole, name).tolist()


def test_keys_are_kept_by_account() -> None:
    rng = np.random.default_rng(4)
    index = indexed(with_keys(campaign(rng, accounts=3), network="n1", client="sdk"))
    assert index.keys == {Key("network", "n1"): {0, 1, 2}, Key("client", "sdk"): {0, 1, 2}}


def test_no_prompt_is_kept() -> None:
    index = indexed(campaign(np.random.default_rng(5)))
    index.table()
    assert "thought" not in repr(vars(index))
