"""What a policy says of a case, and what may not stand in one."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillwatch.data.errors import ConfigError
from stillwatch.serving.response.advice import ACTIONS, Campaign, Case
from stillwatch.serving.response.policy import PolicyError, PolicyFile, load_policy, named_policy
from stillwatch.serving.response.reading import read_policy
from tests.serving.response.response_support import BLOCK, decided, faults, policy, rules, verdict

CAMPAIGN = Campaign(
    "c1", ("a1", "a2", "a3"), 0.9, {"output_harvesting": 0.7}, True, frozenset({"payment"})
)


def advised(when: str, case: Case, extra: str = "") -> str:
    """What a rule of one condition makes of a case."""
    return rules(f"advice: block, when: {{{when}}}{extra}").advise(case).action


@pytest.mark.parametrize(
    ("fits", "does_not"),
    [
        ("flagged: true", "flagged: false"),
        ("risk_at_least: 0.8", "risk_at_least: 0.81"),
        ("peak_risk_at_least: 0.9", "peak_risk_at_least: 0.91"),
        ("margin_at_least: 0.3", "margin_at_least: 0.31"),
        ("events_at_least: 40", "events_at_least: 41"),
        ("truncated_at_most: 0.1", "truncated_at_most: 0.09"),
        ("evidence: {at_least: 2, contribution: 0.4}",
         "evidence: {at_least: 2, contribution: 0.41}"),
        ("evidence: {at_least: 1, contribution: 0.9}",
         "evidence: {at_least: 1, contribution: 0.91}"),
        # The nearer one has no template any more, so it is no match.
        ("matches: {at_least: 1, similarity: 0.8}", "matches: {at_least: 1, similarity: 0.81}"),
        ("matches: {at_least: 1, similarity: 0.5}", "matches: {at_least: 2, similarity: 0.5}"),
        ("intents: [cot_harvesting]", "intents: [output_harvesting]"),
        ("intents: cot_harvesting", "intents: unknown"),
        ("intents: {any_of: [output_harvesting], at_least: 0.3}",
         "intents: {any_of: [output_harvesting], at_least: 0.31}"),
        ("decision: none", "decision: confirmed"),
        ("flagged: true, risk_at_least: 0.8", "flagged: true, risk_at_least: 0.9"),
    ],
)  # fmt: skip
def test_a_condition_holds_up_to_its_limit(fits: str, does_not: str) -> None:
    case = Case(verdict())
    assert advised(fits, case) == "block"
    assert advised(does_not, case) == "observe"


@pytest.mark.parametrize(
    ("fits", "does_not"),
    [
        ("risk_at_least: 0.9", "risk_at_least: 0.91"),
        ("accounts_at_least: 3", "accounts_at_least: 4"),
        ("confirmed_accounts_at_least: 2", "confirmed_accounts_at_least: 3"),
        ("links: [network, payment]", "links: [network]"),
        # The campaign's, not the account's.
        ("intents: [output_harvesting]", "intents: [cot_harvesting]"),
        ("flagged: true", "flagged: false"),
        ("decision: none", "decision: confirmed"),
    ],
)
def test_a_campaign_rule_judges_campaigns(fits: str, does_not: str) -> None:
    other = replace(CAMPAIGN, id="c0", flagged=True, risk=0.0, links=frozenset(), intents={},
                    accounts=("a1",))  # fmt: skip
    case = Case(verdict(), None, ((other, 0), (CAMPAIGN, 2)))
    scope = ", scope: campaign"
    assert advised(fits, case, scope) == "block"
    assert advised(does_not, case, scope) == "observe"
    # One campaign has to fit as a whole.
    assert advised("accounts_at_least: 3, flagged: true", case, scope) == "block"
    assert advised(fits, Case(verdict()), scope) == "observe"


def test_the_first_rule_that_fits_gives_the_advice() -> None:
    found = rules(
        "advice: challenge, when: {risk_at_least: 0.9}",
        "advice: throttle, when: {risk_at_least: 0.7}",
        "advice: block, when: {risk_at_least: 0.5}",
    )
    advice = found.advise(Case(verdict()))
    assert (advice.action, advice.rule, advice.line) == ("throttle", "r2", 4)
    assert advice.because == ("risk 0.8 >= 0.7",)
    assert found.advise(Case(verdict(risk=0.6))).rule == "r3"
    none = found.advise(Case(verdict(risk=0.1)))
    assert (none.action, none.rule, none.line, none.enforce) == ("observe", "no-rule", None, False)


def test_advice_carries_what_is_behind_it() -> None:
    made = policy(BLOCK)
    advice = made.advise(Case(verdict(), decided()))
    assert (advice.action, advice.enforce, advice.reviewer) == ("block", True, "R. Viewer")
    assert advice.reason == "agreed with legal"
    assert advice.policy == hashlib.sha256(BLOCK.encode()).hexdigest()
    # The rule as it stands in the file, whole and without its neighbours.
    assert advice.text == "\n".join(line[4:] for line in BLOCK.splitlines()[2:10])
    assert advice.because == ("confirmed by decision 7", "flagged")
    assert set(advice.to_fields()) == {
        "action", "rule", "line", "text", "because", "enforce", "reviewer", "reason", "policy",
        "campaign",
    }  # fmt: skip


def test_a_rules_text_is_without_what_comes_after_it() -> None:
    text = BLOCK.replace("  - name: flagged", "\n  # of the next\n  - name: flagged")
    found = policy(text).rules
    assert found[0].text.endswith("reason: agreed with legal")
    assert found[1].text == "name: flagged\nadvice: review\nwhen: {flagged: true}"
    flow = rules("advice: review, when: {flagged: true}", "advice: block, when: {flagged: true}")
    assert flow.rules[0].text == "{name: r1, advice: review, when: {flagged: true}}"


@pytest.mark.parametrize("action", ACTIONS)
def test_a_rejected_account_is_observed_whatever_the_rules_say(action: str) -> None:
    made = rules(f"advice: {action}, when: {{flagged: true}}")
    found = made.advise(Case(verdict(), decided("reject"), ((CAMPAIGN, 3),)))
    assert (found.action, found.rule) == ("observe", "rejected-account")
    assert found.because == ("rejected by decision 7",)
    # Until it is decided anew.
    assert made.advise(Case(verdict(), decided("needs_more"))).action == action


@pytest.mark.parametrize(
    ("ruling", "state", "found"),
    [
        ("confirm", "counts", "confirmed"), ("confirm", "pending", "none"),
        ("needs_more", "counts", "none"), ("reject", "counts", "rejected"),
    ],
)  # fmt: skip
def test_a_confirmation_counts_when_it_does_at_the_desk(
    ruling: str, state: str, found: str
) -> None:
    case = Case(verdict(), decided(ruling, state))
    assert case.ruled == found
    assert advised("decision: confirmed", case) == ("block" if found == "confirmed" else "observe")


ENFORCED = """\
version: 1
rules:
  - name: a
    advice: {advice}
    when: {{{when}}}
    enforce: true
    reviewer: R. Viewer
    reason: case 12
