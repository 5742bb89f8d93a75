"""What of a hostile prompt or id may reach a terminal or a line of JSON."""

import json
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillwatch.serving.verdict import (
    EXCERPT_CHARS,
    Evidence,
    Verdict,
    clip,
    excerpt,
    json_line,
    visible,
)

EVIDENCE = Evidence("e1", "cot_harvesting", 0.12345678, None, 0.98765432, "Think aloud")
VERDICT = Verdict(
    account_id="a1",
    events=7,
    risk=0.123456789,
    peak_risk=0.987654321,
    intents={"capability_probing": 0.1, "cot_harvesting": 1 / 3},
    flagged=True,
    threshold=0.1,
    flagged_after=3,
    evidence=(EVIDENCE,),
    bundle="0123456789ab",
    truncated=2,
)

# Half surrogate pairs are left out of hypothesis's default alphabet.
ANY_TEXT = st.text(st.characters() | st.characters(categories=["Cs", "Cc", "Cf", "Zl", "Zp"]))


def test_fields_are_the_account_line_of_the_design() -> None:
    fields = VERDICT.to_fields()
    assert list(fields) == [
        "account_id", "events", "risk", "peak_risk", "intents", "flagged", "threshold",
        "flagged_after", "evidence", "bundle", "truncated",
    ]  # fmt: skip
    assert (fields["risk"], fields["peak_risk"]) == (0.123457, 0.987654)
    assert fields["intents"]["cot_harvesting"] == 0.333333
    assert fields["evidence"] == [
        {
            "event_id": "e1",
            "intent": "cot_harvesting",
            "contribution": 0.123457,
            "template_id": None,
            "similarity": 0.987654,
            "excerpt": "Think aloud",
        }
    ]
    assert json.loads(json_line(fields)) == fields


def test_a_risk_that_is_no_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="JSON"):
        json_line(replace(VERDICT, risk=float("nan")).to_fields())


@given(ANY_TEXT)
def test_excerpts_hold_nothing_a_terminal_acts_upon(text: str) -> None:
    shown = excerpt(text)
    assert len(shown) <= EXCERPT_CHARS
    assert all(unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in shown)
    shown.encode()


@given(ANY_TEXT)
def test_a_line_of_json_is_one_line_of_printable_ascii(text: str) -> None:
    line = json_line(replace(VERDICT, account_id=text).to_fields())
    assert line.endswith(b"\n")
    assert all(0x20 <= byte < 0x7F for byte in line[:-1])
    assert json.loads(line)["account_id"] == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("  two\r\n\tlines\u2028here ", "two lines here"),
        ("\x1b[31mred\x1b[0m", "\ufffd[31mred\ufffd[0m"),
        ("\x9b31m\x00\x07x", "\ufffd31m\ufffdx"),
        ("abc\u202edef\u2066ghi", "abcdefghi"),
        ("i\u200bg\u200bn\u200bo\u200br\u200be", "ignore"),
        ("half \ud83d pair", "half \ufffd pair"),
        ("思考过程 Erklärung", "思考过程 Erklärung"),
    ],
)
def test_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_an_excerpt_says_that_it_is_cut() -> None:
    assert excerpt("x" * EXCERPT_CHARS) == "x" * EXCERPT_CHARS
    assert excerpt("x" * (EXCERPT_CHARS + 1)) == "x" * (EXCERPT_CHARS - 1) + "…"
    # What is said after a megabyte of nothing is not searched for, but its absence is shown.
    assert excerpt("\u200b" * 1_000_000 + "word") == "…"
    assert excerpt(" " * 1_000_000 + "word") == "word"
    assert clip("one two", 5) == "one…"
