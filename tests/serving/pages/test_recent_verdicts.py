"""Which verdicts are asked for again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from stillwatch.serving.pages.recent_verdicts import KEPT_S, RecentVerdicts
from stillwatch.serving.verdict import Verdict
from tests.serving.desk.desk_support import verdict


def test_only_what_may_have_changed_is_asked_for() -> None:
    asked: list[list[str]] = []
    now = [0.0]

    async def ask(names: Sequence[str]) -> dict[str, Verdict]:
        asked.append(list(names))
        return {name: verdict(name) for name in names if name != "unknown"}

    async def go() -> None:
        recent = RecentVerdicts(ask, lambda: now[0])
        found = await recent.of(["a", "unknown", "b", "elsewhere"], {"a": 3, "b": 4})
        assert list(found) == ["a", "b", "elsewhere"]
        # Only b has another event; of what the archive does not know nothing tells.
        found = await recent.of(["b", "a", "elsewhere"], {"a": 3, "b": 5})
        assert list(found) == ["b", "a", "elsewhere"]
        recent.forget("a")
        await recent.of(["a", "b"], {"a": 3, "b": 5})
        now[0] += KEPT_S
        await recent.of(["a", "b"], {"a": 3, "b": 5})
        # What is not in the list any more is not kept.
        await recent.of(["b"], {"b": 5})
        await recent.of(["a", "b"], {"a": 3, "b": 5})

    asyncio.run(go())
    assert asked == [
        ["a", "unknown", "b", "elsewhere"], ["b", "elsewhere"], ["a"], ["a", "b"], [], ["a"],
    ]  # fmt: skip
