"""Every test of the archive's behaviour runs over both databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving.archive.archive_support import opened
from tests.serving.archive.postgres_support import Server, postgres_server

Open = Callable[..., Any]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """One server for all tests; its tables are dropped by `clean_postgres`."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def clean_postgres(postgres: Server) -> str:
    """The URL of an empty database."""
    import psycopg

    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS stillwatch_archive CASCADE")
    return postgres.url


@pytest.fixture(params=["sqlite", "postgres"])
def open_archive(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the same archive each time, as a context."""
    if request.param == "sqlite":
        return lambda **options: opened(tmp_path / "archive", **options)
    url = request.getfixturevalue("clean_postgres")
    folder = tmp_path / "archive"
    return lambda **options: opened(url, **{"folder": folder, **options})
