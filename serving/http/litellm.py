"""The doors for a LiteLLM gateway: its guardrail on the way in, its log afterwards.

Nothing that Stillwatch can do or fail to do may harm the gateway's customers: once the caller is
known, the guardrail is answered NONE whatever happens, except for accounts that the site's policy
blocks, on a reviewer's decision.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from prometheus_client import Counter, Gauge

from stillwatch.data.events import Event, InvalidEvent
from stillwatch.serving.http import litellm_openapi as described
from stillwatch.serving.http.auth import Caller, require
from stillwatch.serving.http.batches import Outcome
from stillwatch.serving.http.dead_letters import DeadLetter
from stillwatch.serving.http.gate import Overloaded
from stillwatch.serving.http.litellm_events import (
    account_of,
    event_of_payload,
    mapping,
    payload_of_request,
    reached_no_model,
    read_json,
)
from stillwatch.serving.http.litellm_settings import LiteLLMSettings
from stillwatch.serving.http.logs import fault_fields, get_logger
from stillwatch.serving.http.problems import Problem, problem_of, retry_after
from stillwatch.serving.http.requests import JsonResponse
from stillwatch.serving.http.service import Service

PASSING = ("body_too_large", "body_timeout", "overloaded")
"""Refusals of a body that a customer can cause by what it sends, or by how much."""
LOG_CHUNK = 64
"""Events of a log that go through the gate together."""
FIRST_PAUSE_S = 0.02


class LiteLLMMetrics:
    """What the doors count, in the service's registry. Never an account."""

    def __init__(self, service: Service) -> None:
        own = service.metrics.registry
        self.answers = Counter(
            "stillwatch_litellm_answers", "Answers to the guardrail.", ("action",), registry=own
        )
        self.unscored = Counter(
            "stillwatch_litellm_unscored", "Guardrail requests not scored, by the reason.",
            ("reason",), registry=own,
        )  # fmt: skip
        self.flagged = Counter(
            "stillwatch_litellm_flagged", "Guardrail requests of flagged accounts.", registry=own
        )
        self.payloads = Counter(
            "stillwatch_litellm_payloads", "Calls in LiteLLM's log, by what became of them.",
            ("outcome",), registry=own,
        )  # fmt: skip
        self.blocked = Gauge(
            "stillwatch_litellm_blocked_accounts", "Accounts that the policy blocks.", registry=own
        )


