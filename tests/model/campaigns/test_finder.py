from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from stillwatch.data.events import Event
from stillwatch.model.campaigns import reading
from stillwatch.model.campaigns.communities import Community
from stillwatch.model.campaigns.evidence import Evidence
from stillwatch.model.campaigns.finder import Campaign, CampaignFinder, named, single_account
from stillwatch.model.campaigns.index import KEY_KINDS, CampaignIndex
from stillwatch.model.campaigns.risk import FEATURES, CampaignCalibration
from stillwatch.model.campaigns.trees import Trees
from stillwatch.model.campaigns.work import EACH, SAMPLE_EVENTS, Traffic, Works
from stillwatch.model.detector import Detector
from tests.model.campaigns.campaign_support import (
    DAY_S,
    START_S,
    calibration,
    campaign,
    indexed,
    ordinary,
    with_keys,
    words,
)
from tests.support import TinyEncoder, tiny_bundle


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    bundle = tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")
    return Detector(bundle, TinyEncoder())


# Many accounts in one thing to which they are dedicated.
TOLD = {"accounts": 4.0, "dedication": 4.0, "offset": -4.0}


def find(
    detector: Detector, events: list[Event], told: CampaignCalibration | None = None,
    previous: Sequence[Campaign] = (),
) -> list[Campaign]:  # fmt: skip
    finder = CampaignFinder(
        detector, indexed(events), lambda numbers: [events[n] for n in numbers],
        told or calibration(**TOLD),
    )  # fmt: skip
    return finder.find(previous)


def features_of(detector: Detector, events: list[Event]) -> dict[str, float]:
    (only,) = find(detector, events)
    return {name: value for name, value, _ in only.reasons}


def test_a_campaign_is_found_among_ordinary_accounts(detector: Detector) -> None:
    rng = np.random.default_rng(1)
    events = [*campaign(rng), *ordinary(rng)]
    (only,) = find(detector, events)
    own = [event for event in events if event.account_id.startswith("c")]
    assert only.flagged
    assert set(only.accounts) == {event.account_id for event in own}
    assert only.events == len(own)
    assert only.first_seen == min(event.timestamp for event in own)
    assert only.last_seen == max(event.timestamp for event in own)
    assert only.bundle == detector.bundle_id
    skeleton = next(link for link in only.links if link.kind == "skeleton")
    assert set(skeleton.accounts) == set(only.accounts)
    assert set(skeleton.events) <= {(e.account_id, e.event_id) for e in own}
    assert "48 prompts of 12 accounts" in skeleton.detail


def test_no_word_of_a_prompt_is_in_a_line(detector: Detector) -> None:
    rng = np.random.default_rng(2)
    (only,) = find(detector, campaign(rng))
    line = json.dumps(only.to_fields())
    assert not any(word in line for word in ("barley", "lantern", "thought", "wrong turns"))


@pytest.mark.parametrize(("attempts", "others", "member"), [(1, 20, 0), (3, 20, 0), (3, 8, 1)])
def test_an_attempt_now_and_then_makes_no_member(
    detector: Detector, attempts: int, others: int, member: int
) -> None:
    rng = np.random.default_rng(3)
    curious = campaign(rng, accounts=1, each=attempts, name="curious")
    said = [replace(e, account_id="curious0") for e in ordinary(rng, accounts=1, each=others)]
    (only,) = find(detector, [*campaign(rng), *curious, *said])
    assert ("curious0" in only.accounts) == bool(member)
    assert len(only.accounts) == 12 + member


def test_keys_tie_accounts_that_share_no_words(detector: Detector) -> None:
    rng = np.random.default_rng(4)
    tied = with_keys(ordinary(rng, accounts=5), payment="card", network="exit")
    (only,) = find(detector, [*tied, *campaign(rng, accounts=1)])
    assert set(only.accounts) == {f"o{n}" for n in range(5)}
    assert {link.kind for link in only.links} >= {"payment", "network"}


def test_events_without_metadata_and_with_it(detector: Detector) -> None:
    rng = np.random.default_rng(5)
    events = campaign(rng)
    events[:16] = with_keys(events[:16], payment="card")
    (only,) = find(detector, events)
    assert {link.kind for link in only.links} >= {"skeleton", "payment"}
    assert len(only.accounts) == 12


