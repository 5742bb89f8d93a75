"""Who calls: keys, their roles, and the accounts that a key may speak of.

Keys are 256 random bits, so one SHA-256 protects them as well as a slow hash would. Roles are no
ladder: every route names those that may call it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal, NamedTuple, get_args
from urllib.parse import urlsplit

from fastapi import Request

from stillwatch.serving.http.problems import Problem

Role = Literal["scorer", "analyst", "admin", "peer"]
PEER: Role = "peer"
"""Another provider: reads what is shared with it and nothing else."""
ROLES: tuple[Role, ...] = tuple(role for role in get_args(Role) if role != PEER)
"""Those of the house."""

ALL_ACCOUNTS = "*"
KEY_PREFIX = "sw_"
_KEY_BYTES = 32
_MAX_KEY_CHARS = 256


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever holds a key. `accounts` is what the account ids it speaks of begin with, or `*`."""

    key_id: str
    role: Role
    accounts: str = ALL_ACCOUNTS

    def may_speak_of(self, account_id: str) -> bool:
        """Whether the key is for this account."""
        return self.accounts == ALL_ACCOUNTS or account_id.startswith(self.accounts)

    def check(self, account_ids: Iterable[str]) -> None:
        """Raises Problem if the key is not for one of these accounts."""
        if not all(map(self.may_speak_of, account_ids)):
            raise Problem(
                "forbidden_account",
                "Account ids must begin with what the key is bound to, however: one does not.",
            )


OPERATOR = Caller("none", "admin")
"""Who everybody is when the settings say that no keys are needed."""


@dataclass(frozen=True, slots=True)
class KeyHash:
    """A key as the settings know it; `sha256` is that of the key's text, 64 hex digits."""

    caller: Caller
    sha256: str


class NewKey(NamedTuple):
    """A key, which is shown once, and what the settings keep of it."""

    key: str
    sha256: str


def new_key() -> NewKey:
    """A key from 256 random bits."""
    key = KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)
    return NewKey(key, hashlib.sha256(key.encode()).hexdigest())


class Authenticator:
    """Knows the keys. None of them and `open_to_all` means that no key is asked for."""

    def __init__(self, keys: Iterable[KeyHash], open_to_all: bool = False) -> None:
        self._keys = tuple((bytes.fromhex(key.sha256), key.caller) for key in keys)
        self._open = open_to_all

    def identify(self, request: Request, basic: bool = False) -> Caller:
        """The caller, from `Authorization: Bearer` or `X-API-Key`, with `basic` also from the
        password of HTTP Basic; Problem if it has no key or, where none is asked for, as
        `check_host`."""
        if self._open:
            check_host(request)
            return OPERATOR
        given = _given_key(request, basic)
        found = self.of_key(given) if given is not None else None
        if found is None:
            challenge = 'Bearer realm="stillwatch"'
            raise Problem(
                "unauthenticated",
                "The request must have a valid key in Authorization: Bearer or X-API-Key, "
                f"however: {'another one' if given else 'it has none'}.",
                headers={
                    "WWW-Authenticate": f'{challenge}, Basic realm="stillwatch"'
                    if basic
                    else challenge
                },
            )
        return found

    def of_key(self, key: str) -> Caller | None:
        """Whose key this is, None if it is nobody's."""
        found: Caller | None = None
        if len(key) <= _MAX_KEY_CHARS:
            digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
            # All are compared, so that the time taken tells nothing of which one it was.
            for known, caller in self._keys:
                if hmac.compare_digest(known, digest):
                    found = caller
        return found


def check_host(request: Request) -> None:
    """Where no key is asked for: Problem unless the request names a loopback address. A page of
    elsewhere can have its own name lead here, and would speak to the service from a browser."""
    try:
        name = urlsplit(f"//{request.url.netloc}").hostname or ""
    except ValueError:  # brackets that hold no address
        name = ""
    if not is_loopback(name):
        raise Problem(
            "forbidden_host",
            "Without keys the service must be called by a loopback address, however: by another "
            "name.",
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def require(*roles: Role, basic: bool = False) -> Callable[[Request], Awaitable[Caller]]:
    """A dependency: the caller, who has one of these roles. It runs before a body is read. With
    `basic` the key may be the password of HTTP Basic, for clients that speak nothing else."""
    wanted = frozenset(roles)

    async def caller_of(request: Request) -> Caller:
        authenticator: Authenticator = request.app.state.authenticator
        caller = authenticator.identify(request, basic)
        request.scope["stillwatch.key_id"] = caller.key_id
        if caller.role not in wanted:
            raise Problem(
                "forbidden_role",
                f"The key's role must be {' or '.join(sorted(wanted))}, however: another.",
            )
        return caller

    return caller_of


def _given_key(request: Request, basic: bool) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    if basic and scheme.lower() == "basic":
        return _password(token.strip())
    return request.headers.get("x-api-key") or None


def _password(token: str) -> str:
    """The password of HTTP Basic; what is none opens nothing."""
    try:
        if len(token) > 4 * _MAX_KEY_CHARS:
            return ""
        return base64.b64decode(token, validate=True).decode("latin-1").partition(":")[2]
    except (binascii.Error, ValueError):
        return ""
