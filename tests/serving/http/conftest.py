"""An app around a scripted scorer, with a client."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.serving.http.http_support import ScriptedScorer, client_of, settings_in


@pytest.fixture
def scorer() -> ScriptedScorer:
    return ScriptedScorer()


@pytest.fixture
def client(scorer: ScriptedScorer, tmp_path: Path) -> Iterator[TestClient]:
    with client_of(settings_in(tmp_path), scorer) as client:
        yield client
