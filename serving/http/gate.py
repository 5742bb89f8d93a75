"""The gate: requests wait in a bounded queue and one thread scores them in small batches.

What cannot be scored in time is refused when it arrives, not after it has waited. A large request
shares the thread with the others: each batch takes a few events of every request that waits.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from stillwatch.data.events import Event
from stillwatch.serving.http.batches import BatchScorer, Outcome, Scores, Slot, Waiting
from stillwatch.serving.http.dead_letters import DeadLetter, DeadLetters
from stillwatch.serving.http.metrics import Metrics
from stillwatch.serving.http.problems import Problem, retry_after
from stillwatch.serving.verdict import Verdict

T = TypeVar("T")

LEAST_BATCH = 16
"""Events of a batch if so many wait."""
MAX_CALLS = 256
"""Most other calls that wait for the thread."""
NICER = 8
"""By so much the thread gives way to the one that answers: under load a refusal must not wait for
what is being scored."""


class Overloaded(Problem):
    """More waits than can be scored in time; come back in `retry_after_s`."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(
            "overloaded",
            "What waits must be scored within the time allowed, however: it is too much; come "
            "back after the time in Retry-After.",
            headers=retry_after(retry_after_s),
        )
        self.retry_after_s = retry_after_s


class DeadlineExceeded(Problem):
    """The request was not begun in time; nothing of it is scored."""

    def __init__(self) -> None:
        super().__init__(
            "deadline_exceeded",
            "The request must be begun before its time limit, however: it was not; nothing of it "
            "is scored.",
        )


class DeadLettered(Problem):
    """An event of the request cannot be scored; the others are."""

    def __init__(self) -> None:
        super().__init__(
            "dead_letter",
            "Every event must be one that can be scored, however: one failed each time and was "
            "set aside; the others are scored.",
        )


