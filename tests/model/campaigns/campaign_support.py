"""Small logs with a campaign in them, written here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stillwatch.data.events import Event
from stillwatch.model.campaigns.index import CampaignIndex
from stillwatch.model.campaigns.risk import BOUNDS, FEATURES, CampaignCalibration

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


def calibration(enter: float = 0.5, **weights: float) -> CampaignCalibration:
    """Weights by feature, 0 where none is given."""
    unknown = set(weights) - set(FEATURES) - {"offset"}
    assert not unknown, unknown
    return CampaignCalibration(
        features=list(FEATURES), weights=[weights.get(name, 0.0) for name in FEATURES],
        offset=weights.get("offset", 0.0), enter=enter, leave=enter / 2, origin="a test",
    )  # fmt: skip


def middle(name: str) -> float:
    return sum(BOUNDS[name]) / 2


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
