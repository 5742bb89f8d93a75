"""Looking again and again: only what is new is read, and it finds what one look finds."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest

from stillwatch.data.errors import BundleError, StoreError
from stillwatch.model.campaigns.risk import CampaignCalibration
from stillwatch.serving.archive import ArchiveFeed
from stillwatch.serving.archive.feed import Arrivals
from stillwatch.serving.campaigns import CampaignStore
from stillwatch.serving.campaigns.linking import Linker
from stillwatch.serving.campaigns.store import Outdated
from tests.model.campaigns.campaign_support import campaign, ordinary, with_keys
from tests.serving.campaigns.campaigns_support import (
    LOOKED,
    OTHER_FRAME,
    Room,
    bare,
    load_tiny,
    named,
    no_templates,
    plain,
    stream,
)


class Counting:
    """A feed that counts the events it has given."""

    def __init__(self, feed: ArchiveFeed) -> None:
        self._feed = feed
        self.given = 0

    def after(self, last: int, limit: int) -> Arrivals:
        found = self._feed.after(last, limit)
        self.given += len(found.events)
        return found

    def __getattr__(self, name: str) -> object:
        return getattr(self._feed, name)


def test_looking_as_events_come_finds_what_one_look_finds(empty: Room) -> None:
    events = stream()
    counting = Counting(empty.feed)
    linker = Linker(counting, empty.store, load_tiny, no_templates)  # type: ignore[arg-type]
    sizes = []
    for start in range(0, len(events), 45):
        part = events[start : start + 45]
        empty.take(part)
        before = counting.given
        run = linker.look(empty.order)
        sizes.append(counting.given - before)
        assert run.fresh == len(part)
        assert run.events == start + len(part)
    assert sizes == [45, 45, 45, 45]
    found = empty.store.previous()
    assert {len(one.accounts) for one in found} == {12, 8}
    with_one = CampaignStore.open(empty.folder / "other")
    try:
        empty.linker(with_one).look(empty.order)
        assert bare(found) == bare(with_one.previous())
    finally:
        with_one.close()
    # A full look that knows what was found before gives the same, ids too.
    again = empty.look()
    assert bare(again) == bare(found)
    assert named(again) == named(found)


def test_nothing_new_is_noted_and_changes_nothing(empty: Room) -> None:
    empty.take(stream())
    linker = empty.linker()
    first = linker.look(empty.order)
    found, summaries = empty.store.previous(), empty.store.page()
    # As it comes to a worker from somebody who has judged by it too.
    second = linker.look(copy.deepcopy(empty.order))
    assert (second.fresh, second.events, second.flagged) == (0, first.events, first.flagged)
    assert empty.store.previous() == found
    assert empty.store.page() == summaries
    assert [run.id for run in empty.store.runs()] == [2, 1]


def test_ids_stay_when_a_campaign_grows(empty: Room) -> None:
    rng = np.random.default_rng(1)
    empty.take([*campaign(rng, 10), *ordinary(rng, 20)])
    linker = empty.linker()
    linker.look(empty.order)
    (name,) = {one.campaign_id for one in empty.holding("c0")}
    empty.take(campaign(rng, 14, name="x"))
    linker.look(empty.order)
    (grown,) = empty.holding("c0")
    assert grown.campaign_id == name
    assert len(grown.accounts) == 24
    change = empty.store.get(name).summary.change
    assert change is not None
    assert (change.kind, change.accounts) == ("grown", 14)


def test_campaigns_that_merge_and_split_keep_what_was_known(empty: Room) -> None:
    rng = np.random.default_rng(2)
    first = [*campaign(rng, 12, 4, "c"), *ordinary(rng, 20)]
    second = campaign(rng, 8, 4, "d", OTHER_FRAME)
    empty.now[0] = 100.0
    empty.take([*first, *second])
    linker = empty.linker()
    linker.look(empty.order)
    (one,), (other,) = empty.holding("c0"), empty.holding("d0")
    assert one.campaign_id != other.campaign_id
    # All of them now pay by one means.
    empty.now[0] = 50.0
    paid = [
        replace(event, event_id=f"paid-{event.event_id}")
        for event in with_keys([*first[:48:4], *second[::4]], payment="p1")
    ]
    empty.take(paid)
    linker.look(empty.order)
    (merged,) = empty.holding("c0")
    assert merged in empty.holding("d0")
    assert merged.campaign_id == one.campaign_id
    assert merged.was == (other.campaign_id,)
    assert empty.store.heir(other.campaign_id) == one.campaign_id
    change = empty.store.get(one.campaign_id).summary.change
    assert change is not None
    assert (change.kind, change.of) == ("merged", (other.campaign_id,))
    # What tied them is over: who has looked at it begins anew.
    assert empty.archive.retain(75.0).events == len(paid)
    with pytest.raises(Outdated):
        linker.look(empty.order)
    empty.look()
    (kept,), (left,) = empty.holding("c0"), empty.holding("d0")
    assert kept.campaign_id == one.campaign_id
    assert left.campaign_id != kept.campaign_id
    names = kept.campaign_id, left.campaign_id
    for name, other_name in (names, names[::-1]):
        change = empty.store.get(name).summary.change
        assert change is not None
        assert (change.kind, change.of) == ("split", (other_name,))


def test_an_account_may_be_in_two_campaigns(empty: Room) -> None:
    rng = np.random.default_rng(3)
    both = [
        replace(event, account_id="c0", event_id=f"both-{event.event_id}")
        for event in campaign(rng, 1, 4, "z", OTHER_FRAME)
    ]
    empty.take([*campaign(rng, 12, 4, "c"), *campaign(rng, 9, 4, "d", OTHER_FRAME), *both])
    empty.look()
    assert len(empty.holding("c0")) == 2
    assert len({own.campaign_id for own in empty.store.of_account("c0")}) == 2


def test_events_without_metadata_and_with_other_clocks_are_taken(empty: Room) -> None:
    rng = np.random.default_rng(4)
    events = campaign(rng, 10)
    odd = [
        replace(event, timestamp=time) for event, time in zip(events, (0.0, 7e9, 1.0), strict=False)
    ]
    empty.take([*odd, *events[3:]])
    (found,) = empty.look()
    assert len(found.accounts) == 10
    assert (found.first_seen, found.last_seen) == (0.0, 7e9)


def test_an_erased_account_leaves_everything(empty: Room) -> None:
    empty.take(stream())
    linker = empty.linker()
    linker.look(empty.order)
    assert empty.holding("c3")
    folder = empty.folder / "desk"
    assert b"c3-" not in b"".join(path.read_bytes() for path in folder.iterdir())
    empty.archive.erase("c3")
    with pytest.raises(Outdated):
        linker.look(empty.order)
    assert empty.store.erase("c3")
    assert not empty.holding("c3")
    shown = {pair for one in empty.store.previous() for link in one.links for pair in link.events}
    assert "c3" not in {account for account, _ in shown}
    kept = {one.campaign_id for one in empty.store.previous()}
    empty.look()
    assert not empty.holding("c3")
    assert {one.campaign_id for one in empty.store.previous()} == kept


def test_what_was_erased_leaves_no_byte(empty: Room) -> None:
    name = "account-to-be-erased"
    empty.store.replace(LOOKED, [plain("c-000000000001", [name, "b", "c"])])
    empty.store.rule(1, "c-000000000001", name, "excluded", "a reason", "mara", 1.0, None)
    folder = empty.folder / "desk"
    assert name.encode() in b"".join(path.read_bytes() for path in folder.iterdir())
    assert empty.store.erase(name)
    assert name.encode() not in b"".join(path.read_bytes() for path in folder.iterdir())
    assert empty.store.get("c-000000000001").summary.accounts == 2


def test_an_erasure_during_a_look_is_not_undone_by_it(empty: Room) -> None:
    empty.take(stream())

    class Erasing(Counting):
        def after(self, last: int, limit: int) -> Arrivals:
            found = super().after(last, limit)
            if last and not found.events:
                # All has been read, nothing has been stored.
                empty.archive.erase("c3")
            return found

    linker = Linker(Erasing(empty.feed), empty.store, load_tiny, no_templates)  # type: ignore[arg-type]
    with pytest.raises(Outdated):
        linker.look(empty.order)
    assert empty.store.previous() == []
    assert empty.store.last_run() is None


def test_a_look_that_fails_leaves_the_last_campaigns(empty: Room) -> None:
    empty.take(stream())
    found = empty.look()
    with pytest.raises(BundleError, match="the bundle in use"):
        empty.linker().look(empty.order._replace(bundle_id="another"))

    def broken(_: object) -> object:
        raise StoreError("the desk must answer, however: it does not")

    linker = Linker(empty.feed, empty.store, load_tiny, broken)  # type: ignore[arg-type]
    with pytest.raises(StoreError):
        linker.look(empty.order)
    assert empty.store.previous() == found
    assert len(empty.store.runs()) == 1


def test_another_calibration_and_other_templates_judge_anew(empty: Room) -> None:
    empty.take(stream())
    changed = [False]
    linker = Linker(empty.feed, empty.store, load_tiny, lambda _: changed[0])
    linker.look(empty.order)
    assert all(one.flagged for one in empty.store.previous())
    fields = empty.order.calibration.model_dump() | {"offset": -9.0}
    lenient = CampaignCalibration.model_validate(fields)
    linker.look(empty.order._replace(calibration=lenient))
    assert not any(one.flagged for one in empty.store.previous())
    read = linker._finder
    changed[0] = True
    linker.look(empty.order._replace(calibration=lenient))
    assert linker._finder is not read, "readings without the new templates are not kept"