class Guard:
    """Scores requests on their way in, and knows whom to refuse."""

    def __init__(self, service: Service, settings: LiteLLMSettings) -> None:
        self.service = service
        self.settings = settings
        self.metrics = LiteLLMMetrics(service)
        # Read when the metrics are, so that it is true without a request too.
        self.metrics.blocked.set_function(
            lambda: service.responder.blocked if service.responder is not None else 0
        )
        # Referred to here, or the loop might drop them half done.
        self._tasks: set[asyncio.Task[None]] = set()

    async def answer(self, body: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        """The guardrail's answer to a request."""
        payload = payload_of_request(body)
        account = account_of(payload, self.settings.account, caller)
        if account is None:
            return self.passed("no_account")
        blocked = self.service.responder is not None and self.service.responder.blocks(account)
        reason = await self._consider(payload, account, wait=not blocked)
        if not blocked:
            return self.passed(reason)
        if reason is not None:
            self.metrics.unscored.labels(reason).inc()
        self.metrics.answers.labels("BLOCKED").inc()
        get_logger().info("a request of a blocked account was refused")
        return {"action": "BLOCKED", "blocked_reason": self.settings.blocked_reason}

    def passed(self, unscored: str | None = None) -> dict[str, Any]:
        """The answer that lets a request pass; `unscored` says why it is not scored, if so."""
        if unscored is not None:
            self.metrics.unscored.labels(unscored).inc()
        self.metrics.answers.labels("NONE").inc()
        return {"action": "NONE"}

    async def _consider(self, payload: Mapping[str, Any], account: str, wait: bool) -> str | None:
        """Have a request scored. Returns why it is not, if that is known at once."""
        if self.settings.mode == "off":
            return None
        try:
            event = event_of_payload(self.service, payload, account)
        except InvalidEvent:
            return "invalid_event"
        task = asyncio.create_task(self._score(event))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if wait and self.settings.mode == "wait":
            # Not finished in time it is finished later.
            await asyncio.wait((task,), timeout=self.settings.deadline_s)
        return None

    async def _score(self, event: Event) -> None:
        try:
            (outcome,) = await self.service.gate.outcomes([event])
        except Exception as error:
            problem = problem_of(error)
            if problem is None:
                get_logger().error("a request was not scored", **fault_fields(error))
            self.metrics.unscored.labels(problem.code if problem else "internal").inc()
            return
        if isinstance(outcome, DeadLetter):
            self.metrics.unscored.labels("dead_letter").inc()
        elif outcome.flagged:
            self.metrics.flagged.inc()
            get_logger().info("a flagged account asked")


def router(service: Service, settings: LiteLLMSettings | None = None) -> APIRouter:
    """`/beta/litellm_basic_guardrail_api` and `/v1/litellm/logs`."""
    own = settings or service.settings.litellm
    guard = Guard(service, own)
    routes = APIRouter(tags=["litellm"])

    @routes.post("/beta/litellm_basic_guardrail_api", **described.GUARDRAIL)
    async def guardrail(
        request: Request, caller: Annotated[Caller, Depends(require("scorer", "admin"))]
    ) -> Response:
        try:
            body = await read_json(request)
        except Problem as problem:
            if problem.code not in PASSING:
                raise
            return JsonResponse(guard.passed(problem.code))
        kind = body.get("input_type") if isinstance(body, dict) else None
        if kind not in ("request", "response") or not isinstance(body.get("request_data"), dict):
            raise Problem(
                "invalid_request",
                "The body must have an input_type of request or response, and request_data, "
                "however: it has not.",
            )
        if kind == "response":
            return JsonResponse(guard.passed())
        request.scope["stillwatch.events"] = 1
        return JsonResponse(await guard.answer(body, caller))

    @routes.post("/v1/litellm/logs", **described.LOGS)
    async def logs(
        request: Request, caller: Annotated[Caller, Depends(require("scorer", "admin"))]
    ) -> Response:
        body = await read_json(request)
        payloads = [body] if isinstance(body, dict) else body
        if not isinstance(payloads, list):
            raise Problem(
                "invalid_request",
                "The body must be a list of calls or one call, however: another JSON value.",
            )
        events: list[tuple[int, Event]] = []
        rejected: list[dict[str, Any]] = []
        for position, payload in enumerate(payloads):
            found = _event_or_refusal(service, own, caller, mapping(payload))
            if isinstance(found, Event):
                events.append((position, found))
            else:
                rejected.append({"position": position, **found})
        request.scope["stillwatch.events"] = len(events)
        outcomes = await _score_all(service, [event for _, event in events], own.log_patience_s)
        rejected += [
            {"position": position, "code": "dead_letter", "detail": "it cannot be scored"}
            for (position, _), outcome in zip(events, outcomes, strict=True)
            if isinstance(outcome, DeadLetter)
        ]
        for item in rejected:
            guard.metrics.payloads.labels(item["code"]).inc()
        accepted = len(payloads) - len(rejected)
        guard.metrics.payloads.labels("accepted").inc(accepted)
        rejected.sort(key=lambda item: item["position"])
        return JsonResponse({"accepted": accepted, "rejected": rejected})

    return routes


def _event_or_refusal(
    service: Service, settings: LiteLLMSettings, caller: Caller, payload: Mapping[str, Any]
) -> Event | dict[str, str]:
    if reached_no_model(payload):
        return {"code": "not_served", "detail": "the gateway turned the call away itself"}
    account = account_of(payload, settings.account, caller)
    if account is None:
        return {"code": "no_account", "detail": "none of the fields of the account is there"}
    try:
        return event_of_payload(service, payload, account)
    except InvalidEvent as error:
        return {"code": "invalid_event", "detail": error.reason}


async def _score_all(service: Service, events: Sequence[Event], patience_s: float) -> list[Outcome]:
    """The outcomes of a log's events, in chunks that wait for room.

    Raises Problem: 503, not 429, when the patience is over, since LiteLLM sends a batch again
    after a 5xx only. What is scored by then counts once when it comes again.
    """
    until = time.monotonic() + patience_s
    size = min(LOG_CHUNK, service.settings.max_queue)
    outcomes: list[Outcome] = []
    pause_s = FIRST_PAUSE_S
    while len(outcomes) < len(events):
        chunk = events[len(outcomes) : len(outcomes) + size]
        try:
            outcomes += await service.gate.outcomes(chunk)
        except Overloaded as error:
            if time.monotonic() + pause_s > until:
                raise Problem(
                    "not_ready",
                    "The service must have room for the batch, however: it has none; send it "
                    "again, what was scored of it counts once.",
                    headers=retry_after(error.retry_after_s),
                ) from None
            await asyncio.sleep(pause_s)
            pause_s *= 2
    return outcomes
