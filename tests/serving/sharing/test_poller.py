"""The poller: pages, where it goes on, and servers that are slow, wrong or gone."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from stillwatch.data.errors import ConfigError
from stillwatch.data.intelligence import Producer, SharedTemplate, Tlp
from stillwatch.data.intelligence.stix_reader import MAX_BYTES, seconds_of
from stillwatch.data.intelligence.stix_writer import (
    producer_uuid,
    template_id,
    template_objects,
    timestamp,
)
from stillwatch.serving.desk import Desk
from stillwatch.serving.sharing import Importer, Ledger
from stillwatch.serving.sharing.poller import LAST_ADDED, MEDIA, OVERLAP_S, Feed, Poll, Poller
from tests.serving.archive.archive_support import DAY_S
from tests.serving.desk.desk_support import Clock, desk_in
from tests.serving.sharing.sharing_support import FRAMES, LATER
from tests.support import INTENTS

THEM = Producer("their digits")
ROOT, ID = "https://peer.example/taxii2/api/", "6d0a2e0c-0000-4000-8000-000000000000"
FEED = Feed(ROOT, ID, "taxii:acme", password="sw_secret")
SECRET_TEXT = "a text of theirs that no message may hold"


def indicator(number: int) -> dict[str, Any]:
    text = FRAMES[number]
    made = SharedTemplate(
        template_id(THEM, f"site-{number}", "cot_harvesting", text), text, "cot_harvesting", "en",
        LATER - 500, LATER - 400, LATER - 500, LATER + 30 * DAY_S, False, Tlp.AMBER,
        creator=f"identity--{producer_uuid(THEM)}",
    )  # fmt: skip
    return template_objects(THEM, made)[0]


def page(*objects: Any, more: bool = False, **fields: Any) -> dict[str, Any]:
    return {"more": more, "objects": list(objects), **fields}


def answer(content: Any, last: float = LATER - 50, **options: Any) -> httpx.Response:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    headers = {"Content-Type": MEDIA, LAST_ADDED: timestamp(last)}
    headers.update(options.pop("headers", {}))
    return httpx.Response(
        options.pop("status", 200), stream=httpx.ByteStream(body), headers=headers
    )


class Site:
    """A desk that polls a server that is a function."""

    def __init__(self, desk: Desk, folder: Path) -> None:
        self.desk = desk
        self.ledger = Ledger(folder)
        self.asked: list[httpx.Request] = []

    def poll(
        self, handle: Callable[[httpx.Request], httpx.Response], feed: Feed = FEED, **options: Any
    ) -> Poll:
        def handler(request: httpx.Request) -> httpx.Response:
            self.asked.append(request)
            return handle(request)

        importer = Importer(self.desk, self.ledger, INTENTS, now=LATER)
        transport = httpx.MockTransport(handler)
        with Poller(
            feed, self.ledger, transport=transport, clock=lambda: LATER, **options
        ) as poller:
            return poller.poll(importer, "feed")

    @property
    def waiting(self) -> set[str]:
        return {one.text for one in self.desk.templates.find("quarantined")}

    @property
    def cursor(self) -> str | None:
        return self.ledger.cursor(FEED.source, FEED.name)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with desk_in(tmp_path, clock=Clock(LATER)) as desk:
        made = Site(desk, tmp_path)
        yield made
        made.ledger.close()


def test_pages_are_read_to_their_end_and_gone_on_from(site: Site) -> None:
    pages = {
        None: page(indicator(0), more=True, next="two"),
        "two": page(indicator(1), {"type": "note", "id": "x"}, more=True, next="three"),
        "three": page(indicator(2)),
    }

    def serve(request: httpx.Request) -> httpx.Response:
        return answer(pages[request.url.params.get("next")])

    done = site.poll(serve)
    assert (done.error, done.pages, done.objects) == (None, 3, 4)
    assert site.waiting == set(FRAMES[:3])
    assert (done.report.count("added"), done.report.count("refused")) == (3, 1)
    first = site.asked[0]
    assert first.url.path == f"/taxii2/api/collections/{ID}/objects/"
    assert first.headers["accept"] == MEDIA
    assert first.headers["authorization"].startswith("Basic ")
    assert "added_after" not in first.url.params
    assert site.cursor == timestamp(LATER - 50)
    done = site.poll(lambda _: answer({"more": False}, headers={LAST_ADDED: ""}))
    assert (done.error, done.objects) == (None, 0)
    # From a while before, for what comes again changes nothing.
    assert site.asked[-1].url.params["added_after"] == timestamp(LATER - 50 - OVERLAP_S)
    assert site.cursor == timestamp(LATER - 50)


def test_another_server_has_another_cursor(site: Site) -> None:
    site.poll(lambda _: answer(page()))
    other = Feed("https://other.example/api/", ID, FEED.source)
    site.poll(lambda _: answer(page()), other)
    assert "added_after" not in site.asked[-1].url.params
    assert "authorization" not in site.asked[-1].headers


def test_dates_of_the_future_do_not_blind_us(site: Site) -> None:
    site.poll(lambda _: answer(page(indicator(0)), last=LATER + 900 * DAY_S))
    assert (seconds_of(site.cursor) or 0.0) <= LATER
    for wrong in ("tomorrow", "9" * 5000, "2026-13-45T00:00:00Z"):
        site.poll(lambda _, wrong=wrong: answer(page(), headers={LAST_ADDED: wrong}))  # type: ignore[misc]
    assert (seconds_of(site.cursor) or 0.0) <= LATER
    site.poll(lambda _: answer(page(), last=5.0))
    assert site.cursor == timestamp(LATER)


def raises(error: Exception) -> Callable[[httpx.Request], httpx.Response]:
    def handle(request: httpx.Request) -> httpx.Response:
        raise error

    return handle


WRONG = [
    (raises(httpx.ConnectError(SECRET_TEXT)), "must be reachable, however: ConnectError"),
    (raises(httpx.ReadTimeout(SECRET_TEXT)), "must answer in time"),
    (raises(httpx.RemoteProtocolError(SECRET_TEXT)), "RemoteProtocolError"),
    (lambda _: answer(SECRET_TEXT.encode()), "one JSON object"),
    (lambda _: answer(b""), "one JSON object"),
    (lambda _: answer(b'{"more": false, "objects": [NaN]}'), "finite"),
    (lambda _: answer(b"[" * 100_000), "a page must be"),
    (lambda _: answer(b" " * (MAX_BYTES + 1)), "at most 16 MiB"),
    (lambda _: answer(page(), status=500), "status 200, however: 500"),
    (lambda _: answer(page(), status=401), "let this key read it"),
    (lambda _: answer(page(), status=403), "let this key read it"),
    (lambda _: answer(page(), status=404), "must have the collection"),
    (lambda _: answer(page(), status=302, headers={"Location": "https://evil.example/"}),
     "sends elsewhere"),
    (lambda _: answer(page(), headers={"Content-Type": "text/html"}), "an answer must be"),
    (lambda _: answer(page(), headers={"Content-Type": "application/taxii+json;version=2.0"}),
     "another version"),
    (lambda _: answer(page(), headers={"Content-Encoding": "gzip"}), "uncompressed"),
    (lambda _: answer({"more": False, "objects": {"a": 1}}), "must be a list"),
    (lambda _: answer(page(*[indicator(1)] * 10_001)), "at most 10,000 objects"),
    (lambda _: answer(page(more=True, next="x")), "must have objects and a next"),
    (lambda _: answer(page(indicator(1), more=True)), "must have objects and a next"),
    (lambda _: answer(page(indicator(1), more=True, next=[SECRET_TEXT])), "objects and a next"),
]  # fmt: skip


@pytest.mark.parametrize(("serve", "why"), WRONG)
def test_a_wrong_server_is_one_line_and_costs_nothing(
    site: Site, serve: Callable[[httpx.Request], httpx.Response], why: str
) -> None:
    assert site.poll(lambda _: answer(page(indicator(0)))).error is None
    head, cursor = site.desk.head(), site.cursor
    done = site.poll(serve)
    assert done.error is not None
    assert why in done.error
    assert "\n" not in done.error
    assert SECRET_TEXT not in done.error
    assert "sw_secret" not in done.error
    assert len(site.asked) == 2 or "objects and a next" in why
    if "next" not in why:
        assert (site.desk.head(), site.cursor) == (head, cursor)
    # It goes on from where it was.
    assert site.poll(lambda _: answer(page(indicator(2)))).error is None
    assert FRAMES[2] in site.waiting


def test_it_breaks_off_in_the_middle_and_keeps_what_came(site: Site) -> None:
    def serve(request: httpx.Request) -> httpx.Response:
        if "next" in request.url.params:
            raise httpx.ConnectError("gone")
        return answer(page(indicator(0), more=True, next="two"), last=LATER - 500)

    done = site.poll(serve)
    assert done.error is not None
    assert "after 1 pages" in done.error
    assert site.waiting == {FRAMES[0]}
    assert site.cursor == timestamp(LATER - 500)
    whole = page(indicator(0), indicator(1))
    assert site.poll(lambda _: answer(whole)).report.count("known") == 1
    assert site.waiting == set(FRAMES[:2])


def test_pages_without_end_are_ended(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillwatch.serving.sharing.poller.MOST_PAGES", 4)
    note = {"type": "note", "id": "note--6d0a2e0c-0000-4000-8000-000000000000"}
    done = site.poll(lambda _: answer(page(note, more=True, next=str(len(site.asked)))))
    assert done.error is not None
    assert "end within 4 pages" in done.error
    assert done.pages == 4
    site.asked.clear()
    done = site.poll(lambda _: answer(page(note, more=True, next="same")))
    assert len(site.asked) == 2


def test_a_flood_over_pages_is_ended(site: Site) -> None:
    note = {"type": "note", "id": "note--6d0a2e0c-0000-4000-8000-000000000000"}
    done = site.poll(lambda _: answer(page(*[note] * 4000, more=True, next=str(len(site.asked)))))
    assert done.error is not None
    assert "at most 10,000 objects" in done.error
    assert done.objects == 8000


@contextmanager
def dripping(*pieces: bytes) -> Iterator[str]:
    """A server that sends one byte now and then, for ever; the URL of its API root."""
    done = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            for piece in pieces:
                connection.sendall(piece)
            while not done.wait(0.02):
                try:
                    connection.sendall(b" ")
                except OSError:
                    return

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/api/"
    finally:
        done.set()
        thread.join(10)
        listener.close()


def test_a_server_that_drips_is_left(site: Site) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {MEDIA}\r\n\r\n{{".encode()
    importer = Importer(site.desk, site.ledger, INTENTS, now=LATER)
    with dripping(head) as url:
        feed = Feed(url, ID, FEED.source)
        with Poller(feed, site.ledger, page_s=0.3, silence_s=5.0) as poller:
            done = poller.poll(importer, "feed")
    assert done.error is not None
    assert "within 0.3 s" in done.error


def test_a_server_that_is_silent_or_gone_is_left(site: Site) -> None:
    importer = Importer(site.desk, site.ledger, INTENTS, now=LATER)
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/api/"
    for wanted in ("in time", "ConnectError"):
        with Poller(Feed(url, ID, FEED.source), site.ledger, silence_s=0.2) as poller:
            done = poller.poll(importer, "feed")
        assert done.error is not None
        assert wanted in done.error
        listener.close()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://peer.example/api/", "https://"),
        ("http://127.0.0.1.evil.example/api/", "https://"),
        ("ftp://peer.example/api/", "API root"),
        ("peer.example", "API root"),
        ("https://", "API root"),
        ("https://[::1/", "API root"),
        ("https://peer.example:x/", "API root"),
        ("https://peer.example/\r\nX: y", "API root"),
        ("https://user:word@peer.example/", "no password"),
        ("https://peer.example/?key=word", "no password"),
    ],
)
def test_a_wrong_url_is_told_before_anything_is_sent(url: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as told:
        Feed(url, ID, "taxii:acme")
    assert "word" not in str(told.value).replace("password", "")


def test_certificates_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with pytest.raises(ConfigError, match="--ca"):
        Poller(FEED, ledger, ca=str(tmp_path / "none.pem"))
    ledger.close()
