"""What people type around and between their own matters: openings, follow-ups, ways to ask.

Each phrase is one line of `phrases.jsonl`, written by hand:

{"kind": "student", "language": "en", "text": "i dont get this one, can you explain: {slot}"}
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from stillwatch.data.errors import InputError
from stillwatch.data.files import open_lines
from stillwatch.data.strict_json import InvalidJson, parse_object

SLOT = "{slot}"

SLOTS: Mapping[str, tuple[int, ...]] = {
    "opening": (0,),
    "follow_up": (0,),
    "student": (1,),
    "reasoning_request": (0, 1),
    "jailbreak_try": (0,),
    "redteam": (1,),
    "evaluate": (0,),
    "new_model": (0,),
}
"""Kind of phrase -> how many times a text of it may hold `{slot}`."""

FALLBACK_LANGUAGE = "en"
"""Every kind has phrases in it, whatever other languages it has."""

_FIELDS = ("kind", "language", "text")


@dataclass(frozen=True, slots=True)
class Phrase:
    """One text of a person. `kind` is of SLOTS; `language` is a code of two small letters."""

    kind: str
    language: str
    text: str


def load_phrases() -> dict[str, tuple[Phrase, ...]]:
    """Every phrase that is shipped, by kind. Raises InputError if one is malformed."""
    return _by_kind(_shipped())


def read_phrases(path: Path) -> dict[str, tuple[Phrase, ...]]:
    """The phrases of a file by kind, every kind present, each in the order of the file.

    Raises InputError with the first fault and the number of others.
    """
    return _by_kind(_read(path))


@cache
def _shipped() -> tuple[Phrase, ...]:
    return _read(Path(__file__).with_name("phrases.jsonl"))


def _by_kind(phrases: tuple[Phrase, ...]) -> dict[str, tuple[Phrase, ...]]:
    return {kind: tuple(p for p in phrases if p.kind == kind) for kind in SLOTS}


def _read(path: Path) -> tuple[Phrase, ...]:
    phrases: list[Phrase] = []
    faults: list[str] = []
    seen: set[str] = set()
    for number, line in open_lines(path):
        if not line.strip():
            continue
        where = f"{path.name}, line {number}:"
        try:
            fields = parse_object(line)
        except InvalidJson as error:
            faults.append(f"{where} {error.reason}")
            continue
        found = list(_faults(fields))
        if not found and fields["text"] in seen:
            found = ["a text must stand once, however: it stands on an earlier line too"]
        if found:
            faults += [f"{where} {fault}" for fault in found]
            continue
        seen.add(fields["text"])
        phrases.append(Phrase(**fields))
    if not faults:
        served = {p.kind for p in phrases if p.language == FALLBACK_LANGUAGE}
        faults = [
            f"{path.name} must hold every kind in {FALLBACK_LANGUAGE!r}, however: no {kind}"
            for kind in SLOTS
            if kind not in served
        ]
    if faults:
        more = f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else ""
        raise InputError(faults[0] + more)
    return tuple(phrases)


def _faults(fields: Mapping[str, Any]) -> Iterator[str]:
    wrong = [name for name in _FIELDS if not isinstance(fields.get(name), str)]
    wrong += sorted(fields.keys() - set(_FIELDS))
    if wrong:
        yield f"fields must be the texts {', '.join(_FIELDS)}, however: {wrong[0]!r} is not"
        return
    if not re.fullmatch(r"[a-z]{2}", fields["language"]):
        yield "language must be a code of two small letters, however: another value"
    if not fields["text"].strip():
        yield "text must say something, however: it is empty"
    kind = fields["kind"]
    if kind not in SLOTS:
        yield f"kind must be of {', '.join(SLOTS)}, however: {kind!r}"
        return
    slots = fields["text"].count(SLOT)
    if slots not in SLOTS[kind]:
        allowed = " or ".join(map(str, SLOTS[kind]))
        yield f"the text of a {kind} must hold {SLOT} {allowed} times, however: {slots} times"
