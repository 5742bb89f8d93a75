"""`stillwatch policy`: checking, dry runs, what was enforced and its undoing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from stillwatch.data.events import DEFAULT_INTENTS, Event
from stillwatch.serving.cli import app
from stillwatch.serving.commands import intake
from stillwatch.serving.response.ledger import Ledger
from stillwatch.serving.verdict import Evidence, Verdict, excerpt
from tests.serving.desk.desk_support import desk_in
from tests.serving.fake_scorer import FakeScorer
from tests.serving.response.response_support import BLOCK, THROTTLE, policy, verdict
from tests.serving.response.test_ledger import confirm, enforce

CANARY = "canary-5b1d"


@dataclass
class Judge(FakeScorer):
    """Gives a verdict after each event: the share of an account's prompts that say reasoning."""

    intents: tuple[str, ...] = DEFAULT_INTENTS

    def update(self, events: Iterable[Event]) -> list[Verdict]:
        found = []
        for event in events:
            own = self.events.setdefault(event.account_id, [])
            own.append(event)
            strong = [one for one in own if "reasoning" in one.prompt]
            risk = len(strong) / len(own)
            evidence = tuple(
                Evidence(one.event_id, "cot_harvesting", 0.9, "T1", 0.8, excerpt(one.prompt))
                for one in strong[:5]
            )
            found.append(Verdict(
                event.account_id, len(own), risk, risk, {"cot_harvesting": risk}, risk >= 0.5, 0.5,
                None, evidence, self.bundle_id,
            ))  # fmt: skip
        return found


@pytest.fixture(autouse=True)
def judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "load_scorer", lambda *_, **__: Judge())


def line(account: str, number: int, strong: bool) -> str:
    prompt = f"Show your reasoning {CANARY}" if strong else f"Where is my parcel? {CANARY}"
    return json.dumps({
        "event_id": f"{account}-{number}", "account_id": account, "timestamp": 1.7e9 + number,
        "prompt": prompt,
    })  # fmt: skip


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """harvester is flagged from its first event, waverer for one event only, others never."""
    lines = [line("harvester", number, True) for number in range(6)]
    lines += [line("waverer", number, number == 1) for number in range(4)]
    lines += [line(f"calm{account}", number, False) for account in range(2) for number in range(5)]
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def run(*argv: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in argv])


def ok(*argv: object) -> str:
    result = run(*argv)
    assert result.exit_code == 0, result.output
    assert CANARY not in result.output
    return result.stdout


def cells(shown: str, start: str) -> list[str]:
    """The cells of the first row that begins so."""
    return next(row.split() for row in shown.splitlines() if row.startswith(start))


def test_a_policy_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(BLOCK)
    shown = ok("policy", "check", path)
    row = cells(shown, "3 ")
    assert row == ["3", "confirmed-harvest", "account", "block", "by", "R.", "Viewer"]
    assert f"2 rules, 1 enforced; SHA-256 {policy(BLOCK).sha256}" in shown
    assert "1 rules, 0 enforced" in ok("policy", "check", "default")


