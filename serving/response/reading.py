"""A policy's file: what may stand in it, and everything that is wrong with one at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import cast

from stillwatch.serving.desk.names import MAX_NAME_CHARS, MAX_REASON_CHARS
from stillwatch.serving.response.advice import (
    ACTIONS,
    NO_RULE,
    REJECTED_ACCOUNT,
    RULED,
    TOUCHING,
    Action,
    Ruled,
)
from stillwatch.serving.response.conditions import (
    AnyIntent,
    AnyLink,
    AtLeast,
    AtMost,
    CampaignAtLeast,
    Condition,
    DecisionIs,
    EvidenceAtLeast,
    Flagged,
)
from stillwatch.serving.response.nodes import Faults, Node, parse, source_of
from stillwatch.serving.response.policy import MAX_BYTES, Policy, PolicyError, Rule, Scope
from stillwatch.serving.state import EVIDENCE_KEPT
from stillwatch.serving.verdict import clip

VERSION = 1
MAX_RULES = 200
MAX_TEXT_CHARS = 2000
"""Of a rule, as it is shown and kept."""
LIKELY = 0.5
"""The probability that an intent has to have if the rule names none."""
_KEYS = ("name", "advice", "scope", "when", "enforce", "reviewer", "reason")
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
_MANY = 1e9

Reader = Callable[[Node], Condition | None]


def read_policy(data: bytes, name: str) -> Policy:
    """The policy in a file's bytes; `name` is what messages call the file. Raises PolicyError."""
    faults = Faults(name)
    if len(data) > MAX_BYTES:
        faults.add(1, f"the policy must have at most {MAX_BYTES} bytes, however: it has more")
        raise PolicyError(faults.lines())
    root = parse(data, faults)
    rules = _rules(root, data.decode()) if root is not None else []
    if faults.found:
        raise PolicyError(faults.lines())
    return Policy(tuple(rules), hashlib.sha256(data).hexdigest(), name)


def _rules(root: Node, text: str) -> list[Rule]:
    fields = root.items()
    _check_keys(root, fields, ("version", "rules"))
    for name in ("version", "rules"):
        if name not in fields:
            root.fault(f"the policy must have {name}, however: it is missing; add it")
    if "version" in fields:
        fields["version"].number(VERSION, VERSION, whole=True)
    nodes = fields["rules"].elements() if "rules" in fields else []
    if len(nodes) > MAX_RULES:
        root.fault(f"a policy must have at most {MAX_RULES} rules, however: it has more")
        return []
    found: list[Rule] = []
    for number, node in enumerate(nodes, start=1):
        node.rule = str(number)
        rule = _rule(node, text)
        if rule is None:
            continue
        if any(rule.name == other.name for other in found):
            node.fault("name must be this rule's alone, however: another rule has it; rename one")
        found.append(rule)
    return found


def _rule(node: Node, text: str) -> Rule | None:
    node.key = "a rule"
    fields = node.items()
    if not fields:
        return None
    if "name" in fields:
        name = fields["name"].text(_NAME, 64)
        node.rule = name or node.rule
        for field in fields.values():
            field.rule = node.rule
        if name in (NO_RULE, REJECTED_ACCOUNT):
            fields["name"].fault(f"name must not be {name}, however: it is; that is built in")
    _check_keys(node, fields, _KEYS)
    for needed in ("name", "advice", "when"):
        if needed not in fields:
            node.fault(f"a rule must have {needed}, however: it is missing; add it")
    advice = fields["advice"].choice(ACTIONS) if "advice" in fields else None
    scope = fields["scope"].choice(("account", "campaign")) if "scope" in fields else "account"
    enforce = fields["enforce"].flag() if "enforce" in fields else False
    reviewer = fields["reviewer"].text(most=MAX_NAME_CHARS) if "reviewer" in fields else None
    reason = fields["reason"].text(most=MAX_REASON_CHARS) if "reason" in fields else None
    when = _when(fields["when"], scope or "account") if "when" in fields else ()
    made = Rule(
        node.rule, cast(Action, advice or "observe"), cast(Scope, scope or "account"), when,
        bool(enforce), reviewer, reason, node.line, clip(source_of(node, text), MAX_TEXT_CHARS),
    )  # fmt: skip
    _check_meaning(node, fields, made)
    return made


def _check_meaning(node: Node, fields: Mapping[str, Node], rule: Rule) -> None:
    """What no single key can say: who stands for what is enforced, and on what it rests."""
    if DecisionIs("rejected") in rule.when and rule.advice != "observe":
        node.fault(
            f"advice must be observe for rejected accounts, however: {rule.advice}; they are never "
            "advised above it"
        )
    if not rule.enforce:
        return
    if rule.advice not in TOUCHING and "advice" in fields:
        fields["enforce"].fault(
            f"enforce must stand beside throttle, challenge or block, however: {rule.advice} asks "
            "nothing of a customer; remove it"
        )
    for name in ("reviewer", "reason"):
        if name not in fields:
            fields["enforce"].fault(
                f"enforce must have a {name} beside it, however: it is missing; say who stands "
                "for it and why"
            )
    if rule.advice in TOUCHING and not rule.needs_confirmation:
        fields["enforce"].fault(
            f"enforced {rule.advice} must ask for decision: confirmed, however: it would rest on a "
            "score alone; add the condition or remove enforce"
        )


