"""Campaigns over many accounts.

A group is a stream an account, whose events carry the metadata that a log has: `network`, `payment`
and `client` are keyed hashes or callers' words. Nothing of it tells a campaign from an ordinary
group unless the plan says that it shares infrastructure, as ordinary groups do too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from stillwatch.data.corpora import CorpusPrompt, Source
from stillwatch.data.simulator.content import Wrapper
from stillwatch.data.simulator.materials import ROLE_INTENT, Materials
from stillwatch.data.simulator.ordinary import compose_cover
from stillwatch.data.simulator.streams import (
    Request,
    Stream,
    build_stream,
    draw,
    interleave,
)
from stillwatch.data.simulator.timing import PACES, START_S

DAY_S = 86400.0
CLIENTS = ("python-sdk", "node-sdk", "curl", "gateway", "web")
"""What ordinary callers name themselves; a campaign's accounts do too."""
NEW_MODEL = "atlas-next"
Infrastructure = Literal["none", "some", "all"]
Core: TypeAlias = Wrapper | Source
"""What a campaign sends: a wrapper around payloads, or the prompts of a source as they stand."""


@dataclass(frozen=True)
class CampaignPlan:
    """A campaign of `accounts` with `prompts` each, of which `cover` is ordinary traffic.

    `days` is over how long its accounts work, from `start_day` of the log if one is given;
    `infrastructure` what of them share network and payment: none, four of ten, or all; `shuffled`
    whether the list that is worked through is dealt out at random or in its order; from
    `release_day` of the log on, if one is given, half of its requests go to a new model."""

    accounts: int
    prompts: int
    cover: float
    infrastructure: Infrastructure = "none"
    days: float = 2.0
    shuffled: bool = True
    start_day: float | None = None
    release_day: float | None = None


@dataclass(frozen=True)
class Group:
    """Accounts that act as one, or that look like it. `intent` is empty for ordinary ones."""

    name: str
    kind: str
    intent: str
    streams: tuple[Stream, ...]


def compose_campaign(
    rng: np.random.Generator,
    name: str,
    attack: Materials,
    cover: Materials,
    cores: Sequence[Core],
    plan: CampaignPlan,
) -> Group:
    """One operation: its accounts use the same wrappers with the same fixed values, or prompts of
    the same sources as they stand, each its own. Every account has one attack prompt at least.
    All cores serve one intent."""
    intent = _intent(cores[0])
    sizes = np.maximum(rng.binomial(plan.prompts, 1 - plan.cover, plan.accounts), 1)
    total = int(sizes.sum())
    parts = [
        _harvest(rng, attack, core, int(share), plan.shuffled)
        for core, share in zip(
            cores, rng.multinomial(total, np.ones(len(cores)) / len(cores)), strict=True
        )
    ]
    harvest = [request for part in parts for request in part]
    if plan.shuffled:
        harvest = [harvest[int(p)] for p in rng.permutation(total)]
    drawn = rng.uniform(0, 55 - min(plan.days, 50))
    start = START_S + (drawn if plan.start_day is None else plan.start_day) * DAY_S
    shared = {"none": 0.0, "some": 0.4, "all": 1.0}[plan.infrastructure]
    streams = []
    cursor = 0
    for number, size in enumerate(sizes):
        own = harvest[cursor : cursor + size]
        cursor += int(size)
        others = compose_cover(rng, cover, max(plan.prompts - int(size), 0))
        account = f"{name}-{number}"
        stream = dated(
            rng, account, name, interleave(rng, [own, others]), (intent,), start, plan.days
        )
        if plan.release_day is not None:
            stream = _pivoted(rng, stream, START_S + plan.release_day * DAY_S)
        streams.append(with_metadata(rng, stream, name if rng.random() < shared else account))
    return Group(name, "campaign", intent, tuple(streams))


def _pivoted(rng: np.random.Generator, stream: Stream, release_s: float) -> Stream:
    events = tuple(
        replace(event, model=NEW_MODEL)
        if event.timestamp >= release_s and rng.random() < 0.5
        else event
        for event in stream.events
    )
    return replace(stream, events=events)


def _intent(core: Core) -> str:
    return core.intent if isinstance(core, Wrapper) else ROLE_INTENT[core.role]


def _harvest(
    rng: np.random.Generator, attack: Materials, core: Core, size: int, shuffled: bool
) -> list[Request]:
    """Attack prompts of one wrapper, with the values that the operator has fixed, or of one source;
    in the order of the list if they are not shuffled."""
    intent = _intent(core)
    if isinstance(core, Source):
        return [
            Request(prompt.system, prompt.text, intent, True, core.name, prompt.language)
            for prompt in _listed(rng, core, size, shuffled)
        ]
    fixed = core.fixed(rng)
    if core.slots:
        known = {s.name: s for kind in core.slots for s in attack.for_slot(kind, attack=True)}
        sources = tuple(known.values())
        shares = rng.multinomial(size, rng.dirichlet(np.ones(len(sources))))
        slots = [
            prompt.text
            for source, share in zip(sources, shares, strict=True)
            for prompt in _listed(rng, source, int(share), shuffled)
        ]
    else:
        slots = [""] * size
    return [
        Request(*core.render(rng, fixed, slot), intent, True, core.family, core.language)
        for slot in slots
    ]


def _listed(
    rng: np.random.Generator, source: Source, size: int, shuffled: bool
) -> list[CorpusPrompt]:
    """Prompts of a source at random, or from the first one on, again and again."""
    if shuffled:
        return draw(rng, source, size)
    return [source.prompts[place % len(source.prompts)] for place in range(size)]


def dated(
    rng: np.random.Generator, account: str, kind: str, requests: list[Request],
    intents: tuple[str, ...], start_s: float, days: float,
) -> Stream:  # fmt: skip
    """A stream whose requests fall within some days from a time, in their order."""
    stream = build_stream(rng, account, kind, requests, str(rng.choice(PACES)), intents)
    times = np.sort(start_s + rng.uniform(0, days * DAY_S, len(requests)))
    events = tuple(
        replace(event, timestamp=float(time))
        for event, time in zip(stream.events, times, strict=True)
    )
    return replace(stream, events=events)


def with_metadata(
    rng: np.random.Generator, stream: Stream, owner: str, client: str | None = None
) -> Stream:
    """The stream with the network and payment of its owner. A tenth of accounts pays in no way
    that is known."""
    payment = None if rng.random() < 0.1 else f"pay:{owner}"
    client = client or str(rng.choice(CLIENTS))
    events = tuple(
        replace(event, network=f"net:{owner}", payment=payment, client=client)
        for event in stream.events
    )
    return replace(stream, events=events)
