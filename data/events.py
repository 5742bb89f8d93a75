"""One request to the watched API as an event, and what is known of accounts as labels.

`parse_event` is the one place where fields from outside become an `Event`: whatever holds an
`Event` may rely on the checks made there. A reason for refusing says which field and what kind of
value, never the value: any field can turn out to hold a prompt.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from stillwatch.data.errors import InputError

DEFAULT_INTENTS = ("capability_probing", "cot_harvesting", "output_harvesting")
"""What a stream may be after; a bundle lists its own."""

MILLISECONDS_ABOVE = 1e11
"""A larger number is a time in milliseconds: as seconds it would be past the year 5000."""

TIME_END = datetime(2201, 1, 1, tzinfo=UTC).timestamp()
"""Times lie in [0, TIME_END), seconds since the epoch: the years 1970 to 2200."""

MAX_INTEGER = 2**53
"""Larger counts are refused: they are no longer exact as floats."""

MAX_ID_BYTES = 256
"""Longer account and event ids, as UTF-8, are refused: they are kept with what is held of an
account, whose size is fixed."""

MAX_DEPTH = 64
"""Unknown fields nested deeper than this are refused."""


class InvalidEvent(InputError):  # noqa: N818 - it names what was found, as the others do
    """Fields that are no event. `reason` holds no value of a field."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Turn(NamedTuple):
    """An earlier message of the same conversation. `role` is user, assistant or tool."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Event:
    """One request. `timestamp` is seconds since the epoch, UTC; `turns` are oldest first.

    `network` and `payment` are keyed hashes made before the log was written. `session_id` and
    `client` are the caller's own word. `extra` holds the fields that Stillwatch does not know.
    Make one with `parse_event` unless every value is already known to be valid.
    """

    event_id: str
    account_id: str
    timestamp: float
    prompt: str
    system: str = ""
    turns: tuple[Turn, ...] = ()
    model: str | None = None
    platform: str | None = None
    network: str | None = None
    payment: str | None = None
    client: str | None = None
    session_id: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    n: int | None = None
    logprobs: bool | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)


TEXT_FIELDS = ("model", "platform", "network", "payment", "client", "session_id")
"""Optional texts. Empty means unknown: accounts are linked by equal values of some of these."""

KNOWN_FIELDS = frozenset(Event.__slots__) - {"extra"}


@dataclass(frozen=True, slots=True)
class Label:
    """What is known of an account or campaign. No `intents` means ordinary.

    `source` says who decided it, `note` why or what it is; `accounts` are a campaign's accounts,
    empty for an account.
    """

    subject: Literal["account", "campaign"]
    id: str
    intents: tuple[str, ...]
    source: str
    accounts: tuple[str, ...] = ()
    line: int = field(default=0, compare=False)
    """Where it stood in its file, for messages; 0 if it was not read from one."""
    note: str = ""


def parse_event(fields: Mapping[str, Any]) -> Event:
    """The event that `fields` describe, with the names of the class `Event`.

    None is the same as a missing field. `timestamp` is epoch seconds, epoch milliseconds (above
    `MILLISECONDS_ABOVE`) or ISO 8601, UTC if it names no zone. A missing `event_id` is derived
    from account, time and prompt, so that a replay of the same log is recognised; two requests
    that agree in all three then count as one. Raises InvalidEvent.
    """
    get = fields.get
    account_id = get("account_id")
    if type(account_id) is not str or not account_id.strip():
        raise InvalidEvent(
            "account_id must be a string that is not empty, however: " + _kind(account_id)
        )
    prompt = get("prompt")
    if type(prompt) is not str:
        raise InvalidEvent("prompt must be a string, however: " + _kind(prompt))
    timestamp = parse_time(get("timestamp"))
    event_id = get("event_id")
    if event_id is None or event_id == "":
        _check_text("account_id", account_id)
        _check_text("prompt", prompt)
        event_id = derived_id(account_id, timestamp, prompt)
    elif type(event_id) is not str:
        raise InvalidEvent("event_id must be a string, however: " + _kind(event_id))
    system = get("system")
    if system is None:
        system = ""
    elif type(system) is not str:
        raise InvalidEvent("system must be a string, however: " + _kind(system))

    for name, value in (("account_id", account_id), ("event_id", event_id)):
        if len(value) > MAX_ID_BYTES // 4 and len(value.encode("utf-8", "replace")) > MAX_ID_BYTES:
            raise InvalidEvent(
                f"{name} must be at most {MAX_ID_BYTES} bytes of UTF-8, however: it is longer"
            )

    model, platform, network, payment, client, session_id = [
        _optional_text(name, get(name)) for name in TEXT_FIELDS
    ]
    if not (account_id.isascii() and event_id.isascii() and prompt.isascii() and system.isascii()):
        _check_text("account_id", account_id)
        _check_text("event_id", event_id)
        _check_text("prompt", prompt)
        _check_text("system", system)

    temperature = get("temperature")
    max_tokens = get("max_tokens")
    n = get("n")
    logprobs = get("logprobs")
    if logprobs is not None and type(logprobs) is not bool:
        raise InvalidEvent("logprobs must be true or false, however: " + _kind(logprobs))
    turns = get("turns")
    extra = {name: value for name, value in fields.items() if name not in KNOWN_FIELDS}
    if extra:
        _check_extra(extra)
    return Event(
        event_id,
        account_id,
        timestamp,
        prompt,
        system,
        () if turns is None else _turns(turns),
        model,
        platform,
        network,
        payment,
        client,
        session_id,
        None if temperature is None else _number("temperature", temperature),
        None if max_tokens is None else _integer("max_tokens", max_tokens),
        None if n is None else _integer("n", n),
        logprobs,
        extra,
    )


def event_to_fields(event: Event) -> dict[str, Any]:
    """The fields from which `parse_event` makes the same event; what is unknown is left out."""
    fields: dict[str, Any] = {
        "event_id": event.event_id,
        "account_id": event.account_id,
        "timestamp": event.timestamp,
        "prompt": event.prompt,
    }
    if event.system:
        fields["system"] = event.system
    if event.turns:
        fields["turns"] = [{"role": turn.role, "text": turn.text} for turn in event.turns]
    for name in (*TEXT_FIELDS, "temperature", "max_tokens", "n", "logprobs"):
        value = getattr(event, name)
        if value is not None:
            fields[name] = value
    for name, value in event.extra.items():
        fields.setdefault(name, value)
    return fields


def derived_id(account_id: str, timestamp: float, prompt: str) -> str:
    """The id of an event that came without one: "sha256:" and 32 hex digits."""
    digest = hashlib.sha256()
    for part in (account_id, repr(timestamp), prompt):
        data = part.encode()
        # Lengths first, so that no two splits of the same characters agree.
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return "sha256:" + digest.hexdigest()[:32]


def parse_time(value: object) -> float:
    """Seconds since the epoch, UTC, in [0, TIME_END). Raises InvalidEvent."""
    if type(value) is float:
        seconds = value
    elif type(value) is int:
        try:
            seconds = float(value)
        except OverflowError:
            seconds = math.inf
    elif type(value) is str:
        try:
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
            seconds = moment.timestamp()
        except (ValueError, OverflowError):
            raise InvalidEvent(
                "timestamp must be epoch seconds or ISO 8601, however: another text"
            ) from None
    else:
        raise InvalidEvent("timestamp must be epoch seconds or ISO 8601, however: " + _kind(value))
    if seconds > MILLISECONDS_ABOVE:
        seconds /= 1000.0
    # Written so that NaN fails too.
    if not 0.0 <= seconds < TIME_END:
        raise InvalidEvent(
            "timestamp must be finite and in the years 1970 to 2200, however: another number"
        )
    return seconds


def _kind(value: object) -> str:
    """What a value is, without telling it."""
    if value is None:
        return "missing"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string" if value.strip() else "an empty string"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    return "a value of type " + type(value).__name__


def _check_text(name: str, text: str) -> None:
    """Refuses half a surrogate pair: it can be neither encoded nor written."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidEvent(f"{name} must be Unicode text, however: a lone surrogate") from None


