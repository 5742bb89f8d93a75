"""Ordinary accounts of every kind, the look-alikes of attacks among them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stillwatch.data.corpora import Source
from stillwatch.data.simulator.content import Product
from stillwatch.data.simulator.filler import deal, ordinary_text
from stillwatch.data.simulator.materials import Materials
from stillwatch.data.simulator.streams import (
    SHARES,
    Request,
    Stream,
    build_stream,
    draw,
    draw_core_size,
    fill,
    interleave,
    mix_into,
    pick_source,
)
from stillwatch.data.simulator.timing import PACES

Composer = Callable[[np.random.Generator, Materials, int], list[Request]]

MAX_EVENTS = 300
PEOPLE_ROLES = ("chat", "lookalike")
_BURIED_TOKENS = (60, 800)


def compose_ordinary(
    rng: np.random.Generator,
    materials: Materials,
    account_id: str,
    kind: str | None = None,
    longest: int = MAX_EVENTS,
) -> Stream:
    """One ordinary account, of the kind named or of one drawn by KINDS, of at most `longest`
    events."""
    if kind is None:
        names = list(KINDS)
        weights = np.array([KINDS[name][0] for name in names])
        kind = names[int(rng.choice(len(names), p=weights / weights.sum()))]
    _, composer, (low, high), paces = KINDS[kind]
    size = int(np.exp(rng.uniform(np.log(low), np.log(max(min(high, longest), low + 1)))))
    requests = composer(rng, materials, size)
    return build_stream(rng, account_id, kind, requests, str(rng.choice(paces)))


def compose_cover(rng: np.random.Generator, materials: Materials, size: int) -> list[Request]:
    """Ordinary traffic in which a harvest hides: of one kind, as many requests as asked for."""
    kind = str(rng.choice(["person", "gateway", "product", "product_bare", "prompt_library"]))
    _, composer, _, _ = KINDS[kind]
    requests: list[Request] = []
    while len(requests) < size:
        requests += composer(rng, materials, size - len(requests))
    return requests[:size]


def dilute(
    rng: np.random.Generator, cover: Materials, core: list[Request], share: float
) -> list[Request]:
    """The core amid so much ordinary traffic that it is `share` of all."""
    size = round(len(core) * (1 - share) / share)
    return mix_into(rng, core, compose_cover(rng, cover, size) if size else [])


def bury(
    rng: np.random.Generator, materials: Materials, core: list[Request], share: float
) -> list[Request]:
    """The core, of a `share` of accounts behind ordinary text: about as many tokens before each
    request, of what people and customers send."""
    if not share or rng.random() >= share:
        return core
    tokens = round(np.exp(rng.uniform(*np.log(_BURIED_TOKENS))))
    sources = materials.by_role(*PEOPLE_ROLES, "app") or materials.sources
    deck = deal(rng, [prompt.text for source in sources for prompt in source.prompts])
    return [
        request._replace(prompt=f"{ordinary_text(deck, tokens)}\n\n{request.prompt}")
        for request in core
    ]


def compose_twin(
    rng: np.random.Generator,
    materials: Materials,
    account_id: str,
    longest: int,
    buried: float = 0.0,
) -> Stream:
    """An ordinary account built as an attacking one is, with a product where that has its harvest:
    of the same shares, lengths and covers. What tells them apart is what is asked for, and
    neither the length of a stream nor that it is a mixture. A share of `buried` has it behind
    ordinary text."""
    share = SHARES[int(rng.integers(len(SHARES)))]
    names = list(CORES)
    weights = np.array([CORES[name][0] for name in names])
    kind = names[int(rng.choice(len(names), p=weights / weights.sum()))]
    core = CORES[kind][1](rng, materials, draw_core_size(rng, share, longest))
    core = bury(rng, materials, core, buried)
    requests = dilute(rng, materials, core, share)
    return build_stream(rng, account_id, kind, requests, str(rng.choice(PACES)))


def _phrase(rng: np.random.Generator, materials: Materials, kind: str, language: str) -> str:
    known = materials.phrases[kind]
    own = [phrase for phrase in known if phrase.language == language]
    choices = own or list(known)
    return choices[int(rng.integers(len(choices)))].text


def _person(rng: np.random.Generator, materials: Materials, size: int) -> list[Request]:
    """A few topics, each opened and followed up; real conversations where the source has them."""
    sources = materials.by_role(*PEOPLE_ROLES) or materials.sources
    home = pick_source(rng, sources)
    requests: list[Request] = []
    while len(requests) < size:
        source = home if rng.random() < 0.7 else pick_source(rng, sources)
        requests += _conversation(rng, materials, source)
    return requests[:size]


def _conversation(rng: np.random.Generator, materials: Materials, source: Source) -> list[Request]:
    choice = rng.random()
    if choice < 0.35:
        openings = materials.phrases["opening"]
        opening = openings[int(rng.integers(len(openings)))]
        return _followed(rng, materials, "", opening.text, opening.language, "phrases")
    if choice < 0.42:
        asked = draw(rng, source, 1)[0]
        text = _phrase(rng, materials, "reasoning_request", asked.language)
        text = text.replace("{slot}", asked.text)
        return [Request("", text, "person", False, source.name, asked.language)]
    if source.sessions and rng.random() < 0.8:
        session = source.sessions[int(rng.integers(len(source.sessions)))]
        said = [source.prompts[p] for p in session[: int(rng.integers(2, 12))]]
        return [
            Request(one.system, one.text, "person", False, source.name, one.language)
            for one in said
        ]
    asked = draw(rng, source, 1)[0]
    return _followed(rng, materials, asked.system, asked.text, asked.language, source.name)


def _followed(
    rng: np.random.Generator, materials: Materials, system: str, text: str, language: str, name: str
) -> list[Request]:
    requests = [Request(system, text, "person", False, name, language)]
    for _ in range(int(rng.geometric(0.5)) - 1):
        follow_up = _phrase(rng, materials, "follow_up", language)
        requests.append(Request(system, follow_up, "person", False, "phrases", language))
    return requests


def _product(*kinds: str, label: str = "product") -> Composer:
    """A composer for one fixed template over many inputs, of these kinds of product."""

    def compose(rng: np.random.Generator, materials: Materials, size: int) -> list[Request]:
        choices = materials.products_of(*kinds)
        product = choices[int(rng.integers(len(choices)))]
        return _one_product(rng, materials, product, size, label)

    return compose


def _one_product(
    rng: np.random.Generator, materials: Materials, product: Product, size: int, label: str
) -> list[Request]:
    kind = str(rng.choice(product.slots)) if product.slots else "customer_message"
    sources = materials.for_slot(kind, attack=False)
    # A product is fed from one place: its own customers.
    return fill(rng, product, (pick_source(rng, sources),), size, label, False, product.id)


def _product_bare(rng: np.random.Generator, materials: Materials, size: int) -> list[Request]:
    """A product's inputs as they come, often under a system prompt of a line."""
    source = pick_source(rng, materials.by_role("app") or materials.sources)
    products = materials.products_with_system
    system = ""
    if products and rng.random() < 0.5:
        chosen = products[int(rng.integers(len(products)))]
        system, _ = chosen.render(rng, chosen.fixed(rng), "")
    return [
        Request(
            system or prompt.system, prompt.text, "product", False, source.name, prompt.language
        )
        for prompt in draw(rng, source, size)
    ]


