"""What a template would have hit in the ordinary traffic that the archive holds.

Axis letters: D dimensions.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from stillwatch.serving.archive import PromptArchive
from stillwatch.serving.desk.records import Replay

MOST_SHARE = 0.0001
"""Of the ordinary prompts that a template may hit."""
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Known:
    """Accounts by what was decided on them."""

    confirmed: Collection[str]
    rejected: Collection[str]


def replay(
    archive: PromptArchive, vector: np.ndarray, known: Known, similarity: float, days: float,
    least: int, now: float,
) -> Replay:  # fmt: skip
    """Hits of a template's unit vector float32 (D,) among the prompts of the last `days`.

    Ordinary is an account that did not stand flagged after its last event, or whose flag was
    rejected, and that is not confirmed. A text counts by the vector of all of it: a prompt of many
    windows of which one alone is near is not found here. StoreError.
    """
    confirmed, rejected = (
        np.array(list(archive.account_numbers(names).values()), np.int64)
        for names in (known.confirmed, known.rejected)
    )
    flagged = np.flatnonzero(archive.totals().flagged)
    suspect = np.union1d(np.setdiff1d(flagged, rejected), confirmed)
    found = archive.reach(vector, similarity, now - days * DAY_S, suspect)
    return Replay(
        similarity=similarity, days=days, prompts=found.events, accounts=found.accounts,
        hit_prompts=found.hit_events, hit_accounts=found.hit_accounts, most=MOST_SHARE,
        least=least, time=now, examples=found.examples,
    )  # fmt: skip
