"""Runs `stillwatch serve` around a scripted scorer, in a process of its own.

A prompt that is a number makes the scorer take so many seconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import typer

from stillwatch.data.events import Event
from stillwatch.serving.commands.serve import serve
from stillwatch.serving.scorer import Scorer
from stillwatch.serving.verdict import Verdict
from tests.serving.http.http_support import ScriptedScorer


class Patient(ScriptedScorer):
    def update(self, events: Sequence[Event]) -> list[Verdict]:
        for event in events:
            with suppress(ValueError):
                time.sleep(float(event.prompt))
        return super().update(events)

    def close(self) -> None:
        print(f"closed after {len(self.scored)}", flush=True)


def patient(*_: Any, **__: Any) -> Any:
    return Patient()


if __name__ == "__main__":
    Scorer.from_bundle = patient  # type: ignore[method-assign]
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(serve)
    app(sys.argv[1:])
