"""Logs for speed and memory measurements, from products, phrases and no corpora."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stillwatch.data.events import Event
from stillwatch.data.simulator.content import load_products
from stillwatch.data.simulator.phrases import load_phrases
from stillwatch.data.simulator.timing import START_S

_MEAN_GAP_S = 2.0


def _sentences(rng: np.random.Generator, count: int) -> list[str]:
    """Distinct prompts of about 45 tokens: an opening, another one after it, a number."""
    openings = [phrase.text for phrase in load_phrases()["opening"]]
    found: dict[str, None] = {}
    while len(found) < count:
        first, second = rng.integers(0, len(openings), 2)
        found[f"{openings[first]} {openings[second]} ({rng.integers(10**6)})"] = None
    return list(found)


def distinct_events(count: int, seed: int) -> list[Event]:
    """Events of count // 20 accounts, no prompt twice, half of the accounts under a product's
    template."""
    rng = np.random.default_rng(seed)
    products = [p for p in load_products() if p.slots and not p.system]
    accounts = max(count // 20, 1)
    frames = [products[int(rng.integers(len(products)))] for _ in range(accounts)]
    fixed = [frame.fixed(rng) for frame in frames]
    events = []
    for position, sentence in enumerate(_sentences(rng, count)):
        account = position % accounts
        prompt = sentence
        if account % 2:
            _, prompt = frames[account].render(rng, fixed[account], sentence)
        time = START_S + position * _MEAN_GAP_S
        events.append(Event(f"e{position}", f"a{account}", time, prompt))
    return events


def repeated_events(count: int, accounts: int, prompts: int, seed: int) -> Iterator[Event]:
    """`count` events of `accounts` accounts, each prompt drawn from `prompts` distinct ones."""
    rng = np.random.default_rng(seed)
    sentences = _sentences(rng, prompts)
    for position in range(count):
        # Every account and every prompt occurs; after that both are drawn at random.
        account = position if position < accounts else int(rng.integers(accounts))
        text = position if position < prompts else int(rng.integers(prompts))
        time = START_S + position * _MEAN_GAP_S
        yield Event(f"e{position}", f"a{account}", time, sentences[text])
