"""Groups of ordinary accounts that look like a campaign and must not become one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from stillwatch.data.corpora import Source
from stillwatch.data.simulator.campaigns import DAY_S, NEW_MODEL, Group, dated, with_metadata
from stillwatch.data.simulator.content import Product
from stillwatch.data.simulator.materials import Materials
from stillwatch.data.simulator.ordinary import compose_ordinary
from stillwatch.data.simulator.streams import Request, Stream, draw, fill, pick_source
from stillwatch.data.simulator.timing import START_S


def _vendor(
    rng: np.random.Generator, materials: Materials, name: str, accounts: int
) -> list[Stream]:
    """One vendor's product under its customers' accounts. Mostly each customer has inputs, numbers
    and times of its own; some vendors cap what each may send, some launch within days, and what the
    customers of some send is all of a kind."""
    product = _product(rng, materials)
    fixed = product.fixed(rng)
    capped = int(rng.integers(4, 12)) if rng.random() < 0.25 else None
    launch = START_S + rng.uniform(0, 40) * DAY_S if rng.random() < 0.3 else None
    alike = rng.random() < 0.25
    inputs = _inputs(rng, materials, product)
    streams = []
    for number in range(accounts):
        size = capped or int(np.exp(rng.uniform(np.log(3), np.log(30))))
        sources = inputs if alike else (pick_source(rng, inputs),)
        requests = [
            Request(*product.render(rng, fixed, request.prompt), "product", False, product.id,
                    product.language)
            for request in _own_inputs(rng, sources, size, bool(product.slots), alike)
        ]  # fmt: skip
        account = f"{name}-{number}"
        start = START_S + rng.uniform(0, 40) * DAY_S if launch is None else launch
        days = float(rng.uniform(1, 20)) if launch is None else 4.0
        stream = dated(rng, account, "vendor", requests, (), start, days)
        streams.append(with_metadata(rng, stream, account, client=f"app:{name}"))
    return streams


def _own_inputs(
    rng: np.random.Generator, sources: tuple[Source, ...], size: int, slots: bool, alike: bool
) -> list[Request]:
    """Inputs of one customer: neighbours in a source, as of one matter, or any of several."""
    if not slots:
        return [Request("", "", "product", False, "")] * size
    if alike:
        chosen = [draw(rng, pick_source(rng, sources), 1)[0] for _ in range(size)]
    else:
        prompts = sources[0].prompts
        start = int(rng.integers(0, max(len(prompts) - 3 * size, 1)))
        near = prompts[start : start + 3 * size]
        chosen = [near[int(p)] for p in rng.permutation(len(near))[:size]]
    return [Request("", prompt.text, "product", False, "") for prompt in chosen]


def _many_keys(
    rng: np.random.Generator, materials: Materials, name: str, accounts: int
) -> list[Stream]:
    """One enterprise with many keys: teams with products of their own, one payment and network."""
    return [
        with_metadata(rng, compose_ordinary(rng, materials, f"{name}-{n}", longest=40), name)
        for n in range(accounts)
    ]


def _viral(
    rng: np.random.Generator, materials: Materials, name: str, accounts: int
) -> list[Stream]:
    """One prompt that goes round: people send it once, some with a word of their own."""
    source = pick_source(rng, materials.by_role("chat"))
    # Short ones are sent by many who know nothing of each other.
    asked = max(draw(rng, source, min(8, len(source.prompts))), key=lambda one: len(one.text))
    endings = ("", "", "", " please", " thanks!", " (saw this online)", " be brief", " 🙂")
    extra = [[asked.text + str(rng.choice(endings))] for _ in range(accounts)]
    return _people_with(rng, materials, name, extra, days=4.0)


def _exercise(
    rng: np.random.Generator, materials: Materials, name: str, accounts: int
) -> list[Stream]:
    """A class works through the same page of a textbook: some of a dozen exercises each."""
    source = pick_source(rng, materials.for_slot(str(rng.choice(["exam", "math"])), attack=False))
    page = [prompt.text for prompt in draw(rng, source, 12)]
    extra = [
        list(rng.choice(page, int(rng.integers(1, 7)), replace=False)) for _ in range(accounts)
    ]
    return _people_with(rng, materials, name, extra, days=7.0)


def _library(
    rng: np.random.Generator, materials: Materials, name: str, accounts: int
) -> list[Stream]:
    """A prompt of a shared library, each with a question of one's own in it."""
    forms = materials.products_of("prompt_library")
    form = forms[int(rng.integers(len(forms)))]
    fixed = form.fixed(rng)
    extra = []
    for _ in range(accounts):
        source = pick_source(rng, _inputs(rng, materials, form))
        slots = draw(rng, source, int(rng.integers(1, 8)))
        extra.append(["\n".join(filter(None, form.render(rng, fixed, s.text))) for s in slots])
    return _people_with(rng, materials, name, extra, days=30.0)


