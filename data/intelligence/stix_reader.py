"""From STIX 2.1 that comes from outside to exchange types: sized, counted and strict.

What is read is the indicators of our pattern type and campaigns with our extension; other objects
are counted and left. Vectors are never read: a property that is not known refuses its object. One
faulty object takes no other with it; a faulty bundle is refused whole. No reason quotes what was
found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from stillwatch.data.intelligence import review
from stillwatch.data.intelligence.types import FeedError, SharedCampaign, SharedTemplate, Tlp
from stillwatch.data.intelligence.vocabulary import (
    EXTENSION,
    FAMILY,
    INTENT,
    LANGUAGE,
    PATTERN_TYPE,
    PATTERN_VERSION,
    TLP_EXTENSION,
    TLP_IDS,
    TLP_OF,
)
from stillwatch.data.strict_json import InvalidJson, parse_object

MAX_BYTES = 16 * 2**20
"""Of a bundle, or of one page of a feed."""
MAX_OBJECTS = 10_000
"""Of a bundle, or of all pages of one poll."""
MAX_INTENTS = 32
MAX_TEMPLATES = 1000
"""That one campaign is indicated by."""

_ID = re.compile(
    r"[a-z][a-z0-9-]{1,62}--[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"
)
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,9})?Z")
_COMMON = frozenset({
    "type", "spec_version", "id", "created_by_ref", "created", "modified", "revoked", "labels",
    "confidence", "lang", "external_references", "object_marking_refs", "extensions", "name",
    "description",
})  # fmt: skip
_INDICATOR = _COMMON | {
    "indicator_types", "pattern", "pattern_type", "pattern_version", "valid_from", "valid_until",
    "kill_chain_phases",
}  # fmt: skip
_CAMPAIGN = _COMMON | {"aliases", "first_seen", "last_seen", "objective"}


@dataclass(frozen=True, slots=True)
class Unread:
    """An object that was refused: its STIX id if it has one, and why."""

    id: str
    reason: str


@dataclass(slots=True)
class Received:
    """What was read. `other` counts objects that are none of ours."""

    templates: list[SharedTemplate] = field(default_factory=list)
    campaigns: list[SharedCampaign] = field(default_factory=list)
    refused: list[Unread] = field(default_factory=list)
    other: int = 0


class _Refused(Exception):  # noqa: N818 - it never leaves this file
    """Why one object is not read."""


def read_bundle(content: bytes) -> Received:
    """The bundle in `content`; FeedError if it is none that can be used."""
    objects = parse(content, "the bundle")
    if objects.get("type") != "bundle" or not _is_id(objects.get("id"), "bundle"):
        raise FeedError(
            "a bundle must be a STIX 2.1 bundle with an id, however: it is another object; ask its "
            "sender for the file that was exported"
        )
    if set(objects) - {"type", "id", "objects"}:
        raise FeedError(
            "a bundle must have type, id and objects alone, however: it has more; ask its sender "
            "for a STIX 2.1 bundle"
        )
    return read_objects(objects.get("objects", []))


def parse(content: bytes, what: str) -> dict[str, Any]:
    """The JSON object in `content`, strictly read; FeedError. `what` is said of it."""
    if len(content) > MAX_BYTES:
        raise FeedError(
            f"{what} must have at most {MAX_BYTES // 2**20} MiB, however: it has more; nothing of "
            "it was read"
        )
    try:
        return parse_object(content)
    except InvalidJson as error:
        reason = error.reason.replace("a line must", f"{what} must")
        raise FeedError(f"{reason}; nothing of it was read") from None


def read_objects(objects: Any, room: int = MAX_OBJECTS) -> Received:
    """The objects of a bundle or a page; `room` is how many may come. FeedError."""
    if not isinstance(objects, list):
        raise FeedError(
            "objects must be a list, however: another value; ask the sender for STIX 2.1"
        )
    if len(objects) > room:
        raise FeedError(
            f"at most {MAX_OBJECTS:,} objects must come at once, however: more do; nothing of them "
            "was read"
        )
    _check_markings(objects)
    found = Received()
    seen: set[tuple[str, str]] = set()
    for one in objects:
        try:
            _read(one, found, seen)
        except _Refused as reason:
            own = str(one.get("id")) if isinstance(one, dict) else ""
            found.refused.append(Unread(own if _is_id(own) else "-", str(reason)))
    return found


def seconds_of(value: Any) -> float | None:
    """The time that a STIX timestamp names, None if it is none."""
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    try:
        moment = datetime.fromisoformat(match[1]).replace(tzinfo=UTC)
    except ValueError:
        return None
    return moment.timestamp() + float(match[2] or 0.0)


def _read(one: Any, found: Received, seen: set[tuple[str, str]]) -> None:
    if not isinstance(one, dict) or not _is_id(one.get("id"), one.get("type")):
        raise _Refused("an object must have a type and an id of that type")
    kind = one["type"]
    ours = EXTENSION in _mapping(one.get("extensions"))
    if kind == "indicator" and (one.get("pattern_type") == PATTERN_TYPE or ours):
        _add_once(one, seen)
        found.templates.append(_template(one))
    elif kind == "campaign" and ours:
        _add_once(one, seen)
        found.campaigns.append(_campaign(one))
    else:
        found.other += 1


def _template(one: Mapping[str, Any]) -> SharedTemplate:
    own = _own_fields(one, _INDICATOR, {"intent", "language"}, {"family"})
    if one.get("pattern_type") != PATTERN_TYPE or one.get("pattern_version") != PATTERN_VERSION:
        raise _Refused(f"its pattern must be a {PATTERN_TYPE} of version {PATTERN_VERSION}")
    text = one.get("pattern")
    if not isinstance(text, str) or not text.strip():
        raise _Refused("its pattern must be text")
    why = review.why_no_text(text)
    if why is not None:
        raise _Refused(f"its pattern must be a template, however: it holds {why}")
    family = own.get("family")
    for name, value, form in (
        ("intent", own["intent"], INTENT), ("language", own["language"], LANGUAGE),
        ("family", family, FAMILY),
    ):  # fmt: skip
        if value is not None or name != "family":
            _text(name, value, form)
    until = one.get("valid_until")
    made = SharedTemplate(
        id=one["id"], text=text.strip(), intent=own["intent"], language=own["language"],
        created=_time(one, "created"), modified=_time(one, "modified"),
        valid_from=_time(one, "valid_from"),
        valid_until=_time(one, "valid_until") if until is not None else None,
        revoked=_flag(one), tlp=_tlp(one), family=family, creator=_creator(one),
    )  # fmt: skip
    if made.modified < made.created:
        raise _Refused("it must be modified after it was created")
    if made.valid_until is not None and made.valid_until <= made.valid_from:
        raise _Refused("its validity must end after it begins")
    return made


def _campaign(one: Mapping[str, Any]) -> SharedCampaign:
    own = _own_fields(one, _CAMPAIGN, {"intents", "accounts", "events"}, set())
    intents = own["intents"]
    if not isinstance(intents, dict) or len(intents) > MAX_INTENTS:
        raise _Refused(f"its intents must be at most {MAX_INTENTS} with their shares")
    for name, value in intents.items():
        _text("intent", name, INTENT)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise _Refused("the share of an intent must be a number from 0 to 1")
    for name in ("accounts", "events"):
        if type(own[name]) is not int or not 0 <= own[name] <= 10**12:
            raise _Refused(f"{name} must be a count")
    if _flag(one):
        raise _Refused("it must not be revoked: campaigns are figures, and are only updated")
    return SharedCampaign(
        campaign_id=one["id"], intents={name: float(value) for name, value in intents.items()},
        first_seen=_time(one, "first_seen"), last_seen=_time(one, "last_seen"),
        accounts=own["accounts"], events=own["events"], updated=_time(one, "modified"),
        tlp=_tlp(one), creator=_creator(one),
    )  # fmt: skip


def _own_fields(
    one: Mapping[str, Any], known: frozenset[str], needed: set[str], optional: set[str]
) -> Mapping[str, Any]:
    """Our extension of an object that holds known properties alone."""
    if one.get("spec_version") != "2.1":
        raise _Refused("its spec_version must be 2.1")
    if set(one) - known:
        raise _Refused("its properties must be those of STIX 2.1, however: it has others")
    extensions = _mapping(one.get("extensions"))
    if set(extensions) != {EXTENSION}:
        raise _Refused("its extensions must be that of prompt templates alone")
    own = extensions[EXTENSION]
    if not isinstance(own, dict) or own.get("extension_type") != "property-extension":
        raise _Refused("its extension must be a property-extension")
    names = set(own) - {"extension_type"}
    if not needed <= names <= needed | optional:
        raise _Refused("its extension must hold what is defined alone: vectors are not taken")
    return own


def _check_markings(objects: Sequence[Any]) -> None:
    """FeedError for a definition that calls itself one of OASIS's and says something else: nothing
    that is marked by it can be believed."""
    for one in objects:
        own = one.get("id") if isinstance(one, dict) else None
        if isinstance(own, str) and own in TLP_OF:
            level = TLP_OF[own]
            said = _mapping(_mapping(one.get("extensions")).get(TLP_EXTENSION)).get("tlp_2_0")
            if one.get("type") != "marking-definition" or said != level.value:
                raise FeedError(
                    f"the definition of {level} must be that of OASIS, however: it is another; "
                    "nothing of what it came with was read"
                )


def _tlp(one: Mapping[str, Any]) -> Tlp:
    marks = one.get("object_marking_refs")
    if not isinstance(marks, list) or len(marks) != 1 or marks[0] not in TLP_IDS.values():
        found = "none" if not marks else "another, or several"
        raise _Refused(f"it must have one marking of TLP 2.0, however: it has {found}")
    return TLP_OF[marks[0]]


def _creator(one: Mapping[str, Any]) -> str:
    creator = one.get("created_by_ref")
    if not _is_id(creator, "identity"):
        raise _Refused("it must say by the id of an identity who created it")
    return str(creator)


def _add_once(one: Mapping[str, Any], seen: set[tuple[str, str]]) -> None:
    key = (one["id"], str(one.get("modified")))
    if key in seen:
        raise _Refused("it must come once in one version, however: it comes again")
    seen.add(key)


def _time(one: Mapping[str, Any], name: str) -> float:
    found = seconds_of(one.get(name))
    if found is None:
        raise _Refused(f"{name} must be a timestamp in UTC")
    return found


def _flag(one: Mapping[str, Any]) -> bool:
    value = one.get("revoked", False)
    if not isinstance(value, bool):
        raise _Refused("revoked must be true or false")
    return value


def _text(name: str, value: Any, form: re.Pattern[str]) -> None:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise _Refused(f"{name} must be a name of its form")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_id(value: Any, kind: Any = None) -> bool:
    return (
        isinstance(value, str)
        and _ID.fullmatch(value) is not None
        and (kind is None or (isinstance(kind, str) and value.startswith(f"{kind}--")))
    )
