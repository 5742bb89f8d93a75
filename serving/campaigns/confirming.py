"""Confirming every account of a campaign: one decision each, which takes a while for thousands."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from stillwatch.data.errors import StillwatchError
from stillwatch.serving.campaigns.rulings import Rulings
from stillwatch.serving.desk import Refused
from stillwatch.serving.desk.decisions import Overtaken
from stillwatch.serving.http.logs import fault_fields, get_logger
from stillwatch.serving.verdict import Verdict

AT_ONCE = 50
"""Accounts whose verdicts are asked for together."""

Verdicts = Callable[[Iterable[str]], Awaitable[Mapping[str, Verdict]]]


@dataclass
class Progress:
    """How far one campaign's accounts are confirmed. `late` were left as they are, since somebody
    decided them or took them out meanwhile; `told` is why it ended early, if it did."""

    total: int
    late: int
    done: int = 0
    told: str | None = None
    running: bool = True


class Confirming:
    """Confirms campaigns in the background. All of it runs in the event loop."""

    def __init__(self, rulings: Rulings, verdicts: Verdicts) -> None:
        self.rulings = rulings
        self._verdicts = verdicts
        self._progress: dict[str, Progress] = {}
        self._tasks: dict[str, asyncio.Task[Progress]] = {}
        self._stopping = False

    def progress(self, campaign_id: str) -> Progress | None:
        """Of the last time that all of a campaign was confirmed here."""
        return self._progress.get(campaign_id)

    async def begin(
        self, campaign_id: str, reason: str, reviewer: str, intents: Sequence[str],
        seen: int | None = None,
    ) -> asyncio.Task[Progress]:  # fmt: skip
        """Confirm all of a campaign but those that were taken out, or decided after entry `seen`
        of the audit log. KeyError, Refused. What is
        broken off may be begun again: those that are confirmed already are left alone."""
        if campaign_id in self._tasks:
            raise Refused("a campaign must be confirmed once, however: it is being confirmed")
        # Taken before anything is waited for, so that of two posts one is refused.
        begun = self._tasks[campaign_id] = asyncio.create_task(
            self._confirm(campaign_id, reason, reviewer, intents, seen)
        )
        begun.add_done_callback(lambda task: self._ended(campaign_id, task))
        return begun

    async def close(self) -> None:
        """Finish the accounts that are under way and leave the others."""
        self._stopping = True
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _confirm(
        self, campaign_id: str, reason: str, reviewer: str, intents: Sequence[str],
        seen_entry: int | None,
    ) -> Progress:  # fmt: skip
        names, late = await asyncio.to_thread(
            self.rulings.begin_all, campaign_id, reason, reviewer, seen_entry
        )
        progress = self._progress[campaign_id] = Progress(len(names), late)
        left = iter(names)
        try:
            while not self._stopping and (chunk := list(islice(left, AT_ONCE))):
                seen = await self._verdicts(chunk)
                for name in chunk:
                    if self._stopping:
                        break
                    done = await asyncio.to_thread(
                        self._one, campaign_id, name, reason, reviewer, seen.get(name), intents,
                        names[name],
                    )  # fmt: skip
                    progress.done += done
                    progress.total -= not done
                    progress.late += not done
        except StillwatchError as error:
            progress.told = str(error)
            raise
        finally:
            progress.running = False
        return progress

    def _one(
        self, campaign_id: str, name: str, reason: str, reviewer: str, seen: Verdict | None,
        intents: Sequence[str], expected: int | None,
    ) -> bool:  # fmt: skip
        """Whether it was confirmed: a run or another reviewer may have taken it out or decided it
        meanwhile."""
        try:
            self.rulings.confirm(campaign_id, name, reason, reviewer, seen, intents, expected)
        except (KeyError, Refused, Overtaken):
            return False
        return True

    def _ended(self, campaign_id: str, task: asyncio.Task[Progress]) -> None:
        del self._tasks[campaign_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            get_logger().warning("a campaign was not confirmed whole", **fault_fields(error))
