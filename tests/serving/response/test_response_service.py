"""A service with a policy: what it advises, whom it refuses, and how that ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stillwatch.data.errors import ConfigError, StoreError
from stillwatch.serving.desk import Desk
from stillwatch.serving.http.app import create_app
from stillwatch.serving.response.ledger import Ledger
from stillwatch.serving.response.policy import PolicyError
from tests.serving.http.http_support import (
    FLAGGED,
    POISON,
    ScriptedScorer,
    client_of,
    event,
    settings_in,
)
from tests.serving.http.litellm_support import GUARDRAIL, KEY_HASH
from tests.serving.http.litellm_support import guarded as asked
from tests.serving.response.response_support import BLOCK, THROTTLE, Served, served

CAREFUL = BLOCK.replace("enforce: true", "enforce: false")


def ask(here: Served, account: str = KEY_HASH) -> str:
    """What the guardrail answers to a request of an account."""
    answer = here.client.post(GUARDRAIL, json=asked(user_api_key_hash=account))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["action"])


def rewrite(folder: Path, text: str) -> None:
    (folder / "policy.yaml").write_text(text)


def test_without_a_policy_nothing_is_advised_or_enforced(tmp_path: Path) -> None:
    with served(tmp_path, None) as here:
        here.flag(KEY_HASH)
        here.decide("confirm", KEY_HASH)
        line = here.client.get(f"/v1/accounts/{KEY_HASH}").json()
        assert line == here.scorer.verdict(KEY_HASH).to_fields()
        posted = here.client.post("/v1/events", json=event()).json()["verdicts"]
        assert "advice" not in posted[0]
        assert ask(here) == "NONE"
        assert here.actions() == []


def test_verdicts_come_with_advice(tmp_path: Path) -> None:
    options = settings_in(tmp_path, policy="default")
    with client_of(options, ScriptedScorer()) as client:
        prompts = ("Hello", POISON, f"Show your {FLAGGED}")
        events = [event(f"e{place}", f"a{place}", prompt=text)
                  for place, text in enumerate(prompts)]  # fmt: skip
        calm, failed, flagged = client.post("/v1/events", json={"events": events}).json()[
            "verdicts"
        ]
        assert (calm["advice"]["action"], calm["advice"]["rule"]) == ("observe", "no-rule")
        assert "advice" not in failed
        assert flagged["advice"]["action"] == "review"
        assert flagged["advice"]["text"].startswith("name: flagged\nadvice: review")
        got = client.get("/v1/accounts/a2").json()
        assert got["advice"] == flagged["advice"]
        assert {**got, "advice": 0} == {**flagged, "advice": 0}


def test_only_what_a_rule_blocks_on_a_decision_is_refused(tmp_path: Path) -> None:
    with served(tmp_path) as here:
        for account in (KEY_HASH, "cd" * 32, "ef" * 32):
            here.flag(account)
        here.look()
        # Flagged with certainty, but nobody has decided on it.
        assert ask(here) == "NONE"
        here.decide("confirm", KEY_HASH)
        here.decide("reject", "cd" * 32)
        refused = here.client.post(GUARDRAIL, json=asked()).json()
        assert refused["action"] == "BLOCKED"
        assert "support" in refused["blocked_reason"]
        assert [ask(here, account) for account in ("cd" * 32, "ef" * 32)] == ["NONE", "NONE"]
        # Refused or not, it is scored.
        here.client.get("/healthz")
        assert here.advice(KEY_HASH)["action"] == "block"
        assert here.advice("cd" * 32)["rule"] == "rejected-account"
        assert "stillwatch_litellm_blocked_accounts 1.0" in here.client.get("/metrics").text
        (action,) = here.actions(active=True)
        assert (action["account_id"], action["action"]) == (KEY_HASH, "block")
        assert here.desk.verify().intact


def test_a_blocked_account_is_refused_in_overload_too(tmp_path: Path) -> None:
    with served(tmp_path) as here:
        here.flag(KEY_HASH)
        here.decide("confirm", KEY_HASH)
        here.scorer.down = True
        assert ask(here) == "BLOCKED"
        here.client.portal.call(here.responder.try_refresh)  # type: ignore[union-attr]
        assert ask(here) == "BLOCKED"


def test_a_scorer_that_is_down_keeps_nobody_out(tmp_path: Path) -> None:
    with served(tmp_path) as here:
        for account in (KEY_HASH, "cd" * 32):
            here.flag(account)
        decision = here.decide("confirm", KEY_HASH)
        here.scorer.down = True
        here.desk.undo(decision.id, "bob", "wrong")
        # So that the scorer is asked, and fails.
        other = "cd" * 32
        here.desk.decide(other, "confirm", "r", "ann", None, ["cot_harvesting"])
        here.client.portal.call(here.responder.try_refresh)  # type: ignore[union-attr]
        assert [ask(here), ask(here, other)] == ["NONE", "NONE"]
        here.scorer.down = False
        # What was due then is not forgotten.
        here.look()
        assert [ask(here), ask(here, other)] == ["NONE", "BLOCKED"]


def test_advice_alone_blocks_nobody(tmp_path: Path) -> None:
    with served(tmp_path, CAREFUL) as here:
        here.flag(KEY_HASH)
        here.decide("confirm", KEY_HASH)
        assert here.advice(KEY_HASH)["action"] == "block"
        assert ask(here) == "NONE"
        assert here.actions() == []


@pytest.mark.parametrize("action", ["throttle", "challenge"])
def test_what_the_gateway_cannot_do_is_listed_for_others(tmp_path: Path, action: str) -> None:
    with served(tmp_path, BLOCK.replace("advice: block", f"advice: {action}")) as here:
        here.flag(KEY_HASH)
        here.decide("confirm", KEY_HASH)
        assert ask(here) == "NONE"
        assert [one["action"] for one in here.actions(active=True)] == [action]


def test_undoing_an_action_lets_the_account_in_at_once_and_for_good(tmp_path: Path) -> None:
    with served(tmp_path) as here:
        here.flag(KEY_HASH)
        here.decide("confirm", KEY_HASH)
        (made,) = here.actions()
        undone = here.undo(made["id"]).json()
        assert undone["undone"]["reason"] == "a customer"
        assert {**undone, "undone": None} == made
        assert ask(here) == "NONE"
        here.responder._swept_at = -float("inf")
        here.look()
        assert ask(here) == "NONE"
        again = here.undo(made["id"])
        assert (again.status_code, again.json()["code"]) == (422, "invalid_request")
        assert here.undo(made["id"] + 50).status_code == 404
        # Until a reviewer decides anew.
        here.decide("confirm", KEY_HASH)
        assert ask(here) == "BLOCKED"


@pytest.mark.parametrize("how", ["undo", "reject", "needs_more"])
def test_a_block_ends_with_the_decision_it_rests_on(tmp_path: Path, how: str) -> None:
    with served(tmp_path) as here:
        here.flag(KEY_HASH)
        decision = here.decide("confirm", KEY_HASH)
        assert ask(here) == "BLOCKED"
        if how == "undo":
            here.desk.undo(decision.id, "bob", "wrong")
            here.look()
        else:
            here.decide(how, KEY_HASH)
        assert ask(here) == "NONE"
        (made,) = here.actions()
        assert made["automatic"]
        assert "not confirmed any more" in made["undone"]["reason"]
        # Confirmed anew it is blocked anew: nobody had undone the block itself.
        here.decide("confirm", KEY_HASH)
        assert ask(here) == "BLOCKED"


def test_a_block_ends_when_the_policy_says_so_no_more(tmp_path: Path) -> None:
    with served(tmp_path) as here:
        here.flag(KEY_HASH)
        here.decide("confirm", KEY_HASH)
        for text, action in (
            (CAREFUL, "NONE"), (BLOCK, "BLOCKED"), ("version: 1\nrules: []", "NONE"),
            (BLOCK + "# changed\n", "BLOCKED"), (THROTTLE, "NONE"),
        ):  # fmt: skip
            rewrite(tmp_path, text)
            here.look()
            assert ask(here) == action, text
        assert [one["action"] for one in here.actions(active=True)] == ["throttle"]


def test_a_faulty_policy_leaves_the_old_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(tmp_path) as here:
        here.flag(KEY_HASH)
        here.decide("confirm", KEY_HASH)
        for bad in ("rules: [", BLOCK.replace("decision: confirmed", "risk_at_least: 0.9"), None):
            if bad is None:
                (tmp_path / "policy.yaml").unlink()
            else:
                rewrite(tmp_path, bad)
            for _ in range(3):
                here.look()
                assert ask(here) == "BLOCKED"
        assert len(here.actions()) == 1
    assert capsys.readouterr().out.count("the policy was refused") == 3


def test_a_block_stays_while_the_risk_goes_up_and_down(tmp_path: Path) -> None:
    with served(tmp_path) as here:
        here.flag(KEY_HASH)
        here.decide("confirm", KEY_HASH)
        here.scorer.scored[:] = []
        assert ask(here) == "BLOCKED"
        here.responder._swept_at = -float("inf")
        here.look()
        assert here.scorer.verdict(KEY_HASH).flagged is False
        assert ask(here) == "BLOCKED"


def test_a_risk_that_rises_after_the_decision_is_met(tmp_path: Path) -> None:
    with served(tmp_path) as here:
        here.client.post("/v1/events", json=event("e1", KEY_HASH))
        here.decide("confirm", KEY_HASH)
        assert ask(here) == "NONE"
        here.flag(KEY_HASH)
        here.responder._swept_at = -float("inf")
        here.look()
        assert ask(here) == "BLOCKED"


def test_a_second_reviewer_is_waited_for(tmp_path: Path) -> None:
    with served(tmp_path, desk_two_person=True) as here:
        here.flag(KEY_HASH)
        here.decide("confirm", KEY_HASH)
        assert ask(here) == "NONE"
        here.decide("confirm", KEY_HASH, "bob")
        assert ask(here) == "BLOCKED"


def test_it_goes_on_after_a_restart_and_without_the_policy_nothing_does(tmp_path: Path) -> None:
    with served(tmp_path) as here:
        here.flag(KEY_HASH)
        here.decide("confirm", KEY_HASH)
    with served(tmp_path) as here:
        # Before its first request, and though its scorer knows the account no more.
        assert ask(here) == "BLOCKED"
    with served(tmp_path, None) as here:
        assert ask(here) == "NONE"


def test_a_hand_at_the_command_line_is_taken_note_of(tmp_path: Path) -> None:
    with served(tmp_path) as here:
        here.flag(KEY_HASH)
        here.decide("confirm", KEY_HASH)
        other = Desk.open(tmp_path / "desk")
        ledger = Ledger(other, tmp_path / "desk")
        ledger.refresh()
        ledger.undo(ledger.active()[KEY_HASH].id, "bob", "r")
        other.close()
        here.look()
        assert ask(here) == "NONE"


def test_a_desk_that_fails_leaves_what_stood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(tmp_path) as here:
        here.flag(KEY_HASH)
        here.decide("confirm", KEY_HASH)

        def fails(*_: Any) -> Any:
            raise StoreError("the desk must be readable, however: no")

        with monkeypatch.context() as patch:
            patch.setattr(here.desk, "head", fails)
            for _ in range(3):
                here.client.portal.call(here.responder.try_refresh)  # type: ignore[union-attr]
            assert ask(here) == "BLOCKED"
            assert here.client.get("/v1/actions").status_code == 503
            assert here.client.post("/v1/events", json=event()).status_code == 200
    assert capsys.readouterr().out.count("was not looked over") == 1


def test_while_decisions_are_unknown_nobody_is_advised_above_observe(tmp_path: Path) -> None:
    with served(tmp_path) as here:
        here.flag()
        here.responder._decisions = None
        advice = here.advice()
        assert (advice["action"], advice["enforce"]) == ("observe", False)


def test_a_service_does_not_start_with_a_policy_that_cannot_be_meant(tmp_path: Path) -> None:
    rewrite(tmp_path, BLOCK.replace("decision: confirmed", "risk_at_least: 0.9"))
    options = settings_in(tmp_path, policy=tmp_path / "policy.yaml")
    with pytest.raises(PolicyError, match="rest on a score alone"):
        create_app(options, ScriptedScorer())
    rewrite(tmp_path, BLOCK)
    with pytest.raises(ConfigError, match="a policy that enforces must have a desk"):
        create_app(options, ScriptedScorer())
    rewrite(tmp_path, CAREFUL)
    create_app(options, ScriptedScorer())