def _optional_text(name: str, value: object) -> str | None:
    if value is None or value == "":
        return None
    if type(value) is not str:
        raise InvalidEvent(f"{name} must be a string, however: {_kind(value)}")
    if not value.isascii():
        _check_text(name, value)
    return value


def _number(name: str, value: object) -> float:
    if type(value) not in (int, float):
        raise InvalidEvent(f"{name} must be a number, however: {_kind(value)}")
    try:
        number = float(value)  # type: ignore[arg-type]
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidEvent(f"{name} must be finite, however: NaN or infinity")
    return number


def _integer(name: str, value: object) -> int:
    # A column of integers with gaps comes as floats from many a tool.
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int:
        raise InvalidEvent(f"{name} must be an integer, however: {_kind(value)}")
    if not -MAX_INTEGER <= value <= MAX_INTEGER:
        raise InvalidEvent(f"{name} must be at most 2**53, however: a larger number")
    return value


def _turns(value: object) -> tuple[Turn, ...]:
    if not isinstance(value, list | tuple):
        raise InvalidEvent("turns must be a list, however: " + _kind(value))
    turns = []
    role: object
    text: object
    for item in value:
        if isinstance(item, Turn):
            role, text = item
        elif isinstance(item, Mapping):
            role, text = item.get("role"), item.get("text")
        else:
            raise InvalidEvent(
                "turns must hold objects with role and text, however: " + _kind(item)
            )
        if type(role) is not str or type(text) is not str:
            raise InvalidEvent("turns must have a role and a text, however: one lacks a string")
        _check_text("turns", role)
        _check_text("turns", text)
        turns.append(Turn(role, text))
    return tuple(turns)


def _check_extra(extra: Mapping[str, Any]) -> None:
    """Refuses numbers that are not finite and nesting that a writer would fail on."""
    level: list[Iterable[Any]] = [extra.values()]
    for _ in range(MAX_DEPTH):
        deeper: list[Iterable[Any]] = []
        for values in level:
            for value in values:
                if type(value) is float:
                    if not math.isfinite(value):
                        raise InvalidEvent(
                            "numbers must be finite, however: NaN or infinity in an unknown field"
                        )
                elif isinstance(value, Mapping):
                    deeper.append(value.values())
                elif isinstance(value, list | tuple):
                    deeper.append(value)
        if not deeper:
            return
        level = deeper
    raise InvalidEvent(
        f"unknown fields must be nested at most {MAX_DEPTH} deep, however: deeper ones"
    )
