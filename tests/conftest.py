"""What holds for every test: no network, few threads, the same examples each time."""

import os

# Before anything imports the libraries that read them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Threads of two processes that wait for one another would share the cores badly.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["NO_COLOR"] = "1"

import ipaddress
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("stillwatch", deadline=None, derandomize=True, database=None)
settings.load_profile("stillwatch")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that train take the longest and begin, so that of two processes none waits at the
    end."""
    training = {item.path for item in items if "cache" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: item.path not in training)


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Refuses every connection that leaves this machine."""
    connect = socket.socket.connect

    def connect_locally(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
            self.close()
            raise AssertionError(f"A test must not use the network, however: {address[0]}.")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_locally)
        yield


@pytest.fixture(scope="session")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What small trainings are done on."""
    # Takes what training takes to import, which most tests do without.
    from tests.training.small_training import write_corpora

    folder = tmp_path_factory.mktemp("corpora")
    write_corpora(folder)
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Encodings of small trainings: what one has encoded another does not."""
    return tmp_path_factory.mktemp("cache")