def test_features_tell_how_the_work_is_shared(detector: Detector) -> None:
    rng = np.random.default_rng(6)
    dealt = features_of(detector, campaign(rng, accounts=20))
    # Customers, each with words of its own and in numbers of its own.
    frame = "Write a friendly reply to this message of a customer of ours, in two lines: {slot} End"
    customers = []
    for number in range(20):
        word = f"matter{number}"
        for place in range(int(rng.integers(2, 14))):
            prompt = frame.replace("{slot}", f"{word} {words(rng, 2)} {word} {word}")
            when = START_S + number * DAY_S + place
            customers.append(Event(f"{number}-{place}", f"s{number}", when, prompt))
    own = features_of(detector, customers)
    assert dealt["unevenness"] < -1 < 0 < own["unevenness"]
    assert dealt["kinship"] < 0.15 < own["kinship"]
    assert dealt["dedication"] == own["dedication"] == 1.0


def test_onset_is_told_against_all_traffic(detector: Detector) -> None:
    rng = np.random.default_rng(7)
    sudden = [*campaign(rng), *ordinary(rng, accounts=60)]
    slow = [
        replace(e, timestamp=START_S + rng.uniform(0, 30 * DAY_S)) if e.account_id[0] == "c" else e
        for e in sudden
    ]
    assert features_of(detector, sudden)["onset"] < features_of(detector, slow)["onset"] - 1


def test_the_order_of_events_does_not_matter(detector: Detector) -> None:
    rng = np.random.default_rng(8)
    events = [
        *campaign(rng),
        *campaign(rng, name="d", frame="Grade {slot} for me, out of ten, now"),
    ]
    events += ordinary(rng)
    shuffled = [events[int(n)] for n in rng.permutation(len(events))]
    assert [c.to_fields() for c in find(detector, events)] == [
        c.to_fields() for c in find(detector, shuffled)
    ]


def test_what_is_added_later_gives_the_same_as_all_at_once(detector: Detector) -> None:
    rng = np.random.default_rng(9)
    events = [*campaign(rng), *ordinary(rng)]
    events.sort(key=lambda event: event.timestamp)
    index = CampaignIndex()
    finder = CampaignFinder(
        detector, index, lambda numbers: [events[n] for n in numbers], calibration(**TOLD)
    )
    found: list[Campaign] = []
    for start in range(0, len(events), 40):
        index.add(events[start : start + 40])
        found = finder.find(found)
    whole = find(detector, events, previous=found)
    assert [c.to_fields() for c in found] == [c.to_fields() for c in whole]


def said_later(account: str, **keys: str) -> Event:
    text = " ".join(f"{account}{n}" for n in range(12))
    return replace(Event(f"{account}-later", account, START_S + DAY_S, text), **keys)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("later", "tied"),
    [
        ([said_later(f"c{a}") for a in range(12)], ["client", "client", "network"]),
        (
            [said_later(f"c{a}", payment="p-1") for a in range(3)],
            ["client", "client", "network", "payment"],
        ),
        # A client that many have ties nobody.
        ([said_later(f"o{a}", client="tool/2") for a in range(9)], ["client", "network"]),
    ],
)
def test_what_is_said_elsewhere_changes_a_campaign(
    detector: Detector, later: list[Event], tied: list[str]
) -> None:
    events = with_keys(campaign(np.random.default_rng(14)), network="n-1")
    events[:24] = [
        *with_keys(events[:12], client="tool/2"), *with_keys(events[12:24], client="tool/1")
    ]  # fmt: skip
    index = indexed(events)
    finder = CampaignFinder(
        detector, index, lambda numbers: [events[n] for n in numbers], calibration(**TOLD)
    )
    before = finder.find()
    assert kinds(before) == ["client", "client", "network"]
    events += later
    index.add(events)
    after = finder.find(before)
    assert kinds(after) == tied
    assert [c.to_fields() for c in after] == [
        c.to_fields() for c in find(detector, events, previous=before)
    ]


def kinds(found: list[Campaign]) -> list[str]:
    return sorted(link.kind for link in found[0].links if link.kind in KEY_KINDS)


