"""The analyst's desk over HTTP: decisions on accounts, and templates of the site.

The desk waits for the disk, so it is called in threads. A live template reaches the detector
through the gate, between two batches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Annotated, Any, TypeVar, get_args

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import Response

from stillwatch.data.errors import ConfigError, InputError
from stillwatch.data.strict_json import InvalidJson
from stillwatch.serving.desk import AuditError, Desk, LiveTemplates
from stillwatch.serving.desk.decisions import RULINGS, Overtaken
from stillwatch.serving.desk.site_templates import DAYS
from stillwatch.serving.http import desk_schemas as described
from stillwatch.serving.http.auth import ALL_ACCOUNTS, Caller, require
from stillwatch.serving.http.logs import fault_fields, get_logger
from stillwatch.serving.http.problems import Problem
from stillwatch.serving.http.requests import MAX_ID_CHARS, JsonResponse, read_object
from stillwatch.serving.http.service import Service

T = TypeVar("T")

MAX_LISTED = 1000
SOURCE = "desk"
"""Where a template comes from if it does not say."""
KEEP_S = 30.0
"""Between two looks at what another process has approved or revoked."""
START_S = 5.0
"""How long the first look is waited for: a desk that does not answer keeps nobody from being
scored."""

Analyst = Annotated[Caller, Depends(require("analyst", "admin"))]
Number = Annotated[int, Path(ge=1, le=2**53)]
TemplateId = Annotated[str, Path(pattern=r"^site-[1-9][0-9]{0,14}$")]


class TemplateKeeper:
    """Keeps the detector that serves up to date with the desk's live templates."""

    def __init__(self, service: Service, desk: Desk) -> None:
        self._service = service
        self._desk = desk
        self._live = LiveTemplates(desk.templates)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Install what is live, before requests are taken, and look again every now and then. A
        desk that cannot be used, or does not answer in time, keeps nobody from being scored."""
        first = asyncio.create_task(self.try_refresh())
        self._task = asyncio.create_task(self._keep(first))
        await asyncio.wait({first}, timeout=START_S)
        if not first.done():
            self._failed("slow", "the desk did not answer; templates are installed later")

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def refresh(self) -> None:
        """Install what is live now."""
        detector: Any = getattr(self._service.scorer, "detector", None)
        if detector is not None:
            prepared = await asyncio.to_thread(self._live.prepare, detector)
            # The detector may be another by then.
            scorer: Any = self._service.scorer
            await self._service.gate.call(lambda: self._live.install(scorer.detector, prepared))

    async def try_refresh(self) -> None:
        """Note what has expired, then `refresh`; what fails is logged and done at the next
        look."""
        try:
            await asyncio.to_thread(self._desk.templates.expire)
        except Exception as error:
            self._failed("expiry", "expired templates were not noted", error)
        try:
            await self.refresh()
        except Exception as error:
            self._failed("install", "live templates were not installed", error)

    def bundle_changed(self) -> None:
        """To be called in the gate's thread when the scorer has taken over a bundle."""
        detector: Any = getattr(self._service.scorer, "detector", None)
        if detector is None:
            return
        try:
            self._live.install(detector)
        except Exception as error:
            self._failed("reload", "live templates were not installed", error)

    async def _keep(self, first: asyncio.Task[None]) -> None:
        await first
        while True:
            await asyncio.sleep(KEEP_S)
            await self.try_refresh()

    def _failed(self, stage: str, told: str, error: Exception | None = None) -> None:
        self._service.metrics.template_failures.labels(stage).inc()
        get_logger().error(told, **(fault_fields(error) if error is not None else {}))


