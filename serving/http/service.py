"""What the doors share: settings, scorer, gate, metrics, and whether the service is ready."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stillwatch.serving.http.batches import Scores
from stillwatch.serving.http.gate import Gate
from stillwatch.serving.http.metrics import Metrics, TimedEncoder
from stillwatch.serving.http.problems import Problem, retry_after
from stillwatch.serving.http.settings import ServeSettings
from stillwatch.serving.response.responder import Responder

READY_FOR_S = 1.0
"""A store that answered so short a while ago is not asked again."""
CHECK_TIMEOUT_S = 2.0


@dataclass
class Service:
    """One app's parts. `draining` is set when the service begins to stop."""

    settings: ServeSettings
    scorer: Scores
    gate: Gate
    metrics: Metrics
    version: str
    draining: bool = False
    after_bundle: Callable[[], None] | None = None
    """Called when the scorer has taken over a bundle, in the gate's thread."""
    record: Callable[[str, str, Mapping[str, Any]], object] | None = None
    """Notes an action, who did it and its fields in the audit log, where there is one; waits for
    the disk and raises what the log raises."""
    responder: Responder | None = None
    """What is done about accounts, None before the app is put together."""
    _check: asyncio.Task[None] | None = field(default=None, repr=False)

    async def check_ready(self) -> None:
        """Raises Problem or StoreError unless events can be scored now."""
        if self.draining:
            raise Problem(
                "draining",
                "The service must be running, however: it stops; ask another instance.",
                headers=retry_after(1),
            )
        if time.monotonic() - self.gate.store_answered_at < READY_FOR_S:
            return
        # All who ask at the same time share one answer: asking costs the scorer's thread time.
        if self._check is None or self._check.done():
            self._check = asyncio.create_task(self._ask_store())
        try:
            await asyncio.wait_for(asyncio.shield(self._check), CHECK_TIMEOUT_S)
        except TimeoutError:
            raise Problem(
                "not_ready",
                "The scorer must answer within 2 s, however: it does not.",
                headers=retry_after(1),
            ) from None

    def bundle_changed(self) -> None:
        """To be called in the gate's thread when the scorer has taken over a bundle: names it in
        the metrics, times its encoder, and lets events that the last one failed on be tried."""
        self.metrics.set_bundle(self.scorer.bundle_id)
        self.gate.forget_dead_letters()
        detector: Any = getattr(self.scorer, "detector", None)
        if detector is not None and not isinstance(detector.encoder, TimedEncoder):
            detector.encoder = TimedEncoder(detector.encoder, self.metrics.encode_seconds)
        if self.after_bundle is not None:
            self.after_bundle()

    async def _ask_store(self) -> None:
        await self.gate.call(self.scorer.store.check)
