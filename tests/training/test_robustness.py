"""The robustness table: every evasion is tried, on the same streams, and counted apart."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from stillwatch.data.events import Event
from stillwatch.data.simulator.evasions import EVASIONS, TOKEN_POSITIONS
from stillwatch.training.benchmark.robustness import LONG_PROMPTS, LOW_SHARES, robustness
from stillwatch.training.benchmark.sealed import SealedPlan
from tests.training.test_sealed import Said

pytestmark = pytest.mark.slow


class Recorder:
    """Finds every attacking account save where a prompt holds a zero-width character; remembers
    how long prompts were and how many each account had."""

    def __init__(self) -> None:
        self.longest: list[int] = []
        self.fewest: list[int] = []

    def __call__(self, bundle: Path, events: Iterable[Event]) -> dict[str, Said]:
        counts: dict[str, int] = {}
        hidden: set[str] = set()
        longest = 0
        for event in events:
            counts[event.account_id] = counts.get(event.account_id, 0) + 1
            longest = max(longest, len(event.prompt))
            if "\u200b" in event.prompt or "\u200c" in event.prompt or "\u200d" in event.prompt:
                hidden.add(event.account_id)
        self.longest.append(longest)
        self.fewest.append(min(counts.values()))
        return {
            name: Said(0, 0.9 if name.startswith("r") and name not in hidden else 0.1, None, ())
            for name in counts
        }


def test_each_evasion_is_counted_by_itself() -> None:
    judge = Recorder()
    plan = SealedPlan(longest=40, shares=(1.0,), ordinary=100)
    found = robustness(judge, Path("any"), lambda text: None, plan)
    assert found["clean_recall"] == 1
    by_name = {one["name"]: one["recall"] for one in found["evasions"]}
    assert set(by_name) == {*EVASIONS, "split over two events", "replayed events"}
    assert by_name.pop("zero_width") < 0.2
    assert set(by_name.values()) == {1.0}
    assert [one["tokens"] for one in found["positions"]] == list(TOKEN_POSITIONS)
    assert [one["share"] for one in found["shares"]] == list(LOW_SHARES)
    assert {one["recall"] for one in (*found["positions"], *found["shares"])} == {1.0}
    # The calls end with the positions and the shares: payloads lie ever deeper, streams dilute.
    positions = judge.longest[-len(LOW_SHARES) - len(TOKEN_POSITIONS) : -len(LOW_SHARES)]
    assert positions == sorted(positions)
    assert positions[-1] > 20_000
    assert judge.fewest[-len(LOW_SHARES) - 1] <= LONG_PROMPTS
    assert judge.fewest[-1] >= 1000
