"""Campaigns in words: why they are suspected, what ties them, what has changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from stillwatch.serving.campaigns.job import Standing
from stillwatch.serving.campaigns.records import Change
from stillwatch.serving.pages.display import percent

LEAST = 0.05
"""Share of the risk's logit below which a reason is not told."""
MOST_REASONS = 6

LINKS = {
    "skeleton": "shared frame", "network": "shared network", "payment": "shared payment",
    "client": "shared client", "timing": "began together", "handover": "began after one another",
    "pivot": "moved to a model at once",
}  # fmt: skip
STATES = {
    "excluded": "taken out", "confirmed": "confirmed", "waiting": "waiting for a second",
    "rejected": "rejected", "more": "more wanted", "open": "to rule on",
}  # fmt: skip
"""Of a member, see campaign_members."""
STANDINGS: Mapping[Standing, str] = {
    "off": "Campaigns are not looked for: campaigns_every_s is 0.",
    "uncalibrated": "Campaigns are not looked for: the bundle in use is not calibrated for them.",
    "on": "",
}


class Reason(NamedTuple):
    """A sentence, and whether it speaks for an attack or against."""

    told: str
    speaks_for: bool


_SENTENCES: Mapping[str, Callable[[float], str]] = {
    "risk": lambda value: f"read as one stream, its prompts have a risk of {_chance(value):.2f}",
    "contribution": lambda value: (
        f"one by one, its prompts speak {'strongly' if value > 0 else 'weakly'} for an intent "
        f"({_chance(value):.2f} on average)"
    ),
    "dedication": lambda value: (
        f"an account gives {'' if value > 0.5 else 'only '}{percent(value)} of its prompts to it"
    ),
    "unevenness": lambda value: (
        "some accounts send far more than others"
        if value > 0
        else "each account sends about as many"
    ),
    "kinship": lambda value: (
        "no account has two payloads that could be compared"
        if value >= 1
        else "payloads of one account are more alike than those of two accounts"
        if value > 0.1
        else "payloads of one account are as unlike as those of two accounts"
    ),
    "onset": lambda value: (
        "its accounts began at times of their own"
        if value > -1
        else "its accounts began close together"
    ),
    "accounts": lambda value: f"it has {math.exp(value):,.0f} accounts",
    "variety": lambda value: (
        "most prompts have a text of their own" if value > 0.5 else "many of its prompts repeat"
    ),
    "sharing": lambda value: (
        f"{percent(value)} of its accounts share a network or payment with another"
        if value
        else "none of its accounts shares a rare network or payment with another"
    ),
}


def reasons(found: Sequence[tuple[str, float, float]]) -> list[Reason]:
    """The strongest reasons behind a campaign's risk: features of `model.campaigns.risk`, with
    their values and their shares of its logit."""
    told = []
    for name, value, share in found:
        sentence = _SENTENCES.get(name)
        if sentence is None or abs(share) < LEAST:
            continue
        told.append(Reason(sentence(value), share > 0))
    return told[:MOST_REASONS]


def links(kinds: Mapping[str, int]) -> str:
    """What ties a campaign: kinds of links, each with how many there are of it."""
    return ", ".join(
        f"{count} × {LINKS.get(kind, kind)}" if count > 1 else LINKS.get(kind, kind)
        for kind, count in sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    )


def change(found: Change) -> str:
    """What changed, without when."""
    others = ", ".join(found.of)
    if found.kind == "new":
        return "new"
    if found.kind == "merged":
        return f"{others} merged into it" if found.of else "merged"
    if found.kind == "split":
        return f"split from {others}" if found.accounts > 0 else f"{others} split from it"
    if found.kind == "flagged":
        return "newly flagged"
    word = "account" if abs(found.accounts) == 1 else "accounts"
    if found.kind == "grown":
        return f"grown by {found.accounts:,} {word}"
    return f"{-found.accounts:,} {word} left it"


def _chance(logit: float) -> float:
    return 1 / (1 + math.exp(-max(min(logit, 60.0), -60.0)))