class Gate:
    """The one way to the scorer. Its thread runs from the first request, or `start`, to `close`."""

    def __init__(
        self,
        scorer: Scores,
        dead_letters: DeadLetters,
        metrics: Metrics,
        *,
        max_batch: int = 64,
        max_queue: int = 2048,
        max_wait_s: float = 0.2,
        deadline_s: float = 10.0,
    ) -> None:
        self.scorer = scorer
        self.deadline_s = deadline_s
        self._batches = BatchScorer(scorer, dead_letters, metrics)
        self._metrics = metrics
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._max_wait_s = max_wait_s
        self._lock = threading.Condition()
        self._queue: deque[Waiting] = deque()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._scoring = 0
        self._queued = 0
        self._closing = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Take requests, again if it was closed."""
        with self._lock:
            self._closing = False
        self._start_thread()

    def close(self, timeout_s: float = 10.0) -> bool:
        """Take nothing more, finish what waits, end the thread. False if it did not end in time."""
        with self._lock:
            self._closing = True
            self._lock.notify()
            thread = self._thread
        if thread is None:
            return True
        thread.join(timeout_s)
        if thread.is_alive():
            return False
        self._thread = None
        return True

    async def score(
        self, events: Sequence[Event], deadline_s: float | None = None
    ) -> list[Verdict]:
        """The verdict on each event's account after it, in the order given.

        Raises Overloaded, DeadlineExceeded, StoreError, and DeadLettered if any event cannot be
        scored; cancelled before it was begun, it leaves nothing scored.
        """
        verdicts = []
        for outcome in await self.outcomes(events, deadline_s):
            if isinstance(outcome, DeadLetter):
                raise DeadLettered
            verdicts.append(outcome)
        return verdicts

    async def outcomes(
        self, events: Sequence[Event], deadline_s: float | None = None
    ) -> list[Outcome]:
        """As `score`, with a DeadLetter in the place of each event that cannot be scored."""
        if not events:
            return []
        limit_s = min(self.deadline_s if deadline_s is None else deadline_s, self.deadline_s)
        waiting = Waiting(events, time.monotonic() + limit_s)
        self._start_thread()
        self._admit(waiting)
        answer = asyncio.wrap_future(waiting.answer)
        try:
            done, _ = await asyncio.wait([answer], timeout=limit_s)
            if not done and self._withdraw(waiting):
                answer.cancel()
                raise DeadlineExceeded
            # Once begun it is finished: the caller learns what became of it.
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            self._withdraw(waiting)
            answer.cancel()
            raise

    async def verdict(self, account_id: str) -> Verdict:
        """The account's verdict now; KeyError if it was never seen."""
        return await self.call(lambda: self.scorer.verdict(account_id))

    async def call(self, function: Callable[[], T]) -> T:
        """Run something in the scorer's thread, between two batches."""
        answer: Future[T] = Future()
        self._start_thread()
        with self._lock:
            self._check_open()
            if len(self._calls) >= MAX_CALLS:
                raise Overloaded(self._max_wait_s)
            self._calls.append((function, answer))
            self._lock.notify()
        return await asyncio.wrap_future(answer)

    def check_room(self) -> None:
        """Raises Overloaded if not even one event could be taken: before a body is read."""
        with self._lock:
            self._check_open()
            self._check_wait(1)

    def forget_dead_letters(self) -> None:
        """Try again what was set aside, if it comes again."""
        self._batches.forget()

    @property
    def store_answered_at(self) -> float:
        """Monotonic time at which the store last took a batch; -inf if it never did."""
        return self._batches.store_answered_at

    @property
    def waiting(self) -> int:
        """Events that wait or are being scored."""
        return self._queued + self._scoring

    def _start_thread(self) -> None:
        with self._lock:
            if self._thread is not None or self._closing:
                return
            # A daemon, so that a store that never answers cannot keep the process alive.
            self._thread = threading.Thread(target=self._work, name="gate", daemon=True)
            self._thread.start()

    def _check_open(self) -> None:
        if self._closing:
            raise Problem(
                "draining",
                "The service must be running, however: it stops; ask another instance.",
                headers=retry_after(1),
            )

    def _check_wait(self, events: int) -> None:
        # Every request that waits gets its share before this one is done, but no more than that.
        share = max(events, self._quantum())
        ahead = self._scoring + sum(min(other.left, share) for other in self._queue)
        expected_s = ahead * self._batches.mean_s
        full = self._queued + events > self._max_queue
        if full or expected_s > self._max_wait_s:
            raise Overloaded(max(expected_s - self._max_wait_s, 0.0))

    def _admit(self, waiting: Waiting) -> None:
        count = len(waiting.events)
        if count > self._max_queue:
            raise Problem(
                "batch_too_large",
                f"A request must hold at most {self._max_queue} events, however: more.",
            )
        with self._lock:
            self._check_open()
            self._check_wait(count)
            self._queue.append(waiting)
            self._queued += count
            self._metrics.queue_depth.set(self.waiting)
            self._lock.notify()

    def _withdraw(self, waiting: Waiting) -> bool:
        """Take a request out of the queue unless it is begun."""
        with self._lock:
            if waiting.begun or waiting not in self._queue:
                return False
            self._queue.remove(waiting)
            self._queued -= len(waiting.events)
            self._metrics.queue_depth.set(self.waiting)
            return True

    def _room(self) -> int:
        """Events of a batch: one takes no more than a quarter of the longest wait. But never few:
        a batch has costs of its own, such as the store's, and where those make up most of the
        mean it would stay small for ever."""
        fitting = int(self._max_wait_s / 4 / self._batches.mean_s)
        return min(self._max_batch, max(LEAST_BATCH, fitting))

    def _quantum(self) -> int:
        """Events of one request taken before the next one's turn."""
        return max(1, self._room() // 4)

    def _work(self) -> None:
        _give_way()
        while True:
            with self._lock:
                while not (self._queue or self._calls or self._closing):
                    self._lock.wait()
                if self._closing and not (self._queue or self._calls):
                    return
                calls, self._calls = self._calls, deque()
                batch = self._take()
            for function, answer in calls:
                _run(function, answer)
            if batch:
                try:
                    self._batches.score(batch)
                except BaseException as error:
                    # The thread outlives any fault, or callers would wait for ever.
                    for waiting, _ in batch:
                        waiting.error = waiting.error or error
                self._settle(batch)

    def _take(self) -> list[Slot]:
        """The next batch: from each request in turn."""
        room, quantum, now = self._room(), self._quantum(), time.monotonic()
        batch: list[Slot] = []
        while self._queue and len(batch) < room:
            waiting = self._queue.popleft()
            if not waiting.begun and now > waiting.deadline:
                self._queued -= waiting.left
                waiting.error = DeadlineExceeded()
                waiting.settle()
                continue
            count = min(waiting.left, quantum, room - len(batch))
            batch += [(waiting, waiting.begun + i) for i in range(count)]
            waiting.begun += count
            self._queued -= count
            if waiting.left:
                self._queue.append(waiting)
        self._scoring = len(batch)
        self._metrics.queue_depth.set(self.waiting)
        return batch

    def _settle(self, batch: list[Slot]) -> None:
        """Answer the requests of a batch that are finished."""
        with self._lock:
            self._scoring = 0
            for waiting in dict.fromkeys(waiting for waiting, _ in batch):
                if waiting.error is not None and waiting.left:
                    # What is left of it would be answered by the same error.
                    self._queue.remove(waiting)
                    self._queued -= waiting.left
                    waiting.begun = len(waiting.events)
            self._metrics.queue_depth.set(self.waiting)
        for waiting in dict.fromkeys(waiting for waiting, _ in batch):
            waiting.settle()


def _run(function: Callable[[], Any], answer: Future[Any]) -> None:
    if not answer.set_running_or_notify_cancel():
        return
    try:
        answer.set_result(function())
    except BaseException as error:
        answer.set_exception(error)


def _give_way() -> None:
    """Lower this thread's priority; the encoder's own threads, which it starts, inherit it."""
    # Elsewhere it would be that of the whole process.
    if sys.platform == "linux":
        with suppress(OSError):
            own = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, own, os.getpriority(os.PRIO_PROCESS, own) + NICER)