"""


def test_nothing_is_enforced_on_a_score_alone() -> None:
    for advice in ("throttle", "challenge", "block"):
        good = ENFORCED.format(advice=advice, when="decision: confirmed")
        assert faults(good) == []
        for when in ("risk_at_least: 0.99, flagged: true", "decision: none"):
            (told,) = faults(ENFORCED.format(advice=advice, when=when))
            assert told.startswith(f"p, line 6: rule a: enforced {advice} must ask for decision")
        # Confirmed neighbours are no decision on this account.
        text = good.replace("decision: confirmed", "confirmed_accounts_at_least: 5")
        (told,) = faults(text.replace("when:", "scope: campaign\n    when:"))
        assert "must ask for decision: confirmed" in told
        for missing in ("reviewer", "reason"):
            lines = [line for line in good.splitlines() if f"    {missing}:" not in line]
            (told,) = faults("\n".join(lines))
            assert told.startswith(f"p, line 6: rule a: enforce must have a {missing}")
        assert len(faults(good.replace("R. Viewer", '" "'))) == 1
        # Advice alone may rest on a score: nobody is touched by it.
        assert faults(ENFORCED.format(advice=advice, when="risk_at_least: 0.9").replace(
            "enforce: true", "enforce: false")) == []  # fmt: skip


@pytest.mark.parametrize("advice", ["observe", "review"])
def test_what_asks_nothing_of_a_customer_is_not_enforced(advice: str) -> None:
    (told,) = faults(ENFORCED.format(advice=advice, when="decision: confirmed"))
    assert "enforce must stand beside throttle, challenge or block" in told


def test_every_fault_is_told_at_once_with_its_line() -> None:
    told = faults("""\
version: 2
rule: []
rules:
  - name: first
    advice: blok
    when: {flagged: yes, risk: 0.9}
  - advice: review
    when: {}
  - name: first
    advice: review
    when:
      risk_at_least: 1.5
      events_at_least: 2.5
      evidence: {at_least: 6, contribution: 0.5}
      matches: {at_least: 1}
      links: [payment]
      decision: maybe
  - name: no-rule
    advice: block
    when: {decision: rejected}
    reviewer: 7
  - 5