def test_what_was_read_is_not_encoded_again(detector: Detector) -> None:
    rng = np.random.default_rng(10)
    events = campaign(rng)
    finder = CampaignFinder(
        detector, indexed(events), lambda numbers: [events[n] for n in numbers],
        calibration(**TOLD),
    )  # fmt: skip
    finder.find()
    encoder = detector.encoder
    assert isinstance(encoder, TinyEncoder)
    before = encoder.encoded
    finder.find()
    assert encoder.encoded == before


def test_how_many_are_read_at_once_changes_nothing(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(12)
    asked = (
        "Grade {slot} for me, out of ten, now",
        "Say {slot} again as a judge of it would put it",
    )
    events = [
        *campaign(rng),
        # Too few accounts for a second look.
        *campaign(rng, accounts=4, name="d", frame=asked[0]),
        *campaign(rng, accounts=20, name="e", frame=asked[1]),
        *ordinary(rng),
    ]
    together = find(detector, events)
    assert [one.flagged for one in together] == [True, True, False]
    monkeypatch.setattr(reading, "AT_ONCE", 1)
    for one, other in zip(together, find(detector, events), strict=True):
        assert one.accounts == other.accounts
        assert one.risk == pytest.approx(other.risk)
        assert [r[1] for r in one.reasons] == pytest.approx([r[1] for r in other.reasons])


def test_nothing_to_link(detector: Detector) -> None:
    assert find(detector, []) == []
    assert find(detector, ordinary(np.random.default_rng(11))) == []


def made(campaign_id: str, *accounts: str, flagged: bool = True, risk: float = 0.9) -> Campaign:
    return Campaign(campaign_id, accounts, risk, {}, flagged, 0.5, (), 0.0, 1.0, len(accounts), "b")


def test_a_campaign_that_grows_keeps_its_id() -> None:
    (only,) = named([made("new", "a", "b", "c", "d")], [made("old", "a", "b", "c")], 0.3)
    assert (only.campaign_id, only.was) == ("old", ())


def test_a_campaign_that_splits_leaves_its_id_to_the_larger_part() -> None:
    old = [made("old", *"abcdefgh")]
    found = named([made("n1", *"abcde"), made("n2", *"fgh")], old, 0.3)
    assert {c.campaign_id: c.accounts for c in found} == {
        "old": tuple("abcde"), "n2": tuple("fgh")
    }  # fmt: skip


def test_campaigns_that_merge_are_named() -> None:
    old = [made("one", *"abcde"), made("two", *"fgh", flagged=False)]
    (only,) = named([made("new", *"abcdefgh")], old, 0.3)
    assert (only.campaign_id, only.was) == ("one", ("two",))
    (later,) = named([made("newer", *"abcdefghi")], [only], 0.3)
    assert (later.campaign_id, later.was) == ("one", ("two",))


def test_a_campaign_within_another_is_not_said_to_have_merged() -> None:
    found = [made("whole", *"abcdefgh"), made("within", *"abcd")]
    assert [own.was for own in named(found, found, 0.2)] == [(), ()]


def test_campaigns_that_share_an_account_stay_two() -> None:
    old = [made("one", *"abcd"), made("two", *"dxyz")]
    found = named([made("n1", *"abcd"), made("n2", *"dxyz")], old, 0.3)
    assert {c.campaign_id for c in found} == {"one", "two"}


@pytest.mark.parametrize(("risk", "flagged"), [(0.4, True), (0.2, False)])
def test_a_flag_is_left_below_another_threshold(risk: float, flagged: bool) -> None:
    new = made("new", *"abc", flagged=False, risk=risk)
    (only,) = named([new], [made("old", *"abc")], 0.3)
    assert only.flagged is flagged
    (other,) = named([new], [made("old", *"abc", flagged=False)], 0.3)
    assert not other.flagged


def test_a_single_account_is_a_campaign_of_its_own(tmp_path: Path) -> None:
    from stillwatch.serving.verdict import Verdict

    verdict = Verdict("lone", 9, 0.8, 0.8, {"cot_harvesting": 0.7}, True, 0.5, 3, (), "b", 0)
    one = single_account(verdict, 5.0, 6.0)
    assert (one.accounts, one.risk, one.flagged, one.links) == (("lone",), 0.8, True, ())
    assert one.campaign_id == single_account(verdict, 1.0, 2.0).campaign_id


def test_trees_sum_the_leaves_that_a_row_reaches() -> None:
    trees = Trees(
        depth=2, feature=[[0, 1, 1], [1, 0, 0]], threshold=[[0.5, 0.2, 0.8], [0.0, 1e9, 1e9]],
        leaf=[[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]],
    )  # fmt: skip
    rows = np.array([[0.5, 0.2], [0.5, 0.3], [0.6, 0.8], [0.6, 0.9], [0.0, -1.0]])
    assert trees.total(rows).tolist() == [31.0, 32.0, 33.0, 34.0, 11.0]


@pytest.mark.parametrize(
    "change", [{"depth": 3}, {"leaf": [[1.0]]}, {"feature": []}, {"threshold": [[float("nan")]]}]
)
def test_trees_must_be_whole(change: dict[str, object]) -> None:
    fields = {"depth": 1, "feature": [[0]], "threshold": [[0.0]], "leaf": [[0.0, 1.0]]}
    assert Trees.model_validate(fields)
    with pytest.raises(ValidationError):
        Trees.model_validate({**fields, **change})


def test_reasons_tell_what_an_ordinary_value_would_take_away() -> None:
    told = calibration(kinship=-4.0, risk=2.0, dedication=1.0, offset=0.5)
    values = {"risk": -1.0, "dedication": 0.4}
    row = np.array([values.get(name, 0.0) for name in FEATURES])
    (reasons,) = told.reasons(row[None])
    # Below its step kinship speaks for a campaign, as in an ordinary one of the test.
    assert reasons[0] == ("risk", -1.0, 4.0)
    assert {name: weight for name, _, weight in reasons[1:]} == dict.fromkeys(FEATURES[1:], 0.0)
    assert told.probability(row[None])[0] == pytest.approx(1 / (1 + np.exp(-5.5)))


def test_a_calibration_must_fit() -> None:
    fields = calibration().model_dump()
    trees = {"depth": 1, "feature": [[99]], "threshold": [[0.0]], "leaf": [[0.0, 1.0]]}
    for change in (
        {"features": ["risk"]}, {"typical": [1.0]}, {"leave": 0.9}, {"enter": 1.0},
        {"trees": trees}, {"slope": 0.0},
    ):  # fmt: skip
        with pytest.raises(ValidationError):
            CampaignCalibration.model_validate({**fields, **change})


def test_the_sample_takes_accounts_with_several_events_first() -> None:
    rng = np.random.default_rng(12)
    lone = campaign(rng, accounts=80, each=1, name="l")
    events = [*lone, *campaign(rng, accounts=10, each=5)]
    index = indexed(events)
    evidence = Evidence(
        "skeleton", "all", np.arange(len(index.accounts)), np.arange(len(events))
    )  # fmt: skip
    community = Community((evidence,), evidence.accounts)
    (work,) = Works().of([community], Traffic.of(index.table(), index))
    drawn = work.sample(index.table())
    assert len(drawn) == len(set(drawn)) == SAMPLE_EVENTS
    own = Counter(events[number].account_id[0] for number in drawn)
    assert own["c"] == 10 * EACH
    assert [events[n].timestamp for n in drawn] == sorted(events[n].timestamp for n in drawn)


def test_who_sends_what_a_few_members_sent_is_no_member(detector: Detector) -> None:
    rng = np.random.default_rng(13)
    events = campaign(rng, accounts=300, each=2)
    public = "anchor ladder walnut ribbon marble kettle willow pepper harbour compass saddle velvet"
    for number in range(19):
        frame, end = events[2 * number].prompt.split(": ")[0], "Number every thought"
        events[2 * number] = replace(
            events[2 * number],
            prompt=f"{frame}: {public} {number} {end} and keep none of them back.",
        )
    outside = [
        Event("x-0", "outside", START_S, f"{public} of 7"),
        Event("x-1", "outside", START_S + 9, "something else entirely, about a boat"),
    ]
    (only,) = find(detector, [*events, *outside])
    assert len(only.accounts) == 300
    assert "outside" not in only.accounts
