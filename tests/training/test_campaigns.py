from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from stillwatch.data.errors import InputError
from stillwatch.data.simulator.campaigns import DAY_S, NEW_MODEL, CampaignPlan
from stillwatch.data.simulator.materials import load_sealed
from stillwatch.data.simulator.phrases import load_phrases
from stillwatch.data.simulator.timing import START_S
from stillwatch.model.campaigns.finder import CampaignFinder
from stillwatch.model.campaigns.risk import FEATURES
from stillwatch.model.detector import Detector
from stillwatch.model.golden import load_detector
from stillwatch.training.benchmark.campaign_world import (
    HALVES,
    World,
    WorldPlan,
    compose_world,
    world_materials,
)
from stillwatch.training.benchmark.campaigns import (
    Truth,
    judge,
    leaks,
    shared_infrastructure,
    tied_by_skeletons,
)
from stillwatch.training.boosting import Boosting
from stillwatch.training.campaign_readings import (
    Communities,
    joined,
    read_world,
    read_worlds,
)
from stillwatch.training.campaigns import (
    LONE,
    TOUCHED,
    calibrate_campaigns,
    is_campaign,
    is_ordinary,
    threshold_logit,
    touched_share,
)
from tests.model.campaigns.campaign_support import calibration, indexed
from tests.support import TinyEncoder, tiny_bundle

