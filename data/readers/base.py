"""What every reader offers, and the envelope that providers put around a request's body."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from stillwatch.data.events import InvalidEvent

ACCOUNT_FIELDS = (
    "account_id", "api_key_id", "api_key_hash",
    "organization_id", "org_id", "workspace_id", "project_id",
)  # fmt: skip
"""Where the authenticated account stands, the narrowest first. Never in the body:
`user`, `safety_identifier` and `metadata.user_id` are the caller's word, and would let one account
frame another."""

TIME_FIELDS = ("timestamp", "time", "created_at", "created", "request_time", "start_time")
ID_FIELDS = ("event_id", "request_id", "id")
ADDRESS_FIELDS = ("ip_address", "client_ip", "requester_ip_address", "remote_addr")


class Reader(Protocol):
    """A log format. A module of this package is one."""

    @property
    def name(self) -> str:
        """What `--format` calls it."""

    def matches(self, record: Mapping[str, Any]) -> bool:
        """Whether a record looks like one of this format. It may still be refused."""

    def to_fields(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """The fields for `parse_event`. Raises InvalidEvent."""


def split_record(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The body of a request: the record itself, or what it holds as `request` or `body`."""
    body = record
    for name in ("request", "body"):
        inner = body.get(name)
        if isinstance(inner, Mapping):
            body = inner
    return body


def first_of(record: Mapping[str, Any], names: Iterable[str]) -> Any:
    """The first value that is there and not empty."""
    for name in names:
        value = record.get(name)
        if value is not None and value != "":
            return value
    return None


def envelope_fields(record: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """Who asked and when, from around the body, and what the caller says of itself.

    Plain addresses and user agents become `hashed`; a log writer that has a key should hash
    them itself and name them `network` and `client`.
    """
    account = first_of(record, ACCOUNT_FIELDS)
    if account is None:
        raise InvalidEvent(
            "the authenticated account must stand beside the request as one of "
            f"{', '.join(ACCOUNT_FIELDS)}, however: none is there"
        )
    fields = {
        "event_id": first_of(record, ID_FIELDS),
        "account_id": account,
        "timestamp": first_of(record, TIME_FIELDS),
        "model": first_of(body, ("model",)) or first_of(record, ("model",)),
        "platform": record.get("platform"),
        "payment": record.get("payment"),
        "network": first_of(record, ("network",)) or hashed(first_of(record, ADDRESS_FIELDS)),
        "client": first_of(record, ("client",)) or hashed(record.get("user_agent")),
    }
    metadata = body.get("metadata")
    said = {
        "safety_identifier": caller_word(body.get("safety_identifier")),
        "user": caller_word(body.get("user")),
        "metadata_user_id": caller_word(
            metadata.get("user_id") if isinstance(metadata, Mapping) else None
        ),
    }
    fields.update({name: word for name, word in said.items() if word is not None})
    fields["session_id"] = first_of(record, ("session_id",)) or first_of(said, said)
    return fields


def request_parameters(body: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a body that events know, whatever the API calls them."""
    logprobs = first_of(body, ("logprobs", "top_logprobs"))
    if type(logprobs) is int:
        # The older APIs ask for a number of them.
        logprobs = logprobs > 0
    return {
        "temperature": body.get("temperature"),
        "max_tokens": first_of(body, ("max_tokens", "max_completion_tokens", "max_output_tokens")),
        "n": body.get("n"),
        "logprobs": logprobs,
    }


def hashed(value: object) -> str | None:
    """A plain value as "sha256:" and 16 hex digits, so that equal ones can be linked.

    No secret goes into it: an IPv4 address can be found again by trying them all. It keeps
    addresses out of pages and exports, no more.
    """
    if not isinstance(value, str) or not value:
        return None
    return "sha256:" + hashlib.sha256(value.encode("utf-8", "replace")).hexdigest()[:16]


def caller_word(value: object) -> str | None:
    """A text of the caller's choosing, None if unusable: it must not get an event refused."""
    if not isinstance(value, str) or not value:
        return None
    return value.encode("utf-8", "replace").decode()