def _when(node: Node, scope: str) -> tuple[Condition, ...]:
    readers = _ACCOUNT if scope == "account" else _CAMPAIGN
    fields = node.items()
    if not fields and node.raw.id == "mapping":
        node.fault("when must hold a condition, however: it holds none; add one")
    found = []
    for name, value in fields.items():
        if name not in readers:
            other = " of campaign rules" if name in _CAMPAIGN else " of account rules"
            known = name in _CAMPAIGN or name in _ACCOUNT
            value.fault(
                f"{name} must be a condition of {scope} rules, however: it is "
                f"{f'one{other}' if known else 'unknown'}; they have {', '.join(readers)}"
            )
            continue
        condition = readers[name](value)
        if condition is not None:
            found.append(condition)
    return tuple(found)


def _check_keys(node: Node, fields: Mapping[str, Node], known: tuple[str, ...]) -> None:
    for name, value in fields.items():
        if name not in known:
            value.fault(
                f"{name} must be a known key, however: it is not; {node.key} has {', '.join(known)}"
            )


def _least(name: str, most: float, whole: bool = False) -> Reader:
    def read(node: Node) -> Condition | None:
        limit = node.number(0, most, whole)
        return AtLeast(name, limit) if limit is not None else None

    return read


def _most(name: str, most: float) -> Reader:
    def read(node: Node) -> Condition | None:
        limit = node.number(0, most)
        return AtMost(name, limit) if limit is not None else None

    return read


def _campaign_least(name: str, least: float, most: float, whole: bool) -> Reader:
    def read(node: Node) -> Condition | None:
        limit = node.number(least, most, whole)
        return CampaignAtLeast(name, limit) if limit is not None else None

    return read


def _flagged(node: Node) -> Condition | None:
    wanted = node.flag()
    return Flagged(wanted) if wanted is not None else None


def _decision(node: Node) -> Condition | None:
    wanted = node.choice(RULED)
    return DecisionIs(cast(Ruled, wanted)) if wanted is not None else None


def _counted(what: str) -> Reader:
    """{at_least: 3, contribution: 0.8} or, of matches, {at_least: 2, similarity: 0.85}."""

    def read(node: Node) -> Condition | None:
        fields = node.items()
        _check_keys(node, fields, ("at_least", what))
        values: dict[str, float | None] = {}
        for name, least, most in (("at_least", 1.0, float(EVIDENCE_KEPT)), (what, 0.0, 1.0)):
            if name in fields:
                values[name] = fields[name].number(least, most, name == "at_least")
            elif fields:
                node.fault(f"{node.key} must have {name}, however: it is missing; add it")
        count, limit = values.get("at_least"), values.get(what)
        if count is None or limit is None:
            return None
        if what == "contribution":
            return EvidenceAtLeast(int(count), contribution=limit)
        return EvidenceAtLeast(int(count), similarity=limit)

    return read


def _intents(node: Node) -> Condition | None:
    """A list of intents, or {any_of: [...], at_least: 0.7}."""
    if node.raw.id != "mapping":
        names = node.texts()
        return AnyIntent(names, LIKELY) if names else None
    fields = node.items()
    _check_keys(node, fields, ("any_of", "at_least"))
    if "any_of" not in fields:
        node.fault("intents must have any_of, however: it is missing; name the intents")
        return None
    names = fields["any_of"].texts()
    limit = fields["at_least"].number(0, 1) if "at_least" in fields else LIKELY
    return AnyIntent(names, limit) if names and limit is not None else None


def _links(node: Node) -> Condition | None:
    kinds = node.texts()
    return AnyLink(kinds) if kinds else None


_SHARED: Mapping[str, Reader] = {"flagged": _flagged, "intents": _intents, "decision": _decision}
_ACCOUNT: Mapping[str, Reader] = {
    **_SHARED,
    "risk_at_least": _least("risk", 1),
    "peak_risk_at_least": _least("peak_risk", 1),
    "margin_at_least": _least("margin", 1),
    "events_at_least": _least("events", _MANY, whole=True),
    "truncated_at_most": _most("truncated", 1),
    "evidence": _counted("contribution"),
    "matches": _counted("similarity"),
}
_CAMPAIGN: Mapping[str, Reader] = {
    **_SHARED,
    "risk_at_least": _campaign_least("risk", 0, 1, False),
    "accounts_at_least": _campaign_least("accounts", 1, _MANY, True),
    "confirmed_accounts_at_least": _campaign_least("confirmed accounts", 1, _MANY, True),
    "links": _links,
}