""")
    expected = [
        (1, "version must be a whole number from 1 to 1"),
        (2, "rule must be a known key"),
        (5, "rule first: advice must be one of observe, throttle"),
        (6, "rule first: flagged must be true or false"),
        (6, "rule first: risk must be a condition of account rules, however: it is unknown"),
        (7, "rule 2: a rule must have name"),
        (8, "rule 2: when must hold a condition"),
        (12, "rule first: risk_at_least must be a number from 0 to 1"),
        (13, "rule first: events_at_least must be a whole number"),
        (14, "rule first: at_least must be a whole number from 1 to 5"),
        (15, "rule first: matches must have similarity"),
        (16, "rule first: links must be a condition of account rules, however: it is one of camp"),
        (17, "rule first: decision must be one of confirmed, rejected, none"),
        (9, "rule first: name must be this rule's alone"),
        (18, "rule no-rule: advice must be observe for rejected accounts"),
        (18, "rule no-rule: name must not be no-rule"),
        (21, "rule no-rule: reviewer must be a text"),
        (22, "rule 5: a rule must be a mapping"),
    ]
    for line, start in expected:
        assert sum(one.startswith(f"p, line {line}: {start}") for one in told) == 1, (start, told)
    assert len(told) == len(expected)
    lines = [int(one.split(":")[0].removeprefix("p, line ")) for one in told]
    assert lines == sorted(lines)


@pytest.mark.parametrize(
    "text",
    [
        "", "# nothing\n", "a: [", "\t- x", "--- a\n--- b", "version: &x 1\nrules: [*x]",
        "version: !!python/object/apply:os.system [ls]\nrules: []", "version: 1\nversion: 1",
        "rules: " + "[" * 60 + "]" * 60, "[" * 20_000, "[1, 2]", "version: 1\nrules: {}",
        "version: 1\n1: 2\nrules: []", b"\xff\xfe", b"version: 1\nrules: []\x00", b"x" * 300_000,
        "version: 1\nrules: [" + "{}," * 300 + "]",
    ],
)  # fmt: skip
def test_what_is_no_policy_is_refused(text: str | bytes) -> None:
    told = faults(text)
    assert told
    assert all(one.startswith("p, line ") for one in told)


ALIASED = """\
version: 1
rules:
  - {name: a, advice: &x review, when: {flagged: true}}
  - {name: b, advice: *x, when: {flagged: true}}
"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (ALIASED, "p, line 3: the policy must have no anchors and aliases"),
        ("version: !!int 1\nrules: []", "p, line 1: the policy must have no tags"),
        ("version: 1\nversion: 1\nrules: []", "p, line 2: version must stand once"),
        ("version: 1\nrules: " + "[" * 9 + "]" * 9, "p, line 2: the policy must be nested 8"),
        ("version: 1\nrules: []\n# " + "x" * 262_144, "p, line 1: the policy must have at most"),
    ],
)
def test_what_yaml_can_hide_is_refused(text: str, told: str) -> None:
    (found,) = faults(text)
    assert found.startswith(told)


@pytest.mark.parametrize(
    "number",
    ["1_0", "0x1", "1:30", ".inf", ".nan", "-0.1", "1e-1", "'0.5'", "true", "null", "~", "[1]"],
)
def test_numbers_are_plain_decimals(number: str) -> None:
    text = f"version: 1\nrules: [{{name: a, advice: review, when: {{risk_at_least: {number}}}}}]"
    assert len(faults(text)) == 1


def test_faults_quote_no_value() -> None:
    canary = "canary-77"
    text = BLOCK.replace("block", canary).replace("true", canary).replace("confirmed\n", canary)
    told = faults(text)
    assert told
    assert canary not in "".join(told)
    assert canary not in "".join(faults(f"a: [{canary}: {canary}"))


@settings(max_examples=200)
@given(st.text(max_size=200) | st.binary(max_size=200))
def test_any_file_is_a_policy_or_refused(data: Any) -> None:
    data = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    with suppress(PolicyError):
        read_policy(data, "p")


@settings(max_examples=200)
@given(st.data())
def test_any_change_of_a_policy_is_a_policy_or_refused(data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(BLOCK)))
    text = BLOCK[:place] + data.draw(st.sampled_from(["&a", "!!x", "\n", ":", "- ", "{", "'", "#"]))
    try:
        made = read_policy((text + BLOCK[place:]).encode(), "p")
    except PolicyError:
        return
    # Whatever was changed, what is enforced asks for a confirmation and names a reviewer.
    for rule in made.rules:
        assert not rule.enforce or (rule.needs_confirmation and rule.reviewer and rule.reason)


def test_the_package_has_a_policy_that_touches_nobody() -> None:
    made = load_policy(None)
    assert not made.enforces
    assert made.advise(Case(verdict())).action == "review"
    assert made.advise(Case(verdict(flagged=False))).action == "observe"
    assert made.advise(Case(verdict(), decided("reject"))).action == "observe"
    assert named_policy("default") == made


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    with pytest.raises(ConfigError, match="must be a readable file, however: No such file"):
        PolicyFile(path)
    path.write_text(BLOCK)
    file = PolicyFile(path)
    first = file.current
    assert not file.refresh()
    for bad in ("rules: [", None):
        if bad is None:
            path.unlink()
        else:
            path.write_text(bad)
        assert file.refresh()
        assert file.faults
        assert file.current is first
        assert not file.refresh()
    path.write_text(BLOCK.replace("flagged: true}", "flagged: false}"))
    assert file.refresh()
    assert (file.faults, file.current.sha256 == first.sha256) == ((), False)
