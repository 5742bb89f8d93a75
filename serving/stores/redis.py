"""Account states in Redis: for services on several machines that share them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from stillwatch.data.errors import ConfigError, MissingError, StoreError
from stillwatch.serving.stores.base import (
    REMEMBERED_DAYS,
    ConflictError,
    Held,
    Snapshot,
    Write,
    id_bytes,
    id_text,
)

if TYPE_CHECKING:
    from redis import Redis

SCHEMA = 1
"""Raised when the keys change; part of every key, so that versions do not misread each other."""
CONNECT_TIMEOUT_S = 1.0
ANSWER_TIMEOUT_S = 3.0

_DAY_MS = 86_400_000
_ASKED_AT_ONCE = 1000
# In braces, so that whatever divides keys among servers leaves these together: one script has to
# reach them all.
_PREFIX = b"{stillwatch%d}:" % SCHEMA
_ACCOUNT, _EVENTS, _DIGEST = (_PREFIX + part for part in (b"account:", b"events:", b"digest:"))
_ORDER, _NUMBER, _CHECK = (_PREFIX + part for part in (b"order", b"number", b"check"))

# Looks at everything before it changes anything: Redis does not undo half a script. Keys: order,
# number, then of each account its state, its events and its digests. Arguments: milliseconds that
# digests are remembered, events kept, then of each account its id, version, suspicion, state,
# number of counted events, and what is kept of each.
_WRITE = """
local key, arg = 3, 3
while key <= #KEYS do
  local count = tonumber(ARGV[arg + 4])
  local version = redis.call('HGET', KEYS[key], 'version') or '0'
  if tonumber(version) ~= tonumber(ARGV[arg + 1]) then return 'account' end
  for i = 1, count do
    if redis.call('EXISTS', KEYS[key + 1 + i]) == 1 then return 'event' end
  end
  key, arg = key + 2 + count, arg + 5 + count
end
local remembered, kept = ARGV[1], tonumber(ARGV[2])
key, arg = 3, 3
while key <= #KEYS do
  local version, count = tonumber(ARGV[arg + 1]), tonumber(ARGV[arg + 4])
  redis.call('HSET', KEYS[key], 'version', version + 1, 'suspicion', ARGV[arg + 2],
    'state', ARGV[arg + 3])
  if version == 0 then
    redis.call('ZADD', KEYS[1], 'NX', redis.call('INCR', KEYS[2]), ARGV[arg])
  end
  for i = 1, count do
    redis.call('SET', KEYS[key + 1 + i], '1', 'PX', remembered)
    if i > count - kept then redis.call('LPUSH', KEYS[key + 1], ARGV[arg + 4 + i]) end
  end
  if kept > 0 then
    redis.call('LTRIM', KEYS[key + 1], 0, kept - 1)
  else
    redis.call('DEL', KEYS[key + 1])
  end
  key, arg = key + 2 + count, arg + 5 + count
