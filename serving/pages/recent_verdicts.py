"""Verdicts that were asked for a moment ago: a queue has a thousand of them, few of which change
between two looks."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from stillwatch.serving.verdict import Verdict

KEPT_S = 30.0
"""An account may have events that were archived elsewhere, which nothing here tells of."""

Ask = Callable[[Sequence[str]], Awaitable[dict[str, Verdict]]]


class _Known(NamedTuple):
    verdict: Verdict
    events: int
    asked: float


class RecentVerdicts:
    """Runs in the event loop."""

    def __init__(self, ask: Ask, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._known: dict[str, _Known] = {}

    async def of(self, names: Sequence[str], events: Mapping[str, int]) -> dict[str, Verdict]:
        """Verdicts of those accounts that the scorer knows, in the order of `names`. One is asked
        for anew if the archive has other `events` of it than when it was asked for, or none, or
        after KEPT_S. Others than these are not kept."""
        now = self._clock()
        held = {
            name: own
            for name in names
            if (own := self._known.get(name)) is not None
            and own.events == events.get(name)
            and now - own.asked < KEPT_S
        }
        fresh = await self._ask([name for name in names if name not in held])
        held |= {name: _Known(one, events.get(name, -1), now) for name, one in fresh.items()}
        self._known = held
        return {name: held[name].verdict for name in names if name in held}

    def forget(self, account_id: str) -> None:
        """Hold nothing of an account."""
        self._known.pop(account_id, None)
