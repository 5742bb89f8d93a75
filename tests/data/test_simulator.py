"""The simulator: the same for the same seed, true to its labels, folds that share nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from stillwatch.data.corpora import ROLES, CorpusPrompt, Source
from stillwatch.data.simulator.attacks import compose_attack
from stillwatch.data.simulator.benchlog import distinct_events, repeated_events
from stillwatch.data.simulator.content import INTENTS, load_products, load_wrappers
from stillwatch.data.simulator.materials import (
    ATTACK_ROLES,
    ROLE_INTENT,
    Materials,
    source_slots,
    split_folds,
)
from stillwatch.data.simulator.ordinary import (
    KINDS,
    bury,
    compose_cover,
    compose_ordinary,
    compose_twin,
)
from stillwatch.data.simulator.phrases import load_phrases
from stillwatch.data.simulator.streams import (
    MAX_EVENTS,
    MIN_ATTACK_PROMPTS,
    SHARES,
    Request,
    Stream,
    draw,
    interleave,
)
from stillwatch.data.simulator.timing import PACES, START_S, request_times

FOLDS = 3
ORDINARY_LABELS = {"person", "product", "judge"}


def make_source(name: str, role: str, count: int = 60, sessions: int = 0) -> Source:
    """Prompts that tell where they came from; the first `sessions` * 4 of them are talks."""
    prompts = tuple(
        CorpusPrompt(
            f"{name} item {number}: some words of a prompt", "",
            f"{name}-{number // 4}" if number < 4 * sessions else None, "en",
        )
        for number in range(count)
    )  # fmt: skip
    groups = tuple(tuple(range(4 * g, 4 * g + 4)) for g in range(sessions))
    return Source(name, role, prompts, groups)


def make_materials() -> Materials:
    sources = [make_source(f"{role}_{n}", role, 40 + 5 * n) for role in ROLES for n in range(4)]
    sources += [make_source(f"talk_{n}", "chat", 80, sessions=12) for n in range(3)]
    return Materials(tuple(sources), load_wrappers(), load_products(), load_phrases())


@pytest.fixture(scope="module")
def materials() -> Materials:
    return make_materials()


@pytest.fixture(scope="module")
def folds(materials: Materials) -> list[Materials]:
    return split_folds(materials, FOLDS)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def same(first: Stream, second: Stream) -> bool:
    return replace(first, attack=second.attack) == second and np.array_equal(
        first.attack, second.attack
    )


def check_stream(stream: Stream) -> None:
    """What holds for every stream."""
    count = len(stream.events)
    assert count == len(stream.attack) == len(stream.labels) == len(stream.origins)
    assert {event.account_id for event in stream.events} == {stream.account_id}
    assert len({event.event_id for event in stream.events}) == count
    times = [event.timestamp for event in stream.events]
    assert times == sorted(times)
    assert all(np.isfinite(times))
    assert stream.share == pytest.approx(stream.attack.mean())
    for label, attacking in zip(stream.labels, stream.attack, strict=True):
        assert label in (stream.intents if attacking else ORDINARY_LABELS)
    assert not any("{slot}" in event.prompt for event in stream.events)


@pytest.mark.parametrize("intent", INTENTS)
@pytest.mark.parametrize("share", SHARES)
def test_attacks_have_their_share_and_enough_prompts(
    materials: Materials, intent: str, share: float
) -> None:
    for seed in range(6):
        stream = compose_attack(rng(seed), materials, materials, f"a{seed}", intent, share)
        check_stream(stream)
        assert stream.intents == (intent,)
        assert stream.attack.sum() >= MIN_ATTACK_PROMPTS
        assert stream.share == pytest.approx(share, abs=0.02)
        assert MIN_ATTACK_PROMPTS <= len(stream.events) <= 1.02 * MAX_EVENTS
        assert stream.kind == f"bare:{intent}" or stream.kind in {
            wrapper.family for wrapper in materials.wrappers if wrapper.intent == intent
        }


def test_attacks_can_be_kept_short(materials: Materials) -> None:
    for seed in range(10):
        for share in SHARES:
            stream = compose_attack(
                rng(seed), materials, materials, "a", INTENTS[2], share, longest=150
            )
            assert len(stream.events) <= 1.02 * 150
            assert stream.attack.sum() >= MIN_ATTACK_PROMPTS


def test_attacks_and_their_cover_come_from_where_they_are_said_to(folds: list[Materials]) -> None:
    attack, cover = folds[0], folds[1]
    known = {source.name for source in attack.sources} | {w.family for w in attack.wrappers}
    around = {source.name for source in cover.sources} | {p.id for p in cover.products}
    for seed, share in enumerate([0.5, 0.25, 0.1] * 4):
        intent = INTENTS[seed % 3]
        stream = compose_attack(rng(seed), attack, cover, "a", intent, share)
        for origin, attacking in zip(stream.origins, stream.attack, strict=True):
            assert origin in (known if attacking else around | {"phrases"})


def test_an_intent_without_materials_is_an_error(materials: Materials) -> None:
    nothing = Materials(materials.by_role("chat", "app"), (), materials.products, materials.phrases)
    with pytest.raises(ValueError, match="must hold wrappers or sources for cot_harvesting"):
        compose_attack(rng(0), nothing, materials, "a", "cot_harvesting", 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_ordinary_accounts_hold_no_attack_prompts(materials: Materials, kind: str) -> None:
    fewest, most = KINDS[kind][2]
    for seed in range(4):
        stream = compose_ordinary(rng(seed), materials, f"o{seed}", kind)
        check_stream(stream)
        assert stream.kind == kind
        assert (stream.intents, stream.share) == ((), 0.0)
        assert not stream.attack.any()
        assert fewest <= len(stream.events) <= most + 4
        assert set(stream.labels) <= ORDINARY_LABELS


def test_twins_are_built_as_attacks_are(materials: Materials) -> None:
    rng = np.random.default_rng(12)
    twins = [compose_twin(rng, materials, f"t{n}", MAX_EVENTS) for n in range(200)]
    attacks = [
        compose_attack(rng, materials, materials, f"a{n}", INTENTS[n % 3], SHARES[n % 4])
        for n in range(200)
    ]
    assert not any(twin.intents or twin.attack.any() for twin in twins)
    assert {label for twin in twins for label in twin.labels} <= ORDINARY_LABELS
    for quantile in (0.1, 0.5, 0.9):
        own, other = (
            np.quantile(np.log([len(stream.events) for stream in streams]), quantile)
            for streams in (twins, attacks)
        )
        assert own == pytest.approx(other, abs=0.35)
    mixed = [
        sum("phrases" in stream.origins for stream in streams) / len(streams)
        for streams in (twins, attacks)
    ]
    assert mixed[0] == pytest.approx(mixed[1], abs=0.12)


def test_a_share_of_attacks_and_twins_stands_behind_ordinary_text(materials: Materials) -> None:
    core = [Request("s", f"the core {number}", "product", False, "o") for number in range(12)]
    fates = [bury(rng(seed), materials, core, 0.1) for seed in range(600)]
    moved = [own for own in fates if own != core]
    assert 0.07 < len(moved) / len(fates) < 0.13
    assert bury(rng(0), materials, core, 0.0) == core
    ordinary = {p.text for s in materials.by_role("chat", "lookalike", "app") for p in s.prompts}
    lengths = set()
    for own in moved:
        for before, after in zip(core, own, strict=True):
            text, _, payload = after.prompt.rpartition("\n\n")
            assert after == before._replace(prompt=after.prompt)
            assert payload == before.prompt
            *pieces, last = text.split("\n\n")
            assert set(pieces) <= ordinary
            assert any(one.startswith(last) for one in ordinary)
        lengths.add(round(np.mean([len(request.prompt) for request in own]), -2))
    assert max(lengths) > 4 * min(lengths)

    twin = compose_twin(rng(1), materials, "t", 60, 1.0)
    attack = compose_attack(rng(1), materials, materials, "a", INTENTS[0], 1.0, 60, 1.0)
    for stream in (twin, attack):
        longest = max(len(event.prompt) for event in stream.events)
        assert longest > 200
    assert all("\n\n" in event.prompt for event in attack.events)


def test_products_are_not_fed_with_what_attacks_ask(materials: Materials) -> None:
    roles = {source.name: source.role for source in materials.sources}
    for kind in ("product_bare", "translation", "audit", "multilingual"):
        for seed in range(5):
            stream = compose_ordinary(rng(seed), materials, "o", kind)
            for event in stream.events:
                for name, role in roles.items():
                    if f"{name} item" in event.prompt:
                        slots = source_slots(next(s for s in materials.sources if s.name == name))
                        assert role not in ATTACK_ROLES or set(slots) & {"exam", "math", "code"}


def test_kinds_are_drawn_by_their_weights(materials: Materials) -> None:
    small = Materials(
        materials.by_role("chat", "app", "judge", "attack_boundary"),
        materials.wrappers, materials.products, materials.phrases,
    )  # fmt: skip
    generator = rng(1)
    kinds = Counter(compose_ordinary(generator, small, f"o{n}", longest=5).kind for n in range(400))
    total = sum(weight for weight, *_ in KINDS.values())
    for kind, (weight, *_) in KINDS.items():
        assert abs(kinds[kind] / 400 - weight / total) < 0.06
    assert len(kinds) > 12


def test_the_same_seed_gives_the_same_streams(materials: Materials) -> None:
    for kind in KINDS:
        one, two = (compose_ordinary(rng(3), materials, "o", kind) for _ in range(2))
        assert same(one, two)
    for intent in INTENTS:
        one, two, other = (
            compose_attack(rng(seed), materials, materials, "a", intent, 0.5) for seed in (3, 3, 4)
        )
        assert same(one, two)
        assert [event.prompt for event in one.events] != [event.prompt for event in other.events]


def test_cover_has_the_size_asked_for(materials: Materials) -> None:
    for seed, size in enumerate([1, 7, 90, 333]):
        requests = compose_cover(rng(seed), materials, size)
        assert len(requests) == size
        assert not any(request.attack for request in requests)


def test_folds_share_nothing_and_leave_nothing_out(
    materials: Materials, folds: list[Materials]
) -> None:
    assert len(folds) == FOLDS
    parts = {
        "sources": [{source.name for source in fold.sources} for fold in folds],
        "hands": [{wrapper.hand for wrapper in fold.wrappers} for fold in folds],
        "wrappers": [{wrapper.id for wrapper in fold.wrappers} for fold in folds],
        "trades": [{product.trade for product in fold.products} for fold in folds],
        "products": [{product.id for product in fold.products} for fold in folds],
        "phrases": [{p.text for own in fold.phrases.values() for p in own} for fold in folds],
    }
    whole = {
        "sources": {source.name for source in materials.sources},
        "hands": {wrapper.hand for wrapper in materials.wrappers},
        "wrappers": {wrapper.id for wrapper in materials.wrappers},
        "trades": {product.trade for product in materials.products},
        "products": {product.id for product in materials.products},
        "phrases": {p.text for own in materials.phrases.values() for p in own},
    }
    for name, own in parts.items():
        for first, second in combinations(own, 2):
            assert not first & second, name
        assert set().union(*own) == whole[name], name
    for fold in folds:
        assert {source.role for source in fold.sources} == set(ROLES)
        assert {wrapper.intent for wrapper in fold.wrappers} == set(INTENTS)
    again = split_folds(replace(materials, sources=materials.sources[::-1]), FOLDS)
    for fold, other in zip(folds, again, strict=True):
        assert {s.name for s in fold.sources} == {s.name for s in other.sources}


def test_every_kind_of_name_can_be_held_out(materials: Materials) -> None:
    source = materials.sources[0].name
    wrapper, product = materials.wrappers[0], materials.products[0]
    family = next(w.family for w in materials.wrappers if w.family != wrapper.family)
    trade = next(p.trade for p in materials.products if p.trade != product.trade)
    left = materials.hold_out({source, wrapper.id, family, product.id, trade})
    assert {s.name for s in materials.sources} - {s.name for s in left.sources} == {source}
    gone = {w.id for w in materials.wrappers} - {w.id for w in left.wrappers}
    assert gone == {wrapper.id} | {w.id for w in materials.wrappers if w.family == family}
    gone = {p.id for p in materials.products} - {p.id for p in left.products}
    assert gone == {product.id} | {p.id for p in materials.products if p.trade == trade}
    assert materials.hold_out(()).sources == materials.sources


def test_portions_divide_the_prompts_and_keep_sessions_whole(materials: Materials) -> None:
    first, rest = materials.portion([0], 4), materials.portion([1, 2, 3], 4)
    for source in materials.sources:
        parts = [
            own
            for part in (first, rest)
            for own in part.sources
            if own.name == source.name
        ]  # fmt: skip
        texts = [prompt.text for own in parts for prompt in own.prompts]
        assert sorted(texts) == sorted(prompt.text for prompt in source.prompts)
        assert sum(len(own.sessions) for own in parts) == len(source.sessions)
        for own in parts:
            for session in own.sessions:
                assert len({own.prompts[p].session for p in session}) == 1
                assert len(session) == 4
    share = sum(len(own.prompts) for own in first.sources) / sum(
        len(own.prompts) for own in materials.sources
    )
    assert share == pytest.approx(0.25, abs=0.06)


def test_slots_are_filled_from_fitting_sources(materials: Materials) -> None:
    for kind in ("customer_message", "question", "judge_item"):
        for source in materials.for_slot(kind, attack=False):
            assert source.role not in ATTACK_ROLES
            assert kind in source_slots(source)
    boundary = materials.for_slot("boundary", attack=True)
    assert {source.role for source in boundary} == {"attack_boundary"}
    assert all(s.role not in ATTACK_ROLES for s in materials.for_slot("boundary", attack=False))
    assert {ROLE_INTENT.get(s.role) for s in materials.for_slot("exam", attack=False)} == {
        "capability_probing"
    }, "students do exercises"


def test_draws_do_not_repeat_while_there_are_enough() -> None:
    source = make_source("shop", "app", 30)
    assert len({prompt.text for prompt in draw(rng(0), source, 30)}) == 30
    assert len(draw(rng(0), source, 100)) == 100


def test_merging_keeps_each_part_s_order() -> None:
    parts = [
        [Request("", f"{part}-{n}", "person", False, "x") for n in range(size)]
        for part, size in enumerate((5, 0, 20))
    ]
    merged = interleave(rng(0), parts)
    for part, own in enumerate(parts):
        assert [r for r in merged if r.prompt.startswith(f"{part}-")] == own
    assert merged[:5] != parts[0]


@pytest.mark.parametrize("pace", PACES)
def test_times_never_go_back(pace: str) -> None:
    for seed in range(20):
        for count in (1, 2, 300):
            times = request_times(rng(seed), count, pace)
            assert times.shape == (count,)
            assert (np.diff(times) >= 0).all()
            assert times[0] > START_S - 86400
    assert not np.array_equal(request_times(rng(0), 9, pace), request_times(rng(1), 9, pace))


def test_people_sleep_and_machines_do_not() -> None:
    def hours(pace: str, seed: int) -> int:
        return len(set((request_times(rng(seed), 600, pace) % 86400 // 3600).astype(int)))

    assert max(hours("human", seed) for seed in range(20)) <= 16
    assert max(hours("machine", seed) for seed in range(20)) == 24


def test_an_unknown_pace_is_an_error() -> None:
    with pytest.raises(ValueError, match="pace must be one of"):
        request_times(rng(0), 3, "leisurely")


def test_measurement_logs_are_what_they_say() -> None:
    events = distinct_events(200, seed=3)
    assert len({event.prompt for event in events}) == len(events) == 200
    assert len({event.account_id for event in events}) == 10
    assert events == distinct_events(200, seed=3)
    repeated = list(repeated_events(500, accounts=40, prompts=30, seed=4))
    assert len(repeated) == 500
    assert len({event.account_id for event in repeated}) == 40
    assert len({event.prompt for event in repeated}) == 30
    assert [event.timestamp for event in repeated] == sorted(e.timestamp for e in repeated)
