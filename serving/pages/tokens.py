"""Account and event ids in paths and forms.

An id may hold anything, half a surrogate pair too; a path may not. A token is letters, digits, -
and _ alone, and stands for one id.
"""

from __future__ import annotations

import base64
import binascii

from stillwatch.serving.stores.base import id_bytes, id_text

MAX_TOKEN_CHARS = 1024
SEPARATOR = "."
"""Between the tokens of an account and of one of its events; no token has it."""


def to_token(identity: str) -> str:
    """A token for an id."""
    return base64.urlsafe_b64encode(id_bytes(identity)).decode("ascii").rstrip("=")


def from_token(token: str) -> str:
    """The id that `to_token` was given; KeyError for what is no token."""
    if len(token) > MAX_TOKEN_CHARS or not token.isascii():
        raise KeyError(token[:16])
    try:
        padded = token + "=" * (-len(token) % 4)
        found = id_text(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, UnicodeDecodeError):
        raise KeyError(token[:16]) from None
    # Two tokens of one id would be two addresses of one page.
    if to_token(found) != token:
        raise KeyError(token[:16])
    return found


def to_pick(account_id: str, event_id: str) -> str:
    """What a ticked event is in a form."""
    return f"{to_token(account_id)}{SEPARATOR}{to_token(event_id)}"


def from_pick(pick: str) -> tuple[str, str]:
    """Account and event id of a ticked event; KeyError."""
    account, _, event = pick.partition(SEPARATOR)
    return from_token(account), from_token(event)