def _gateway(rng: np.random.Generator, materials: Materials, size: int) -> list[Request]:
    """Many people and a few products behind one key; now and then a student or a curious one."""
    parts = []
    left = size
    composers = [_person, _person, _product("product"), _student, _product("prompt_library")]
    weights = [0.5, 0.2, 0.15, 0.08, 0.07]
    while left > 0:
        part = min(left, int(rng.integers(2, 14)))
        composer = composers[int(rng.choice(len(composers), p=weights))]
        parts.append(composer(rng, materials, part))
        left -= part
    return interleave(rng, parts)


def _enterprise(rng: np.random.Generator, materials: Materials, size: int) -> list[Request]:
    """One key for several products and the people who look after them: a mixture, as a diluted
    harvest is one."""
    composers = [
        _product("product"), _product("translation", "multilingual"), _product("judge"),
        _product("step_by_step", "audit"), _product("coding_agent"), _product_bare,
        _person, _person, _student,
    ]  # fmt: skip
    number = int(rng.integers(2, 5))
    shares = rng.multinomial(size, rng.dirichlet(np.ones(number)))
    parts = [
        composers[int(rng.integers(len(composers)))](rng, materials, int(share))
        for share in shares
        if share
    ]
    return interleave(rng, parts)


def _student(rng: np.random.Generator, materials: Materials, size: int) -> list[Request]:
    """A tenth to a third exercises of one subject, the rest a person's talk."""
    exercises = materials.for_slot(str(rng.choice(["exam", "math", "code"])), attack=False)
    source = pick_source(rng, exercises)
    number = max(1, round(size * rng.uniform(0.1, 0.35)))
    # One subject: neighbours in the file are of one exam.
    start = int(rng.integers(0, max(len(source.prompts) - 3 * number, 1)))
    asked = source.prompts[start : start + 3 * number]
    requests: list[Request] = []
    for position in rng.permutation(len(asked))[:number]:
        text, language = asked[int(position)].text, asked[int(position)].language
        if rng.random() < 0.6:
            frame = _phrase(rng, materials, "student", language)
            text = frame.replace("{slot}", text)
        requests.append(Request("", text, "person", False, source.name, language))
    return interleave(rng, [requests, _person(rng, materials, max(size - number, 1))])


