"""What reviewers say of a campaign's accounts: each belongs to it and attacks, or does not belong.

A confirmation is a decision on the account, as any other, and so becomes a label; an exclusion
takes the account out of this campaign alone and says nothing of the account. Both are entries of
the audit log.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from stillwatch.data.errors import InputError
from stillwatch.serving.campaigns.records import MemberRuling, Stored, Summary
from stillwatch.serving.campaigns.store import CampaignStore
from stillwatch.serving.desk import Desk, Refused
from stillwatch.serving.desk.decisions import Expected
from stillwatch.serving.desk.names import check_name, check_reason
from stillwatch.serving.verdict import DIGITS, Verdict

CONFIRMED, EXCLUDED, UNDONE = "campaign.confirmed", "campaign.excluded", "campaign.undone"
LIKELY = 0.5
"""Intents of at least this probability are what a campaign is after, or else the likeliest one."""


class Rulings:
    """Safe to share between threads. Every method raises StoreError, AuditError if the audit log
    is not what its anchor says, and InputError for a name or reason that is none."""

    def __init__(self, desk: Desk, store: CampaignStore) -> None:
        self._desk = desk
        self._store = store

    def exclude(
        self, campaign_id: str, account_id: str, reason: str, reviewer: str
    ) -> MemberRuling:
        """Take an account out of a campaign, in later runs too. KeyError, Refused."""
        stored = self._with_member(campaign_id, account_id)
        if account_id in stored.excluded:
            raise Refused("an account must be in a campaign to be taken out, however: it is out")
        reason = check_reason(reason)
        fields = {**_figures(stored.summary), "account_id": account_id, "reason": reason}
        entry = self._desk.record(EXCLUDED, reviewer, fields)
        self._store.rule(
            entry.number, campaign_id, account_id, "excluded", reason, entry.actor, entry.time, None
        )
        return self._store.ruling(entry.number, account_id)

    def confirm(
        self, campaign_id: str, account_id: str, reason: str, reviewer: str,
        seen: Verdict | None, intents: Sequence[str] = (), expected: Expected = "any",
    ) -> MemberRuling:  # fmt: skip
        """Confirm that an account belongs to a campaign and attacks. `seen` is its verdict as it
        stands, if there is one; `intents` are what it is after, left out those of the campaign;
        `expected` as in Desk.decide. KeyError, Refused for one that was taken out: that is to be
        undone first."""
        stored = self._with_member(campaign_id, account_id)
        if account_id in stored.excluded:
            raise Refused(
                "an account must be in a campaign to be confirmed, however: it was taken out; undo "
                "that first"
            )
        reason = check_reason(reason)
        decision = self._desk.decide(
            account_id, "confirm", reason, reviewer, seen, intents or likely(stored.summary),
            expected,
        )  # fmt: skip
        fields = {
            **_figures(stored.summary), "account_id": account_id, "decision": decision.id,
            "reason": reason,
        }  # fmt: skip
        entry = self._desk.record(CONFIRMED, reviewer, fields)
        self._store.rule(
            entry.number, campaign_id, account_id, "confirmed", reason, entry.actor, entry.time,
            decision.id,
        )  # fmt: skip
        return self._store.ruling(entry.number, account_id)

    def begin_all(
        self, campaign_id: str, reason: str, reviewer: str, seen: int | None = None
    ) -> tuple[dict[str, int | None], int]:
        """Note that a whole campaign is confirmed; the accounts to confirm one by one, with the
        id of the decision that stands on each: those that nobody took out and that are not
        confirmed by this reviewer yet. Accounts that were decided after entry `seen` of the audit
        log, the last when the reviewer looked, are left as they are; also how many. KeyError,
        Refused."""
        stored = self._store.get(campaign_id)
        present = self._desk.all_present()
        name = check_name("a reviewer", reviewer)
        left: dict[str, int | None] = {}
        late = 0
        for account in stored.members:
            decision = present.get(account)
            mine = decision is not None and (
                decision.state == "counts" or decision.reviewer == name
            )
            if decision is not None and decision.verdict == "confirm" and mine:
                continue
            if decision is not None and seen is not None and decision.id > seen:
                late += 1
                continue
            left[account] = decision.id if decision else None
        if not left:
            raise Refused(
                "a campaign must have accounts to confirm, however: "
                + (f"{late} were decided meanwhile; look again" if late else "all are confirmed")
            )
        fields = {**_figures(stored.summary), "accounts": len(left), "reason": check_reason(reason)}
        self._desk.record(CONFIRMED, name, fields)
        return left, late

    def undo(self, entry: int, account_id: str, reviewer: str, reason: str) -> MemberRuling:
        """Take a ruling back, and the decision that a confirmation made. KeyError for none that
        stands, Overtaken if the decision was followed by another."""
        ruling = self._store.ruling(entry, account_id)
        reason = check_reason(reason)
        if ruling.decision is not None:
            # Somebody may have taken it back on the account's own page.
            with suppress(Refused):
                self._desk.undo(ruling.decision, reviewer, reason)
        fields = {
            "campaign": ruling.campaign_id, "account_id": account_id, "entry": entry,
            "was": ruling.verdict, "reason": reason,
        }  # fmt: skip
        undone = self._desk.record(UNDONE, reviewer, fields)
        self._store.undo(entry, account_id, undone.number)
        return ruling

    def _with_member(self, campaign_id: str, account_id: str) -> Stored:
        stored = self._store.get(campaign_id)
        if account_id not in set(stored.accounts.values()):
            raise KeyError(account_id)
        return stored


def likely(summary: Summary) -> list[str]:
    """What a campaign is after. InputError if its bundle knows no intent."""
    found = [name for name, chance in summary.intents.items() if chance >= LIKELY]
    if not summary.intents:
        raise InputError(
            "a confirmed account must have an intent, however: the campaign has none; confirm it "
            "on its own page"
        )
    return found or [max(summary.intents, key=lambda name: summary.intents[name])]


def _figures(summary: Summary) -> dict[str, Any]:
    """What was shown of the campaign, for the log: no prompt and no account."""
    return {
        "campaign": summary.campaign_id, "risk": round(summary.risk, DIGITS),
        "threshold": round(summary.threshold, DIGITS), "flagged": summary.flagged,
        "in_campaign": summary.accounts, "events": summary.events, "bundle": summary.bundle,
        "links": dict(summary.kinds),
    }  # fmt: skip