def router(service: Service, desk: Desk | None, keeper: TemplateKeeper | None = None) -> APIRouter:
    """`/v1/decisions` and `/v1/templates`; without a desk each of them says so."""
    routes = APIRouter(tags=["desk"])
    own_keeper = keeper or (TemplateKeeper(service, desk) if desk is not None else None)

    async def ask(question: Callable[[Desk], T]) -> T:
        if desk is None:
            raise Problem("not_found", "The desk must be configured, however: it is not.")
        return await asked(lambda: question(desk))

    async def refresh() -> None:
        if own_keeper is not None:
            await own_keeper.try_refresh()

    @routes.get("/v1/decisions", **described.GET_DECISIONS)
    async def get_decisions(
        caller: Analyst,
        account_id: Annotated[str | None, Query(min_length=1, max_length=MAX_ID_CHARS)] = None,
        since: Annotated[float | None, Query(ge=0, allow_inf_nan=False)] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 100,
    ) -> Response:
        if account_id is not None:
            caller.check([account_id])
        every = caller.accounts == ALL_ACCOUNTS or account_id is not None
        most = limit if every else 2**31
        found = await ask(lambda desk: desk.decisions(account_id, since, most))
        allowed = [one for one in found if caller.may_speak_of(one.account_id)][:limit]
        return JsonResponse({"decisions": [one.to_fields() for one in allowed]})

    @routes.post("/v1/decisions", **described.POST_DECISION)
    async def post_decision(request: Request, caller: Analyst) -> Response:
        fields = await _fields(
            request, {"account_id": str, "verdict": str, "reason": str},
            {"intents": list, "expected": int | None},
        )  # fmt: skip
        ruling = next((one for one in RULINGS if one == fields["verdict"]), None)
        intents = fields.get("intents", [])
        if ruling is None or not all(one in service.scorer.intents for one in intents):
            raise Problem(
                "invalid_request",
                f"verdict must be one of {', '.join(RULINGS)} and intents the bundle's, however: "
                "another value.",
            )
        account = fields["account_id"]
        caller.check([account])
        await ask(lambda desk: None)
        try:
            if not 0 < len(account) <= MAX_ID_CHARS:
                raise KeyError
            seen = await service.gate.verdict(account)
        except KeyError:
            raise Problem(
                "unknown_account", "The account must have been seen, however: it never was."
            ) from None
        made = await ask(
            lambda desk: desk.decide(
                account, ruling, fields["reason"], caller.key_id, seen, intents,
                fields.get("expected", "any"),
            )
        )  # fmt: skip
        return JsonResponse(made.to_fields())

    @routes.post("/v1/decisions/{decision_id}/undo", **described.POST_UNDO)
    async def post_undo(request: Request, caller: Analyst, decision_id: Number) -> Response:
        fields = await _fields(request, {"reason": str})
        decision = await ask(lambda desk: desk.decision(decision_id))
        if not caller.may_speak_of(decision.account_id):
            # Whether there is one is not told.
            raise _unknown()
        undone = await ask(lambda desk: desk.undo(decision_id, caller.key_id, fields["reason"]))
        return JsonResponse(undone.to_fields())

    @routes.get("/v1/templates", **described.GET_TEMPLATES)
    async def get_templates(
        caller: Analyst,
        state: Annotated[str | None, Query(pattern="^(quarantined|live|expired|revoked)$")] = None,
    ) -> Response:
        _check_unbound(caller)
        found = await ask(lambda desk: desk.templates.find())
        chosen = [one.to_fields() for one in found if state in (None, one.state)]
        return JsonResponse({"templates": chosen})

    @routes.get("/v1/templates/{template_id}", **described.GET_TEMPLATE)
    async def get_template(caller: Analyst, template_id: TemplateId) -> Response:
        _check_unbound(caller)
        return JsonResponse((await ask(lambda desk: desk.templates.get(template_id))).to_fields())

    @routes.post("/v1/templates", **described.POST_TEMPLATE)
    async def post_template(request: Request, caller: Analyst) -> Response:
        _check_unbound(caller)
        fields = await _fields(
            request, {"text": str, "intent": str}, {"source": str, "expires": str, "reason": str}
        )
        if fields["intent"] not in service.scorer.intents:
            raise Problem("invalid_request", "intent must be the bundle's, however: another value.")
        made = await ask(
            lambda desk: desk.templates.add(
                fields["text"], fields["intent"], fields.get("source", SOURCE), caller.key_id,
                fields.get("expires"), fields.get("reason", ""),
            )
        )  # fmt: skip
        return JsonResponse(made.to_fields())

    @routes.post("/v1/templates/propose", **described.POST_PROPOSE)
    async def post_propose(request: Request, caller: Analyst) -> Response:
        _check_unbound(caller)
        fields = await _fields(request, {"prompts": list})
        if not all(isinstance(one, str) for one in fields["prompts"]):
            raise Problem("invalid_request", "prompts must be texts, however: another value.")
        found = await ask(lambda desk: desk.templates.propose(fields["prompts"]))
        return JsonResponse(
            {
                "text": found.text, "words": found.words, "shared": found.shared,
                "prompts": found.prompts, "language": found.language,
            }
        )  # fmt: skip

    @routes.post("/v1/templates/revoke", **described.POST_REVOKE_SOURCE)
    async def post_revoke_source(request: Request, caller: Analyst) -> Response:
        _check_unbound(caller)
        fields = await _fields(request, {"source": str, "reason": str}, {"undo": bool})
        revoked = await ask(
            lambda desk: desk.templates.revoke_source(
                fields["source"], caller.key_id, fields["reason"], fields.get("undo", False)
            )
        )
        await refresh()
        return JsonResponse(_revoked(revoked))

    @routes.post("/v1/templates/{template_id}/replay", **described.POST_REPLAY)
    async def post_replay(request: Request, caller: Analyst, template_id: TemplateId) -> Response:
        _check_unbound(caller)
        fields = await _fields(request, {}, {"days": float})
        encoder = _encoder(service)
        found = await ask(
            lambda desk: desk.templates.replay(
                template_id, encoder, caller.key_id, fields.get("days", DAYS)
            )
        )
        return JsonResponse(found.to_fields())

    @routes.post("/v1/templates/{template_id}/approve", **described.POST_APPROVE)
    async def post_approve(request: Request, caller: Analyst, template_id: TemplateId) -> Response:
        _check_unbound(caller)
        fields = await _fields(request, {"reason": str}, {"days": float})
        encoder = _encoder(service)
        approved = await ask(
            lambda desk: desk.templates.approve(
                template_id, encoder, caller.key_id, fields["reason"], fields.get("days", DAYS)
            )
        )
        await refresh()
        return JsonResponse(approved.to_fields())

    @routes.post("/v1/templates/{template_id}/revoke", **described.POST_REVOKE)
    async def post_revoke(request: Request, caller: Analyst, template_id: TemplateId) -> Response:
        _check_unbound(caller)
        fields = await _fields(request, {"reason": str}, {"undo": bool})
        revoked = await ask(
            lambda desk: desk.templates.revoke(
                template_id, caller.key_id, fields["reason"], fields.get("undo", False)
            )
        )
        await refresh()
        return JsonResponse(_revoked(revoked))

    return routes


