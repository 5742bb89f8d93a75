"""A client of the HTTP service with the methods of the scorer in process.

    with Client("http://127.0.0.1:8080", key) as scorer:
        verdicts = scorer.update(events)

Sending an event twice is safe, since the service counts it once: so what was refused for lack of
room, or whose answer was lost, is sent again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from stillwatch.data.errors import StillwatchError
from stillwatch.data.events import Event, event_to_fields
from stillwatch.serving.verdict import Verdict, json_line

BATCH_EVENTS = 64
BATCH_BYTES = 512 * 1024
"""Of a batch's body: below what the service takes, so that a batch is refused for no other
reason."""
_AGAIN = frozenset({429, 502, 503})


class ServiceError(StillwatchError):
    """The service refused, or cannot be reached. `code` is the problem's own, "unreachable" if
    there was no answer; `status` the HTTP status, 0 if there was none."""

    def __init__(self, message: str, code: str, status: int) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class Client:
    """Calls one service. Threads may share it.

    timeout_s is for one request. Refusals that pass (429, 502, 503) and lost connections are
    tried again for `patience_s` in all, after what Retry-After says or longer and longer; 0 tries
    once.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout_s: float = 10.0,
        patience_s: float = 30.0,
        transport: httpx.BaseTransport | None = None,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(
            base_url=url, headers=headers, timeout=timeout_s, transport=transport
        )
        self._patience_s = patience_s
        self._wait = wait

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def update(self, events: Iterable[Event]) -> list[Verdict]:
        """Score events; the verdict of each event's account after it, in the order given.

        Raises ServiceError. Batches before the one that failed are counted, and sending all
        again is safe. An event that cannot be scored is one: code "dead_letter".
        """
        found = []
        for body in _bodies(events):
            for fields in self._ask("POST", "/v1/events", body)["verdicts"]:
                if "error" in fields:
                    raise ServiceError(
                        "every event must be one that can be scored, however: the service set one "
                        "aside; the others of its batch are counted",
                        fields["error"]["code"], 200,
                    )  # fmt: skip
                found.append(Verdict.from_fields(fields))
        return found

    def ingest(self, events: Iterable[Event]) -> None:
        """As `update`, for callers that need no verdicts."""
        self.update(events)

    def verdict(self, account_id: str) -> Verdict:
        """The account's verdict now; KeyError if it was never seen."""
        try:
            return Verdict.from_fields(self._ask("GET", "/v1/accounts/" + quote(account_id, "")))
        except ServiceError as error:
            if error.status == 404:
                raise KeyError(account_id) from None
            raise

    def _ask(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        until = time.monotonic() + self._patience_s
        pause_s = 0.1
        headers = {"Content-Type": "application/json"} if body is not None else {}
        while True:
            try:
                answer = self._http.request(method, path, content=body, headers=headers)
            except httpx.TransportError as error:
                failed = ServiceError(
                    "the service must be reachable, however: "
                    f"{type(error).__name__}; see that it runs and that the URL is right",
                    "unreachable", 0,
                )  # fmt: skip
            else:
                if answer.is_success:
                    return _object(answer)
                failed = _refusal(answer)
                if answer.status_code not in _AGAIN:
                    raise failed
                stated = answer.headers.get("Retry-After", "")
                pause_s = max(pause_s, float(stated) if stated.isdecimal() else 0.0)
            # Callers that were refused together do not come back together.
            pause = pause_s * random.uniform(1.0, 1.3)
            if time.monotonic() + pause > until:
                raise failed
            self._wait(pause)
            pause_s = min(2 * pause_s, 5.0)


def _bodies(events: Iterable[Event]) -> Iterator[bytes]:
    left: Iterator[bytes] = (json_line(event_to_fields(event)).rstrip() for event in events)
    held: list[bytes] = []
    while lines := held or list(islice(left, 1)):
        held, size = [], len(lines[0])
        for line in islice(left, BATCH_EVENTS - 1):
            size += len(line) + 1
            if size > BATCH_BYTES:
                held = [line]
                break
            lines.append(line)
        yield b'{"events":[' + b",".join(lines) + b"]}"


def _object(answer: httpx.Response) -> dict[str, Any]:
    try:
        fields = answer.json()
        if isinstance(fields, dict):
            return fields
    except ValueError:
        pass
    raise ServiceError(
        "the service must answer with a JSON object, however: another answer; see that the URL is "
        "that of Stillwatch",
        "no_json", answer.status_code,
    )  # fmt: skip


def _refusal(answer: httpx.Response) -> ServiceError:
    try:
        fields = answer.json()
        return ServiceError(str(fields["detail"]), str(fields["code"]), answer.status_code)
    except (ValueError, KeyError, TypeError):
        return ServiceError(
            f"the service must answer, however: status {answer.status_code} from something else; "
            "see that the URL is that of Stillwatch",
            "unknown", answer.status_code,
        )  # fmt: skip
