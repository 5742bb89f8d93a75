"""What reviewers rule on a campaign's accounts, and what becomes of it in later looks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stillwatch.data.errors import InputError
from stillwatch.serving.campaigns import CampaignStore
from stillwatch.serving.campaigns.rulings import CONFIRMED, EXCLUDED, UNDONE, Rulings
from stillwatch.serving.campaigns.store import Outdated
from stillwatch.serving.desk import Desk, Refused
from stillwatch.serving.desk.decisions import Overtaken
from tests.serving.campaigns.campaigns_support import LOOKED, plain

ONE, TWO, THREE = "c-000000000001", "c-000000000002", "c-000000000003"


@dataclass
class Bench:
    desk: Desk
    store: CampaignStore
    rulings: Rulings


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    desk, store = Desk.open(tmp_path), CampaignStore.open(tmp_path)
    yield Bench(desk, store, Rulings(desk, store))
    store.close()
    desk.close()


def look(bench: Bench, *found: object) -> None:
    bench.store.replace(LOOKED, found)  # type: ignore[arg-type]


def change_of(bench: Bench, name: str) -> tuple[str, int, tuple[str, ...]] | None:
    change = bench.store.get(name).summary.change
    return (change.kind, change.accounts, change.of) if change else None


def test_what_changed_is_told_of_each_campaign(bench: Bench) -> None:
    look(bench, plain(ONE, "abcdef"), plain(TWO, "mnopqr", flagged=False))
    assert change_of(bench, ONE) == ("new", 6, ())
    look(bench, plain(ONE, "abcdefgh"), plain(TWO, "mnopqr"))
    assert change_of(bench, ONE) == ("grown", 2, ())
    assert change_of(bench, TWO) == ("flagged", 0, ())
    # What has not changed since keeps what changed before.
    look(bench, plain(ONE, "abcdefgh"), plain(TWO, "mnopq"))
    assert change_of(bench, ONE) == ("grown", 2, ())
    assert change_of(bench, TWO) == ("shrunk", -1, ())
    look(bench, plain(ONE, "abcdefghmnopq", was=(TWO,)))
    assert change_of(bench, ONE) == ("merged", 5, (TWO,))
    look(bench, plain(ONE, "abcdefgh", was=(TWO,)), plain(THREE, "mnopqz"))
    assert change_of(bench, ONE) == ("split", -5, (THREE,))
    assert change_of(bench, THREE) == ("split", 6, (ONE,))
    # A campaign that has only another name has not split.
    look(bench, plain(ONE, "abcdefgh", was=(TWO,)), plain(TWO, "mnopqz"))
    assert change_of(bench, TWO) == ("new", 6, ())
    look(bench)
    assert bench.store.page() == ([], 0)


def test_a_store_gives_back_what_was_put_in(bench: Bench) -> None:
    odd = plain(ONE, ["a\ud800", "=b", "\u202ec"], was=(TWO,))
    look(bench, plain(TWO, "xyz"), odd)
    assert bench.store.previous() == [plain(TWO, "xyz"), odd]
    assert [one.campaign_id for one in bench.store.page(0, 1)[0]] == [TWO]
    assert bench.store.get(ONE).to_campaign() == odd
    with pytest.raises(KeyError):
        bench.store.get(THREE)
    with pytest.raises(Outdated):
        bench.store.replace(LOOKED, [], lambda: False)
    assert len(bench.store.previous()) == 2


def test_an_excluded_account_stays_out(bench: Bench) -> None:
    look(bench, plain(ONE, "abcdef"), plain(TWO, "mnopqr"))
    ruling = bench.rulings.exclude(ONE, "b", "a reseller", "mara")
    assert bench.store.get(ONE).excluded == {"b"}
    assert bench.store.get(ONE).to_fields()["accounts"] == list("acdef")
    assert bench.store.get(ONE).to_fields()["links"][0]["accounts"] == list("acdef")
    assert bench.store.get(ONE).to_fields()["excluded"] == ["b"]
    entry = bench.desk.entries(limit=1)[0]
    assert (entry.action, entry.actor, entry.number) == (EXCLUDED, "mara", ruling.entry)
    assert entry.fields["account_id"] == "b"
    assert entry.fields["campaign"] == ONE
    # The account itself was not ruled on.
    assert bench.desk.present("b") is None
    with pytest.raises(Refused):
        bench.rulings.exclude(ONE, "b", "again", "mara")
    with pytest.raises(Refused):
        bench.rulings.confirm(ONE, "b", "no", "mara", None)

    look(bench, plain(ONE, "abcdefg"), plain(TWO, "mnopqr"))
    assert bench.store.get(ONE).excluded == {"b"}
    # It goes along into what its campaign merges into, and into what splits from that.
    look(bench, plain(TWO, "abcdefgmnopqr", was=(ONE,)))
    assert bench.store.get(TWO).excluded == {"b"}
    look(bench, plain(TWO, "mnopqr", was=(ONE,)), plain(THREE, "abcdefg"))
    assert bench.store.get(THREE).excluded == {"b"}
    look(bench, plain(THREE, "abcdefg"))
    assert bench.store.excluded() == {THREE: {"b"}}

    bench.rulings.undo(ruling.entry, "b", "noor", "it is no reseller")
    assert bench.store.get(THREE).excluded == frozenset()
    last = bench.desk.entries(limit=1)[0]
    assert (last.action, last.fields["entry"]) == (UNDONE, ruling.entry)
    with pytest.raises(KeyError):
        bench.rulings.undo(ruling.entry, "b", "noor", "again")
    assert bench.desk.verify().intact


def test_a_confirmed_account_is_decided_on(bench: Bench) -> None:
    look(bench, plain(ONE, "abcdef"))
    ruling = bench.rulings.confirm(ONE, "c", "one frame", "mara", None)
    decision = bench.desk.present("c")
    assert decision is not None
    assert (decision.verdict, decision.reason, decision.reviewer) == (
        "confirm", "one frame", "mara",
    )  # fmt: skip
    assert decision.intents == ("cot_harvesting",), "those that the campaign is after"
    assert ruling.decision == decision.id
    entry = bench.desk.entries(limit=1)[0]
    assert (entry.action, entry.fields["decision"]) == (CONFIRMED, decision.id)
    bench.rulings.undo(ruling.entry, "c", "mara", "by mistake")
    assert bench.desk.present("c") is None
    assert bench.store.get(ONE).rulings == {}
    for account in ("z", ""):
        with pytest.raises(KeyError):
            bench.rulings.confirm(ONE, account, "no member", "mara", None)
    with pytest.raises(KeyError):
        bench.rulings.confirm(TWO, "c", "no campaign", "mara", None)
    before = bench.desk.head()
    with pytest.raises(InputError):
        bench.rulings.confirm(ONE, "c", " ", "mara", None)
    assert bench.desk.head() == before


def test_a_decision_undone_elsewhere_does_not_hinder(bench: Bench) -> None:
    look(bench, plain(ONE, "abcdef"))
    ruling = bench.rulings.confirm(ONE, "c", "one frame", "mara", None)
    assert ruling.decision is not None
    bench.desk.undo(ruling.decision, "mara", "on its own page")
    bench.rulings.undo(ruling.entry, "c", "mara", "here too")
    assert bench.store.get(ONE).rulings == {}


def test_all_of_a_campaign_but_those_taken_out(bench: Bench) -> None:
    look(bench, plain(ONE, "abcd"))
    bench.rulings.exclude(ONE, "b", "a reseller", "mara")
    bench.rulings.confirm(ONE, "c", "first", "mara", None)
    assert bench.rulings.begin_all(ONE, "all of it", "mara") == ({"a": None, "d": None}, 0)
    entry = bench.desk.entries(limit=1)[0]
    assert (entry.action, entry.fields["accounts"]) == (CONFIRMED, 2)
    assert "account_id" not in entry.fields
    for account in ("a", "d"):
        bench.rulings.confirm(ONE, account, "all of it", "mara", None)
    with pytest.raises(Refused):
        bench.rulings.begin_all(ONE, "again", "mara")


def test_accounts_decided_since_the_reviewer_looked_are_left_as_they_are(bench: Bench) -> None:
    look(bench, plain(ONE, "abcd"))
    before = bench.desk.decide("a", "reject", "a customer of ours", "noor", None)
    seen = bench.desk.head().count
    later = bench.desk.decide("b", "reject", "a customer too", "noor", None)
    left, late = bench.rulings.begin_all(ONE, "one frame", "mara", seen)
    assert (left, late) == ({"a": before.id, "c": None, "d": None}, 1)
    assert bench.desk.entries(limit=1)[0].fields["accounts"] == 3
    # What is decided while they are confirmed one by one stands too.
    bench.desk.decide("c", "needs_more", "wait", "noor", None)
    with pytest.raises(Overtaken):
        bench.rulings.confirm(ONE, "c", "one frame", "mara", None, (), left["c"])
    bench.rulings.confirm(ONE, "a", "one frame", "mara", None, (), left["a"])
    present = bench.desk.all_present()
    assert present["b"].id == later.id
    assert (present["a"].verdict, present["c"].verdict) == ("confirm", "needs_more")
    look(bench, plain(TWO, "b"))
    with pytest.raises(Refused, match="1 were decided meanwhile"):
        bench.rulings.begin_all(TWO, "one frame", "mara", seen)


def test_a_second_reviewer_confirms_all_again(tmp_path: Path) -> None:
    desk, store = Desk.open(tmp_path, two_person=True), CampaignStore.open(tmp_path)
    rulings = Rulings(desk, store)
    store.replace(LOOKED, [plain(ONE, "abc")])
    for reviewer in ("mara", "noor"):
        left, late = rulings.begin_all(ONE, "one frame", reviewer)
        assert (list(left), late) == (list("abc"), 0)
        for account in "abc":
            rulings.confirm(ONE, account, "one frame", reviewer, None)
    assert {one.state for one in desk.all_present().values()} == {"counts"}
    store.close()
    desk.close()
