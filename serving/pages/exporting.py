"""Events as files: JSON Lines, and CSV that a spreadsheet cannot be made to act upon."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from stillwatch.serving.archive.results import ArchivedEvent
from stillwatch.serving.pages.display import iso
from stillwatch.serving.verdict import DIGITS, REPLACEMENT, json_line

COLUMNS = (
    "account_id", "event_id", "time", "risk", "flagged", "intent", "contribution", "template",
    "similarity", "language", "model", "network", "payment", "client", "system", "prompt",
)  # fmt: skip
_ACTIVE = tuple("=+-@\t\r\n|%＝＋－＠")
"""A cell that begins with one of these is a formula somewhere: full-width signs too, in Excel."""


def to_jsonl(events: Sequence[ArchivedEvent]) -> bytes:
    """One line an event, ASCII."""
    return b"".join(json_line(_fields(event)) for event in events)


def to_csv(events: Sequence[ArchivedEvent]) -> bytes:
    """UTF-8 with a byte order mark, all cells quoted; see `defused`."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for event in events:
        fields = _fields(event)
        writer.writerow([defused(fields[name]) for name in COLUMNS])
    return out.getvalue().encode("utf-8-sig", "replace")


def defused(value: object) -> str:
    """A cell that no spreadsheet takes for a formula: an apostrophe stands before what begins
    like one, blanks before that or not. Numbers are left as they are."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value}"
    text = str(value).replace("\0", REPLACEMENT)
    return f"'{text}" if text.lstrip(" \u00a0\u200b\ufeff").startswith(_ACTIVE) else text


def _fields(event: ArchivedEvent) -> dict[str, Any]:
    return {
        "account_id": event.account_id,
        "event_id": event.event_id,
        "time": iso(event.time),
        "risk": round(event.risk, DIGITS),
        "flagged": event.flagged,
        "intent": event.intent,
        "contribution": round(max(event.contributions.values(), default=0.0), DIGITS),
        "template": event.template,
        "similarity": round(event.template_similarity, DIGITS),
        "language": event.language,
        "model": event.model,
        "network": event.network,
        "payment": event.payment,
        "client": event.client,
        "system": event.system,
        "prompt": event.prompt,
    }
