"""What is known of accounts and campaigns, as JSON Lines.

{"account_id": "a1", "intents": ["cot_harvesting"], "source": "review 12"}
{"campaign_id": "c1", "accounts": ["a1", "a2"], "intents": [], "source": "review 13"}

An empty `intents` says that the traffic is ordinary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Literal

from stillwatch.data.errors import InputError
from stillwatch.data.events import Label
from stillwatch.data.files import file_name, open_lines
from stillwatch.data.strict_json import InvalidJson, parse_object


def read_labels(path: Path | str) -> list[Label]:
    """Every label of a file, plain or compressed. Raises InputError, naming the line."""
    labels = []
    for number, line in open_lines(path):
        if not line or line.isspace():
            continue
        try:
            labels.append(_label(parse_object(line), number))
        except InvalidJson as error:
            raise InputError(f"{file_name(path)}, line {number}: {error.reason}") from None
    return labels


def check_labels(
    labels: Iterable[Label],
    known_intents: Collection[str],
    known_accounts: Collection[str] | None = None,
    name: str = "Labels",
) -> None:
    """Raises InputError, naming the first faulty line and how many more there are; `name` is
    what messages call the file.

    Faults: an intent not in `known_intents`, an account not in `known_accounts` (if given), and
    labels that contradict each other: two of one subject with other intents, or an account that
    is ordinary by one label and in an attacking campaign by another.
    """
    faults: list[str] = []
    seen: dict[tuple[str, str], Label] = {}
    judged: dict[str, Label] = {}
    for label in labels:
        where = f"{name}, line {label.line}:"
        for intent in label.intents:
            if intent not in known_intents:
                faults.append(
                    f"{where} intents must be of {', '.join(known_intents)}, however: "
                    f"{intent!r}; correct the label or add the intent"
                )
        earlier = seen.setdefault((label.subject, label.id), label)
        if set(earlier.intents) != set(label.intents):
            faults.append(
                f"{where} the labels of {label.subject} {label.id!r} must agree, however: "
                f"line {earlier.line} gives other intents; remove one"
            )
            continue
        accounts = (label.id,) if label.subject == "account" else label.accounts
        for account in accounts:
            if known_accounts is not None and account not in known_accounts:
                faults.append(
                    f"{where} the account must be in the log, however: {account!r} is not; "
                    "add its log or remove the label"
                )
            earlier = judged.setdefault(account, label)
            if bool(earlier.intents) != bool(label.intents):
                faults.append(
                    f"{where} the labels of account {account!r} must agree, however: "
                    f"line {earlier.line} makes it {_verdict(earlier)}, this one "
                    f"{_verdict(label)}; remove one"
                )
    if faults:
        more = f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else ""
        raise InputError(faults[0] + more)


def _label(fields: dict[str, Any], line: int) -> Label:
    subjects: tuple[Literal["account", "campaign"], ...] = ("account", "campaign")
    named = [subject for subject in subjects if f"{subject}_id" in fields]
    if len(named) != 1:
        raise InvalidJson("a label must have either account_id or campaign_id, however: not one")
    (subject,) = named
    source = fields.get("source", "")
    if not isinstance(source, str):
        raise InvalidJson("source must be a string, however: another value")
    note = fields.get("note", "")
    if not isinstance(note, str):
        raise InvalidJson("note must be a string, however: another value")
    accounts: tuple[str, ...] = ()
    if subject == "campaign":
        accounts = _texts(fields, "accounts")
        if not accounts:
            raise InvalidJson("accounts must list the campaign's accounts, however: it is empty")
    elif "accounts" in fields:
        raise InvalidJson("accounts must stand with campaign_id, however: with account_id")
    identity = fields[f"{subject}_id"]
    if not isinstance(identity, str) or not identity:
        raise InvalidJson(
            f"{subject}_id must be a string that is not empty, however: another value"
        )
    return Label(subject, identity, _texts(fields, "intents"), source, accounts, line, note)


def _texts(fields: dict[str, Any], name: str) -> tuple[str, ...]:
    """A list of texts without repeats. It has to be there: a forgotten one is not ordinary."""
    values = fields.get(name)
    if not isinstance(values, list) or not all(isinstance(v, str) and v for v in values):
        raise InvalidJson(f"{name} must be a list of strings, however: another value or missing")
    return tuple(dict.fromkeys(values))


def _verdict(label: Label) -> str:
    return "attacking" if label.intents else "ordinary"
