"""Who is logged in, and what was shown to them. Kept in memory: a restart logs everybody out."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from stillwatch.serving.http.auth import Caller
from stillwatch.serving.pages.queries import Query
from stillwatch.serving.verdict import Verdict

IDLE_S = 3600.0
"""A session that was not used for so long has ended."""
LONGEST_S = 12 * 3600.0
MAX_SESSIONS = 1000
SHOWN_KEPT = 2000
SEARCHES_KEPT = 50

T = TypeVar("T")


class Recent(Generic[T]):
    """The latest things that were put in, each under a name nobody can guess."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: OrderedDict[str, T] = OrderedDict()

    def put(self, thing: T) -> str:
        name = secrets.token_urlsafe(9)
        self._held[name] = thing
        while len(self._held) > self._most:
            self._held.popitem(last=False)
        return name

    def get(self, name: str) -> T | None:
        return self._held.get(name)

    def drop(self, unwanted: Callable[[T], bool]) -> None:
        """Hold those no more for which this is so."""
        # A copy first: other threads put things in meanwhile.
        for name, thing in list(self._held.items()):
            if unwanted(thing):
                self._held.pop(name, None)


@dataclass(frozen=True, slots=True)
class Notice:
    """What the next page tells first. `undo` is the id of a decision that can be taken back."""

    text: str
    undo: int | None = None


@dataclass
class Session:
    """One login."""

    caller: Caller
    begun: float
    used: float
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    shown: Recent[Verdict] = field(default_factory=lambda: Recent(SHOWN_KEPT))
    """Verdicts as they were shown: a decision is on what its reviewer saw."""
    searches: Recent[Query] = field(default_factory=lambda: Recent(SEARCHES_KEPT))
    """So that no text that was searched for stands in an address."""
    notice: Notice | None = None

    def take_notice(self) -> Notice | None:
        notice, self.notice = self.notice, None
        return notice

    def allows(self, token: str) -> bool:
        """Whether a form has this session's CSRF token."""
        return hmac.compare_digest(token.encode("utf-8", "replace"), self.csrf.encode())


class Sessions:
    """All of them, by the hash of what their cookie holds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: OrderedDict[bytes, Session] = OrderedDict()
        self._login_key = secrets.token_bytes(32)

    def begin(self, caller: Caller) -> str:
        """A new session; its cookie's value. Beyond MAX_SESSIONS the one unused longest ends."""
        now = self._clock()
        value = secrets.token_urlsafe(32)
        self._held[_digest(value)] = Session(caller, now, now)
        while len(self._held) > MAX_SESSIONS:
            self._held.popitem(last=False)
        return value

    def find(self, value: str) -> Session | None:
        """The session of a cookie, if it has not ended."""
        digest = _digest(value)
        session = self._held.get(digest)
        if session is None:
            return None
        now = self._clock()
        if now - session.used > IDLE_S or now - session.begun > LONGEST_S:
            del self._held[digest]
            return None
        session.used = now
        self._held.move_to_end(digest)
        return session

    def end(self, value: str) -> None:
        self._held.pop(_digest(value), None)

    def forget(self, account_id: str) -> None:
        """Drop what was shown of an account, and searches for what is like a prompt of it."""
        for session in self._held.values():
            session.shown.drop(lambda verdict: verdict.account_id == account_id)
            session.searches.drop(lambda query: (query.like or ("",))[0] == account_id)

    def login_token(self, cookie: str) -> str:
        """What a login form has to hold beside this cookie, so that nobody can log another in."""
        return hmac.new(self._login_key, cookie.encode(), hashlib.sha256).hexdigest()


def _digest(value: str) -> bytes:
    return hashlib.sha256(value.encode("utf-8", "surrogateescape")).digest()
