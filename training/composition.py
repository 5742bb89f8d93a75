"""Composes the streams of a run, fold by fold, and reads all their texts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stillwatch.data.corpora import Source
from stillwatch.data.simulator.attacks import SHARES, compose_attack
from stillwatch.data.simulator.content import load_products, load_wrappers
from stillwatch.data.simulator.materials import ROLE_INTENT, Materials, split_folds
from stillwatch.data.simulator.ordinary import compose_ordinary
from stillwatch.data.simulator.phrases import load_phrases
from stillwatch.data.simulator.streams import Stream
from stillwatch.training.framed import FramedStreams, TextTable, frame_streams
from stillwatch.training.settings import Composition

Progress = Callable[[str], None]

TEST_PART, TEST_PARTS = 0, 5
"""A fifth of each source's prompts is kept for tests in known traffic."""


@dataclass(frozen=True)
class Fold:
    """Materials of one fold and the streams composed of nothing else."""

    materials: Materials
    streams: FramedStreams

    @property
    def families(self) -> frozenset[str]:
        return frozenset(wrapper.family for wrapper in self.materials.wrappers)


def all_materials(sources: tuple[Source, ...], hold_out: list[str]) -> Materials:
    """The corpora with the wrappers, products and phrases of the simulator."""
    materials = Materials(sources, load_wrappers(), load_products(), load_phrases())
    return materials.hold_out(frozenset(hold_out))


def compose_folds(
    materials: Materials, intents: list[str], plan: Composition, seed: int, table: TextTable,
    progress: Progress, reserve: bool = False,
) -> list[Fold]:  # fmt: skip
    """One set of training streams a fold, each fold's attacks and ordinary traffic made of that
    fold's materials alone. With `reserve`, a fifth of each source's prompts is left for tests."""
    folds = []
    for number, part in enumerate(split_folds(materials, plan.folds)):
        progress(f"composing fold {number + 1} of {plan.folds}")
        rng = np.random.default_rng([seed, 11, number])
        if reserve:
            part = part.half(TEST_PART, TEST_PARTS, rest=True)
        streams = compose_attacks(rng, part, part, intents, plan.attacks, f"f{number}a")
        streams += [
            compose_ordinary(rng, part, f"f{number}o{position}")
            for position in range(plan.ordinary)
        ]
        folds.append(Fold(part, frame_streams(streams, table)))
    return folds


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
) -> list[Stream]:
    """`count` attacking accounts, evenly over intents and shares."""
    cells = [(i, s) for i in available_intents(attack, intents) for s in SHARES]
    return [
        compose_attack(rng, attack, cover, f"{prefix}{number}", *cells[number % len(cells)])
        for number in range(count)
    ]


def materials_hash(materials: Materials) -> str:
    """SHA-256 over every text that streams are composed of."""
    digest = hashlib.sha256()
    for source in materials.sources:
        digest.update(source.name.encode())
        for prompt in source.prompts:
            digest.update(prompt.text.encode("utf-8", "replace"))
            digest.update(prompt.system.encode("utf-8", "replace"))
    for form in (*materials.wrappers, *materials.products):
        digest.update(repr(form).encode("utf-8", "replace"))
    for kind in sorted(materials.phrases):
        digest.update(repr(materials.phrases[kind]).encode("utf-8", "replace"))
    return digest.hexdigest()
