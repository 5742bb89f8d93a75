"""Pages over a tiny bundle, a client that logs in, and prompts that mean harm."""

from __future__ import annotations

import html
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from html import unescape
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.testclient import TestClient

from stillwatch.data.events import Event
from stillwatch.serving.archive import PromptArchive
from stillwatch.serving.desk import Desk
from stillwatch.serving.http.app import create_app
from stillwatch.serving.http.auth import new_key
from stillwatch.serving.http.server import listen
from stillwatch.serving.http.settings import KeyEntry, ServeSettings
from stillwatch.serving.pages import Workplace
from stillwatch.serving.pages.tokens import to_token
from stillwatch.serving.scorer import Scorer
from tests.support import make_events, tiny_bundle, tiny_scorer

KEYS = {name: new_key() for name in ("scorer", "analyst", "second", "admin", "bound")}
ENTRIES = tuple(
    KeyEntry.model_validate({
        "id": name, "role": {"second": "analyst", "bound": "analyst"}.get(name, name),
        "sha256": key.sha256, "accounts": "acme/" if name == "bound" else "*",
    })
    for name, key in KEYS.items()
)  # fmt: skip
HARM = (
    '<img src=x onerror="document.title=1">',
    '=HYPERLINK("http://x.invalid","y")',
    "\u202eabc\u202c\u2066d\u200b\u200b\ud800\x00\x1b[31m",
    "{{ 7 * 7 }} ${7*7} '\"><script>document.title=1</script>",
)
"""Markup, a formula, direction marks and half a surrogate pair, another template language."""
LEAST_REPLAYED = 20
"""Ordinary prompts of the archive are few in a test."""
HARM_ACCOUNT = "acct<b>\u202e/../\ud800 =1+1"
LONG = " ".join(
    f"harm{number} " + "</p><script>document.title=1</script>" for number in range(4500)
)
"""About 200,000 characters."""


def harmful_events(account: str = HARM_ACCOUNT) -> list[Event]:
    """Prompts that try to act upon whatever shows them, with ids that do too."""
    prompts = [*HARM, LONG[:200_000], *HARM]
    return [
        Event(f"e<i>{number}\u202e", account, 1.7e9 + 60.0 * number, prompt, system=HARM[0],
              client='curl"><script>1</script>', network="n1", payment="p1")
        for number, prompt in enumerate(prompts)
    ]  # fmt: skip


@dataclass
class Place:
    """Pages that are served to a client in this process."""

    app: FastAPI
    scorer: Scorer
    archive: PromptArchive
    desk: Desk
    client: TestClient
    csrf: str = field(default="")

    def login(self, role: str = "analyst") -> Place:
        """Log in; whoever was is not any more."""
        self.client.cookies.clear()
        page = self.client.get("/desk/login").text
        answer = self.post("/desk/login", csrf=csrf_of(page), key=KEYS[role].key)
        assert answer.status_code == 303, answer.text
        self.csrf = csrf_of(self.get("/desk/queue").text)
        return self

    def beside(self, role: str) -> Place:
        """Another client of the same pages, with a session of its own."""
        client = TestClient(self.app, base_url="http://127.0.0.1", raise_server_exceptions=False)
        # In the event loop that the app was started in.
        client.portal = self.client.portal
        return Place(self.app, self.scorer, self.archive, self.desk, client).login(role)

    def get(self, path: str, **options: Any) -> Any:
        return self.client.get(path, follow_redirects=False, **options)

    def page(self, path: str) -> str:
        """The text of a page that is there."""
        answer = self.get(path)
        assert answer.status_code == 200, (answer.status_code, answer.text[:3000])
        return str(answer.text)

    def post(self, path: str, **fields: Any) -> Any:
        """Post a form; the session's CSRF token is in it unless another is given."""
        data = {"csrf": self.csrf} | fields
        return self.client.post(path, data=data, follow_redirects=False)

    def shown(self, account_id: str) -> dict[str, str]:
        """What the account's page shows: the fields that name its verdict and present decision."""
        page = self.page(f"/desk/accounts/{to_token(account_id)}")
        found = dict(re.findall(r'name="(shown|expected)" value="([^"]*)"', page))
        assert set(found) == {"shown", "expected"}, page
        return found

    def decide(self, account_id: str, verdict: str, reason: str = "seen", **more: Any) -> Any:
        given = {"verdict": verdict, "reason": reason, **self.shown(account_id), **more}
        return self.post(f"/desk/accounts/{to_token(account_id)}/decide", **given)

    def search(self, text: str, view: str = "accounts", **fields: Any) -> str:
        """The results of a search."""
        answer = self.post("/desk/search", text=text, **fields)
        assert answer.status_code == 303, answer.text
        return self.page(f"{answer.headers['location']}?view={view}")


def csrf_of(page: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found, page
    return unescape(found[1])


@contextmanager
def parts(
    folder: Path, events: Sequence[Event] | None = None, offset: float = 0.0, **settings: Any
) -> Iterator[tuple[FastAPI, Scorer, PromptArchive, Desk]]:
    """An app over a tiny bundle whose scorer has read some events."""
    scorer = tiny_scorer(tiny_bundle(folder / "bundle", offset=offset))
    archive = PromptArchive.open(
        folder / "archive", scorer.encoder.dimensions, encoder=scorer.encoder,
        encoder_id="tiny 0 fp32", background=False,
    )  # fmt: skip
    try:
        scorer.archive = archive
        scorer.ingest(make_events(6, 12) if events is None else events)
        archive.flush()
        desk_folder = folder / "desk"
        made = ServeSettings(**{
            "keys": ENTRIES, "dead_letters": folder / "dead.jsonl", "desk_folder": desk_folder,
            **settings,
        })  # fmt: skip
        workplace = Workplace.open(
            desk_folder, archive, two_person=made.desk_two_person, report=made.desk_report,
            make_desk=partial(Desk.open, least_replayed=LEAST_REPLAYED),
        )  # fmt: skip
        yield create_app(made, scorer, workplace), scorer, archive, workplace.desk
    finally:
        archive.close()


@contextmanager
def place(
    folder: Path, events: Sequence[Event] | None = None, offset: float = 0.0, **settings: Any
) -> Iterator[Place]:
    """The pages with a client that is not logged in yet."""
    with (
        parts(folder, events, offset, **settings) as (app, scorer, archive, desk),
        TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client,
    ):
        yield Place(app, scorer, archive, desk, client)


@contextmanager
def served(
    folder: Path, events: Sequence[Event] | None = None, offset: float = 0.0, **settings: Any
) -> Iterator[tuple[str, PromptArchive, Desk]]:
    """The pages on a free port of 127.0.0.1; their address."""
    with (
        parts(folder, events, offset, **settings) as (app, _, archive, desk),
        listen("127.0.0.1", 0) as listener,
    ):
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none", lifespan="on"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", archive, desk
        finally:
            server.should_exit = True
            thread.join(30)


def text_of(page: str) -> str:
    """What is read of a page, tags and blank space left out."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def queued(page: str) -> list[str]:
    return [html.unescape(name) for name in re.findall(r'class="row-link"[^>]*><bdi>([^<]*)', page)]


def rows_of(page: str) -> list[str]:
    """The text of each result."""
    return [text_of(row) for row in re.findall(r"<tr data-row.*?</tr>", page, re.DOTALL)]


def picks_of(page: str) -> list[str]:
    return re.findall(r'name="pick" value="([^"]+)"', page)
