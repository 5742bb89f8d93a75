"""What a LiteLLM gateway sends, as events.

A request on its way in is given the shape of LiteLLM's log, so that one reader makes both into
events: the same call gives the same event whichever way it comes. Whatever a customer can put into
a call (numbers, ids, half a surrogate pair) must neither lose the event nor its neighbours.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from fastapi import Request

from stillwatch.data.events import MAX_ID_BYTES, Event, InvalidEvent, Turn
from stillwatch.data.readers import litellm as reader
from stillwatch.serving.http.auth import ALL_ACCOUNTS, Caller
from stillwatch.serving.http.litellm_settings import AccountField
from stillwatch.serving.http.problems import Problem
from stillwatch.serving.http.requests import to_event
from stillwatch.serving.http.service import Service

CALL_ID_HEADER = "x-litellm-call-id"
"""A customer that sends it chooses the call's id."""

_METADATA: Mapping[AccountField, str] = {
    "key_hash": "user_api_key_hash",
    "team": "user_api_key_team_id",
    "org": "user_api_key_org_id",
    "user": "user_api_key_user_id",
    "end_user": "user_api_key_end_user_id",
}
_PLAIN_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_ESSENTIAL = frozenset({
    "event_id", "account_id", "timestamp", "prompt", "system", "turns", "platform", "network",
    "client",
})  # fmt: skip
_MAX_DIGITS = 400


async def read_json(request: Request) -> Any:
    """The JSON value in the body. Raises Problem.

    Laxer than `read_object`: NaN is let in and integers of hundreds of digits become None, since
    the gateway's log holds them as one customer sent them, beside the calls of others.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise Problem(
            "unsupported_media_type", "The Content-Type must be application/json, however: another."
        )
    body = await request.body()
    try:
        return json.loads(body.decode(), parse_int=_integer)
    except (ValueError, RecursionError):
        # Their words quote the body.
        raise Problem(
            "invalid_json", "The body must be JSON in UTF-8, however: it is not."
        ) from None


def payload_of_request(body: Mapping[str, Any]) -> dict[str, Any]:
    """A guardrail's request in the shape of LiteLLM's StandardLoggingPayload."""
    known = mapping(body.get("request_data"))
    headers = mapping(body.get("request_headers"))
    messages = body.get("structured_messages")
    if not messages and isinstance(texts := body.get("texts"), list):
        messages = [{"role": "user", "content": text} for text in texts]
    return {
        "litellm_call_id": body.get("litellm_call_id"),
        "messages": messages,
        "model": body.get("model"),
        "end_user": known.get(_METADATA["end_user"]),
        "user_agent": headers.get("user-agent"),
        "metadata": {**known, "requester_custom_headers": headers},
    }


def account_of(
    payload: Mapping[str, Any], wanted: tuple[AccountField, ...], caller: Caller
) -> str | None:
    """The account of a call: the first of the wanted ids that it has, None without any.

    It begins with what the gateway's key is bound to, so that no gateway speaks of another's
    customers. Only a key's hash stands bare. An end user is the customer's own word and stands
    behind that customer's key.
    """
    metadata = mapping(payload.get("metadata"))
    for name in wanted:
        text = _id_text(metadata.get(_METADATA[name]))
        if text is None and name == "end_user":
            text = _id_text(payload.get("end_user"))
        if text is None:
            continue
        account = text if name == "key_hash" else f"{name}:{text}"
        if name == "end_user" and (key := _id_text(metadata.get(_METADATA["key_hash"]))):
            account = f"{key}/{account}"
        prefix = "" if caller.accounts == ALL_ACCOUNTS else caller.accounts
        if len((prefix + account).encode()) > MAX_ID_BYTES:
            account = "sha256:" + hashlib.sha256(account.encode()).hexdigest()
        return prefix + account
    return None


def event_of_payload(service: Service, payload: Mapping[str, Any], account_id: str) -> Event:
    """The event of a call. Raises InvalidEvent."""
    metadata = {**mapping(payload.get("metadata")), "user_api_key_hash": account_id}
    fields = dict(reader.to_fields({**payload, "metadata": metadata}))
    fields["prompt"] = _clean(fields["prompt"])
    fields["system"] = _clean(fields["system"])
    fields["turns"] = tuple(Turn(_clean(role), _clean(text)) for role, text in fields["turns"])
    fields["event_id"] = _event_id(payload, fields)
    try:
        return to_event(service, fields)
    except InvalidEvent:
        # A temperature of "hot" passes the gateway; it must not pass us unseen.
        return to_event(service, {name: fields.get(name) for name in _ESSENTIAL})


def reached_no_model(payload: Mapping[str, Any]) -> bool:
    """Whether the gateway itself turned a call away. Its key may then be nobody's."""
    error = payload.get("error_information")
    return (
        payload.get("status") == "failure"
        and isinstance(error, Mapping)
        and not error.get("llm_provider")
    )


def mapping(value: object) -> Mapping[str, Any]:
    """The value if it is an object, an empty one otherwise."""
    return value if isinstance(value, Mapping) else {}


def _event_id(payload: Mapping[str, Any], fields: Mapping[str, Any]) -> str | None:
    """The gateway's id of a call. One that the customer chose holds for one conversation only:
    sent again and again it would hide all others."""
    call_id = payload.get("litellm_call_id") or payload.get("id")
    if not isinstance(call_id, str) or not call_id:
        return None
    headers = mapping(mapping(payload.get("metadata")).get("requester_custom_headers"))
    chosen = any(name.lower() == CALL_ID_HEADER for name in headers)
    if not chosen and _PLAIN_ID.fullmatch(call_id):
        return call_id
    digest = hashlib.sha256()
    for text in (call_id, fields["prompt"], fields["system"], *sum(fields["turns"], ())):
        data = _clean(text).encode()
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return "litellm:" + digest.hexdigest()[:32]


def _id_text(value: object) -> str | None:
    text = _clean(value) if isinstance(value, str) else ""
    return text if text.strip() else None


def _clean(text: str) -> str:
    """Without NULs, which LiteLLM's log leaves out, and with U+FFFD for half a surrogate pair."""
    if not text.isascii():
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.replace("\0", "")


def _integer(digits: str) -> int | None:
    return int(digits) if len(digits) <= _MAX_DIGITS else None
