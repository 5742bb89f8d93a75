"""Campaign lines, as `stillwatch campaigns` writes them, for the rules that judge campaigns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stillwatch.data.errors import InputError
from stillwatch.data.files import file_name, open_lines
from stillwatch.data.strict_json import InvalidJson, parse_object
from stillwatch.serving.desk.records import Decision
from stillwatch.serving.response.advice import Campaign, ruled


class Campaigns:
    """Which campaigns an account is in, and how many accounts of each are confirmed."""

    def __init__(
        self, campaigns: Sequence[Campaign], decisions: Mapping[str, Decision] | None = None
    ) -> None:
        self._of: dict[str, list[tuple[Campaign, int]]] = {}
        known = decisions or {}
        for campaign in campaigns:
            accounts = set(campaign.accounts)
            confirmed = sum(ruled(known.get(name)) == "confirmed" for name in accounts)
            for name in accounts:
                self._of.setdefault(name, []).append((campaign, confirmed))

    def of(self, account_id: str) -> tuple[tuple[Campaign, int], ...]:
        """Those of an account."""
        return tuple(self._of.get(account_id, ()))


def read_campaigns(path: Path) -> list[Campaign]:
    """Every campaign of a file, plain or compressed. Raises InputError, naming the line."""
    found = []
    for number, line in open_lines(path):
        if not line or line.isspace():
            continue
        try:
            found.append(_campaign(parse_object(line)))
        except InvalidJson as error:
            raise InputError(f"{file_name(path)}, line {number}: {error.reason}") from None
    return found


def _campaign(fields: Mapping[str, Any]) -> Campaign:
    accounts = fields.get("accounts")
    if not isinstance(accounts, list) or not all(isinstance(one, str) for one in accounts):
        raise InvalidJson("accounts must be a list of account ids, however: another value")
    intents = fields.get("intents")
    if not isinstance(intents, dict):
        raise InvalidJson("intents must be an object of probabilities, however: another value")
    links = fields.get("links")
    if not isinstance(links, list) or not all(
        isinstance(one, dict) and isinstance(one.get("kind"), str) for one in links
    ):
        raise InvalidJson("links must be a list of objects with a kind, however: another value")
    name, flagged = fields.get("campaign_id"), fields.get("flagged")
    if not isinstance(name, str) or not name or not isinstance(flagged, bool):
        raise InvalidJson(
            "campaign_id must be a text and flagged true or false, however: another value"
        )
    return Campaign(
        name, tuple(accounts), _probability(fields.get("risk")),
        {key: _probability(value) for key, value in intents.items()}, flagged,
        frozenset(one["kind"] for one in links),
    )  # fmt: skip


def _probability(value: object) -> float:
    # Compared before it is converted: an integer may be too large for a float.
    if type(value) not in (int, float) or not 0 <= value <= 1:  # type: ignore[operator]
        raise InvalidJson("risk and intents must be from 0 to 1, however: another value")
    return float(value)  # type: ignore[arg-type]
