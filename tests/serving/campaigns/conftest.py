"""One archive with campaigns for tests that only look, and a folder for those that change it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.campaigns.campaigns_support import Room, room
from tests.support import tiny_bundle


@pytest.fixture(scope="session")
def made_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle's folder, to be copied: making one takes time."""
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    tiny_bundle(folder)
    return folder


@pytest.fixture
def empty(made_bundle: Path, tmp_path: Path) -> Iterator[Room]:
    shutil.copytree(made_bundle, tmp_path / "bundle")
    with room(tmp_path) as made:
        yield made
