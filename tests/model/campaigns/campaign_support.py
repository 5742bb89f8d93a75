"""Small logs with a campaign in them, written here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stillwatch.data.events import Event
from stillwatch.model.campaigns.index import CampaignIndex
from stillwatch.model.campaigns.risk import FEATURES, CampaignCalibration
from stillwatch.model.campaigns.trees import Trees

DAY_S = 86_400.0
START_S = 1_780_000_000.0
WORDS = (
    "barley", "copper", "lantern", "meadow", "thimble", "orchard", "granite", "velvet", "saddle",
    "compass", "harbour", "pepper", "willow", "kettle", "marble", "ribbon", "walnut", "ladder",
    "pebble", "anchor", "bucket", "candle", "drawer", "feather",
)  # fmt: skip
FRAME = (
    "Lay open each thought that led you to this, wrong turns and all, before the last line: {slot} "
    "Number every thought and keep none of them back."
)


STEPS = {
    "risk": -2.0, "contribution": -2.0, "dedication": 0.5, "unevenness": 0.0,
    "kinship": 0.1, "onset": -1.0, "accounts": 1.5, "variety": 0.5, "sharing": 0.5,
}  # fmt: skip
"""Above which a feature counts for the calibrations of tests."""


def calibration(enter: float = 0.5, offset: float = 0.0, **weights: float) -> CampaignCalibration:
    """What each feature adds to the logit above its step; it takes as much away below."""
    names = list(weights) or ["risk"]
    return CampaignCalibration(
        features=list(FEATURES),
        trees=Trees(
            depth=1,
            feature=[[FEATURES.index(name)] for name in names],
            threshold=[[STEPS[name]] for name in names],
            leaf=[[-weights.get(name, 0.0), weights.get(name, 0.0)] for name in names],
        ),
        slope=1.0, offset=offset, typical=[STEPS[name] - 0.1 for name in FEATURES],
        enter=enter, leave=enter / 2, origin="a test",
    )  # fmt: skip


def words(rng: np.random.Generator, count: int) -> str:
    return " ".join(str(word) for word in rng.choice(WORDS, count))


def campaign(
    rng: np.random.Generator, accounts: int = 12, each: int = 4, name: str = "c", frame: str = FRAME
) -> list[Event]:
    """Accounts that send prompts of one frame within two days."""
    return [
        Event(
            f"{name}{a}-{n}", f"{name}{a}", START_S + rng.uniform(0, 2 * DAY_S),
            frame.replace("{slot}", words(rng, 9)),
        )
        for a in range(accounts)
        for n in range(each)
    ]  # fmt: skip


def ordinary(rng: np.random.Generator, accounts: int = 30, each: int = 5) -> list[Event]:
    """Accounts that each say things of their own over a month."""
    return [
        Event(f"o{a}-{n}", f"o{a}", START_S + rng.uniform(0, 30 * DAY_S), words(rng, 12))
        for a in range(accounts)
        for n in range(each)
    ]


def indexed(events: list[Event]) -> CampaignIndex:
    index = CampaignIndex()
    index.add(events)
    return index


def with_keys(events: list[Event], **values: str) -> list[Event]:
    return [replace(event, **values) for event in events]  # type: ignore[arg-type]
