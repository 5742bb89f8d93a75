"""Pages over a tiny bundle that flags everybody."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.pages.pages_support import Place, harmful_events, place
from tests.support import make_events

FLAGS_ALL = 3.0
"""Moves every logit so far that each account is flagged."""


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Place]:
    """Ordinary traffic, all of it flagged, and an analyst who is logged in."""
    with place(tmp_path, offset=FLAGS_ALL) as made:
        yield made.login()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """As `desk`, with an account whose ids and prompts mean harm; only looked at."""
    folder = tmp_path_factory.mktemp("hostile")
    events = [*make_events(3, 4), *harmful_events()]
    with place(folder, events, offset=FLAGS_ALL) as made:
        yield made.login()
