"""Campaign accounts: what a harvest or a probe sends, pure or mixed into ordinary traffic."""

from __future__ import annotations

import numpy as np

from stillwatch.data.corpora import Source
from stillwatch.data.simulator.content import Wrapper
from stillwatch.data.simulator.materials import ROLE_INTENT, Materials
from stillwatch.data.simulator.ordinary import bury, dilute
from stillwatch.data.simulator.streams import (
    MAX_EVENTS,
    MIN_ATTACK_PROMPTS,
    Request,
    Stream,
    build_stream,
    draw,
    draw_core_size,
    fill,
    interleave,
    pick_source,
)


def compose_attack(
    rng: np.random.Generator,
    attack: Materials,
    cover: Materials,
    account_id: str,
    intent: str,
    share: float,
    longest: int = MAX_EVENTS,
    buried: float = 0.0,
) -> Stream:
    """One attacking account: at least MIN_ATTACK_PROMPTS of one intent, `share` of all events,
    of which there are 16 to `longest`, at least enough for the attack prompts. Of accounts a share
    of `buried` has those behind ordinary text."""
    harvest, kind = _harvest(rng, attack, intent, draw_core_size(rng, share, longest))
    requests = dilute(rng, cover, bury(rng, cover, harvest, buried), share)
    pace = str(rng.choice(["human", "machine", "burst", "product"]))
    return build_stream(rng, account_id, kind, requests, pace, (intent,))


def compose_harvest(
    rng: np.random.Generator,
    materials: Materials,
    account_id: str,
    core: Wrapper | Source,
    share: float,
    longest: int = MAX_EVENTS,
) -> Stream:
    """One attacking account whose attack prompts are of one wrapper, or of one source as it
    stands; cover of the same materials."""
    size = draw_core_size(rng, share, longest)
    if isinstance(core, Wrapper):
        size = int(min(size, max(core.variety, MIN_ATTACK_PROMPTS)))
        intent, kind = core.intent, core.family
        harvest = _wrapped(rng, materials, core, size)
    else:
        intent = ROLE_INTENT[core.role]
        kind = f"bare:{intent}"
        harvest = _bare(rng, (core,), intent, size)
    requests = dilute(rng, materials, harvest, share)
    pace = str(rng.choice(["human", "machine", "burst", "product"]))
    return build_stream(rng, account_id, kind, requests, pace, (intent,))


def _harvest(
    rng: np.random.Generator, materials: Materials, intent: str, size: int
) -> tuple[list[Request], str]:
    """The attack prompts, and a name of the behaviour."""
    wrappers = tuple(w for w in materials.wrappers if w.intent == intent and w.variety >= size)
    bare = tuple(s for s in materials.sources if ROLE_INTENT.get(s.role) == intent)
    bare_chance = 0.15 if intent == "cot_harvesting" else 0.5
    if bare and (not wrappers or rng.random() < bare_chance):
        return _bare(rng, bare, intent, size), f"bare:{intent}"
    if not wrappers:
        raise ValueError(f"materials must hold wrappers or sources for {intent}, however: neither")
    chosen = [wrappers[int(p)] for p in rng.permutation(len(wrappers))]
    style = rng.choice(["one", "rotate", "search"], p=[0.6, 0.3, 0.1])
    number = {"one": 1, "rotate": int(rng.integers(2, 5)), "search": min(len(chosen), 12)}[
        str(style)
    ]
    if style == "rotate":
        chosen = [w for w in chosen if w.family == chosen[0].family]
    chosen = chosen[:number]
    shares = rng.multinomial(size, np.ones(len(chosen)) / len(chosen))
    parts = [
        _wrapped(rng, materials, wrapper, int(share))
        for wrapper, share in zip(chosen, shares, strict=True)
        if share
    ]
    return interleave(rng, parts), chosen[0].family


def _bare(
    rng: np.random.Generator, sources: tuple[Source, ...], intent: str, size: int
) -> list[Request]:
    """Prompts as they stand in a benchmark or an instruction set, one source or several."""
    if rng.random() < 0.6:
        sources = (pick_source(rng, sources),)
    shares = rng.multinomial(size, np.ones(len(sources)) / len(sources))
    parts = [
        [
            Request(prompt.system, prompt.text, intent, True, source.name, prompt.language)
            for prompt in draw(rng, source, int(share))
        ]
        for source, share in zip(sources, shares, strict=True)
        if share
    ]
    return interleave(rng, parts)


def _wrapped(
    rng: np.random.Generator, materials: Materials, wrapper: Wrapper, size: int
) -> list[Request]:
    if not wrapper.slots:
        return fill(rng, wrapper, (), size, wrapper.intent, True, wrapper.family)
    kinds = rng.permutation(wrapper.slots)[: int(rng.integers(1, len(wrapper.slots) + 1))]
    sources = {s.name: s for kind in kinds for s in materials.for_slot(str(kind), attack=True)}
    chosen = list(sources.values())
    number = int(rng.integers(1, min(len(chosen), 4) + 1))
    picked = tuple(chosen[int(p)] for p in rng.permutation(len(chosen))[:number])
    return fill(rng, wrapper, picked, size, wrapper.intent, True, wrapper.family)
