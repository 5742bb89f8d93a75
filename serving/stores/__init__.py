"""Where account states are kept between events: in memory, in a file, in Redis."""

from __future__ import annotations

from stillwatch.data.errors import ConfigError
from stillwatch.serving.stores.base import StateStore

MEMORY_ACCOUNTS = 200_000
"""Accounts that memory:// holds, 10.9 KB and their evidence each under the released bundle."""
KEPT_EVENTS = 64
"""Latest events of an account that are kept for a replay under another bundle."""


def open_store(url: str, kept: int = KEPT_EVENTS) -> StateStore:
    """The store that a URL names: `memory://` for MEMORY_ACCOUNTS at most,
    `sqlite:///folder/state.db` (three slashes and a path, four for an absolute one) or
    `redis://host:port/database`.

    `kept` latest events of each account are held for replays, prompts and all; 0 holds none.
    Raises ConfigError for another URL, StoreError if the store cannot be opened.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "memory" and not rest:
        from stillwatch.serving.stores.memory import MemoryStore

        return MemoryStore(most=MEMORY_ACCOUNTS, kept=kept)
    if separator and scheme == "sqlite" and rest.startswith("/") and rest != "/":
        from stillwatch.serving.stores.sqlite import SqliteStore

        return SqliteStore(rest[1:], kept=kept)
    if separator and scheme in ("redis", "rediss", "unix") and rest:
        from stillwatch.serving.stores.redis import RedisStore

        return RedisStore(url, kept=kept)
    raise ConfigError(
        "the store must be memory://, sqlite:///state.db or redis://host:port/0, however: it has "
        f"the scheme {scheme[:20]!r}; name one of these"
    )
