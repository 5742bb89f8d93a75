"""A service's policy at work: advice on every verdict, and what it enforces.

Advice is read from memory. What is enforced is looked over in the background: a block stands while
a reviewer's confirmation stands behind it, and the policy, and until somebody undoes it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

from stillwatch.data.errors import ConfigError
from stillwatch.serving.desk import Decision, Desk
from stillwatch.serving.http.logs import fault_fields, get_logger
from stillwatch.serving.response.advice import NO_RULE, RANK, Advice, Campaign, Case, ruled
from stillwatch.serving.response.campaigns import Campaigns
from stillwatch.serving.response.ledger import ACTOR, Applied, Ledger
from stillwatch.serving.response.policy import Policy, PolicyFile
from stillwatch.serving.verdict import Verdict

T = TypeVar("T")

LOOK_S = 1.0
"""Between two looks at what was decided, undone, or changed in the policy."""
SWEEP_S = 30.0
"""Between two looks at the risk of accounts that are confirmed."""
CHUNK = 50
"""Verdicts that are asked for in one turn of the scorer's thread."""
_DECIDING = ("account.decided", "decision.undone", "template.revoked", "log.accepted")
"""Entries of the audit log after which decisions may be others."""


class Asks(Protocol):
    """What is needed of the gate."""

    async def call(self, function: Callable[[], T]) -> T:
        """Run something in the scorer's thread."""


