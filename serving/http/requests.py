"""From a request to events, and from events to their verdicts: what every door does alike."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from fastapi import Request
from fastapi.responses import Response

from stillwatch.data.events import Event, InvalidEvent, parse_event
from stillwatch.data.strict_json import parse_object
from stillwatch.serving.http.auth import Caller
from stillwatch.serving.http.batches import Outcome
from stillwatch.serving.http.problems import Problem
from stillwatch.serving.http.service import Service
from stillwatch.serving.verdict import json_line

MAX_EVENTS = 1000
"""Most events of one request."""
MAX_ID_CHARS = 512
"""Longest account id and event id."""
MIN_TIMEOUT_S = 0.01
TIMEOUT_HEADER = "X-Request-Timeout"


class ClientGone(Exception):  # noqa: N818 - it names what happened
    """Nobody waits for the answer any more; what was not begun is not scored."""


class JsonResponse(Response):
    """JSON in ASCII; NaN and infinity are faults."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json_line(content)


async def read_object(request: Request) -> dict[str, Any]:
    """The JSON object in the body, strictly read. Raises Problem and InvalidJson."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise Problem(
            "unsupported_media_type",
            "The Content-Type must be application/json, however: "
            + ("another." if media_type else "it is missing."),
        )
    return parse_object(await request.body())


def time_limit(request: Request) -> float | None:
    """Seconds within which the caller wants its request begun; None if it does not say."""
    text = request.headers.get(TIMEOUT_HEADER)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not MIN_TIMEOUT_S <= seconds < math.inf:
        raise Problem(
            "invalid_timeout",
            f"{TIMEOUT_HEADER} must be a number of seconds, at least {MIN_TIMEOUT_S:g}, however: "
            "it is not.",
        )
    return seconds


def check_count(count: int) -> None:
    """Raises Problem unless a request may hold so many events."""
    if count > MAX_EVENTS:
        raise Problem(
            "batch_too_large", f"A request must hold at most {MAX_EVENTS:,} events, however: more."
        )
    if not count:
        raise Problem("invalid_request", "A request must hold an event, however: it holds none.")


def to_event(service: Service, fields: Mapping[str, Any]) -> Event:
    """The event in `fields`; without a time, or with one too far ahead, it has that of now.
    Raises InvalidEvent."""
    now = time.time()
    if fields.get("timestamp") is None:
        fields = {**fields, "timestamp": now}
    event = parse_event(fields)
    for name, value in (("account_id", event.account_id), ("event_id", event.event_id)):
        if len(value) > MAX_ID_CHARS:
            raise InvalidEvent(f"{name} must have at most {MAX_ID_CHARS} characters, however: more")
        if "\0" in value:
            raise InvalidEvent(f"{name} must hold no NUL, however: it does")
    if event.timestamp > now + service.settings.future_tolerance_s:
        # A clock ahead would otherwise make all that follows look like the past.
        service.metrics.skewed_clocks.inc()
        event = replace(event, timestamp=now)
    return event


def to_events(service: Service, records: Sequence[object]) -> list[Event]:
    """The events in `records`, all or none: a Problem names the first that is malformed."""
    check_count(len(records))
    events = []
    for position, fields in enumerate(records):
        try:
            if not isinstance(fields, Mapping):
                raise InvalidEvent("an event must be an object, however: another JSON value")
            events.append(to_event(service, fields))
        except InvalidEvent as error:
            refuse_event(error.reason, position, len(records))
    return events


def refuse_event(reason: str, position: int, count: int) -> NoReturn:
    """Raises the Problem for one malformed event of several."""
    raise Problem(
        "invalid_event",
        f"Event {position} of {count}, counted from 0: {reason}; nothing was scored.",
        members={"position": position},
    )


async def score(
    request: Request, service: Service, caller: Caller, events: Sequence[Event]
) -> list[Outcome]:
    """The outcome of each event, unless the caller may not speak of its account, or has gone."""
    caller.check(event.account_id for event in events)
    request.scope["stillwatch.events"] = len(events)
    limit_s = time_limit(request)
    scoring = asyncio.ensure_future(service.gate.outcomes(events, limit_s))
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((scoring, gone), return_when=asyncio.FIRST_COMPLETED)
        if not scoring.done():
            raise ClientGone
        return await scoring
    finally:
        for task in (scoring, gone):
            task.cancel()
        await asyncio.gather(scoring, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
