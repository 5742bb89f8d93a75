"""An app around a scripted scorer, with a client."""

import io
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from starlette.testclient import TestClient

from stillwatch.serving.http import logs
from tests.serving.http.http_support import ScriptedScorer, client_of, settings_in


@pytest.fixture
def scorer() -> ScriptedScorer:
    return ScriptedScorer()


@pytest.fixture
def client(scorer: ScriptedScorer, tmp_path: Path) -> Iterator[TestClient]:
    with client_of(settings_in(tmp_path), scorer) as client:
        yield client


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the service logs while a test runs; the test's own logging comes back after it."""
    names = ("", "uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")
    before = [
        (logger, logger.handlers[:], logger.level, logger.propagate)
        for logger in map(logging.getLogger, names)
    ]
    hook = threading.excepthook
    stream = io.StringIO()
    logs.configure("debug", stream)
    yield stream
    structlog.reset_defaults()
    logging.captureWarnings(False)
    threading.excepthook = hook
    for logger, handlers, level, propagate in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate
