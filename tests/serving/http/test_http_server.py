"""The service as a process: over sockets, with clients that stall, until it is told to stop."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.serving.http.http_support import event

ROOT = Path(__file__).parents[3]
CANARY = "canary-2291"


@dataclass
class Running:
    """A service process. `log` are its lines so far."""

    process: subprocess.Popen[str]
    port: int
    log_file: Path

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def ask(self, raw: bytes) -> tuple[int, dict[str, str], bytes]:
        with self.connect() as connection:
            connection.sendall(raw)
            return answer_of(connection)


@contextmanager
def running(folder: Path, **settings: Any) -> Iterator[Running]:
    values = {"port": 0, "auth": "off", "store": "memory://"} | settings
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("STILLWATCH_")},
        **{f"STILLWATCH_SERVE_{name.upper()}": str(value) for name, value in values.items()},
        "PYTHONPATH": str(ROOT),
    }
    log_file = folder / "log"
    with log_file.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.serving.http.serve_scripted"],
            cwd=folder, env=environment, stderr=log, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
    try:
        found = Running(process, 0, log_file)
        until = time.monotonic() + 60
        while not found.port:
            assert process.poll() is None, log_file.read_text()
            assert time.monotonic() < until, log_file.read_text()
            time.sleep(0.02)
            text = log_file.read_text()
            for line in text.splitlines() if text.endswith("\n") else []:
                fields = json.loads(line)
                if fields["event"] == "listening":
                    found.port = fields["port"]
        yield found
    finally:
        process.kill()
        process.communicate()


def answer_of(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one answer."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65_536)
        if not part:
            raise ConnectionError(data)
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    status, *rest = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in rest)}
    while len(body) < int(headers.get("content-length", 0)):
        body += connection.recv(65_536)
    return int(status.split()[1]), headers, body


def post(body: bytes, *headers: str, path: str = "/v1/events") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
    if not any(line.startswith(("Content-Length", "Transfer")) for line in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def body_of(prompt: str, event_id: str = "e1") -> bytes:
    return json.dumps(event(event_id, prompt=prompt)).encode()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("service"), body_timeout_s=0.5) as found:
        yield found


def test_a_body_over_the_limit_is_refused_before_it_is_sent(service: Running) -> None:
    status, headers, body = service.ask(post(b"", "Content-Length: 300000000"))
    assert status == 413
    assert headers["connection"] == "close"
    assert json.loads(body)["code"] == "body_too_large"


def test_a_client_that_waits_for_leave_is_told_no(service: Running) -> None:
    headers = ("Content-Length: 300000000", "Expect: 100-continue")
    assert service.ask(post(b"", *headers))[0] == 413


def test_an_endless_body_is_cut_off(service: Running) -> None:
    with service.connect() as connection:
        connection.sendall(post(b"", "Transfer-Encoding: chunked"))
        sent = 0
        chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
        connection.settimeout(0.01)
        answer = b""
        while not answer and sent < 50_000_000:
            try:
                connection.sendall(chunk)
                sent += len(chunk)
            except TimeoutError:
                pass
            except ConnectionError:
                break
            try:
                answer = connection.recv(65_536)
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 413")
    assert sent < 50_000_000


def test_a_stalled_body_times_out(service: Running) -> None:
    started = time.monotonic()
    status, headers, _ = service.ask(post(b'{"eve', "Content-Length: 100"))
    assert status == 408
    assert headers["connection"] == "close"
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    "headers", [("X-Long: " + "x" * 40_000,), tuple(f"X-{i}: 1" for i in range(200))]
)
def test_headers_are_limited(service: Running, headers: tuple[str, ...]) -> None:
    assert service.ask(post(b"{}", *headers))[0] == 400


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 100,
        b"GET /%s HTTP/1.1\r\n\r\n" % (b"a" * 50_000),
        b"POST /v1/events HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nxxxxx",
        b"POST /v1/events HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
    ],
)
def test_what_is_no_http_is_refused(service: Running, raw: bytes) -> None:
    assert service.ask(raw)[0] == 400
    assert service.ask(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")[0] == 200


@pytest.mark.parametrize(
    ("account_id", "path"),
    [
        ("..", ".."),
        ("..", "%2e%2E"),
        ("%2F", "%252F"),
        ("/", "%2f"),
        ("é", "%c3%a9"),
        ("a?b", "a%3Fb"),
    ],
)
def test_a_path_is_taken_as_it_is(service: Running, account_id: str, path: str) -> None:
    body = json.dumps(event(f"id-{account_id}", account_id)).encode()
    assert service.ask(post(body))[0] == 200
    _, _, found = service.ask(
        f"GET /v1/accounts/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    )
    assert json.loads(found)["account_id"] == account_id


def test_the_process_logs_no_prompt(service: Running) -> None:
    for raw in (
        post(body_of(CANARY)),
        post(CANARY.encode()),
        post(b"", path=f"/{CANARY}?{CANARY}"),
    ):
        service.ask(raw)
    service.ask(b"GET /healthz?%s HTTP/1.1\r\nHost: %s\r\n\r\n" % (2 * (CANARY.encode(),)))
    service.ask(b"%s\r\n\r\n" % CANARY.encode())
    assert CANARY not in service.log_file.read_text()
    assert {line["level"] for line in service.log} <= {"info", "warning", "error"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_finishes_what_is_in_flight(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path, drain_s=4) as service:
        stalled, half, idle, busy = [service.connect() for _ in range(4)]
        stalled.sendall(post(b'{"ev', "Content-Length: 100"))
        half.sendall(b"POST /v1/events HTTP/1.1\r\nHost")
        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer_of(idle)[0] == 200
        busy.sendall(post(body_of("0.7")))
        ask_metrics = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
        while b"stillwatch_queue_events 1.0" not in service.ask(ask_metrics)[2]:
            assert service.process.poll() is None
        started = time.monotonic()
        service.process.send_signal(number)
        assert answer_of(busy)[0] == 200
        assert answer_of(stalled)[0] == 408
        output, _ = service.process.communicate(timeout=20)
        # Four seconds to drain; what stalls would be waited for ten.
        assert time.monotonic() - started < 9
        assert service.process.returncode == 0
        assert output == "closed after 1\n"
        assert service.log[-1]["event"] == "stopped"
        with pytest.raises(ConnectionError):
            service.connect()
        for connection in (stalled, half, idle, busy):
            connection.close()


def test_a_taken_port_is_told_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code = (
            "from stillwatch.serving.http.server import listen\n"
            "from stillwatch.data.errors import ConfigError\n"
            f"try: listen('127.0.0.1', {port})\n"
            "except ConfigError as error: print(error)"
        )
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.startswith("host and port must be free to listen on, however: ")
    assert found.stdout.count("\n") == 1
