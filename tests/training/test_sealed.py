"""The sealed test and the release gate that stands on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillwatch.data.corpora import read_corpora
from stillwatch.data.events import Event
from stillwatch.data.simulator.content import load_products, load_wrappers
from stillwatch.data.simulator.materials import OWN_SOURCES, load_sealed
from stillwatch.data.simulator.streams import Stream
from stillwatch.training.benchmark.compare import compare, standings
from stillwatch.training.benchmark.sealed import (
    AT_THRESHOLD,
    SealedPlan,
    SealedScores,
    compose_sealed,
    is_attack,
    score_sealed,
    sealed_figures,
)

PLAN = SealedPlan(ordinary=120, longest=40, bare_repeats=1)


@pytest.fixture(scope="module")
def streams() -> list[Stream]:
    return compose_sealed(PLAN)


def scores(streams: list[Stream], seed: int = 0, gap: float = 2.0) -> SealedScores:
    """Attacks stand `gap` deviations above ordinary accounts."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=len(streams)) + gap * is_attack(streams)
    return SealedScores(1 / (1 + np.exp(-logits)), [None] * len(streams), [[]] * len(streams))


def test_nothing_sealed_is_trained_on() -> None:
    sealed = load_sealed()
    own = read_corpora(OWN_SOURCES)
    assert len(sealed.wrappers) >= 80
    assert len(sealed.products) >= 100
    assert not {s.name for s in sealed.sources} & {s.name for s in own}
    assert not {w.id for w in sealed.wrappers} & {w.id for w in load_wrappers()}
    assert not {p.trade for p in sealed.products} & {p.trade for p in load_products()}
    known = {prompt.text.strip().lower() for source in own for prompt in source.prompts}
    assert not known & {p.text.strip().lower() for s in sealed.sources for p in s.prompts}


def test_every_family_is_tested_at_every_share(streams: list[Stream]) -> None:
    attacks = [s for s in streams if s.intents]
    families = {wrapper.family for wrapper in load_sealed().wrappers}
    assert families <= {s.kind for s in attacks}
    for family in families:
        shares = [s.share for s in attacks if s.kind == family]
        assert max(shares) == 1
        assert min(shares) < 0.3
    assert all(s.attack.sum() >= 10 for s in attacks)
    assert sum(not s.intents for s in streams) == PLAN.ordinary
    assert len({s.account_id for s in streams}) == len(streams)
    assert [s.account_id for s in compose_sealed(PLAN)] == [s.account_id for s in streams]


@dataclass(frozen=True)
class Said:
    risk: float
    peak_risk: float
    flagged_after: int | None
    evidence: tuple[Any, ...]
    truncated: int = 0


@dataclass(frozen=True)
class Named:
    event_id: str


@dataclass
class Oracle:
    """Knows which events are attack prompts and flags at the third."""

    attacks: Mapping[str, bool] = field(default_factory=dict)

    def __call__(self, bundle: Path, events: Iterable[Event]) -> dict[str, Said]:
        seen: dict[str, list[Event]] = {}
        for event in events:
            seen.setdefault(event.account_id, []).append(event)
        found = {}
        for account, own in seen.items():
            bad = [n for n, event in enumerate(own) if self.attacks[event.event_id]]
            evidence = tuple(Named(own[n].event_id) for n in bad[:5])
            after = bad[2] + 1 if len(bad) > 2 else None
            found[account] = Said(0.0, 0.9 if bad else 0.1, after, evidence)
        return found


def test_what_a_verdict_says_is_counted(streams: list[Stream]) -> None:
    truth = {e.event_id: bool(a) for s in streams for e, a in zip(s.events, s.attack, strict=True)}
    found = score_sealed(Oracle(truth), Path("any"), streams)
    figures = sealed_figures(streams, found)
    assert figures["recall"] == 1
    assert figures[AT_THRESHOLD] == {
        "attacking accounts": figures["attacking accounts"],
        "ordinary accounts": 0,
        "median attack prompts of pure streams": 3.0,
        "top evidence of streams with a tenth or a quarter": pytest.approx(
            figures[AT_THRESHOLD]["of it attack prompts"]
        ),
        "of it attack prompts": figures[AT_THRESHOLD]["of it attack prompts"],
    }
    assert figures[AT_THRESHOLD]["of it attack prompts"] > 100
    wrong = {key: not value for key, value in truth.items()}
    worse = sealed_figures(streams, score_sealed(Oracle(wrong), Path("any"), streams))
    assert worse["recall"] < 0.1


def test_a_bundle_is_no_worse_than_itself(streams: list[Stream]) -> None:
    own = scores(streams)
    assert not any(change.worse for change in compare(streams, own, own))


def test_noise_alone_is_no_reason_to_refuse(streams: list[Stream]) -> None:
    refused = sum(
        any(c.worse for c in compare(streams, scores(streams, seed), scores(streams, seed + 100)))
        for seed in range(6)
    )
    assert refused <= 1


def test_a_family_that_got_worse_is_named(streams: list[Stream]) -> None:
    old = scores(streams, gap=3.0)
    family = max(
        {s.kind for s in streams if s.intents}, key=lambda k: sum(s.kind == k for s in streams)
    )
    peaks = old.peaks.copy()
    for number, stream in enumerate(streams):
        if stream.kind == family:
            peaks[number] = 0.05
    new = SealedScores(peaks, old.prompts_to_flag, old.evidence)
    worse = [change for change in compare(streams, old, new) if change.worse]
    assert f"family {family}" in {change.group for change in worse}
    assert not {c.group for c in compare(streams, new, old) if c.worse}


def test_ordinary_accounts_that_rise_are_named(streams: list[Stream]) -> None:
    old = scores(streams)
    peaks = old.peaks.copy()
    for number, stream in enumerate(streams):
        if not stream.intents and stream.kind == "product":
            peaks[number] = 0.99
    new = SealedScores(peaks, old.prompts_to_flag, old.evidence)
    assert "ordinary, product" in {c.group for c in compare(streams, old, new) if c.worse}


def test_ordinary_accounts_that_rise_below_all_attacks_are_no_reason_to_refuse(
    streams: list[Stream],
) -> None:
    old = scores(streams)
    ordinary = np.array([not stream.intents for stream in streams])
    product = ordinary & np.array([stream.kind == "product" for stream in streams])
    lowest = old.peaks[~ordinary].min()
    before, after = old.peaks.copy(), old.peaks.copy()
    before[product], after[product] = lowest / 4, lowest / 2
    before[ordinary & ~product] = lowest / 3
    (change,) = [
        change
        for change in compare(
            streams,
            *(SealedScores(own, old.prompts_to_flag, old.evidence) for own in (before, after)),
        )
        if change.group == "ordinary, product"
    ]
    assert change.change == 0
    assert not change.worse


def test_standing_is_the_share_of_ordinary_accounts_above() -> None:
    ordinary = np.arange(99) / 100
    found = standings(np.array([0.985, 0.5, -1.0]), ordinary)
    np.testing.assert_allclose(found, -np.log10([0.5 / 99.5, 49.5 / 99.5, 99.5 / 99.5]))
