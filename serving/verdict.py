"""The verdict on an account at one time, with the evidence it stands on, and its line of JSON.

An evidence's excerpt is made safe where it is made: a prompt is hostile text, and what it is shown
on may be a terminal. Ids come from logs unchanged, for they must be found there again; whoever
prints one passes it through `visible`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

EXCERPT_CHARS = 160
"""Longest excerpt, the ellipsis that marks a cut included."""

DIGITS = 6
"""Decimal places of every float in a line."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
# What is cleaned of a longer text: enough to fill an excerpt when most of it is invisible.
_WINDOW_CHARS = 16 * EXCERPT_CHARS
_REPLACEMENTS = re.compile(f"{REPLACEMENT}+")


@dataclass(frozen=True, slots=True)
class Evidence:
    """One event that a verdict rests on.

    `contribution` in [0, 1] is how strongly the event speaks for `intent`; `similarity`, a cosine,
    is that of its nearest template; `excerpt` is the start of its prompt, safe to print.
    """

    event_id: str
    intent: str
    contribution: float
    template_id: str | None
    similarity: float
    excerpt: str

    def to_fields(self) -> dict[str, Any]:
        """The evidence as it stands in an account line."""
        return {
            "event_id": self.event_id,
            "intent": self.intent,
            "contribution": _rounded(self.contribution),
            "template_id": self.template_id,
            "similarity": _rounded(self.similarity),
            "excerpt": self.excerpt,
        }

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """What `to_fields` gave; KeyError and TypeError for anything else."""
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is held of an account after `events` events.

    `risk` and the probabilities in `intents` are calibrated, in [0, 1]; `peak_risk` is the highest
    risk so far. `flagged` is the state now; `flagged_after` is the number of events it took to
    flag the account for the first time, None if it never was: ordinary traffic after a harvest
    may take the flag away, but not the memory of it. `evidence` is strongest first, repeats of
    one prompt once. `bundle` is the id of the bundle that decided. `truncated` counts events of
    which not everything was read.
    """

    account_id: str
    events: int
    risk: float
    peak_risk: float
    intents: Mapping[str, float]
    flagged: bool
    threshold: float
    flagged_after: int | None
    evidence: tuple[Evidence, ...]
    bundle: str
    truncated: int = 0

    def to_fields(self) -> dict[str, Any]:
        """The fields of an account line, in its order; floats have 6 decimal places."""
        return {
            "account_id": self.account_id,
            "events": self.events,
            "risk": _rounded(self.risk),
            "peak_risk": _rounded(self.peak_risk),
            "intents": {name: _rounded(value) for name, value in self.intents.items()},
            "flagged": self.flagged,
            "threshold": _rounded(self.threshold),
            "flagged_after": self.flagged_after,
            "evidence": [item.to_fields() for item in self.evidence],
            "bundle": self.bundle,
            "truncated": self.truncated,
        }

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """What `to_fields` gave, floats rounded as it did; TypeError for anything else."""
        evidence = tuple(Evidence.from_fields(item) for item in fields["evidence"])
        return cls(**{**fields, "evidence": evidence})


def json_line(fields: Mapping[str, Any]) -> bytes:
    """One line of JSON, its end included. Raises ValueError for NaN and infinity.

    Pure ASCII: whatever an id holds (line separators, direction marks, half a surrogate pair), the
    line stays one line, and can be shown and stored anywhere.
    """
    text = json.dumps(fields, allow_nan=False, separators=(",", ":"))
    # The one control character that JSON leaves as it is.
    return text.replace("\x7f", "\\u007f").encode("ascii") + b"\n"


def excerpt(text: str) -> str:
    """The start of a text on one line, at most `EXCERPT_CHARS` characters, safe to print."""
    start = text.lstrip()
    shown = visible(start[:_WINDOW_CHARS])
    return clip(shown + _ELLIPSIS if len(start) > _WINDOW_CHARS else shown, EXCERPT_CHARS)


def clip(text: str, length: int) -> str:
    """`text`, cut to `length` characters with an ellipsis if it is longer."""
    return text if len(text) <= length else text[: length - 1].rstrip() + _ELLIPSIS


def visible(text: str) -> str:
    """`text` on one line, without what a terminal acts upon.

    Whitespace becomes single spaces. Characters without a glyph are dropped if they only format
    (zero-width ones and direction marks); a run of others (controls, so every escape sequence's
    start, half surrogate pairs, unassigned ones) becomes one replacement character.
    """
    folded = " ".join(text.split())
    if folded.isprintable():
        return folded
    safe = "".join(
        char if char.isprintable() else ("" if unicodedata.category(char) == "Cf" else REPLACEMENT)
        for char in folded
    )
    return " ".join(_REPLACEMENTS.sub(REPLACEMENT, safe).split())


def _rounded(value: float) -> float:
    return round(float(value), DIGITS)
