"""Bodies: counted, timed and decompressed while they are read, and refused before they are held.

Nothing is read before the app asks for it, so a caller without a key cannot make the service read
at all. What is refused, or answered before it has been read, ends its connection.
"""

from __future__ import annotations

import asyncio
import math
import zlib
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import zstandard
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stillwatch.serving.http.problems import Problem, retry_after

ENCODINGS = ("gzip", "zstd")
_ZSTD_WINDOW = 1 << 23
_STEP = 256
"""Bytes decompressed at a time: no format makes more than 8 MiB of so few."""
_MAX_MEMBERS = 1000
_GZIP_BITS = 31
_LINGER_S = 1.0
"""How long the rest of an unwanted body is read and dropped, so that its sender sees the answer:
a connection that is closed with bytes unread is reset."""


class BodyLimits:
    """Limits that all requests share. `budget` bounds the bytes of all bodies held at once."""

    def __init__(self, limit: int, timeout_s: float, budget: int) -> None:
        self.limit = limit
        self.timeout_s = timeout_s
        self.budget = budget
        self.held = 0
        self._until = math.inf
        self._reading: set[asyncio.Timeout] = set()

    def middleware(
        self, app: ASGIApp
    ) -> Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]:
        """An app whose bodies are limited."""

        async def limited(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            body = _Body(self, Headers(scope=scope), receive, send)
            try:
                await app(scope, body.receive, body.send)
            finally:
                self.held -= body.held

        return limited

    def hurry(self, seconds: float) -> None:
        """Bodies that have not arrived by then are given up: the service stops."""
        self._until = asyncio.get_running_loop().time() + seconds
        for timeout in self._reading:
            when = timeout.when()
            timeout.reschedule(self._until if when is None else min(when, self._until))

    async def receive(self, receive: Receive, until: float) -> Message:
        """The next message; TimeoutError if it has not come by then."""
        async with asyncio.timeout_at(min(until, self._until)) as timeout:
            self._reading.add(timeout)
            try:
                return await receive()
            finally:
                self._reading.discard(timeout)


class _Body:
    """The body of one request."""

    def __init__(self, limits: BodyLimits, headers: Headers, receive: Receive, send: Send) -> None:
        self.held = 0
        self._limits = limits
        self._headers = headers
        self._receive = receive
        self._send = send
        self._until: float | None = None
        self._count = 0
        self._stalled = False
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        self._complete = not has_body
        self._encoding = headers.get("content-encoding", "identity").strip().lower()

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()
        if self._until is None:
            self._check_headers()
            self._until = asyncio.get_running_loop().time() + self._limits.timeout_s
        if self._encoding == "identity":
            return await self._next()
        # Compressed bytes are held whole, for no more than the limit; only then are they read.
        packed = bytearray()
        while not self._complete:
            message = await self._next()
            if message["type"] != "http.request":
                return message
            packed += message.get("body", b"")
        body = decompress(bytes(packed), self._encoding, self._limits.limit)
        self._hold(len(body))
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Message) -> None:
        if self._complete:
            await self._send(message)
        elif message["type"] == "http.response.start":
            message.setdefault("headers", [])
            MutableHeaders(scope=message)["connection"] = "close"
            await self._send(message)
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            if not self._stalled:
                with suppress(TimeoutError):
                    await self._drop_rest()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            await self._send(message)

    def _check_headers(self) -> None:
        if self._encoding not in ("identity", *ENCODINGS):
            raise Problem(
                "unsupported_encoding",
                f"The Content-Encoding must be {' or '.join(ENCODINGS)}, however: another.",
                headers={"Accept-Encoding": ", ".join(ENCODINGS)},
            )
        length = self._headers.get("content-length")
        if length is None:
            return
        if not (length.isascii() and length.isdigit()):
            raise Problem(
                "invalid_length", "The Content-Length must be a whole number, however: it is not."
            )
        # By its digits first: Python reads no number of thousands of them.
        if len(length.lstrip("0")) > 18 or int(length) > self._limits.limit:
            raise _too_large(self._limits.limit)

    async def _next(self) -> Message:
        assert self._until is not None
        try:
            message = await self._limits.receive(self._receive, self._until)
        except TimeoutError:
            self._stalled = True
            raise Problem(
                "body_timeout",
                f"The body must arrive within {self._limits.timeout_s:g} s, however: it did not.",
            ) from None
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self._count += size
            self._complete = not message.get("more_body", False)
            if self._count > self._limits.limit:
                raise _too_large(self._limits.limit)
            self._hold(size)
        else:
            self._complete = True
        return message

    def _hold(self, size: int) -> None:
        if self._limits.held + size > self._limits.budget:
            raise Problem(
                "overloaded",
                "The bodies being read must fit into the memory set aside for them, however: they "
                "are too many; come back after the time in Retry-After.",
                headers=retry_after(1),
            )
        self._limits.held += size
        self.held += size

    async def _drop_rest(self) -> None:
        until = asyncio.get_running_loop().time() + _LINGER_S
        while not self._complete:
            message = await self._limits.receive(self._receive, until)
            self._complete = not message.get("more_body", False)


def decompress(data: bytes, encoding: str, limit: int) -> bytes:
    """What `data` holds, which is refused once it has more than `limit` bytes. Raises Problem."""
    body = bytearray()
    position = members = 0
    try:
        while position < len(data):
            members += 1
            if members > _MAX_MEMBERS:
                raise EOFError
            member = _member(encoding)
            while not member.eof:
                part = data[position : position + _STEP]
                if not part:
                    raise EOFError
                position += len(part)
                body += member.decompress(part)
                if len(body) > limit:
                    raise _too_large(limit)
            position -= len(member.unused_data)
    except (zlib.error, zstandard.ZstdError, EOFError):
        raise Problem(
            "invalid_encoding",
            f"The body must be {encoding} as the Content-Encoding says, however: it is not.",
        ) from None
    return bytes(body)


def _member(encoding: str) -> Any:
    """What decompresses one gzip member or zstd frame: a body may be several, joined."""
    if encoding == "gzip":
        return zlib.decompressobj(_GZIP_BITS)
    return zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()


def _too_large(limit: int) -> Problem:
    return Problem(
        "body_too_large", f"The body must have at most {limit:,} bytes, however: it has more."
    )