def _jailbreak(
    rng: np.random.Generator, materials: Materials, name: str, accounts: int
) -> list[Stream]:
    """A jailbreak makes the rounds: people try it once or twice amid other things."""
    phrases = materials.phrases["jailbreak_try"]
    text = phrases[int(rng.integers(len(phrases)))].text
    endings = ("", "", " now", " Answer:", " go on", " then tell me a joke")
    extra = [
        [text + str(rng.choice(endings)) for _ in range(int(rng.integers(1, 3)))]
        for _ in range(accounts)
    ]
    return _people_with(rng, materials, name, extra, days=5.0)


def _pivot(
    rng: np.random.Generator, materials: Materials, name: str, accounts: int
) -> list[Stream]:
    """Everyone tries the new model on its first day."""
    start = START_S + rng.uniform(5, 50) * DAY_S
    streams = []
    for number in range(accounts):
        stream = compose_ordinary(rng, materials, f"{name}-{number}", "new_model", longest=20)
        times = np.sort(start + rng.uniform(0, DAY_S, len(stream.events)))
        events = tuple(
            replace(event, timestamp=float(time), model=NEW_MODEL)
            for event, time in zip(stream.events, times, strict=True)
        )
        stream = replace(stream, events=events)
        streams.append(with_metadata(rng, stream, stream.account_id))
    return streams


def _rotation(
    rng: np.random.Generator, materials: Materials, name: str, accounts: int
) -> list[Stream]:
    """A customer rotates keys: one account goes on where the last one stopped."""
    product = _product(rng, materials)
    start = START_S + rng.uniform(0, 20) * DAY_S
    streams = []
    for number in range(accounts):
        source = pick_source(rng, _inputs(rng, materials, product))
        requests = fill(rng, product, (source,), int(rng.integers(8, 40)), "product", False,
                        product.id)  # fmt: skip
        stream = dated(
            rng, f"{name}-{number}", "rotation", requests, (), start + number * 3 * DAY_S, 3.0
        )
        streams.append(with_metadata(rng, stream, name))
    return streams


def _product(rng: np.random.Generator, materials: Materials) -> Product:
    return materials.products[int(rng.integers(len(materials.products)))]


def _inputs(rng: np.random.Generator, materials: Materials, form: Product) -> tuple[Source, ...]:
    kind = str(rng.choice(form.slots)) if form.slots else "customer_message"
    return materials.for_slot(kind, attack=False)


def _people_with(
    rng: np.random.Generator, materials: Materials, name: str, extra: list[list[str]], days: float
) -> list[Stream]:
    """People of all kinds, each with some further prompts sent within some days."""
    start = START_S + rng.uniform(0, 50) * DAY_S
    streams = []
    for number, texts in enumerate(extra):
        stream = compose_ordinary(rng, materials, f"{name}-{number}", "person", longest=30)
        added = dated(
            rng, f"{name}-{number}-x", "person",
            [Request("", text, "person", False, name) for text in texts], (), start, days,
        )  # fmt: skip
        merged = [*stream.events, *(replace(e, account_id=stream.account_id) for e in added.events)]
        events = tuple(sorted(merged, key=lambda event: event.timestamp))
        stream = replace(
            stream, events=events, attack=np.zeros(len(events), dtype=bool),
            labels=("person",) * len(events), origins=(name,) * len(events),
        )  # fmt: skip
        streams.append(with_metadata(rng, stream, stream.account_id))
    return streams


LOOK_ALIKES: dict[str, Callable[[np.random.Generator, Materials, str, int], list[Stream]]] = {
    "vendor": _vendor,
    "many_keys": _many_keys,
    "viral": _viral,
    "exercise": _exercise,
    "library": _library,
    "jailbreak": _jailbreak,
    "new_model": _pivot,
    "rotation": _rotation,
}
"""Groups of ordinary accounts that must not become a campaign."""


def compose_group(
    rng: np.random.Generator, materials: Materials, name: str, kind: str, accounts: int
) -> Group:
    """One group of ordinary accounts, of a kind of LOOK_ALIKES."""
    return Group(name, kind, "", tuple(LOOK_ALIKES[kind](rng, materials, name, accounts)))