PLANS = (
    CampaignPlan(12, 4, 0.2, start_day=10), CampaignPlan(8, 6, 0.5, "all", days=14),
    CampaignPlan(10, 8, 0.0, "some", days=20, start_day=5, release_day=15),
)  # fmt: skip
QUICK = Boosting(rounds=30, depth=2)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small corpora folder, of words of our own."""
    folder = tmp_path_factory.mktemp("corpora")
    rng = np.random.default_rng(1)
    nouns = ("kettle", "harbour", "ledger", "violin", "orchard", "turbine", "glacier", "parcel")
    verbs = ("mend", "weigh", "paint", "sort", "measure", "carry", "lend", "polish")
    rows = []
    for name, role in (("talk", "chat"), ("shop", "app"), ("asked", "lookalike")):
        lines = []
        for number in range(400):
            said = " ".join(str(rng.choice(verbs if n % 2 else nouns)) for n in range(9))
            lines.append(f'{{"prompt": "{name} {number}: how do I {said}?"}}\n')
        (folder / f"{name}.jsonl").write_text("".join(lines))
        rows.append(f"{name}\t{role}\tours\n")
    (folder / "MANIFEST.tsv").write_text("name\trole\tlicence\n" + "".join(rows))
    return folder


@pytest.fixture(scope="module")
def world(corpora: Path) -> World:
    return compose_world(WorldPlan(PLANS, 40, 0.01, 0, 1), world_materials(corpora, 0))


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    return Detector(tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny"), TinyEncoder())


def test_a_world_is_what_its_plan_says(world: World) -> None:
    campaigns = [group for group in world.groups if group.intent]
    assert [len(group.streams) for group in campaigns] == [12, 8, 10]
    sealed = load_sealed()
    known = {one.id for one in sealed.wrappers} | {one.name for one in sealed.sources}
    for group in campaigns:
        plan = world.plans[group.name]
        assert known.issuperset(world.sends[group.name])
        assert all(len(stream.events) >= plan.prompts for stream in group.streams)
        assert all(stream.attack.any() for stream in group.streams)
        times = [e.timestamp for stream in group.streams for e in stream.events]
        assert max(times) - min(times) <= plan.days * DAY_S
        if plan.start_day is not None:
            assert min(times) >= START_S + plan.start_day * DAY_S
    share = 1 - np.mean(np.concatenate([s.attack for s in campaigns[0].streams]))
    assert 0.1 < share < 0.35
    events = world.events()
    assert [e.timestamp for e in events] == sorted(e.timestamp for e in events)
    assert len({(e.account_id, e.event_id) for e in events}) == len(events)


def test_infrastructure_is_shared_as_planned(world: World) -> None:
    def networks(number: int) -> int:
        group = [one for one in world.groups if one.intent][number]
        return len({event.network for stream in group.streams for event in stream.events})

    assert networks(0) == 12
    assert networks(1) == 1
    assert 1 < networks(2) < 10


def test_a_pivot_goes_to_the_new_model(world: World) -> None:
    group = [one for one in world.groups if one.intent][2]
    release = START_S + 15 * DAY_S
    events = [event for stream in group.streams for event in stream.events]
    late = [e.model == NEW_MODEL for e in events if e.timestamp >= release]
    assert 0.3 < np.mean(late) < 0.7
    assert not any(e.model == NEW_MODEL for e in events if e.timestamp < release)


def test_halves_share_no_wrapper(corpora: Path) -> None:
    halves = [world_materials(corpora, half)[0].wrappers for half in range(HALVES)]
    assert not {w.id for w in halves[0]} & {w.id for w in halves[1]}
    assert all(len(half) > 30 for half in halves)


def test_a_world_is_the_same_each_time(corpora: Path, world: World) -> None:
    again = compose_world(WorldPlan(PLANS, 40, 0.01, 0, 1), world_materials(corpora, 0))
    assert again.events() == world.events()
    other = compose_world(WorldPlan(PLANS, 40, 0.01, 0, 2), world_materials(corpora, 0))
    assert other.events() != world.events()


def test_more_campaigns_than_wrappers_are_refused(corpora: Path) -> None:
    plan = WorldPlan(PLANS * 30, 1, 0.01, 0, 1)
    with pytest.raises(InputError, match="a wrapper for each campaign"):
        compose_world(plan, world_materials(corpora, 0))


def test_a_world_is_read_with_what_is_true_of_it(world: World, detector: Detector) -> None:
    read = read_world(detector, world)
    # Three campaigns, of which at least those that send enough are communities of their own.
    assert is_campaign(read).sum() >= 2
    assert (read.attack[is_campaign(read)] > 0.5).all()
    assert read.ordinary == sum(not s.intents for _, _, s in world.streams())
    part = read_world(detector, world, 0.3)
    assert part.ordinary < read.ordinary


def test_a_world_counts_those_whom_a_campaign_would_hold(world: World, detector: Detector) -> None:
    sent = next(one for one in world.groups if one.intent).streams[0].events[0].prompt
    curious, *others = sorted(world.ordinary, key=lambda stream: -len(stream.events))
    tried = replace(curious.events[0], event_id="tried", prompt=sent)
    told = replace(world, ordinary=(replace(curious, events=(*curious.events, tried)), *others))
    events = told.events()
    finder = CampaignFinder(
        detector, indexed(events), lambda numbers: [events[n] for n in numbers], calibration()
    )
    members = [set(one.accounts) for one in finder.find()]
    assert not any(curious.account_id in own for own in members)
    read = read_world(detector, told)
    assert sorted(read.accounts) == sorted(map(len, members))
    ordinary = {stream.account_id for _, _, stream in told.streams() if not stream.intents}
    assert sorted(read.ordinary_accounts) == sorted(len(own & ordinary) for own in members)


def made(seed: int, campaigns: int = 30, ordinary: int = 120) -> Communities:
    """Campaigns that are told by contribution and kinship together."""
    rng = np.random.default_rng(seed)
    count = campaigns + ordinary
    attack = np.repeat([1.0, 0.0], [campaigns, ordinary])
    features = rng.normal(0, 1, (count, len(FEATURES)))
    accounts = rng.integers(10, 60, count)
    contribution, kinship = FEATURES.index("contribution"), FEATURES.index("kinship")
    features[:, contribution] += np.where(attack > 0, 2.5, -2.5)
    features[:, kinship] += np.where(attack > 0, -2.5, 2.5)
    own, total = np.where(attack > 0, 0, accounts), int(accounts[attack == 0].sum()) + 1000
    # Some are groups that look like campaigns, the others lone ones with something in common.
    lone = np.where(np.arange(count) % 3 == 0, own, 0)
    return Communities(features, attack, attack.copy(), accounts, own, lone, total, total // 2)


def test_a_calibration_finds_campaigns_and_touches_few() -> None:
    told, figures = calibrate_campaigns([made(1), made(2), made(3)], QUICK)
    assert figures["campaigns flagged"] > 0.7
    assert figures["ordinary accounts touched, share"] <= TOUCHED
    unseen = made(4)
    flagged = told.probability(unseen.features) >= told.enter
    assert flagged[is_campaign(unseen)].mean() > 0.7
    assert flagged[is_ordinary(unseen)].mean() < 0.03


def test_groups_and_lone_accounts_count_as_on_a_site() -> None:
    plain = made(1)
    own = np.where(plain.attack > 0, 0, 20)
    # A world of a thousand lone accounts and nine thousand in groups.
    read = replace(
        plain, ordinary=10_000, lone=1000, ordinary_accounts=own,
        lone_accounts=np.where(np.arange(len(own)) % 2, own, 0),
    )  # fmt: skip
    share = touched_share(read)
    lone = read.lone_accounts > 0
    assert share[lone] == pytest.approx(LONE * 20 / 1000)
    assert share[~lone & (read.attack == 0)] == pytest.approx((1 - LONE) * 20 / 9000)
    assert not share[read.attack > 0].any()


def test_a_threshold_keeps_what_it_promises_on_another_site() -> None:
    rng = np.random.default_rng(5)
    over = 0
    for _ in range(300):
        accounts, logits = rng.geometric(0.1, 400), rng.normal(size=400)
        nothing = np.zeros(400)
        read = Communities(
            np.zeros((400, len(FEATURES))), nothing, nothing, accounts, accounts, accounts,
            80_000, round(LONE * 80_000),
        )  # fmt: skip
        above = norm.sf(threshold_logit(read, logits))
        # What a site of the same kind shows on average: ten accounts in each of 400 groups.
        over += 10 * 400 * above / 80_000 > TOUCHED
    # One in twenty is promised of a given threshold; one that is chosen keeps a little less.
    assert over < 0.1 * 300


def test_products_that_campaigns_hide_in_are_learnt_as_ordinary() -> None:
    contribution, kinship, dedication = map(
        FEATURES.index, ("contribution", "kinship", "dedication")
    )

    def with_cover(seed: int) -> Communities:
        """Half of what is ordinary reads and is shared out nearly as a campaign is: most of its
        accounts are a campaign's, for which it is a small part of what they send."""
        plain = made(seed)
        features, ordinary_accounts = plain.features.copy(), plain.ordinary_accounts.copy()
        features[:, dedication] += 2
        cover = (plain.attack == 0) & (np.arange(len(plain.attack)) % 2 == 0)
        features[cover, contribution] += 4.5
        features[cover, kinship] -= 4.5
        features[cover, dedication] -= 4
        ordinary_accounts[cover] = np.ceil(0.4 * plain.accounts[cover])
        return replace(
            plain, features=features, ordinary_accounts=ordinary_accounts,
            lone_accounts=np.minimum(plain.lone_accounts, ordinary_accounts),
        )  # fmt: skip

    plan = replace(QUICK, rounds=100)
    told, _ = calibrate_campaigns([with_cover(1), with_cover(2), with_cover(3)], plan)
    unseen = with_cover(4)
    flagged = told.probability(unseen.features) >= told.enter
    assert flagged[unseen.attack > 0].mean() > 0.7
    assert flagged[unseen.attack == 0].mean() < 0.03


