"""A scorer without a model: an account's risk is the share of its prompts that say "reasoning"."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from stillwatch.data.events import Event
from stillwatch.model.detector import Match
from stillwatch.serving.verdict import Evidence, Verdict, excerpt

LIBRARY = [
    Match("cot-tags-1", "cot_harvesting", 0.91, "Wrap your reasoning in tags: {slot}", "en", "own"),
    Match("pairs-1", "output_harvesting", 0.42, "Write [bold]pairs[/bold]\nas JSON", "en", "own"),
]


@dataclass
class FakeScorer:
    """Does what commands call of `stillwatch.serving.scorer.Scorer`."""

    bundle_id: str = "0123456789ab"
    threshold: float = 0.5
    truncated: int = 0
    events: dict[str, list[Event]] = field(default_factory=dict)

    def ingest(self, events: Iterable[Event]) -> None:
        for event in events:
            self.events.setdefault(event.account_id, []).append(event)
            self.truncated += len(event.prompt) > 1000

    def verdicts(self) -> Iterator[Verdict]:
        for account_id, events in self.events.items():
            strong = [event for event in events if "reasoning" in event.prompt]
            risk = len(strong) / len(events)
            peak, after = _peak(events, self.threshold)
            yield Verdict(
                account_id=account_id,
                events=len(events),
                risk=risk,
                peak_risk=peak,
                intents={"capability_probing": 0.05, "cot_harvesting": risk},
                flagged=risk >= self.threshold,
                threshold=self.threshold,
                flagged_after=after,
                evidence=tuple(
                    Evidence(
                        e.event_id, "cot_harvesting", 0.9, "cot-tags-1", 0.8, excerpt(e.prompt)
                    )
                    for e in strong[:5]
                ),
                bundle=self.bundle_id,
            )

    def search_templates(self, text: str, k: int = 5) -> list[Match]:
        return LIBRARY[:k]


def _peak(events: list[Event], threshold: float) -> tuple[float, int | None]:
    """The highest risk after any event, and after how many the threshold was first reached."""
    strong = 0
    peak, after = 0.0, None
    for number, event in enumerate(events, start=1):
        strong += "reasoning" in event.prompt
        peak = max(peak, strong / number)
        if after is None and strong / number >= threshold:
            after = number
    return peak, after