class Responder:
    """One service's policy and ledger. Either may be missing: without a policy nothing is advised
    and nothing enforced, without a desk no rule that asks for a decision fits."""

    def __init__(
        self, policy: str | Path | None, desk: Desk | None, folder: Path | None, scorer: Any,
        gate: Asks,
    ) -> None:  # fmt: skip
        """Raises PolicyError, and ConfigError for a policy that enforces without a desk. `scorer`
        has `verdict(account_id)`, asked in the gate's thread."""
        self._file = PolicyFile(policy) if policy is not None else None
        self._desk = desk
        self.ledger = Ledger(desk, folder) if desk is not None and folder is not None else None
        if self._file is not None and self._file.current.enforces and self.ledger is None:
            raise ConfigError(
                "a policy that enforces must have a desk, however: desk_folder is not set; set it, "
                "or leave enforce out of the rules"
            )
        self._scorer = scorer
        self._gate = gate
        self._decisions: Mapping[str, Decision] | None = None if desk is not None else {}
        self._found: Sequence[Campaign] = ()
        self._campaigns = Campaigns(())
        self._standing: Mapping[str, Applied] = {}
        self._swept_at = -float("inf")
        self._fault = ""
        self._refreshing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @property
    def policy(self) -> Policy | None:
        """The policy in use, None if the site has none."""
        return self._file.current if self._file is not None else None

    def advise(self, verdict: Verdict) -> Advice | None:
        """What the policy says of an account now; None without a policy. From memory."""
        policy = self.policy
        if policy is None:
            return None
        if self._decisions is None:
            # It may be one that a reviewer has rejected.
            return policy.observe(NO_RULE, "what reviewers decided is not known yet")
        return policy.advise(self._case(verdict, self._decisions.get(verdict.account_id)))

    def know(self, campaigns: Sequence[Campaign]) -> None:
        """Judge accounts as members of these campaigns from now on. In any thread."""
        self._found = campaigns
        self._campaigns = Campaigns(campaigns, self._decisions)

    def standing(self, account_id: str) -> Applied | None:
        """What is enforced on an account now. From memory."""
        return self._standing.get(account_id)

    def blocks(self, account_id: str) -> bool:
        """Whether the account is to be refused now. From memory."""
        found = self._standing.get(account_id)
        return found is not None and found.action == "block"

    @property
    def blocked(self) -> int:
        """Accounts that are to be refused now."""
        return sum(one.action == "block" for one in self._standing.values())

    async def start(self) -> None:
        """Look, before requests are taken, and again every now and then. A desk that cannot be
        used keeps nobody from being scored."""
        if self._file is None and self.ledger is None:
            return
        await self.try_refresh()
        self._task = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def try_refresh(self) -> None:
        """As `refresh`; what fails is logged once and done at the next look. What stood before
        stands until then."""
        try:
            await self.refresh()
            self._fault = ""
        except Exception as error:
            fields = fault_fields(error)
            if self._fault != str(fields):
                self._fault = str(fields)
                get_logger().error("what the policy enforces was not looked over", **fields)

    async def refresh(self) -> None:
        """Take over what has changed, enforce what is due, and take back what nothing stands
        behind any more."""
        async with self._refreshing:
            # In threads, all of it: the ledger may have to wait for another process.
            if await asyncio.to_thread(self._look):
                self._swept_at = -float("inf")
            policy, ledger = self.policy, self.ledger
            if policy is None or ledger is None:
                return
            await asyncio.to_thread(self._take_back, policy)
            # Before the scorer is asked, which may be down: nobody waits for it to be let in.
            self._standing = await asyncio.to_thread(ledger.active)
            if policy.enforces and time.monotonic() - self._swept_at >= SWEEP_S:
                verdicts = await self._ask(await asyncio.to_thread(self._candidates, policy))
                await asyncio.to_thread(self._enforce, policy, verdicts)
                self._swept_at = time.monotonic()
                self._standing = await asyncio.to_thread(ledger.active)

    def _look(self) -> bool:
        """Whether policy or decisions changed."""
        changed = self._file is not None and self._file.refresh()
        if changed and self._file is not None:
            _tell_policy(self._file, self.ledger is not None)
        if self.ledger is None or self._desk is None:
            return changed
        actions = self.ledger.refresh()
        if self._decisions is None or actions.intersection(_DECIDING):
            self._decisions = self._desk.all_present()
            self._campaigns = Campaigns(self._found, self._decisions)
            changed = True
        return changed

    def _take_back(self, policy: Policy) -> None:
        """Undo what the policy does not say any more, and what its decision no longer carries."""
        assert self.ledger is not None
        for account, first in self.ledger.active().items():
            standing: Applied | None = first
            # What stood before may have lost its ground too.
            while standing is not None and (why := self._groundless(policy, account, standing)):
                self.ledger.undo(standing.id, ACTOR, why, automatic=True)
                get_logger().info("an action was taken back", action=standing.action)
                standing = self.ledger.standing(account)

    def _groundless(self, policy: Policy, account: str, standing: Applied) -> str | None:
        if ruled((self._decisions or {}).get(account)) != "confirmed":
            return "the account is not confirmed any more"
        if not policy.still_enforces(standing.rule, standing.action):
            return "the policy does not say so any more"
        return None

    def _candidates(self, policy: Policy) -> list[str]:
        """Accounts on which something may be due: confirmed, and not under the hardest already."""
        assert self.ledger is not None
        hardest = max((RANK[rule.advice] for rule in policy.rules if rule.enforce), default=0)
        return [
            account
            for account, decision in (self._decisions or {}).items()
            if ruled(decision) == "confirmed"
            and ((now := self.ledger.standing(account)) is None or RANK[now.action] < hardest)
        ]

    async def _ask(self, accounts: Iterable[str]) -> list[Verdict]:
        left = iter(accounts)
        found: list[Verdict] = []
        while chunk := list(islice(left, CHUNK)):
            found += await self._gate.call(lambda names=chunk: _verdicts(self._scorer, names))  # type: ignore[misc]
        return found

    def _enforce(self, policy: Policy, verdicts: Sequence[Verdict]) -> None:
        assert self.ledger is not None
        for verdict in verdicts:
            decision = (self._decisions or {}).get(verdict.account_id)
            advice = policy.advise(self._case(verdict, decision))
            if decision is None or not self.ledger.is_due(advice, verdict.account_id, decision):
                continue
            applied = self.ledger.apply(advice, verdict, decision)
            if applied is not None:
                get_logger().info("an action was enforced", action=applied.action)

    def _case(self, verdict: Verdict, decision: Decision | None) -> Case:
        return Case(verdict, decision, self._campaigns.of(verdict.account_id))

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await self.try_refresh()


def _verdicts(scorer: Any, names: Sequence[str]) -> list[Verdict]:
    found = []
    for name in names:
        try:
            found.append(scorer.verdict(name))
        except KeyError:
            # Erased since, or never seen by this store.
            continue
    return found


def _tell_policy(file: PolicyFile, has_desk: bool) -> None:
    if file.faults:
        # They are ours, and hold no value of the file.
        get_logger().error("the policy was refused, the old one stays", reasons=list(file.faults))
        return
    get_logger().info("the policy was read", rules=len(file.current.rules))
    if file.current.enforces and not has_desk:
        get_logger().error("the policy enforces nothing: there is no desk")
