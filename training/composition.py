"""Composes the streams of a run, fold by fold, and reads all their texts."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from stillwatch.data.corpora import Source
from stillwatch.data.simulator.attacks import compose_attack
from stillwatch.data.simulator.content import (
    INTENTS,
    load_products,
    load_wrappers,
    read_wrappers,
)
from stillwatch.data.simulator.materials import ROLE_INTENT, Materials, split_folds
from stillwatch.data.simulator.ordinary import compose_ordinary, compose_twin
from stillwatch.data.simulator.phrases import load_phrases
from stillwatch.data.simulator.streams import SHARES, Stream
from stillwatch.training.forms import FormTexts, render_forms
from stillwatch.training.framed import FramedStreams, TextTable, frame_streams
from stillwatch.training.settings import Composition

Progress = Callable[[str], None]

PARTS = 5
TRAIN_PARTS, REFERENCE_PARTS, TEST_PARTS = (1, 2, 3), (4,), (0,)
"""Each source's prompts are dealt by their hash: to train on, to make benign references of, and
to test with in known traffic."""


@dataclass(frozen=True)
class Fold:
    """Materials of one fold, the streams composed of nothing else (those to train on, and ordinary
    ones of other prompts to make benign references of), and its wrappers and products as texts."""

    materials: Materials
    streams: FramedStreams
    reference: FramedStreams
    forms: FormTexts
    labelled: tuple[str, ...] = ()
    """Accounts of the labelled streams, in the order of `streams`."""

    @property
    def families(self) -> frozenset[str]:
        return frozenset(wrapper.family for wrapper in self.materials.wrappers)


def all_materials(
    sources: tuple[Source, ...],
    hold_out: list[str],
    more_wrappers: Sequence[str] = (),
    intents: Sequence[str] = INTENTS,
) -> Materials:
    """The corpora with the wrappers, products and phrases of the simulator, and the wrappers of
    further files."""
    added = [w for path in more_wrappers for w in read_wrappers(Path(path), intents)]
    wrappers = (*load_wrappers(), *added)
    materials = Materials(sources, wrappers, load_products(), load_phrases())
    return materials.hold_out(frozenset(hold_out))


def compose_folds(
    materials: Materials,
    intents: list[str],
    plan: Composition,
    seed: int,
    table: TextTable,
    progress: Progress,
    longest: int,
    processes: int = 1,
    labelled: list[list[Stream]] | None = None,
) -> list[Fold]:
    """One set of training streams a fold, each fold's attacks and ordinary traffic made of that
    fold's materials alone. Streams have at most `longest` events. `labelled` holds further
    streams for each fold."""
    parts = split_folds(materials, plan.folds)

    def compose(number: int) -> list[Stream]:
        part = parts[number].portion(TRAIN_PARTS, PARTS)
        rng = np.random.default_rng([seed, 11, number])
        streams = compose_attacks(
            rng, part, part, intents, plan.attacks, f"f{number}a", longest, plan.buried
        )
        streams += compose_ordinaries(rng, part, plan.ordinary, f"f{number}o", longest, plan.buried)
        return streams + (labelled[number] if labelled else [])

    def compose_reference(number: int) -> list[Stream]:
        part = parts[number].portion(REFERENCE_PARTS, PARTS)
        rng = np.random.default_rng([seed, 17, number])
        return compose_ordinaries(rng, part, plan.reference, f"f{number}r", longest, plan.buried)

    progress(f"composing {plan.folds} folds of {plan.attacks + plan.ordinary} training streams")
    numbers = range(plan.folds)
    jobs = [partial(compose, n) for n in numbers] + [partial(compose_reference, n) for n in numbers]
    framed = compose_framed(jobs, table, processes)
    return [
        Fold(
            part, framed[number], framed[plan.folds + number],
            render_forms(part, np.random.default_rng([seed, 19, number]), table, plan.forms),
            tuple(stream.account_id for stream in labelled[number]) if labelled else (),
        )
        for number, part in enumerate(parts)
    ]  # fmt: skip


_JOBS: Sequence[Callable[[], list[Stream]]] = ()


def compose_framed(
    jobs: Sequence[Callable[[], list[Stream]]], table: TextTable, processes: int
) -> list[FramedStreams]:
    """The streams of each job, framed, all with ids of `table`. Jobs run in processes of their
    own; the result does not depend on how many."""
    global _JOBS
    _JOBS = jobs
    # Forked, so that a job's materials are shared and only arrays travel back.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("fork")) as pool:
        found = list(pool.map(_run_job, range(len(jobs))))
    return [table.merge(streams, texts) for streams, texts in found]


def _run_job(number: int) -> tuple[FramedStreams, list[str]]:
    table = TextTable()
    return frame_streams(_JOBS[number](), table), table.texts


def available_intents(materials: Materials, intents: list[str]) -> list[str]:
    """Those intents for which these materials hold a wrapper or a source."""
    known = {w.intent for w in materials.wrappers}
    known |= {ROLE_INTENT[s.role] for s in materials.sources if s.role in ROLE_INTENT}
    return [intent for intent in intents if intent in known]


def compose_attacks(
    rng: np.random.Generator,
    attack: Materials,
    cover: Materials,
    intents: list[str],
    count: int,
    prefix: str,
    longest: int,
    buried: float = 0.0,
) -> list[Stream]:
    """`count` attacking accounts of at most `longest` events, evenly over intents and shares."""
    cells = [(i, s) for i in available_intents(attack, intents) for s in SHARES]
    return [
        compose_attack(
            rng, attack, cover, f"{prefix}{number}", *cells[number % len(cells)], longest, buried
        )
        for number in range(count)
    ]


def compose_ordinaries(
    rng: np.random.Generator,
    materials: Materials,
    count: int,
    prefix: str,
    longest: int,
    buried: float = 0.0,
) -> list[Stream]:
    """`count` ordinary accounts, every other one the twin of an attacking one."""
    return [
        compose_twin(rng, materials, f"{prefix}{number}", longest, buried)
        if number % 2
        else compose_ordinary(rng, materials, f"{prefix}{number}", longest=longest)
        for number in range(count)
    ]