async def asked(question: Callable[[], T]) -> T:
    """The desk's answer, found in a thread. Its refusals hold no value of a request."""
    try:
        return await asyncio.to_thread(question)
    except KeyError:
        raise _unknown() from None
    except AuditError as error:
        raise Problem("not_ready", _sentence(error)) from None
    except (InvalidJson, Problem):
        raise
    except Overtaken as error:
        raise _overtaken(error) from None
    except (ConfigError, InputError) as error:
        raise Problem("invalid_request", _sentence(error)) from None


_asked = asked


async def _fields(
    request: Request, needed: Mapping[str, type],
    optional: Mapping[str, type | UnionType] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The body's fields, each of its type; Problem for others. A float may be written as an
    integer."""
    fields = await read_object(request)
    known = {**needed, **(optional or {})}
    fits = set(needed) <= set(fields) <= set(known) and all(
        type(value) in (get_args(known[name]) or (known[name],))
        or (known[name] is float and type(value) is int)
        for name, value in fields.items()
    )
    if not fits:
        raise Problem(
            "invalid_request",
            f"The body must be an object of {', '.join(known) or 'nothing'}, each of its type, "
            "however: another object.",
        )
    return fields


def _check_unbound(caller: Caller) -> None:
    """A template is for all accounts, and its text is some customers'."""
    if caller.accounts != ALL_ACCOUNTS:
        raise Problem(
            "forbidden_account", "The key must be for all accounts, however: it is bound to some."
        )


def _encoder(service: Service) -> Any:
    encoder = getattr(service.scorer, "encoder", None)
    if encoder is None:
        raise Problem("not_ready", "The scorer must have an encoder, however: it has none.")
    return encoder


def _revoked(found: Any) -> dict[str, Any]:
    return {
        "templates": [one.to_fields() for one in found.templates],
        "decisions": [one.to_fields() for one in found.decisions],
        "undone": found.undone,
    }


def _unknown() -> Problem:
    return Problem("not_found", "The id must be one that the desk gave out, however: it is not.")


def _overtaken(error: Overtaken) -> Problem:
    """With the decision that stands: who asks may see it, for he may decide on its account."""
    present = error.present and error.present.to_fields()
    return Problem(described.OVERTAKEN, _sentence(error), members={"present": present})


def _sentence(error: Exception) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."
