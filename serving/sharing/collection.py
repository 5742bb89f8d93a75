"""A TAXII 2.1 collection as a value: its objects in the order in which they came, filters, pages.

Dates are texts in STIX's form, which sort as the times do. Each object has one version, its last.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

from stillwatch.data.errors import InputError
from stillwatch.data.intelligence.stix_reader import seconds_of
from stillwatch.data.intelligence.stix_writer import producer_uuid, timestamp
from stillwatch.data.intelligence.vocabulary import EPOCH
from stillwatch.serving.sharing.shelf import Shelf

PAGE, MOST = 100, 1000
"""Objects of a page unless asked for fewer or more, and at most."""
MOST_MATCHED = 100
"""Values of one filter."""
STIX_MEDIA = "application/stix+json;version=2.1"
_VERSIONS = frozenset({"last", "first", "all"})


class Item(NamedTuple):
    """An object, and when it came into the collection in this version."""

    added: str
    id: str
    version: str
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a collection. `next` is None on the last one."""

    items: tuple[Item, ...]
    next: str | None

    @property
    def first(self) -> str | None:
        """When the first of them was added."""
        return self.items[0].added if self.items else None

    @property
    def last(self) -> str | None:
        """When the last of them was added."""
        return self.items[-1].added if self.items else None


@dataclass(frozen=True, slots=True)
class Filter:
    """What is wanted of a collection; everything if nothing is said."""

    added_after: str | None = None
    ids: frozenset[str] | None = None
    types: frozenset[str] | None = None
    versions: frozenset[str] | None = None
    spec_versions: frozenset[str] | None = None

    @classmethod
    def of_query(cls, query: Mapping[str, str]) -> Filter:
        """The filter that a query string asks for; InputError."""
        after = query.get("added_after")
        seconds = seconds_of(after) if after is not None else None
        if after is not None and seconds is None:
            raise InputError("added_after must be a timestamp in UTC, however: it is not")
        versions = _values(query, "version")
        if versions is not None:
            times = {one: seconds_of(one) for one in versions - _VERSIONS}
            fitting = set(versions & _VERSIONS)
            fitting |= {timestamp(own) for own in times.values() if own is not None}
            if None in times.values():
                raise InputError(
                    "match[version] must be last, first, all or timestamps, however: it is not"
                )
            versions = frozenset(fitting)
        return cls(
            timestamp(seconds) if seconds is not None else None, _values(query, "id"),
            _values(query, "type"), versions, _values(query, "spec_version"),
        )  # fmt: skip

    def takes(self, item: Item) -> bool:
        """Whether an object is wanted."""
        content = item.content
        return (
            (self.added_after is None or item.added > self.added_after)
            and (self.ids is None or item.id in self.ids)
            and (self.types is None or content["type"] in self.types)
            and (self.spec_versions is None or content.get("spec_version") in self.spec_versions)
            and (
                self.versions is None
                or bool(self.versions & _VERSIONS)
                or item.version in self.versions
            )
        )


class Collection:
    """The objects of a shelf, made anew when it has changed. Threads may share it."""

    def __init__(self, shelf: Shelf, today: Callable[[], date] = date.today) -> None:
        self._shelf = shelf
        self._today = today
        self._lock = threading.Lock()
        self._made: tuple[Any, tuple[Item, ...]] | None = None

    @property
    def id(self) -> str:
        """The same for good: peers keep it in their settings."""
        return str(uuid.uuid5(producer_uuid(self._shelf.producer()), "collection:templates"))

    def page(self, wanted: Filter, limit: int = PAGE, after: str | None = None) -> Page:
        """The objects that are wanted behind a `next`; InputError if that is none."""
        start = _of_cursor(after) if after is not None else ("", "")
        items = [one for one in self._items() if (one.added, one.id) > start and wanted.takes(one)]
        kept = tuple(items[: max(1, min(limit, MOST))])
        more = len(items) > len(kept)
        return Page(kept, _cursor(kept[-1]) if more else None)

    def _items(self) -> tuple[Item, ...]:
        campaigns = tuple(self._shelf.campaigns())
        key = (self._shelf.desk.head(), self._today(), repr(campaigns))
        with self._lock:
            if self._made is None or self._made[0] != key:
                found = _items_of(self._shelf.objects())
                self._made = (key, tuple(sorted(found, key=lambda one: (one.added, one.id))))
            return self._made[1]


def _items_of(objects: Sequence[Mapping[str, Any]]) -> list[Item]:
    """With the date of each. What a site shares has that of its version; a relation comes with the
    later of the two that it connects; what all sites have in common comes with the first object
    that refers to it."""
    versions = {str(one["id"]): str(one.get("modified", one["created"])) for one in objects}
    added = {
        own: version
        for one in objects
        if one["type"] in ("indicator", "campaign")
        for own, version in [(str(one["id"]), versions[str(one["id"])])]
    }
    for one in objects:
        if one["type"] == "relationship":
            ends = [added[end] for end in (one["source_ref"], one["target_ref"]) if end in added]
            added[str(one["id"])] = max(ends)
    first: dict[str, str] = {}
    # Twice: what they refer to refers to others in turn.
    for _ in range(2):
        for one in objects:
            when = added.get(str(one["id"])) or first.get(str(one["id"]))
            if when is not None:
                for other in _references(one):
                    first[other] = min(first.get(other, when), when)
    return [
        Item(added.get(own) or first.get(own) or EPOCH, own, versions[own], one)
        for one in objects
        for own in [str(one["id"])]
    ]


def _references(one: Mapping[str, Any]) -> list[str]:
    named = [one.get("created_by_ref"), one.get("source_ref"), one.get("target_ref")]
    return [
        str(other)
        for other in (*named, *one.get("object_marking_refs", ()), *one.get("extensions", ()))
        if other is not None
    ]


def _values(query: Mapping[str, str], name: str) -> frozenset[str] | None:
    text = query.get(f"match[{name}]")
    if text is None:
        return None
    values = frozenset(text.split(","))
    if len(values) > MOST_MATCHED:
        raise InputError(
            f"match[{name}] must name at most {MOST_MATCHED}, however: it names more; ask in parts"
        )
    return values


def _cursor(item: Item) -> str:
    return base64.urlsafe_b64encode(json.dumps([item.added, item.id]).encode()).decode().rstrip("=")


def _of_cursor(text: str) -> tuple[str, str]:
    try:
        if len(text) > 400 or not re.fullmatch(r"[A-Za-z0-9_-]+", text):
            raise ValueError
        found = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        added, own = found
        if not (isinstance(added, str) and isinstance(own, str)):
            raise ValueError
        return added, own
    except (ValueError, TypeError, binascii.Error, UnicodeDecodeError, RecursionError):
        raise InputError("next must be what a page gave, however: it is not") from None