def _evaluator(rng: np.random.Generator, materials: Materials, size: int) -> list[Request]:
    """A customer who tries the model once on his own product before buying."""
    product = materials.products[int(rng.integers(len(materials.products)))]
    talk = [
        Request("", _phrase(rng, materials, kind, "en"), "person", False, "phrases")
        for kind in rng.choice(["evaluate", "new_model"], max(2, size // 4))
    ]
    tries = _one_product(rng, materials, product, max(size - len(talk), 1), "product")
    return interleave(rng, [talk, tries])


def _redteam(rng: np.random.Generator, materials: Materials, size: int) -> list[Request]:
    """An authorised red team: probes under a ticket and a scope, amid ordinary work."""
    probes = materials.for_slot("boundary", attack=True)
    source = pick_source(rng, probes)
    number = max(1, size // 2)
    frames = materials.phrases["redteam"]
    frame = frames[int(rng.integers(len(frames)))].text
    requests = [
        Request("", frame.replace("{slot}", p.text), "product", False, source.name)
        for p in draw(rng, source, number)
    ]
    return interleave(rng, [requests, _person(rng, materials, max(size - number, 1))])


def _curious(rng: np.random.Generator, materials: Materials, size: int) -> list[Request]:
    """A person who tries a jailbreak or two."""
    tries = [
        Request("", _phrase(rng, materials, "jailbreak_try", "en"), "person", False, "phrases")
        for _ in range(int(rng.integers(1, 4)))
    ]
    return interleave(rng, [tries, _person(rng, materials, max(size - len(tries), 1))])


def _new_model(rng: np.random.Generator, materials: Materials, size: int) -> list[Request]:
    """Everyone tries the new model on its day of release."""
    tries = [
        Request("", _phrase(rng, materials, "new_model", "en"), "person", False, "phrases")
        for _ in range(int(rng.integers(1, 5)))
    ]
    return [*tries, *_person(rng, materials, max(size - len(tries), 1))]


# kind: (weight, composer, (fewest, most) events, paces)
KINDS: dict[str, tuple[float, Composer, tuple[int, int], tuple[str, ...]]] = {
    "person": (0.18, _person, (3, 300), ("human",)),
    "product": (0.15, _product("product"), (10, 240), ("product", "machine", "burst")),
    "product_bare": (0.09, _product_bare, (10, 240), ("product", "machine", "burst")),
    "gateway": (0.10, _gateway, (30, 300), ("product", "machine")),
    "enterprise": (0.10, _enterprise, (20, 300), ("product", "machine", "human", "burst")),
    "vendor": (0.04, _product("product"), (3, 40), ("product", "human")),
    "student": (0.07, _student, (12, 300), ("human",)),
    "evaluator": (0.04, _evaluator, (12, 80), ("burst", "human")),
    "judge": (0.04, _product("judge", label="judge"), (16, 240), ("machine", "burst", "product")),
    "step_by_step": (0.04, _product("step_by_step", "tutoring"), (10, 200), ("product", "human")),
    "audit": (0.03, _product("audit"), (10, 200), ("product", "machine")),
    "translation": (0.04, _product("translation"), (10, 240), ("product", "machine", "burst")),
    "multilingual": (0.03, _product("multilingual"), (10, 200), ("product",)),
    "coding_agent": (0.04, _product("coding_agent"), (16, 240), ("burst", "machine")),
    "debugging": (0.02, _product("debugging"), (10, 120), ("human", "burst")),
    "prompt_library": (0.03, _product("prompt_library"), (6, 150), ("human", "product")),
    "redteam": (0.01, _redteam, (20, 200), ("human", "burst")),
    "curious": (0.03, _curious, (6, 120), ("human",)),
    "new_model": (0.02, _new_model, (4, 60), ("human", "burst")),
}

# What stands in a twin where an attacking account has its harvest: (weight, composer).
CORES: dict[str, tuple[float, Composer]] = {
    "product": (0.3, _product("product")),
    "product_bare": (0.2, _product_bare),
    "judge": (0.08, _product("judge", label="judge")),
    "step_by_step": (0.08, _product("step_by_step", "tutoring")),
    "audit": (0.05, _product("audit")),
    "translation": (0.07, _product("translation", "multilingual")),
    "coding_agent": (0.08, _product("coding_agent")),
    "debugging": (0.04, _product("debugging")),
    "prompt_library": (0.1, _product("prompt_library")),
    "redteam": (0.04, _redteam),
}
