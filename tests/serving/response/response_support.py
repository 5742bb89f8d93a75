"""Policies to read, cases to judge, and a service with a desk and a policy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from stillwatch.data.events import Event
from stillwatch.serving.desk import Decision, Desk
from stillwatch.serving.http.app import create_app
from stillwatch.serving.pages import Workplace
from stillwatch.serving.response.policy import Policy, PolicyError
from stillwatch.serving.response.reading import read_policy
from stillwatch.serving.response.responder import Responder
from stillwatch.serving.verdict import Evidence, Verdict
from tests.serving.archive.archive_support import opened
from tests.serving.http.http_support import FLAGGED, ScriptedScorer, settings_in

BLOCK = """\
version: 1
rules:
  - name: confirmed-harvest
    advice: block
    when:
      decision: confirmed
      flagged: true
    enforce: true
    reviewer: R. Viewer
    reason: agreed with legal
  - name: flagged
    advice: review
    when: {flagged: true}
"""
"""Blocks what is confirmed and flagged."""
THROTTLE = BLOCK.replace("advice: block", "advice: throttle")


def policy(text: str) -> Policy:
    return read_policy(text.encode(), "policy.yaml")


def rules(*bodies: str) -> Policy:
    """A policy of rules, each given by its keys after the name, in flow style."""
    lines = [f"  - {{name: r{place}, {body}}}" for place, body in enumerate(bodies, start=1)]
    return policy("\n".join(["version: 1", "rules:", *lines]))


def faults(text: str | bytes) -> list[str]:
    data = text.encode() if isinstance(text, str) else text
    try:
        read_policy(data, "p")
    except PolicyError as error:
        return error.lines
    return []


def verdict(account: str = "a1", **changes: Any) -> Verdict:
    """A flagged account, 40 events, 4 of them truncated, two of evidence of which one matches."""
    fields: dict[str, Any] = {
        "account_id": account, "events": 40, "risk": 0.8, "peak_risk": 0.9,
        "intents": {"capability_probing": 0.1, "cot_harvesting": 0.8, "output_harvesting": 0.3},
        "flagged": True, "threshold": 0.5, "flagged_after": 12,
        "evidence": (
            Evidence("e1", "cot_harvesting", 0.9, "T1", 0.8, "prompt-canary"),
            Evidence("e2", "cot_harvesting", 0.4, None, 0.95, "prompt-canary"),
        ),
        "bundle": "0123456789ab", "truncated": 4,
    }  # fmt: skip
    return Verdict(**{**fields, **changes})


def decided(ruling: str = "confirm", state: str = "counts", account: str = "a1") -> Decision:
    fields: dict[str, Any] = {
        "id": 7, "account_id": account, "verdict": ruling, "reason": "r", "reviewer": "ann",
        "time": 1.7e9, "intents": (), "risk": None, "threshold": None, "flagged": None,
        "events": None, "bundle": None, "evidence": (), "needs_second": False, "state": state,
        "undone": None,
    }  # fmt: skip
    return Decision(**fields)


@dataclass
class Served:
    """A service with a desk, in this process."""

    client: TestClient
    desk: Desk
    scorer: ScriptedScorer
    responder: Responder

    def look(self) -> None:
        """What the service does every second."""
        assert self.client.portal is not None
        self.client.portal.call(self.responder.refresh)

    def flag(self, account: str = "a1") -> None:
        """Have an account ask for what the scripted scorer flags."""
        number = len(self.scorer.scored)
        self.scorer.update([Event(f"e{number}", account, 1.7e9, f"Show your {FLAGGED}")])

    def decide(self, ruling: Any, account: str = "a1", reviewer: str = "ann") -> Decision:
        intents = ["cot_harvesting"] if ruling == "confirm" else []
        seen = self.scorer.verdict(account)
        found = self.desk.decide(account, ruling, "seen", reviewer, seen, intents)
        self.look()
        return found

    def advice(self, account: str = "a1") -> Any:
        return self.client.get(f"/v1/accounts/{account}").json()["advice"]

    def actions(self, **query: Any) -> list[Any]:
        answer = self.client.get("/v1/actions", params=query)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["actions"])

    def undo(self, number: int, reason: str = "a customer") -> Any:
        return self.client.post(f"/v1/actions/{number}/undo", json={"reason": reason})


@contextmanager
def served(folder: Path, text: str | None = BLOCK, **settings: Any) -> Iterator[Served]:
    """The service; its policy is `policy.yaml` in the folder, if there is any."""
    scorer = ScriptedScorer()
    if text is not None:
        (folder / "policy.yaml").write_text(text)
        settings["policy"] = folder / "policy.yaml"
    two_person = settings.get("desk_two_person", False)
    with opened(folder / "archive") as archive:
        made = settings_in(folder, desk_folder=folder / "desk", **settings)
        workplace = Workplace.open(folder / "desk", archive, two_person=two_person)
        app = create_app(made, scorer, workplace)
        with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
            yield Served(client, workplace.desk, scorer, app.state.service.responder)
