"""Worlds: campaigns of wrappers that no detector has seen, amid ordinary accounts and the groups of
them that look like campaigns.

Wrappers and half of the products are sealed material. What stands in their slots are prompts of the
sealed sources and of the corpora's test parts, which nothing is trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from stillwatch.data.corpora import Source, corpora_dir, read_corpora
from stillwatch.data.errors import InputError
from stillwatch.data.events import Event
from stillwatch.data.simulator.campaigns import (
    CampaignPlan,
    Core,
    Group,
    compose_campaign,
    with_metadata,
)
from stillwatch.data.simulator.content import load_products
from stillwatch.data.simulator.look_alikes import compose_group
from stillwatch.data.simulator.materials import OWN_SOURCES, ROLE_INTENT, Materials, load_sealed
from stillwatch.data.simulator.ordinary import compose_ordinary
from stillwatch.data.simulator.phrases import load_phrases
from stillwatch.data.simulator.streams import Stream
from stillwatch.training.composition import PARTS, TEST_PARTS

T = TypeVar("T")

HALVES = 2
"""Sealed wrappers and products are dealt into halves: what is fitted on one is tested on the
other."""
PROMPT_CHARS = 2500
"""Longer prompts of the corpora are left out, as in training."""
MIN_VARIETY = 30
"""Different prompts that a wrapper without a slot must make to carry a campaign."""
SHARED_PHRASES = ("redteam", "jailbreak_try", "evaluate", "new_model")
"""Kinds of phrase that customers who do not know one another send as they stand, whatever language
they speak."""
BARE_SHARE = 0.08
"""Of campaigns that send prompts of a benchmark or an instruction set as they stand."""

# kind: (groups in a world of scale 1, fewest accounts, most)
LOOK_ALIKE_GROUPS: dict[str, tuple[int, int, int]] = {
    "vendor": (24, 20, 1500),
    "many_keys": (16, 10, 60),
    "viral": (6, 60, 300),
    "exercise": (10, 30, 80),
    "library": (10, 40, 200),
    "jailbreak": (4, 60, 300),
    "new_model": (2, 200, 400),
    "rotation": (16, 3, 6),
}


@dataclass(frozen=True)
class WorldPlan:
    """`look_alikes` multiplies LOOK_ALIKE_GROUPS; `ordinary` accounts come beside those, of at most
    `longest` events; they are customers of a share of all products and say a share of the phrases
    of SHARED_PHRASES, both `forms`."""

    campaigns: tuple[CampaignPlan, ...]
    ordinary: int
    look_alikes: float
    half: int
    seed: int
    longest: int = 20
    forms: float = 1.0


@dataclass(frozen=True)
class World:
    """`groups` are campaigns and look-alikes, `ordinary` lone accounts. By the names of campaigns
    `plans`, and what each `sends`: ids of wrappers, or the source whose prompts it sends as they
    stand."""

    groups: tuple[Group, ...]
    ordinary: tuple[Stream, ...]
    plans: dict[str, CampaignPlan] = field(default_factory=dict)
    sends: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def streams(self) -> Iterator[tuple[str, str, Stream]]:
        """(kind, name of the group, stream) of every account."""
        for group in self.groups:
            for stream in group.streams:
                yield group.kind, group.name, stream
        for stream in self.ordinary:
            yield stream.kind, "", stream

    def events(self) -> list[Event]:
        """All events in order of time."""
        found = [event for _, _, stream in self.streams() for event in stream.events]
        return sorted(found, key=lambda event: (event.timestamp, event.account_id, event.event_id))

    def attack_events(self) -> frozenset[tuple[str, str]]:
        """(account, event) of every attack prompt."""
        return frozenset(
            (stream.account_id, event.event_id)
            for group in self.groups
            if group.intent
            for stream in group.streams
            for event, attack in zip(stream.events, stream.attack, strict=True)
            if attack
        )


def compose_world(plan: WorldPlan, materials: tuple[Materials, Materials]) -> World:
    """A world of one half of the sealed material; `materials` are `world_materials` of it. Each
    wrapper carries one campaign; InputError if there are more campaigns than wrappers."""
    attack, ordinary = materials
    rng = np.random.default_rng([plan.seed, plan.half, 71])
    free = [attack.wrappers[int(n)] for n in rng.permutation(len(attack.wrappers))]
    free = [wrapper for wrapper in free if wrapper.variety >= MIN_VARIETY]
    bare = [source for source in load_sealed().sources if source.role in ROLE_INTENT]
    groups = []
    plans = {}
    sends = {}
    for number, own in enumerate(plan.campaigns):
        name = f"campaign-{plan.half}-{plan.seed}-{number}"
        cores: Sequence[Core]
        if rng.random() < BARE_SHARE:
            cores = [bare[int(rng.integers(len(bare)))]]
        else:
            total = own.accounts * own.prompts
            fitting = [wrapper for wrapper in free if wrapper.variety >= min(total, 500)]
            if not fitting:
                raise InputError(
                    f"a world must have a wrapper for each campaign, however: {number} of "
                    f"{len(plan.campaigns)} have one; ask for fewer campaigns"
                )
            others = [w for w in fitting[1:] if w.intent == fitting[0].intent]
            cores = [fitting[0], *others[: int(rng.choice([0, 0, 1]))]]
            free = [wrapper for wrapper in free if wrapper not in cores]
        groups.append(compose_campaign(rng, name, attack, ordinary, cores, own))
        plans[name] = own
        sends[name] = tuple(core.name if isinstance(core, Source) else core.id for core in cores)
    for kind, (count, fewest, most) in LOOK_ALIKE_GROUPS.items():
        for number in range(max(round(count * plan.look_alikes), 1)):
            accounts = round(np.exp(rng.uniform(np.log(fewest), np.log(most))))
            name = f"{kind}-{plan.half}-{plan.seed}-{number}"
            groups.append(compose_group(rng, ordinary, name, kind, accounts))
    used = _crowded(rng, ordinary, plan.forms) if plan.forms < 1 else ordinary
    lone = []
    for number in range(plan.ordinary):
        account = f"ordinary-{plan.half}-{plan.seed}-{number}"
        stream = compose_ordinary(rng, used, account, longest=plan.longest)
        lone.append(with_metadata(rng, stream, account))
    return World(tuple(groups), tuple(lone), plans, sends)


def _crowded(rng: np.random.Generator, materials: Materials, share: float) -> Materials:
    """Materials with a share of the products and of each kind of SHARED_PHRASES."""

    def dealt(known: tuple[T, ...]) -> tuple[T, ...]:
        kept = max(round(share * len(known)), 1)
        return tuple(known[int(n)] for n in rng.permutation(len(known))[:kept])

    phrases = {kind: dealt(materials.phrases[kind]) for kind in SHARED_PHRASES}
    return replace(
        materials, products=dealt(materials.products), phrases={**materials.phrases, **phrases}
    )


def world_materials(corpora: Path | None, half: int) -> tuple[Materials, Materials]:
    """What campaigns and what ordinary accounts of a half are composed of."""
    sealed = load_sealed()
    sources = (
        *read_corpora(corpora or corpora_dir(), longest=PROMPT_CHARS),
        *read_corpora(OWN_SOURCES),
    )
    products, phrases = load_products(), load_phrases()
    known = Materials(sources, (), products, phrases)
    # An operator's list and what customers happen to send are different prompts of the test parts.
    listed, said = (
        tuple(
            source
            for source in known.portion(
                [part + side * PARTS for part in TEST_PARTS], 2 * PARTS
            ).sources
            if len(source.prompts) > 5
        )
        for side in (0, 1)
    )
    wrappers = sorted(sealed.wrappers, key=lambda one: one.id)[half::HALVES]
    own = sorted(sealed.products, key=lambda one: one.id)[half::HALVES]
    return (
        Materials((*listed, *sealed.sources), tuple(wrappers), (), phrases),
        Materials((*said, *sealed.sources), (), (*products, *own), phrases),
    )
