"""The three stores, empty, and a bundle that loads in milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from crash import RedisServer

from stillwatch.model.bundle import Bundle
from stillwatch.model.detector import Detector
from stillwatch.serving.stores import open_store
from stillwatch.serving.stores.base import StateStore
from stillwatch.serving.stores.memory import MemoryStore
from tests.support import TinyEncoder, tiny_bundle

Opener = Callable[..., StateStore]
"""Opens the same accounts once more; `kept` is the number of events kept for replays."""


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def detector(bundle: Bundle) -> Detector:
    return Detector(bundle, TinyEncoder())


def needs_redis_server() -> None:
    if not RedisServer.installed():
        pytest.skip("redis-server is not installed")


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server for tests that leave it as it is."""
    needs_redis_server()
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.end()


@pytest.fixture
def redis_url(shared_redis: RedisServer) -> str:
    """Of an empty database."""
    with redis.Redis.from_url(shared_redis.url) as client:
        client.flushall()
    return shared_redis.url


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server for tests that kill it or set it up otherwise."""
    needs_redis_server()
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.end()


@pytest.fixture(params=["memory", "sqlite", "redis"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    opened: list[StateStore] = []
    memory: list[StateStore] = []
    if request.param == "redis":
        url = request.getfixturevalue("redis_url")
    else:
        url = f"sqlite:///{tmp_path / 'state.db'}"

    def open_again(kept: int = 8) -> StateStore:
        if request.param == "memory":
            # There is only one view of memory.
            store = memory[0] if memory else MemoryStore(kept=kept)
            memory[:] = [store]
        else:
            store = open_store(url, kept=kept)
        opened.append(store)
        return store

    yield open_again
    for store in opened:
        store.close()


@pytest.fixture
def store(opener: Opener) -> StateStore:
    return opener()
