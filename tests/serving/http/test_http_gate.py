"""The gate: what waits is bounded, what is late is refused, and nobody starves."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

from stillwatch.data.errors import StoreError
from stillwatch.data.events import Event
from stillwatch.serving.http import batches
from stillwatch.serving.http.dead_letters import DeadLetters
from stillwatch.serving.http.gate import (
    NICER,
    DeadLettered,
    DeadlineExceeded,
    Gate,
    Overloaded,
)
from stillwatch.serving.http.metrics import Metrics
from stillwatch.serving.http.problems import Problem
from stillwatch.serving.verdict import Verdict
from tests.serving.http.http_support import POISON, ScriptedScorer

MakeGate = Callable[..., Gate]

EVENT_S = 0.002


@pytest.fixture
def make_gate(scorer: ScriptedScorer, tmp_path: Path) -> Any:
    made: list[Gate] = []

    def make(**options: Any) -> Gate:
        gate = Gate(scorer, DeadLetters(tmp_path / "dead.jsonl"), Metrics("0"), **options)
        made.append(gate)
        return gate

    yield make
    scorer.gate.set()
    for gate in made:
        assert gate.close(20)


def events(count: int, name: str = "e", prompt: str = "hello") -> list[Event]:
    return [Event(f"{name}{i}", name, 1.7e9, prompt) for i in range(count)]


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 30))


async def busy(gate: Gate, scorer: ScriptedScorer) -> asyncio.Task[list[Verdict]]:
    """A request that the thread is scoring, until `scorer.gate` is set."""
    scorer.gate.clear()
    scorer.entered.clear()
    task = asyncio.create_task(gate.score(events(1, "busy")))
    await asyncio.to_thread(scorer.entered.wait, 20)
    return task


def test_what_waits_is_scored_together(make_gate: MakeGate, scorer: ScriptedScorer) -> None:
    async def scenario() -> None:
        gate = make_gate(max_batch=64)
        first = await busy(gate, scorer)
        tasks = [asyncio.create_task(gate.score(events(1, f"r{i}"))) for i in range(6)]
        await asyncio.sleep(0)
        scorer.gate.set()
        verdicts = await asyncio.gather(first, *tasks)
        assert [found[0].account_id for found in verdicts] == ["busy", *(f"r{i}" for i in range(6))]
        assert [len(call) for call in scorer.calls] == [1, 6]

    run(scenario())


def test_a_large_request_does_not_hold_up_a_small_one(
    make_gate: MakeGate, scorer: ScriptedScorer
) -> None:
    async def scenario() -> None:
        gate = make_gate(max_batch=8, max_wait_s=60)
        first = await busy(gate, scorer)
        large = asyncio.create_task(gate.score(events(40, "large")))
        await asyncio.sleep(0)
        small = asyncio.create_task(gate.score(events(1, "small")))
        await asyncio.sleep(0)
        scorer.gate.set()
        await asyncio.gather(first, large, small)
        assert "small0" in scorer.calls[1]
        assert [e.event_id for e in scorer.scored if e.account_id == "large"] == [
            f"large{i}" for i in range(40)
        ]
        assert max(len(call) for call in scorer.calls) == 8

    run(scenario())


def test_a_full_queue_refuses_at_once(make_gate: MakeGate, scorer: ScriptedScorer) -> None:
    async def scenario() -> None:
        gate = make_gate(max_queue=4, max_wait_s=60)
        first = await busy(gate, scorer)
        waiting = asyncio.create_task(gate.score(events(3, "waiting")))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as refusal:
            await gate.score(events(2, "more"))
        assert int(refusal.value.headers["Retry-After"]) >= 1
        with pytest.raises(Problem) as too_large:
            await gate.score(events(5, "never"))
        assert too_large.value.code == "batch_too_large", "it would be refused for ever"
        scorer.gate.set()
        await asyncio.gather(first, waiting)
        assert not any("more0" in call for call in scorer.calls)

    run(scenario())


def test_a_long_wait_refuses_before_the_queue_is_full(
    make_gate: MakeGate, scorer: ScriptedScorer
) -> None:
    async def scenario() -> None:
        # The first mean is 5 ms an event: 11 waiting ones are more than 50 ms.
        gate = make_gate(max_wait_s=0.05)
        first = await busy(gate, scorer)
        tasks = [asyncio.create_task(gate.score(events(1, f"r{i}"))) for i in range(10)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await gate.score(events(1, "late"))
        with pytest.raises(Overloaded):
            gate.check_room()
        scorer.gate.set()
        await asyncio.gather(first, *tasks)
        await gate.score(events(1, "later"))

    run(scenario())


def test_what_is_late_is_not_scored(make_gate: MakeGate, scorer: ScriptedScorer) -> None:
    async def scenario() -> None:
        gate = make_gate()
        first = await busy(gate, scorer)
        with pytest.raises(DeadlineExceeded):
            await gate.score(events(1, "late"), deadline_s=0.01)
        scorer.gate.set()
        await first
        await gate.score(events(1, "next"))
        assert scorer.calls == [["busy0"], ["next0"]]
        assert gate.waiting == 0

    run(scenario())


def test_what_is_begun_is_finished_after_its_deadline(
    make_gate: MakeGate, scorer: ScriptedScorer
) -> None:
    async def scenario() -> None:
        gate = make_gate(deadline_s=0.01)
        first = await busy(gate, scorer)
        await asyncio.sleep(0.05)
        assert not first.done()
        scorer.gate.set()
        assert (await first)[0].account_id == "busy"

    run(scenario())


def test_a_caller_who_has_gone_is_not_scored(make_gate: MakeGate, scorer: ScriptedScorer) -> None:
    async def scenario() -> None:
        gate = make_gate()
        first = await busy(gate, scorer)
        gone = asyncio.create_task(gate.score(events(1, "gone")))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        # One that is begun is finished all the same: it counts, whoever asks.
        first.cancel()
        scorer.gate.set()
        await gate.score(events(1, "next"))
        assert scorer.calls == [["busy0"], ["next0"]]
        assert [e.event_id for e in scorer.scored] == ["busy0", "next0"]

    run(scenario())


def test_a_store_that_fails_halfway_through_a_request_ends_it(
    make_gate: MakeGate, scorer: ScriptedScorer
) -> None:
    async def scenario() -> None:
        gate = make_gate(max_batch=4, max_wait_s=60)
        scorer.gate.clear()
        large = asyncio.create_task(gate.score(events(40, "large")))
        await asyncio.to_thread(scorer.entered.wait, 20)
        scorer.down = True
        scorer.gate.set()
        with pytest.raises(StoreError):
            await large
        assert gate.waiting == 0
        scorer.down = False
        assert len(await gate.score(events(2, "next"))) == 2

    run(scenario())


def test_a_poison_event_harms_no_neighbour(make_gate: MakeGate, scorer: ScriptedScorer) -> None:
    async def scenario() -> None:
        gate = make_gate(max_wait_s=60)
        first = await busy(gate, scorer)
        bad = asyncio.create_task(gate.score(events(1, "bad", POISON)))
        good = [asyncio.create_task(gate.score(events(2, f"r{i}"))) for i in range(3)]
        await asyncio.sleep(0)
        scorer.gate.set()
        with pytest.raises(DeadLettered):
            await bad
        await asyncio.gather(first, *good)
        ids = [e.event_id for e in scorer.scored]
        assert len(ids) == len(set(ids)) == 7

    run(scenario())


def test_a_fault_in_a_call_harms_nobody_else(make_gate: MakeGate, scorer: ScriptedScorer) -> None:
    async def scenario() -> None:
        gate = make_gate()

        def fail() -> None:
            raise SystemError

        with pytest.raises(SystemError):
            await gate.call(fail)
        with pytest.raises(KeyError):
            await gate.verdict("nobody")
        assert len(await gate.score(events(3))) == 3

    run(scenario())


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own there")
def test_the_thread_gives_way_to_the_one_that_answers(make_gate: MakeGate) -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    async def scenario() -> None:
        scoring = await make_gate().call(priority)
        assert scoring == min(priority() + NICER, 19)

    run(scenario())


def test_closing_finishes_what_waits_and_takes_no_more(
    make_gate: MakeGate, scorer: ScriptedScorer
) -> None:
    async def scenario() -> None:
        gate = make_gate()
        first = await busy(gate, scorer)
        waiting = asyncio.create_task(gate.score(events(2, "waiting")))
        await asyncio.sleep(0)
        assert not await asyncio.to_thread(gate.close, 0.01)
        with pytest.raises(Problem) as refusal:
            await gate.score(events(1, "more"))
        assert refusal.value.code == "draining"
        scorer.gate.set()
        assert await asyncio.to_thread(gate.close, 20)
        assert len(await waiting) == 2
        await first

    run(scenario())


class Clock:
    """In the place of the module `time`; it stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class SlowScorer(ScriptedScorer):
    """Takes EVENT_S an event by its own clock."""

    clock = Clock()

    def update(self, events: Sequence[Event]) -> list[Verdict]:
        self.clock.now += EVENT_S * len(events)
        return super().update(events)


def test_what_is_more_than_it_learnt_to_do_is_refused_before_anything_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = SlowScorer()
    monkeypatch.setattr(batches, "time", scorer.clock)
    gate = Gate(scorer, DeadLetters(tmp_path / "dead"), Metrics("0"), max_wait_s=0.1)

    async def scenario() -> None:
        for number in range(200):
            await gate.score(events(1, f"learn{number}"))
        first = await busy(gate, scorer)
        tasks = [asyncio.create_task(gate.score(events(1, f"r{i}"))) for i in range(2000)]
        done, waiting = await asyncio.wait(tasks, timeout=0)
        assert all(isinstance(task.exception(), Overloaded) for task in done)
        # One is being scored: 0.1 s hold fifty of 2 ms, of 5 ms, where it began, only twenty.
        assert len(waiting) == 50
        scorer.gate.set()
        await asyncio.gather(first, *waiting)

    try:
        run(scenario())
    finally:
        scorer.gate.set()
        assert gate.close(20)
