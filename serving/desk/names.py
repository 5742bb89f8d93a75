"""What people type: names of reviewers and sources, reasons, account ids."""

from __future__ import annotations

import re
import unicodedata

from stillwatch.data.errors import InputError
from stillwatch.data.events import MAX_ID_BYTES
from stillwatch.serving.stores.base import id_bytes
from stillwatch.serving.verdict import visible

MAX_NAME_CHARS = 128
MAX_REASON_CHARS = 2000
_SOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")


def check_name(what: str, name: str) -> str:
    """`name` without blanks around it; InputError unless it can be shown on one line."""
    stripped = name.strip()
    if not 0 < len(stripped) <= MAX_NAME_CHARS or visible(stripped) != stripped:
        raise InputError(
            f"{what} must be a name of 1 to {MAX_NAME_CHARS} visible characters, however: it is "
            "not; give the name of whoever decides"
        )
    return stripped


def check_reason(reason: str) -> str:
    """`reason` without blanks around it, halves of surrogate pairs replaced; InputError if it is
    empty or too long. It may hold anything else: whoever shows it makes it safe."""
    text = reason.strip().encode("utf-8", "replace").decode()
    if not visible(text) or len(text) > MAX_REASON_CHARS:
        raise InputError(
            f"a reason must have 1 to {MAX_REASON_CHARS} characters, however: it has "
            f"{len(text) if visible(text) else 'none'}; say why in a sentence"
        )
    return text


def check_account(account_id: str) -> str:
    """`account_id`; InputError unless an event could have it."""
    if not account_id.strip() or len(id_bytes(account_id)) > MAX_ID_BYTES:
        raise InputError(
            f"an account id must have 1 to {MAX_ID_BYTES} bytes, however: it has not; give the id "
            "of an account"
        )
    return account_id


def check_source(source: str) -> str:
    """`source`; InputError unless a template may name it."""
    if not _SOURCE.fullmatch(source):
        raise InputError(
            "a source must be a name of 1 to 128 letters, digits, _ . : -, however: it is not; "
            "name where the template comes from"
        )
    return source


def same_person(one: str, other: str) -> bool:
    """Whether two names are one reviewer's, however they are written."""
    return _folded(one) == _folded(other)


def _folded(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())