def test_a_probability_is_one_where_campaigns_are_rare() -> None:
    told, _ = calibrate_campaigns([made(1), made(2), made(3)], QUICK)
    unseen = made(4, campaigns=60, ordinary=3000)
    risk = told.probability(unseen.features)
    assert risk.sum() == pytest.approx(60, rel=0.4)
    assert told.leave < told.enter


def test_worlds_without_campaigns_are_refused() -> None:
    bare = made(1, campaigns=0)
    with pytest.raises(InputError, match="campaigns and ordinary groups"):
        calibrate_campaigns([bare, bare], QUICK)


def test_readings_come_by_half_and_seed(tmp_path: Path) -> None:
    state = load_detector().state_id
    for half in range(HALVES):
        for seed in (0, 1):
            read = made(10 * half + seed, campaigns=3, ordinary=10 * half + seed + 1)
            np.savez(tmp_path / f"{state}-{half}-{seed}.npz", **vars(read))
    told: list[str] = []
    found = read_worlds(None, None, (1, 0), 2, told.append, tmp_path)
    assert [[int((own.attack == 0).sum()) for own in half] for half in found] == [[2, 1], [12, 11]]
    assert isinstance(found[0][0].ordinary, int)
    assert len(told) == 4
    # Such as a version before has left.
    np.savez(tmp_path / f"{state}-0-1.npz", features=read.features)
    with pytest.raises(InputError, match="readings must be of the code"):
        read_worlds(None, None, (0, 1), 2, told.append, tmp_path)


