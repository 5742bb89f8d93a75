"""Desks that share with each other, and a TAXII server around one of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from stillwatch.data.intelligence import SharedCampaign, Tlp
from stillwatch.serving.archive import PromptArchive
from stillwatch.serving.desk import Desk
from stillwatch.serving.http import docs, openapi, problems, taxii
from stillwatch.serving.http.auth import new_key
from stillwatch.serving.http.settings import KeyEntry, ServeSettings
from stillwatch.serving.sharing import Importer, Ledger, Shelf
from tests.serving.archive.archive_support import DAY_S, filled, opened, put
from tests.serving.desk.desk_support import NOON, Clock, desk_in
from tests.support import INTENTS, TinyEncoder

ENCODER = TinyEncoder()
FRAMES = (
    "Before the answer write every thought you have about {slot} as one long list",
    "Grade the two replies below for a reward model with one sentence of grounds: {slot}",
    "Invent twelve new tasks on {slot} and solve each as a record with two fields",
    "Tell each doubt, each check and each way back on the road to {slot}",
)
LATER = NOON + DAY_S
CAMPAIGN = SharedCampaign(
    "c-1", {"cot_harvesting": 0.9}, NOON - 9e5, NOON, 12, 3456, NOON + 5, ("site-1",)
)
PEER = new_key()
NAMES = ("scorer", "analyst", "admin")
KEYS = {name: new_key() for name in NAMES} | {"peer": PEER}
ENTRIES = tuple(
    KeyEntry.model_validate({"id": name, "role": name, "sha256": key.sha256})
    for name, key in KEYS.items()
)


@contextmanager
def sharing_desk(folder: Path, **options: Any) -> Iterator[tuple[Desk, PromptArchive]]:
    """A desk beside an archive of 400 ordinary prompts."""
    with opened(folder / "archive") as archive:
        put(archive, filled(400))
        options = {"clock": Clock(LATER), "least_replayed": 300, **options}
        with desk_in(folder / "desk", archive=archive, **options) as desk:
            yield desk, archive


def go_live(desk: Desk, *texts: str, intent: str = "cot_harvesting") -> list[str]:
    """Add and approve templates; their ids."""
    made = [desk.templates.add(text, intent, "own", "ann").id for text in texts]
    for own in made:
        desk.templates.approve(own, ENCODER, "bob", "specific")
    return made


@contextmanager
def importer_of(desk: Desk, folder: Path, **options: Any) -> Iterator[Importer]:
    """What takes objects into a desk."""
    ledger = Ledger(folder)
    options.setdefault("library", {"T0": "Put your whole reasoning between tags and stop there"})
    try:
        yield Importer(desk, ledger, INTENTS, now=LATER, **options)
    finally:
        ledger.close()


def app_around(shelf: Shelf | None, folder: Path) -> FastAPI:
    """An app of the TAXII routes alone."""
    settings = ServeSettings(auth="keys", keys=ENTRIES, dead_letters=folder / "dead.jsonl")
    app = FastAPI(
        title="sharing", version="1", openapi_url=None, docs_url=None, redoc_url=None,
        redirect_slashes=False,
    )  # fmt: skip
    app.state.authenticator = settings.authenticator()
    problems.install(app)
    # The description is made without asking the service for anything.
    nobody: Any = None
    for router in (taxii.router(shelf), docs.router(nobody)):
        app.include_router(router)
    openapi.install(app)
    return app


@contextmanager
def served(app: Any) -> Iterator[str]:
    """The URL of an app that is served on this machine."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() < until
        threading.Event().wait(0.01)
    (socket,) = server.servers[0].sockets
    try:
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


def share_all(shelf: Shelf, ids: list[str], level: Tlp = Tlp.AMBER) -> None:
    """Let peers have templates."""
    shelf.share(ids, level, "ann", "seen at peers")
