"""What is particular to Redis: outages, refusals, its settings, and answers that get lost."""

from __future__ import annotations

import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from crash import DEADLINE_S, RedisServer

from stillwatch.data.errors import ConfigError, MissingError, StoreError
from stillwatch.data.events import Event
from stillwatch.model.bundle import Bundle
from stillwatch.model.detector import Detector
from stillwatch.serving.scorer import Scorer, event_digest
from stillwatch.serving.stores import open_store
from stillwatch.serving.stores.redis import RedisStore
from tests.serving.stores.test_contract import digest, held, write
from tests.support import make_events, tiny_scorer

DAY_MS = 86_400_000
CANARY = "canary-7c1e of a prompt"


@pytest.fixture
def store(redis_url: str) -> Iterator[RedisStore]:
    store = RedisStore(redis_url, kept=8)
    yield store
    store.close()


def test_events_are_remembered_by_the_clock_of_redis(redis_url: str, store: RedisStore) -> None:
    store.write([write("a", 0, b"", "e1")])
    with redis.Redis.from_url(redis_url) as client:
        keys = {key: client.pttl(key) for key in client.scan_iter()}
    expiring = {key: left for key, left in keys.items() if left != -1}
    # Only the digest goes, after 90 days.
    ((key, left),) = expiring.items()
    assert digest("e1") in key
    assert 89.9 * DAY_MS < left <= 90 * DAY_MS
    assert len(keys) > len(expiring)


def test_what_was_remembered_long_enough_is_forgotten(redis_url: str) -> None:
    store = RedisStore(redis_url, remembered_days=20 / DAY_MS)
    store.write([write("a", 0, b"", "e1")])
    deadline = time.monotonic() + DEADLINE_S
    while store.read([], [digest("e1")]).seen and time.monotonic() < deadline:
        pass
    store.write([write("a", 1, b"", "e1")])
    assert held(store, "a") == (2, b"")
    store.close()


def test_a_write_is_one_script(redis_url: str, store: RedisStore) -> None:
    store.write([write("a", 0, b"", "e1")])
    with redis.Redis.from_url(redis_url) as client:
        client.config_resetstat()
        store.write(
            [
                write(f"b{number}", 0, b"", *range(9 * number, 9 * number + 9))
                for number in range(50)
            ]
        )
        calls = client.info("commandstats")
    assert calls["cmdstat_evalsha"]["calls"] == 1
    assert "cmdstat_eval" not in calls


def test_a_flushed_script_cache_is_no_matter(redis_url: str, store: RedisStore) -> None:
    store.write([write("a", 0)])
    with redis.Redis.from_url(redis_url) as client:
        client.script_flush()
    store.write([write("a", 1)])
    assert held(store, "a") == (2, b"state")


def test_an_outage_is_told_and_got_over(own_redis: RedisServer, bundle: Bundle) -> None:
    store = open_store(own_redis.url, kept=8)
    scorer = tiny_scorer(bundle, store)
    events = make_events(accounts=2, each=10)
    scorer.update(events[:10])
    own_redis.end(signal.SIGKILL)
    for act in (
        lambda: scorer.update(events[10:12]),
        lambda: scorer.verdict("a0"),
        lambda: list(store.accounts()),
        lambda: store.replay("a0"),
        store.check,
    ):
        with pytest.raises(StoreError, match=r"^Redis must answer in time, however: it does not"):
            act()
    own_redis.start()
    store.check()
    # Nothing that was acknowledged is lost, and the same scorer goes on.
    assert [v.events for v in scorer.update(events)][-2:] == [10, 10]
    assert scorer.duplicates == 10
    alone = tiny_scorer(bundle)
    alone.update(events)
    for name in ("a0", "a1"):
        assert scorer.verdict(name).risk == pytest.approx(alone.verdict(name).risk, abs=1e-5)
    scorer.close()


def test_kills_under_load_lose_nothing(own_redis: RedisServer, detector: Detector) -> None:
    """Another thread kills and restarts Redis while events come in."""
    scorer = Scorer(detector, open_store(own_redis.url, kept=4))
    events = make_events(accounts=5, each=200)
    acknowledged: list[Event] = []
    refused = 0
    progress = threading.Event()
    errors: list[BaseException] = []
    done = threading.Event()

    def kill() -> None:
        try:
            for _ in range(4):
                progress.clear()
                assert progress.wait(DEADLINE_S)
                own_redis.end(signal.SIGKILL)
                progress.clear()
                # It stays away until it was missed.
                assert progress.wait(DEADLINE_S)
                own_redis.start()
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    killer = threading.Thread(target=kill)
    killer.start()
    position = 0
    while not done.is_set() or position < len(events):
        start = position % len(events)
        batch = events[start : start + 7]
        try:
            scorer.update(batch)
        except StoreError:
            refused += 1
            progress.set()
            continue
        acknowledged += batch
        position = start + 7 if position < len(events) else position + 7
        progress.set()
    killer.join()
    assert not errors
    assert refused >= 4
    store = scorer.store
    assert len(store.read([], [event_digest(event) for event in acknowledged]).seen) == len(events)
    assert {verdict.account_id: verdict.events for verdict in scorer.verdicts()} == {
        f"a{number}": 200 for number in range(5)
    }
    scorer.close()


@pytest.mark.parametrize("error", ["TimeoutError", "ConnectionError"])
def test_a_lost_answer_counts_nothing_twice(
    redis_url: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    store = RedisStore(redis_url, kept=8)
    scorer = tiny_scorer(bundle, store)
    events = make_events(accounts=2, each=10)
    scorer.update(events[:10])
    script = store._script

    def lose(**given: Any) -> None:
        script(**given)
        raise getattr(redis, error)("the answer is lost")

    with monkeypatch.context() as broken:
        broken.setattr(store, "_script", lose)
        with pytest.raises(StoreError):
            scorer.update(events[10:])
    # The client cannot know; it sends them again.
    assert [v.events for v in scorer.update(events[10:])] == [10] * 10
    assert scorer.duplicates == 10
    scorer.close()


def test_an_answer_lost_on_the_way_is_found_out(redis_url: str, bundle: Bundle) -> None:
    """Where the client library itself tries again: it meets what it has written."""
    store = RedisStore(redis_url, kept=8)
    scorer = tiny_scorer(bundle, store)
    events = make_events(accounts=2, each=10)
    scorer.update(events[:10])
    script, lost = store._script, iter([True])

    def twice(**given: Any) -> Any:
        if next(lost, False):
            script(**given)
        return script(**given)

    store._script = twice  # type: ignore[assignment]
    assert [v.events for v in scorer.update(events[10:])] == [10] * 10
    scorer.close()


def test_a_full_redis_is_told_and_got_over(own_redis: RedisServer, bundle: Bundle) -> None:
    scorer = tiny_scorer(bundle, open_store(own_redis.url, kept=8))
    events = make_events(accounts=50, each=4)
    scorer.update(events[:50])
    with redis.Redis.from_url(own_redis.url) as client:
        client.config_set("maxmemory", 1)
        for act in (lambda: scorer.update(events[50:]), scorer.store.check):
            with pytest.raises(StoreError, match=r"^Redis must have room, however: it has reached"):
                act()
        assert [verdict.events for verdict in scorer.verdicts()] == [1] * 50
        client.config_set("maxmemory", 0)
    scorer.store.check()
    scorer.update(events)
    assert [verdict.events for verdict in scorer.verdicts()] == [4] * 50
    scorer.close()


def test_a_replica_is_refused(own_redis: RedisServer) -> None:
    store = open_store(own_redis.url)
    store.write([write("a", 0)])
    with redis.Redis.from_url(own_redis.url) as client:
        client.replicaof("127.0.0.1", "1")
        acts: tuple[Callable[[], None], ...] = (lambda: store.write([write("a", 1)]), store.check)
        for act in acts:
            with pytest.raises(StoreError, match=r"^Redis must take writes, however: it is a read"):
                act()
        client.replicaof("NO", "ONE")
    store.write([write("a", 1)])
    store.close()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_redis_that_forgets_is_refused(own_redis: RedisServer, policy: str) -> None:
    store = open_store(own_redis.url)
    store.check()
    with redis.Redis.from_url(own_redis.url) as client:
        client.config_set("maxmemory-policy", policy)
        with pytest.raises(StoreError, match=rf"must have maxmemory-policy noeviction.*{policy}"):
            store.check()
    store.close()


@contextmanager
def scripted(answer: bytes | None) -> Iterator[str]:
    """The URL of a server that gives one answer to everything, or none."""
    listener = socket.create_server(("127.0.0.1", 0))
    served: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            served.append(connection)
            threading.Thread(target=answer_all, args=(connection,), daemon=True).start()

    def answer_all(connection: socket.socket) -> None:
        try:
            while connection.recv(65_536):
                if answer is not None:
                    connection.sendall(answer)
        except OSError:
            pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"redis://:secret@127.0.0.1:{listener.getsockname()[1]}/0"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for connection in served:
            connection.close()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"-LOADING Redis is loading the dataset in memory\r\n", "it is still loading"),
        (b"-NOAUTH Authentication required.\r\n", "it refuses the name or password"),
        (b"-WRONGPASS invalid username-password pair\r\n", "it refuses the name or password"),
        (b"-MISCONF Redis is configured to save: %b\r\n", "it "),
        (b"-ERR " + CANARY.encode() + b"\r\n", "it "),
        (b"no Redis at all\r\n", "it "),
        (None, r"it does not \(TimeoutError\)"),
    ],
)
def test_whatever_it_answers_is_one_sentence(answer: bytes | None, told: str) -> None:
    with scripted(answer) as url:
        store = RedisStore(url, answer_timeout_s=0.2)
        acts = (
            lambda: store.write([write("account-9", 0, CANARY.encode(), "e1")]),
            lambda: store.read(["account-9"], []),
            store.check,
        )
        for act in acts:
            started = time.monotonic()
            with pytest.raises(StoreError, match=f"^Redis must [^;]*, however: {told}") as caught:
                act()
            assert time.monotonic() - started < DEADLINE_S / 10
            for secret in (CANARY, "secret", "account-9"):
                assert secret not in str(caught.value)
        store.close()


def test_nobody_there_is_told_at_once(tmp_path: Path) -> None:
    store = RedisStore(f"unix://{tmp_path / 'nothing.sock'}")
    with pytest.raises(StoreError, match="it does not"):
        store.check()


def test_a_url_with_a_password_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        RedisStore("redis://:secret@host:not-a-port/0")
    assert "secret" not in str(caught.value)


def test_without_the_package_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(MissingError, match=r"pip install 'stillwatch\[redis\]'"):
        open_store("redis://127.0.0.1:1/0")
