"""What each fold is tested with: its own campaigns, its own ordinary traffic and that of others.

Each ordinary account is tested twice: as new traffic where its fold is held out, as known traffic
where one of the other folds is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from stillwatch.data.simulator.attacks import compose_attack
from stillwatch.data.simulator.materials import Materials, split_folds
from stillwatch.data.simulator.phrases import Phrase
from stillwatch.data.simulator.streams import SHARES, Stream
from stillwatch.training.composition import (
    PARTS,
    TEST_PARTS,
    available_intents,
    compose_framed,
    compose_ordinaries,
)
from stillwatch.training.framed import FramedStreams, TextTable
from stillwatch.training.settings import Settings

SETS = ("attacks_known", "attacks_new", "ordinary_known", "ordinary_new")


@dataclass(frozen=True)
class TestSet:
    """One fold's test streams: attacks under known and under new cover, ordinary of both."""

    __test__ = False
    attacks_known: FramedStreams
    attacks_new: FramedStreams
    ordinary_known: FramedStreams
    ordinary_new: FramedStreams


def compose_tests(
    materials: Materials,
    settings: Settings,
    table: TextTable,
    progress: Callable[[str], None],
    processes: int = 1,
    only: list[int] | None = None,
) -> dict[int, TestSet]:
    """Test streams of every fold or of those in `only`; the folds are those of training."""
    plan = settings.composition
    parts = split_folds(materials, plan.folds)
    wanted = list(range(plan.folds)) if only is None else only
    progress(f"composing {len(wanted)} folds of test streams")

    def attacks(number: int, known: bool) -> list[Stream]:
        part = parts[number]
        rest = _union([own for n, own in enumerate(parts) if n != number])
        cover = (rest if known else part).portion(TEST_PARTS, PARTS)
        rng = np.random.default_rng([settings.seed, 41, number, known])
        cells = [(i, s) for i in available_intents(part, settings.intents) for s in SHARES]
        return [
            compose_attack(
                rng, part, cover, f"t{number}{known:d}a{c}-{k}", intent, share, plan.test_longest
            )
            for c, (intent, share) in enumerate(cells)
            for k in range(plan.test_attacks)
        ]

    def ordinaries(number: int, tested: int) -> list[Stream]:
        """Accounts of one fold that are known traffic in the test of another."""
        cover = parts[number].portion(TEST_PARTS, PARTS)
        rng = np.random.default_rng([settings.seed, 43, number, tested])
        each = -(-plan.test_ordinary // (plan.folds - 1))
        return compose_ordinaries(rng, cover, each, f"t{number}{tested}o", plan.test_longest)

    pairs = [
        (number, tested)
        for number in range(plan.folds)
        for tested in range(plan.folds)
        if number != tested and {number, tested} & {*wanted}
    ]
    covers = [(number, known) for number in wanted for known in (True, False)]
    jobs = [partial(attacks, *own) for own in covers]
    jobs += [partial(ordinaries, *pair) for pair in pairs]
    framed = compose_framed(jobs, table, processes)
    attacking = dict(zip(covers, framed, strict=False))
    ordinary = dict(zip(pairs, framed[len(covers) :], strict=True))

    def of(number: int) -> TestSet:
        others = [n for n in range(plan.folds) if n != number]
        return TestSet(
            attacking[number, True],
            attacking[number, False],
            FramedStreams.join([ordinary[other, number] for other in others]),
            FramedStreams.join([ordinary[number, other] for other in others]),
        )

    return {number: of(number) for number in wanted}


def _union(parts: list[Materials]) -> Materials:
    phrases: dict[str, tuple[Phrase, ...]] = {}
    for part in parts:
        for kind, own in part.phrases.items():
            phrases[kind] = (*phrases.get(kind, ()), *own)
    return Materials(
        tuple(s for part in parts for s in part.sources),
        tuple(w for part in parts for w in part.wrappers),
        tuple(p for part in parts for p in part.products),
        phrases,
    )
