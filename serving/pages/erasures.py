"""Erasures that are under way: they take as long as files are to be written anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from stillwatch.serving.desk import Desk, Erased, Refused
from stillwatch.serving.http.logs import fault_fields, get_logger

Call = Callable[[Callable[[], Any]], Coroutine[Any, Any, Any]]


@dataclass(frozen=True, slots=True)
class BetweenBatches:
    """A store of account states, reached in the scorer's thread: no batch that has read an account
    is written after it. `call` is Gate.call, of the event loop `loop`."""

    store: Any
    call: Call
    loop: asyncio.AbstractEventLoop

    def erase(self, account_id: str) -> object:
        """As the store does; for other threads than the loop's."""
        asked = self.call(lambda: self.store.erase(account_id))
        return asyncio.run_coroutine_threadsafe(asked, self.loop).result()


class Erasures:
    """Begins them, and knows those that are not done. All of it runs in the event loop."""

    def __init__(self, desk: Desk, store: Any, call: Call, forget: Callable[[str], None]) -> None:
        """`forget` drops what the pages hold of an account in memory."""
        self._desk = desk
        self._store = store
        self._call = call
        self._forget = forget
        self._running: dict[str, asyncio.Task[Erased]] = {}

    def running(self, account_id: str) -> bool:
        """Whether an account is being erased."""
        return account_id in self._running

    def begin(self, account_id: str, reviewer: str, reason: str) -> asyncio.Task[Erased]:
        """Erase an account in archive and state store. Refused if that is under way."""
        if account_id in self._running:
            raise Refused(
                "an account must be erased once, however: it is being erased; wait until it is done"
            )
        task = asyncio.create_task(self._erase(account_id, reviewer, reason))
        self._running[account_id] = task
        task.add_done_callback(lambda done: self._ended(account_id, done))
        return task

    async def close(self) -> None:
        """Wait for those that are under way: one that is broken off has to be begun again."""
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _erase(self, account_id: str, reviewer: str, reason: str) -> Erased:
        store = BetweenBatches(self._store, self._call, asyncio.get_running_loop())
        erased = await asyncio.to_thread(self._desk.erase, account_id, reviewer, reason, store)
        self._forget(account_id)
        return erased

    def _ended(self, account_id: str, task: asyncio.Task[Erased]) -> None:
        del self._running[account_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            get_logger().error("an account was not erased whole", **fault_fields(error))