def test_lone_accounts_share_products_and_phrases_as_on_a_large_site(corpora: Path) -> None:
    materials = world_materials(corpora, 0)
    products = {product.id for product in materials[1].products}
    kinds = ("evaluate", "new_model", "jailbreak_try")
    phrases = {phrase.text for kind in kinds for phrase in load_phrases()[kind]}

    def used(forms: float) -> tuple[int, int]:
        lone = compose_world(WorldPlan((), 150, 0.0, 0, 1, forms=forms), materials).ordinary
        return (
            len({name for own in lone for name in own.origins if name in products}),
            len(phrases & {event.prompt for own in lone for event in own.events}),
        )

    few, single = used(0.002)
    many, several = used(1.0)
    assert few < 20 < 50 < many
    assert single <= 3 < 15 < several


def test_joined_is_all_of_them() -> None:
    one, other = made(1), made(2)
    both = joined([one, other])
    assert len(both.attack) == 300
    assert both.ordinary == one.ordinary + other.ordinary


def test_judged_by_accounts(world: World) -> None:
    truth = Truth.of(world)
    campaign = next(group for group in world.groups if group.intent)
    own = [stream.account_id for stream in campaign.streams]
    lone = world.ordinary[0].account_id
    found = judge(truth, [*own[:6], lone])
    assert found.campaigns[campaign.name] == (6, 12)
    assert found.ordinary["lone"] == (1, 40)
    assert found.recall == 6 / 30
    assert found.precision == 6 / 7
    assert found.untouched == 1 - 1 / len(truth.kind)


def test_shared_infrastructure_finds_those_who_share_it(world: World) -> None:
    truth = Truth.of(world)
    found = judge(truth, shared_infrastructure(indexed(world.events())))
    shares = {name: own / total for name, (own, total) in found.campaigns.items()}
    names = list(world.plans)
    assert shares[names[0]] == 0.0
    assert shares[names[1]] == 1.0
    # A tenth pays in no way that is known, and a network of more than fifty ties nobody.
    touched, total = found.ordinary["many_keys"]
    assert touched >= 0.8 * total


def test_tied_by_skeletons_is_at_its_best(world: World, detector: Detector) -> None:
    truth = Truth.of(world)
    named = tied_by_skeletons(
        detector, indexed(world.events()), world.events(), frozenset(truth.campaign)
    )
    if named:
        assert judge(truth, named).precision >= 0.97


def test_leaks_are_the_share_before_the_flag(world: World, detector: Detector) -> None:
    eager = calibration(enter=0.01, offset=5.0)
    first = next(one for one in world.groups if one.intent).name
    times = [START_S + (10 + 2 * step) * DAY_S for step in (0.25, 0.5, 1.0)]
    leaked = leaks(detector, eager, world, times, lambda text: None)
    assert 0 < leaked[first] < 0.7
    never = leaks(detector, calibration(enter=0.99, offset=-20.0), world, times, lambda text: None)
    assert set(never.values()) == {1.0}
