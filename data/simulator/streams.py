"""The composed stream: an account's events with what is true of each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from stillwatch.data.corpora import CorpusPrompt, Source
from stillwatch.data.events import Event
from stillwatch.data.simulator.content import PromptForm
from stillwatch.data.simulator.timing import request_times

SHARES = (1.0, 0.5, 0.25, 0.1)
"""Share of the events of an attacking account that attack prompts have."""
MIN_ATTACK_PROMPTS = 10
MAX_EVENTS = 700


class Request(NamedTuple):
    """One composed request. `label` is the intent of an attack prompt or the kind of an ordinary
    one (person, product, judge); `origin` names the source or family it came from; `language`
    that of the frame, or of the prompt where there is none."""

    system: str
    prompt: str
    label: str
    attack: bool
    origin: str
    language: str = "en"


@dataclass(frozen=True, slots=True)
class Stream:
    """One account. `intents` is empty for ordinary accounts; `attack` (T,) tells which events
    are attack prompts; `labels` (T,) as in Request."""

    account_id: str
    kind: str
    intents: tuple[str, ...]
    share: float
    language: str
    events: tuple[Event, ...]
    attack: np.ndarray
    labels: tuple[str, ...]
    origins: tuple[str, ...]


def draw(rng: np.random.Generator, source: Source, count: int) -> list[CorpusPrompt]:
    """`count` prompts of a source without repeats while there are enough."""
    total = len(source.prompts)
    if count <= total:
        chosen = rng.choice(total, count, replace=False)
    else:
        chosen = rng.integers(0, total, count)
    return [source.prompts[int(position)] for position in chosen]


def pick_source(rng: np.random.Generator, sources: tuple[Source, ...]) -> Source:
    """A source, larger ones a little more often."""
    weights = np.array([len(source.prompts) ** 0.3 for source in sources])
    return sources[int(rng.choice(len(sources), p=weights / weights.sum()))]


def fill(
    rng: np.random.Generator,
    form: PromptForm,
    sources: tuple[Source, ...],
    count: int,
    label: str,
    attack: bool,
    origin: str,
) -> list[Request]:
    """`count` requests of one wrapper or product over prompts of the sources."""
    fixed = form.fixed(rng)
    slots = [prompt.text for prompt in _spread(rng, sources, count)] if form.slots else [""] * count
    requests = []
    for slot in slots:
        system, prompt = form.render(rng, fixed, slot)
        requests.append(Request(system, prompt, label, attack, origin, form.language))
    return requests


def _spread(
    rng: np.random.Generator, sources: tuple[Source, ...], count: int
) -> list[CorpusPrompt]:
    shares = rng.multinomial(count, rng.dirichlet(np.ones(len(sources)) * 0.7))
    prompts = [
        prompt
        for source, share in zip(sources, shares, strict=True)
        for prompt in draw(rng, source, int(share))
    ]
    return [prompts[int(p)] for p in rng.permutation(len(prompts))]


def interleave(rng: np.random.Generator, parts: list[list[Request]]) -> list[Request]:
    """Merge in random order, each part's own order kept."""
    order = np.concatenate([np.full(len(part), p) for p, part in enumerate(parts)])
    rng.shuffle(order)
    cursors = [iter(part) for part in parts]
    return [next(cursors[int(p)]) for p in order]


def draw_core_size(rng: np.random.Generator, share: float, longest: int) -> int:
    """Requests of a core that has this share of an account's 16 to `longest` events."""
    most = max(longest * share, MIN_ATTACK_PROMPTS)
    least = max(16 * share, MIN_ATTACK_PROMPTS)
    return round(np.exp(rng.uniform(np.log(least), np.log(most))))


def mix_into(rng: np.random.Generator, core: list[Request], cover: list[Request]) -> list[Request]:
    """Evenly mixed, or the core within a stretch of the cover."""
    if not cover or rng.random() < 0.7:
        return interleave(rng, [core, cover])
    start = int(rng.integers(0, max(len(cover) // 2, 1)))
    stretch = min(len(cover), start + max(len(core), len(cover) // 3))
    return [*cover[:start], *interleave(rng, [core, cover[start:stretch]]), *cover[stretch:]]


def build_stream(
    rng: np.random.Generator,
    account_id: str,
    kind: str,
    requests: list[Request],
    pace: str,
    intents: tuple[str, ...] = (),
) -> Stream:
    """Give the requests times and request parameters. Both are drawn alike for attacks and
    ordinary API traffic: nothing but the stream itself gives an account away. The account's
    language is the commonest of its attack prompts or, if it has none, of its requests."""
    times = request_times(rng, len(requests), pace)
    parameters = _parameters(rng, pace)
    events = tuple(
        Event(
            event_id=f"{account_id}-{position}",
            account_id=account_id,
            timestamp=float(time),
            prompt=request.prompt,
            system=request.system,
            **parameters,
        )
        for position, (time, request) in enumerate(zip(times, requests, strict=True))
    )
    attack = np.array([request.attack for request in requests], dtype=bool)
    spoken = Counter(r.language for r in requests if r.attack or not attack.any())
    language = min(spoken, key=lambda name: (-spoken[name], name))
    return Stream(
        account_id, kind, intents, float(attack.mean()), language, events, attack,
        tuple(request.label for request in requests),
        tuple(request.origin for request in requests),
    )  # fmt: skip


def _parameters(rng: np.random.Generator, pace: str) -> dict[str, Any]:
    given = rng.random() < (0.3 if pace == "human" else 0.6)
    parameters: dict[str, Any] = {"model": str(rng.choice(["atlas-large", "atlas-small"]))}
    if given:
        parameters["temperature"] = float(rng.choice([0.0, 0.2, 0.7, 1.0]))
    if rng.random() < 0.5:
        parameters["max_tokens"] = int(rng.choice([256, 512, 1024, 4096, 8192]))
    return parameters
