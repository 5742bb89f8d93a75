"""Reads a collection of another's TAXII 2.1 server, page by page, into a desk.

What a page brought is kept before the next is asked for, so a server that is slow, wrong or gone
costs nothing that was there: the next poll goes on behind the last whole page. Nothing of an answer
is quoted in a message.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx

from stillwatch.data.errors import ConfigError
from stillwatch.data.intelligence import FeedError
from stillwatch.data.intelligence.stix_reader import (
    MAX_BYTES,
    MAX_OBJECTS,
    parse,
    read_objects,
    seconds_of,
)
from stillwatch.data.intelligence.stix_writer import timestamp
from stillwatch.serving.sharing.incoming import Importer, Report
from stillwatch.serving.sharing.ledger import Ledger

MEDIA = "application/taxii+json;version=2.1"
PAGE = 200
MOST_PAGES = 500
CONNECT_S, SILENCE_S, PAGE_S = 10.0, 20.0, 60.0
"""To connect, between two pieces of an answer, and for a whole page."""
OVERLAP_S = 3600.0
"""A poll begins so long before where the last one ended: what comes again changes nothing, and a
server whose clock was set back loses nothing."""
LAST_ADDED = "X-TAXII-Date-Added-Last"
_CONTROL = re.compile(r"[\x00-\x20\x7f]")


@dataclass(frozen=True, slots=True)
class Feed:
    """A collection under an API root. `user` and `password` go with every request."""

    root: str
    collection: str
    source: str
    user: str = "stillwatch"
    password: str = ""

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.root)
            host = parts.hostname or ""
            _ = parts.port
        except ValueError:
            parts, host = urlsplit(""), ""
        if parts.scheme not in ("https", "http") or not host or _CONTROL.search(self.root):
            raise ConfigError(
                "URL must be that of a TAXII API root, however: it is not; give one such as "
                "https://peer.example/taxii2/api/"
            )
        if parts.scheme == "http" and host not in ("localhost", "127.0.0.1", "::1"):
            raise ConfigError(
                "URL must begin with https:// unless it is of this machine, however: http://; the "
                "key and the templates would be read on the way"
            )
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ConfigError(
                "URL must hold no password and no query, however: it does; give the password in "
                "the environment"
            )

    @property
    def url(self) -> str:
        """Of the objects."""
        return f"{self.root.rstrip('/')}/collections/{quote(self.collection, safe='')}/objects/"

    @property
    def name(self) -> str:
        """By which a cursor is kept: another server's dates mean nothing here."""
        return f"{self.root.rstrip('/')} {self.collection}"


@dataclass(slots=True)
class Poll:
    """What a poll came to. `error` is why it ended early, None if it read all there was."""

    report: Report = field(default_factory=Report)
    pages: int = 0
    objects: int = 0
    error: str | None = None


class Poller:
    """Polls one feed; every poll is whole by itself."""

    def __init__(
        self,
        feed: Feed,
        ledger: Ledger,
        *,
        ca: str | None = None,
        page_s: float = PAGE_S,
        silence_s: float = SILENCE_S,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`ca` may name a file of certificates to trust in place of the usual ones."""
        self._feed = feed
        self._ledger = ledger
        self._page_s = page_s
        self._clock = clock
        auth = httpx.BasicAuth(feed.user, feed.password) if feed.password else None
        try:
            verify = ssl.create_default_context(cafile=ca) if ca is not None else True
        except OSError:
            raise ConfigError(
                "--ca must be a file of certificates in PEM, however: it cannot be read; correct "
                "the path"
            ) from None
        self._http = httpx.Client(
            auth=auth,
            # A redirect would take the key elsewhere, a compressed answer has no known size.
            follow_redirects=False,
            headers={"Accept": MEDIA, "Accept-Encoding": "identity"},
            timeout=httpx.Timeout(silence_s, connect=min(CONNECT_S, page_s)),
            verify=verify,
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def poll(self, importer: Importer, reviewer: str, from_start: bool = False) -> Poll:
        """Read what is new. What ends it early is in the Poll, and told in one line; StoreError
        if the desk cannot keep what came."""
        done = Poll()
        source, name = self._feed.source, self._feed.name
        after = None if from_start else self._ledger.cursor(source, name)
        query: dict[str, str] = {"limit": str(PAGE)}
        if after is not None:
            query["added_after"] = timestamp((seconds_of(after) or 0.0) - OVERLAP_S)
        try:
            while True:
                content, last = self._page(query)
                more, following = content.get("more", False), content.get("next")
                received = read_objects(content.get("objects", []), MAX_OBJECTS - done.objects)
                count = len(content.get("objects", []))
                done.pages, done.objects = done.pages + 1, done.objects + count
                done.report.add(importer.take(received, source, reviewer))
                self._move(last, after)
                if more is not True:
                    return done
                if not isinstance(following, str) or not following or count == 0:
                    raise FeedError(
                        "a page with more behind it must have objects and a next, however: it has "
                        "not"
                    )
                if following == query.get("next") or done.pages >= MOST_PAGES:
                    raise FeedError(
                        f"a collection must end within {MOST_PAGES} pages, however: it does not"
                    )
                query["next"] = following
        except FeedError as error:
            done.error = (
                f"the feed must be a TAXII 2.1 collection that can be read, however: after "
                f"{done.pages} pages {error}; what came is kept, the next poll goes on from there"
            )
        return done

    def _move(self, last: str | None, before: str | None) -> None:
        """Keep where to go on: never behind where we were, and never in the future."""
        seconds = seconds_of(last)
        if last is None or seconds is None:
            return
        kept = min(seconds, self._clock())
        if before is None or kept > (seconds_of(before) or 0.0):
            self._ledger.move(self._feed.source, self._feed.name, timestamp(kept))

    def _page(self, query: dict[str, str]) -> tuple[dict[str, Any], str | None]:
        until = time.monotonic() + self._page_s
        content = bytearray()
        try:
            with self._http.stream("GET", self._feed.url, params=query) as answer:
                _check(answer)
                for piece in answer.iter_raw():
                    content += piece
                    if len(content) > MAX_BYTES:
                        raise FeedError(
                            f"a page must have at most {MAX_BYTES // 2**20} MiB, however: it has "
                            "more"
                        )
                    if time.monotonic() > until:
                        raise FeedError(
                            f"a page must arrive within {self._page_s:g} s, however: it did not"
                        )
                last = answer.headers.get(LAST_ADDED)
        except httpx.TimeoutException:
            raise FeedError("the server must answer in time, however: it did not") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise FeedError(
                f"the server must be reachable, however: {type(error).__name__}"
            ) from None
        return parse(bytes(content), "a page"), last


def _check(answer: httpx.Response) -> None:
    """FeedError for an answer that is no page."""
    status = answer.status_code
    if status in (401, 403):
        raise FeedError(f"the server must let this key read it, however: status {status}")
    if status == 404:
        raise FeedError("the server must have the collection, however: status 404")
    if answer.is_redirect:
        raise FeedError("the server must answer itself, however: it sends elsewhere")
    if status != 200:
        raise FeedError(f"the server must answer with status 200, however: {status}")
    parts = answer.headers.get("content-type", "").replace(" ", "").lower().split(";")
    if parts[0] != "application/taxii+json" or answer.headers.get("content-encoding"):
        raise FeedError(f"an answer must be {MEDIA}, uncompressed, however: it is another")
    # A page that an older one of 2.0 sends has another media type altogether.
    if "version=2.1" not in parts[1:]:
        raise FeedError("the server must speak TAXII 2.1, however: another version")
