"""Batches of waiting events and what becomes of each: a verdict, or a place among the dead letters.

All of it runs in the gate's thread.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from stillwatch.data.errors import StoreError
from stillwatch.data.events import Event
from stillwatch.serving.http.dead_letters import DeadLetter, DeadLetters
from stillwatch.serving.http.logs import fault_fields, get_logger
from stillwatch.serving.http.metrics import Metrics
from stillwatch.serving.stores.base import StateStore
from stillwatch.serving.verdict import Verdict

Outcome = Verdict | DeadLetter

TRIES = 3
"""How often an event is tried alone before it is set aside."""
FIRST_MEAN_S = 0.005
"""Seconds an event is taken to need before any was scored."""
_MEAN_WEIGHT = 0.2


class Scores(Protocol):
    """What the service needs of a scorer. Only the gate's thread calls its methods."""

    @property
    def bundle_id(self) -> str: ...

    @property
    def intents(self) -> tuple[str, ...]: ...

    @property
    def store(self) -> StateStore: ...

    def update(self, events: Sequence[Event]) -> list[Verdict]: ...

    def verdict(self, account_id: str) -> Verdict: ...

    def close(self) -> None: ...


@dataclass(eq=False)
class Waiting:
    """A request: its events, how many of them are begun, and their outcomes by position.

    `deadline` is the monotonic time after which it is not begun.
    """

    events: Sequence[Event]
    deadline: float
    answer: Future[list[Outcome]] = field(default_factory=Future)
    begun: int = 0
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    error: BaseException | None = None

    @property
    def left(self) -> int:
        """Events that are not begun."""
        return len(self.events) - self.begun

    def settle(self) -> None:
        """Answer with the error or, if all are there, the outcomes."""
        if self.error is None and len(self.outcomes) < len(self.events):
            return
        # The caller may have gone, and may go at any moment.
        if not self.answer.set_running_or_notify_cancel():
            return
        if self.error is not None:
            self.answer.set_exception(self.error)
        else:
            self.answer.set_result([self.outcomes[i] for i in range(len(self.events))])


Slot = tuple[Waiting, int]
"""A request and the position of one of its events."""


class BatchScorer:
    """Scores batches; sets aside what fails again and again."""

    def __init__(self, scorer: Scores, dead_letters: DeadLetters, metrics: Metrics) -> None:
        self.scorer = scorer
        self.mean_s = FIRST_MEAN_S
        """Running mean of the seconds an event needs."""
        self.store_answered_at = -float("inf")
        """Monotonic time at which the store last took something."""
        self._dead_letters = dead_letters
        self._metrics = metrics

    def score(self, batch: Sequence[Slot]) -> None:
        """Score a batch in one call; if that fails, each of its events alone. Each request gets
        its outcomes or its error."""
        started = time.monotonic()
        fresh = []
        for waiting, position in batch:
            event = waiting.events[position]
            if self._dead_letters.holds(event):
                waiting.outcomes[position] = DeadLetter(event.event_id)
            else:
                fresh.append((waiting, position))
        if fresh and not self._score_together(fresh):
            self._score_apart(fresh)
        seconds = time.monotonic() - started
        self.mean_s += _MEAN_WEIGHT * (seconds / len(batch) - self.mean_s)
        self._metrics.batch_events.observe(len(batch))
        self._metrics.score_seconds.observe(seconds)

    def forget(self) -> None:
        """Try again what was set aside, if it comes again."""
        self._dead_letters.forget()

    def _score_together(self, batch: Sequence[Slot]) -> bool:
        """False if an event of the batch may be at fault."""
        try:
            verdicts = self._update([waiting.events[position] for waiting, position in batch])
        except StoreError as error:
            self._note_store(error)
            for waiting, _ in batch:
                waiting.error = error
            return True
        except Exception:
            return False
        for (waiting, position), verdict in zip(batch, verdicts, strict=True):
            waiting.outcomes[position] = verdict
        return True

    def _score_apart(self, batch: Sequence[Slot]) -> None:
        failed: StoreError | None = None
        for waiting, position in batch:
            if failed is None and waiting.error is None:
                try:
                    waiting.outcomes[position] = self._score_one(waiting.events[position])
                except StoreError as error:
                    self._note_store(error)
                    failed = error
                except Exception as error:
                    # It could not be set aside either: its caller alone is told.
                    get_logger().error("no dead letter could be written", **fault_fields(error))
                    waiting.error = error
            waiting.error = waiting.error or failed

    def _score_one(self, event: Event) -> Outcome:
        fault: Exception | None = None
        for _ in range(TRIES):
            try:
                return self._update([event])[0]
            except StoreError:
                raise
            except Exception as error:
                fault = error
        assert fault is not None
        self._dead_letters.add(event, fault)
        self._metrics.dead_letters.inc()
        get_logger().error("an event was set aside", **fault_fields(fault))
        return DeadLetter(event.event_id)

    def _update(self, events: list[Event]) -> list[Verdict]:
        verdicts = self.scorer.update(events)
        if len(verdicts) != len(events):
            raise RuntimeError("a scorer must give a verdict for each event")
        self.store_answered_at = time.monotonic()
        self._metrics.events.inc(len(events))
        self._metrics.flagged.inc(sum(verdict.flagged for verdict in verdicts))
        return verdicts

    def _note_store(self, error: StoreError) -> None:
        self._metrics.store_errors.inc()
        get_logger().warning("the state store failed", **fault_fields(error))