def test_every_fault_is_a_line_and_the_end_is_2(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(BLOCK.replace("decision: confirmed", "risk: 1").replace("flagged}", "maybe}"))
    for argv in (["check", path], ["dry-run", path, "--policy", path]):
        result = run("policy", *argv)
        assert result.exit_code == 2
        assert not result.stdout
        told = result.stderr.splitlines()
        assert len(told) == 2
        assert told[0].startswith("stillwatch: policy.yaml, line 6: rule confirmed-harvest: risk")
        assert told[1].startswith("stillwatch: policy.yaml, line 8: rule confirmed-harvest: enfor")
    assert "readable file" in run("policy", "check", tmp_path / "none").stderr


def test_a_dry_run_counts_by_advice_and_rule(log: Path, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("""\
version: 1
rules:
  - {name: sure, advice: block, when: {risk_at_least: 0.9, events_at_least: 3}}
  - {name: flagged, advice: review, when: {flagged: true}}
""")
    result = run("policy", "dry-run", log, "--policy", path)
    assert result.exit_code == 0, result.output
    shown = result.stdout
    # advice, rule, enforced, accounts, share, events from then on, still so at the end
    assert cells(shown, "block") == ["block", "sure", "no", "1", "25.00%", "4", "1"]
    # Flagged for one event only, and touched all the same.
    assert cells(shown, "review") == ["review", "flagged", "no", "1", "25.00%", "3", "0"]
    assert cells(shown, "observe") == ["observe", "no-rule", "no", "2", "50.00%", "10", "2"]
    assert "4 accounts with 20 events; 0 lines rejected; nothing was enforced" in result.stderr
    assert "harvester" not in shown


def test_a_dry_run_without_a_policy_is_of_the_packages_own(log: Path) -> None:
    shown = ok("policy", "dry-run", log, "--accounts")
    assert cells(shown, "review")[:4] == ["review", "flagged", "no", "2"]
    row = next(row for row in shown.splitlines() if row.startswith("waverer"))
    assert row.split()[:6] == ["waverer", "review", "flagged", "(line", "4)", "2"]
    assert row.rstrip().endswith("flagged")
    assert "calm0" not in shown


def test_labels_say_how_many_of_the_touched_are_ordinary(log: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.jsonl"
    known = [
        {"account_id": "waverer", "intents": []},
        {"account_id": "calm0", "intents": []},
        {"campaign_id": "c1", "accounts": ["harvester"], "intents": ["cot_harvesting"]},
    ]
    labels.write_text("".join(json.dumps(one) + "\n" for one in known))
    shown = ok("policy", "dry-run", log, "--labels", labels, "--accounts")
    assert cells(shown, "review")[-3:] == ["1", "1", "0"]
    assert cells(shown, "observe")[-3:] == ["1", "0", "1"]
    assert "throttle, challenge or block: 0 of 2 ordinary accounts (0.00%; 95%" in shown
    # Clopper-Pearson for 1 of 2.
    assert "any of these or review: 1 of 2 ordinary accounts" in shown
    assert "(50.00%; 95% interval 1.26% to 98.74%)" in shown
    assert "attacking" in next(row for row in shown.splitlines() if row.startswith("harvester"))
    labels.write_text('{"account_id": "x", "intents": ["theft"]}\n')
    assert run("policy", "dry-run", log, "--labels", labels).exit_code == 2


NEIGHBOURS = """\
  - name: neighbours
    advice: review
    scope: campaign
    when: {confirmed_accounts_at_least: 1, links: payment}
"""


def test_decisions_and_campaigns_count(log: Path, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(BLOCK + NEIGHBOURS)
    campaigns = tmp_path / "campaigns.jsonl"
    campaigns.write_text(json.dumps({
        "campaign_id": "c-9", "accounts": ["harvester", "calm1"], "risk": 0.9,
        "intents": {"cot_harvesting": 0.9}, "flagged": True,
        "links": [{"kind": "payment", "accounts": ["harvester", "calm1"], "detail": "same"}],
        "first_seen": "x", "last_seen": "y", "bundle": "b",
    }))  # fmt: skip
    with desk_in(tmp_path / "desk") as desk:
        desk.decide("harvester", "confirm", "r", "ann", verdict("harvester"))
        desk.decide("waverer", "reject", "r", "ann", verdict("waverer"))
    plain = run("policy", "dry-run", log, "--policy", path)
    assert "without --desk nobody counts as confirmed" in plain.stderr
    assert "without --campaigns no campaign rule fits" in plain.stderr
    assert "block" not in plain.stdout
    options = ("--desk", tmp_path / "desk", "--campaigns", campaigns, "--accounts")
    result = run("policy", "dry-run", log, "--policy", path, *options)
    assert result.exit_code == 0, result.output
    assert "without" not in result.stderr
    assert cells(result.stdout, "block")[:4] == ["block", "confirmed-harvest", "yes", "1"]
    assert cells(result.stdout, "review")[:4] == ["review", "neighbours", "no", "1"]
    assert "campaign c-9" in next(
        row for row in result.stdout.splitlines() if row.startswith("calm1")
    )
    assert "rejected-account" in result.stdout
    # It was only looked.
    with desk_in(tmp_path / "desk") as desk:
        assert desk.head().count == 3
    for bad in ("{}", '{"campaign_id": 5}', "[", json.dumps({"campaign_id": "c", "accounts": []})):
        campaigns.write_text(bad)
        result = run("policy", "dry-run", log, "--policy", path, *options)
        assert result.exit_code == 2
        assert "line 1" in result.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A desk with a throttle behind a block."""
    with desk_in(tmp_path / "desk") as desk:
        ledger = Ledger(desk, tmp_path / "desk")
        decision = confirm(desk, "a1\x1b[2J")
        assert enforce(ledger, decision, THROTTLE)
        assert enforce(ledger, decision)
    return tmp_path / "desk"


def test_actions_are_listed_and_undone(folder: Path) -> None:
    shown = ok("policy", "actions", "--desk", folder)
    assert "\x1b" not in shown
    assert "2 actions, 1 stand" in shown
    assert "stands behind a later one" in shown
    (active,) = ok("policy", "actions", "--desk", folder, "--active", "--json").splitlines()
    made = json.loads(active)
    assert made["action"] == "block"
    options = ("--desk", folder, "--reviewer", "bob", "--reason", "a customer")
    assert "throttle of 3 stands again" in ok("policy", "undo", made["id"], *options)
    assert "undone by bob: a customer" in ok("policy", "actions", "--desk", folder)
    assert run("policy", "undo", made["id"], *options).exit_code == 2
    assert "nothing is enforced on it" in ok("policy", "undo", 3, *options)
    assert "2 actions, 0 stand" in ok("policy", "actions", "--desk", folder)
    assert "0 actions" in ok("policy", "actions", "--desk", folder, "--account", "a1")
    result = run("policy", "undo", 99, *options)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "ID must be that of an action" in result.stderr
    with desk_in(folder) as desk:
        assert desk.verify().intact


def test_a_wrong_folder_is_one_line(tmp_path: Path) -> None:
    for argv in (["actions"], ["undo", 1, "--reason", "r"]):
        result = run("policy", *argv, "--desk", tmp_path)
        assert result.exit_code == 2
        assert "holds no desk.sqlite" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["check", "dry-run", "actions", "undo"])
def test_help_has_an_example(command: str) -> None:
    shown = ok("policy", command, "--help")
    assert f"Example: stillwatch policy {command}" in " ".join(shown.split())
