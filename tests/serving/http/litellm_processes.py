"""The parts of a real gateway on this machine: a model, Stillwatch, and LiteLLM's proxy.

Run as a module it is the Stillwatch of the test, with a tiny bundle that flags every account:
python -m tests.serving.http.litellm_processes CONFIG
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

ROOT = Path(__file__).parents[3]
STILLWATCH = "http://127.0.0.1:8080"
"""Where the page says that Stillwatch is."""
PATIENCE_S = 60.0
FAILS = "The model must refuse this."


class Answer(NamedTuple):
    """What came back: the body is text if it is no JSON."""

    status: int
    body: Any


def block(page: str, language: str) -> str:
    """The only block of a language in a page."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(found) == 1, f"{len(found)} blocks of {language}"
    return str(found[0])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def call(url: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
    """GET, or POST of JSON. ConnectionError if nobody listens."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url, data, {"Content-Type": "application/json", **(headers or {})}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=PATIENCE_S) as response:
            return Answer(response.status, _value(response.read()))
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, _value(error.read()))
    except urllib.error.URLError as error:
        raise ConnectionError(str(error.reason)) from error


def eventually(ask: Callable[[], T], wanted: Callable[[T], bool]) -> T:
    """What `ask` gives once it is as wanted; other processes tell of nothing by themselves."""
    until = time.monotonic() + PATIENCE_S
    while not wanted(found := ask()) and time.monotonic() < until:
        time.sleep(0.1)
    assert wanted(found), found
    return found


class _Model(BaseHTTPRequestHandler):
    """Answers like an OpenAI model, always the same."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        message = {"role": "assistant", "content": "It is on its way."}
        answer: dict[str, Any] = {
            "id": f"chatcmpl-{time.monotonic_ns()}", "object": "chat.completion",
            "created": 1_790_000_000, "model": "stub",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
        }  # fmt: skip
        failed = body["messages"][-1]["content"] == FAILS
        if failed:
            answer = {"error": {"message": "no", "type": "invalid_request_error"}}
        data = json.dumps(answer).encode()
        self.send_response(400 if failed else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        pass


@contextmanager
def model() -> Iterator[str]:
    """The address of a stub model."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Model) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def process(
    command: list[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended at the end, with its output in a file."""
    with log.open("ab") as output:
        running = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        yield running
    finally:
        if running.poll() is None:
            running.send_signal(signal.SIGCONT)
            running.terminate()
            try:
                running.wait(20)
            except subprocess.TimeoutExpired:
                running.kill()
        running.wait()


def wait_until_it_answers(url: str, running: subprocess.Popen[bytes], log: Path) -> None:
    """Until a page is there; AssertionError with the end of the log if the process ends."""

    def answers() -> bool:
        assert running.poll() is None, log.read_text(errors="replace")[-3000:]
        try:
            return call(url).status == 200
        except ConnectionError:
            return False

    eventually(answers, bool)


def gateway_environment(folder: Path, key: str) -> dict[str, str]:
    """What LiteLLM's process is told; whatever would leave this machine ends at a closed port."""
    nowhere = "http://127.0.0.1:9"
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "STILLWATCH_KEY": key,
        "DEFAULT_BATCH_SIZE": "64",
        "DEFAULT_FLUSH_INTERVAL_SECONDS": "1",
        "LITELLM_MASTER_KEY": "sk-" + "5f" * 32,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
        "HTTP_PROXY": nowhere,
        "HTTPS_PROXY": nowhere,
        "NO_PROXY": "127.0.0.1",
    }


def _value(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data.decode(errors="replace")


def _serve(config: Path) -> None:
    from stillwatch.model.bundle import load_bundle
    from stillwatch.serving.http import logs
    from stillwatch.serving.http.server import listen, run
    from stillwatch.serving.http.settings import load_settings
    from stillwatch.serving.pages import open_workplace
    from stillwatch.serving.stores import open_store
    from tests.support import tiny_bundle, tiny_scorer

    settings = load_settings(config)
    logs.configure(settings.log_level)
    folder = config.parent / "bundle"
    # Made once: an export takes seconds.
    made = load_bundle(folder) if folder.exists() else tiny_bundle(folder, offset=20.0)
    with listen(settings.host, settings.port) as listener:
        scorer = tiny_scorer(made, open_store(settings.store))
        run(settings, scorer, listener, open_workplace(settings, scorer))


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