end
return 'written'
"""


class RedisStore:
    """States in the Redis at `url`, such as `redis://host:6379/0`. Needs the extra `redis`.

    What `write` has acknowledged outlives a crash of Redis only if redis.conf has

        appendonly yes
        appendfsync always
        maxmemory-policy noeviction

    With `appendfsync everysec` up to a second of events may be lost; under any other
    maxmemory-policy Redis forgets accounts when it is full instead of saying so, which `check`
    refuses. A replica that takes over has what it had received: see `min-replicas-to-write`. One
    server holds all states: a Redis cluster is not supported.

    `kept` latest events of each account are held for replays. An event is known again for
    `remembered_days` from when it arrived, by Redis' own clock. Any thread may call any method.
    After an error the same store goes on as soon as Redis does. If an answer to a write is lost,
    writing again is a ConflictError, and reading shows that the events are counted.
    """

    def __init__(
        self,
        url: str,
        kept: int = 0,
        remembered_days: float = REMEMBERED_DAYS,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ModuleNotFoundError as error:
            raise MissingError(
                "a store in Redis must have the redis package, however: it is not installed; "
                "run: pip install 'stillwatch[redis]'"
            ) from error
        self.kept = kept
        self._remembered_ms = round(remembered_days * _DAY_MS)
        self._errors = redis.exceptions
        try:
            # One more try with a new connection: those of before a restart of Redis are dead.
            self._redis: Redis = redis.Redis.from_url(
                url,
                socket_connect_timeout=CONNECT_TIMEOUT_S,
                socket_timeout=answer_timeout_s,
                retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
            )
        except (ValueError, TypeError):
            # Without its cause: a URL may hold a password.
            raise ConfigError(
                "the store's URL must be like redis://host:6379/0, however: it has another form; "
                "correct it"
            ) from None
        self._script = self._redis.register_script(_WRITE)

    def read(self, accounts: Sequence[str], digests: Sequence[bytes]) -> Snapshot:
        # Not as a transaction, which a full Redis refuses. Digests come first: what is written
        # in between then shows in the accounts, and one that is not seen yet is a conflict.
        with self._explained():
            asked = self._redis.pipeline(transaction=False)
            parts = list(_parts(digests))
            for some in parts:
                asked.mget([_DIGEST + digest for digest in some])
            for name in accounts:
                asked.hmget(_ACCOUNT + id_bytes(name), "version", "state")
            answers = asked.execute()
        known = (mark for marks in answers[: len(parts)] for mark in marks)
        seen = (digest for digest, mark in zip(digests, known, strict=True) if mark is not None)
        held = [
            None if version is None else Held(int(version), value)
            for version, value in answers[len(parts) :]
        ]
        return Snapshot(held, frozenset(seen))

    def write(self, writes: Sequence[Write]) -> None:
        if not writes:
            return
        keys: list[bytes] = [_ORDER, _NUMBER]
        values: list[bytes | int | float] = [self._remembered_ms, self.kept]
        for write in writes:
            name = id_bytes(write.account_id)
            keys += [_ACCOUNT + name, _EVENTS + name]
            keys += [_DIGEST + event.digest for event in write.counted]
            values += [name, write.version, write.suspicion, write.value, len(write.counted)]
            values += [event.kept for event in write.counted]
        with self._explained():
            answer = self._script(keys=keys, args=values)
        if answer == b"account":
            raise ConflictError(
                "an account must stay as it was read until it is written, however: another "
                "process changed one; score its events again"
            )
        if answer == b"event":
            raise ConflictError(
                "an event must be counted once, however: another process has counted it; score "
                "the events again"
            )

    def replay(self, account_id: str) -> list[bytes]:
        if not self.kept:
            return []
        with self._explained():
            found: Any = self._redis.lrange(_EVENTS + id_bytes(account_id), 0, self.kept - 1)
        return list(reversed(found))

    def accounts(self) -> Iterator[str]:
        last = "-inf"
        while True:
            with self._explained():
                rows: Any = self._redis.zrangebyscore(
                    _ORDER, last, "+inf", start=0, num=_ASKED_AT_ONCE, withscores=True
                )
            if not rows:
                return
            yield from (id_text(name) for name, _ in rows)
            last = f"({rows[-1][1]:.0f}"

    def erase(self, account_id: str) -> bool:
        """Redis' own files hold it until it writes them anew: see BGREWRITEAOF and BGSAVE, which
        are asked for here, and its backups, which are their owner's."""
        name = id_bytes(account_id)
        with self._explained():
            asked = self._redis.pipeline(transaction=True)
            asked.delete(_ACCOUNT + name)
            asked.delete(_EVENTS + name)
            asked.zrem(_ORDER, name)
            found = any(asked.execute())
            self._rewrite_files()
        return found

    def _rewrite_files(self) -> None:
        for command in (self._redis.bgrewriteaof, self._redis.bgsave):
            try:
                command()
            except self._errors.ResponseError:
                # One is under way, or this client may not ask: its operator's rules hold.
                continue

    def check(self) -> None:
        """Writes a key, as only that tells whether it could, and reads how Redis is set up."""
        with self._explained():
            self._redis.set(_CHECK, b"1", px=60_000)
            memory: Any = self._redis.info("memory")
        policy = memory.get("maxmemory_policy", "unknown")
        if policy != "noeviction":
            raise StoreError(
                "Redis must have maxmemory-policy noeviction, however: it has "
                f"{str(policy)[:30]}, under which it forgets accounts when it is full; set it in "
                "redis.conf or by CONFIG SET"
            )

    def close(self) -> None:
        self._redis.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Whatever the client complains of is a StoreError, without the values it may name."""
        known = self._errors
        try:
            yield
        except known.BusyLoadingError as error:
            raise _refused("have loaded its data", "it is still loading", "try again") from error
        except (known.AuthenticationError, known.AuthorizationError) as error:
            raise _refused(
                "let this client in", "it refuses the name or password", "correct the URL"
            ) from error
        except (known.ConnectionError, known.TimeoutError, OSError) as error:
            raise _refused(
                "answer in time",
                f"it does not ({type(error).__name__})",
                "see that it runs and can be reached, and try again",
            ) from error
        except known.OutOfMemoryError as error:
            raise _refused(
                "have room", "it has reached maxmemory", "raise maxmemory and try again"
            ) from error
        except known.ReadOnlyError as error:
            raise _refused(
                "take writes", "it is a read-only replica", "name the primary in the URL"
            ) from error
        except known.RedisError as error:
            raise _refused(
                "do what it is asked",
                f"it answers {_code(error)}",
                "see to its log and its permissions",
            ) from error


def _refused(must: str, found: str, do: str) -> StoreError:
    return StoreError(f"Redis must {must}, however: {found}; {do}")


def _code(error: Exception) -> str:
    """The word in capitals that an answer of Redis begins with, or the kind of error."""
    first = str(error).partition(" ")[0]
    return (
        first if first.isascii() and first.isalpha() and first.isupper() else type(error).__name__
    )


def _parts(values: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    return (
        values[start : start + _ASKED_AT_ONCE] for start in range(0, len(values), _ASKED_AT_ONCE)
    )
