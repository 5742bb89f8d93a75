"""An app around a scorer that does as it is told, and keys to call it with."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from stillwatch.data.errors import StoreError
from stillwatch.data.events import DEFAULT_INTENTS as INTENTS
from stillwatch.data.events import Event
from stillwatch.serving.http.app import create_app
from stillwatch.serving.http.auth import new_key
from stillwatch.serving.http.settings import KeyEntry, ServeSettings
from stillwatch.serving.stores.memory import MemoryStore
from stillwatch.serving.verdict import Evidence, Verdict, excerpt

POISON = "poison"
FLAGGED = "reasoning"


@dataclass
class ScriptedScorer:
    """Counts events of an account; each prompt with FLAGGED in it raises the risk to 1.

    A prompt with POISON in it fails with the prompt in the exception's words. While `down`, the
    store does not answer; while `gate` is clear, `update` waits. `calls` are the batches.
    """

    bundle_id: str = "0123456789ab"
    intents: tuple[str, ...] = INTENTS
    down: bool = False
    gate: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)
    calls: list[list[str]] = field(default_factory=list)
    scored: list[Event] = field(default_factory=list)
    closed: bool = False

    def __post_init__(self) -> None:
        self.gate.set()
        self.store = ScriptedStore(self)

    def update(self, events: Sequence[Event]) -> list[Verdict]:
        self.calls.append([event.event_id for event in events])
        self.entered.set()
        assert self.gate.wait(20)
        self.store.check()
        for event in events:
            if POISON in event.prompt:
                raise ValueError(f"cannot be scored: {event.prompt}")
        found = []
        for event in events:
            self.scored.append(event)
            found.append(self.verdict(event.account_id))
        return found

    def verdict(self, account_id: str) -> Verdict:
        self.store.check()
        own = [event for event in self.scored if event.account_id == account_id]
        if not own:
            raise KeyError(account_id)
        strong = [event for event in own if FLAGGED in event.prompt]
        risk = 1.0 if strong else 0.125
        evidence = tuple(
            Evidence(event.event_id, INTENTS[1], 0.9, None, 0.5, excerpt(event.prompt))
            for event in strong[:5]
        )
        return Verdict(
            account_id, len(own), risk, risk, dict.fromkeys(INTENTS, risk), bool(strong), 0.5,
            1 if strong else None, evidence, self.bundle_id,
        )  # fmt: skip

    def close(self) -> None:
        self.closed = True


class ScriptedStore(MemoryStore):
    """Answers unless its scorer is down."""

    def __init__(self, scorer: ScriptedScorer) -> None:
        super().__init__()
        self._scorer = scorer

    def check(self) -> None:
        if self._scorer.down:
            raise StoreError("the store must answer, however: connection refused")


@dataclass(frozen=True)
class Keys:
    """A key of each role, and one that is bound to the accounts acme/…"""

    scorer: str
    analyst: str
    admin: str
    peer: str
    bound: str
    entries: tuple[KeyEntry, ...]


def make_keys() -> Keys:
    made = {name: new_key() for name in ("scorer", "analyst", "admin", "peer", "bound")}
    entries = tuple(
        KeyEntry.model_validate(
            {
                "id": name,
                "role": "scorer" if name == "bound" else name,
                "sha256": key.sha256,
                "accounts": "acme/" if name == "bound" else "*",
            }
        )
        for name, key in made.items()
    )
    return Keys(**{name: key.key for name, key in made.items()}, entries=entries)


def settings_in(folder: Path, **changes: Any) -> ServeSettings:
    """Settings of a test: no keys, dead letters in `folder`."""
    return ServeSettings(**{"auth": "off", "dead_letters": folder / "dead.jsonl", **changes})


@contextmanager
def client_of(settings: ServeSettings, scorer: Any) -> Iterator[TestClient]:
    """A client of an app that is started and stopped; faults are answers, not exceptions."""
    app = create_app(settings, scorer)
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


def event(event_id: str = "e1", account_id: str = "a1", **fields: Any) -> dict[str, Any]:
    return {
        "event_id": event_id, "account_id": account_id, "timestamp": 1.7e9,
        "prompt": "Where is my parcel?", **fields,
    }  # fmt: skip
