"""The service as a process: a socket, limits on headers, and a clean stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from typing import Any

import httptools
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from stillwatch.data.errors import ConfigError
from stillwatch.serving.http.app import create_app
from stillwatch.serving.http.batches import Scores
from stillwatch.serving.http.logs import get_logger
from stillwatch.serving.http.settings import ServeSettings
from stillwatch.serving.pages import Workplace

HEADER_LIMIT_BYTES = 32_768
"""Longest request line and headers together."""
HEADER_LIMIT_COUNT = 100
HEADER_TIMEOUT_S = 10.0
KEEP_ALIVE_S = 30
BACKLOG = 512


class Protocol(HttpToolsProtocol):
    """uvicorn's own sets no limit to headers, nor to the time they take."""

    _header_bytes = 0
    _header_timeout: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timeout()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._header_bytes = 0
        self._expect_headers()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_timeout()
        super().on_headers_complete()

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > HEADER_LIMIT_BYTES or len(self.headers) >= HEADER_LIMIT_COUNT:
            # What ends the parser is answered with 400, and the connection closed.
            raise httptools.HttpParserError("the headers are too large")

    def _expect_headers(self) -> None:
        self._stop_timeout()
        self._header_timeout = self.loop.call_later(HEADER_TIMEOUT_S, self.transport.close)

    def _stop_timeout(self) -> None:
        if self._header_timeout is not None:
            self._header_timeout.cancel()
            self._header_timeout = None


class Server(uvicorn.Server):
    """Stops on SIGTERM and SIGINT with what is in flight finished, and leaves no signal over."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, drain_s: float) -> None:
        super().__init__(config)
        self._app = app
        self._drain_s = drain_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        get_logger().info("stopping")
        self._app.state.service.draining = True
        # Of the time to stop, stalled bodies have a quarter, their answers another.
        self._app.state.bodies.hurry(self._drain_s / 4)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {
            number: signal.signal(number, self.handle_exit)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ConfigError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"host and port must be free to listen on, however: {error.strerror}: {host}:{port}; "
            "name others"
        ) from error


def run(
    settings: ServeSettings,
    scorer: Scores,
    listener: socket.socket,
    workplace: Workplace | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; closes the scorer, the workplace and the listener."""
    app = create_app(settings, scorer, workplace)
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        # uvicorn's type says whole seconds, asyncio takes any.
        timeout_graceful_shutdown=settings.drain_s / 2,  # type: ignore[arg-type]
    )
    host, port = listener.getsockname()[:2]
    get_logger().info("listening", host=host, port=port, bundle=scorer.bundle_id)
    Server(config, app, settings.drain_s).run(sockets=[listener])
    get_logger().info("stopped")
