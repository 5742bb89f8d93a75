"""YAML as nodes that know their line, read without what YAML can hide.

Refused: aliases (a few lines of them fill a memory), tags, a key twice in a mapping, more than one
document, deep nesting. Numbers are decimal and truths are `true` and `false`: YAML's other ways of
writing them are traps. Faults never quote a value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from stillwatch.data.errors import MissingError

MAX_DEPTH = 8
_NUMBER = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?")
_TAG = "tag:yaml.org,2002:"


@dataclass
class Faults:
    """What is wrong with a file, in its order."""

    name: str
    found: list[tuple[int, str]] = field(default_factory=list)

    def add(self, line: int, text: str, rule: str = "") -> None:
        """Note a fault of a line, counted from 1."""
        self.found.append((line, f"{f'rule {rule}: ' if rule else ''}{text}"))

    def lines(self) -> list[str]:
        """One line each, by line of the file."""
        return [f"{self.name}, line {line}: {text}" for line, text in sorted(self.found)]


class Node:
    """A value at its line. `key` is what it is called in messages."""

    def __init__(self, raw: Any, key: str, faults: Faults, rule: str = "") -> None:
        self.raw = raw
        self.key = key
        self.faults = faults
        self.rule = rule

    @property
    def line(self) -> int:
        return int(self.raw.start_mark.line) + 1

    def fault(self, text: str) -> None:
        """Note that this value is not as it must be."""
        self.faults.add(self.line, text, self.rule)

    def items(self) -> dict[str, Node]:
        """A mapping's values by their keys; a fault and nothing if it is none."""
        if self.raw.id != "mapping":
            self.fault(f"{self.key} must be a mapping of keys to values, however: it is not")
            return {}
        found: dict[str, Node] = {}
        for key, value in self.raw.value:
            name = key.value if key.id == "scalar" else ""
            if not re.fullmatch(r"[a-z_]{1,40}", name):
                self.faults.add(
                    key.start_mark.line + 1,
                    f"a key of {self.key} must be a word of small letters, however: one is not",
                    self.rule,
                )
            elif name in found:
                self.faults.add(
                    key.start_mark.line + 1,
                    f"{name} must stand once, however: it stands twice; remove one",
                    self.rule,
                )
            else:
                found[name] = Node(value, name, self.faults, self.rule)
        return found

    def elements(self) -> list[Node]:
        """A sequence's values; a fault and nothing if it is none."""
        if self.raw.id != "sequence":
            self.fault(f"{self.key} must be a list, however: it is not; begin each with -")
            return []
        return [Node(one, f"{self.key}'s entry", self.faults, self.rule) for one in self.raw.value]

    def text(self, pattern: str = r"[\s\S]*\S[\s\S]*", most: int = 2000) -> str | None:
        """A text that a pattern matches."""
        plain = self.raw.id == "scalar" and self.raw.tag in (f"{_TAG}str", f"{_TAG}timestamp")
        value = self.raw.value.strip() if plain else ""
        if not plain or len(value) > most or not re.fullmatch(pattern, value):
            self.fault(
                f"{self.key} must be a text of 1 to {most} characters that fits, however: it is "
                "not; put it in quotes if YAML takes it for something else"
            )
            return None
        return str(value)

    def choice(self, known: tuple[str, ...]) -> str | None:
        """One of some words."""
        value = self.raw.value if self.raw.id == "scalar" else None
        if value not in known:
            self.fault(f"{self.key} must be one of {', '.join(known)}, however: it is another")
            return None
        return str(value)

    def texts(self, known: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """A word or a list of words; nothing after a fault."""
        nodes = self.elements() if self.raw.id == "sequence" else [self]
        found = [node.choice(known) if known else node.text(r"[A-Za-z0-9_.-]{1,64}", 64)
                 for node in nodes]  # fmt: skip
        if not nodes:
            self.fault(f"{self.key} must name at least one, however: it names none")
        return tuple(one for one in found if one is not None)

    def flag(self) -> bool | None:
        """true or false."""
        plain = self.raw.id == "scalar" and self.raw.tag == f"{_TAG}bool"
        if plain and self.raw.value in ("true", "false"):
            return bool(self.raw.value == "true")
        self.fault(f"{self.key} must be true or false, however: it is another value")
        return None

    def number(self, least: float, most: float, whole: bool = False) -> float | None:
        """A decimal number from `least` to `most`."""
        value = math.nan
        tags = (f"{_TAG}int",) if whole else (f"{_TAG}int", f"{_TAG}float")
        plain = self.raw.id == "scalar" and self.raw.tag in tags
        if plain and _NUMBER.fullmatch(self.raw.value):
            with suppress(ValueError):
                value = float(self.raw.value)
        if not least <= value <= most:
            kind = "whole number" if whole else "number"
            self.fault(
                f"{self.key} must be a {kind} from {least:g} to {most:g}, however: it is another "
                "value"
            )
            return None
        return value


def parse(data: bytes, faults: Faults) -> Node | None:
    """The one document of a file; None after a fault."""
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise MissingError(
            "a policy must have PyYAML to be read, however: it is missing; run pip install pyyaml"
        ) from error
    try:
        text = data.decode()
    except UnicodeDecodeError:
        faults.add(1, "the policy must be UTF-8, however: it is in another encoding")
        return None
    try:
        # Looked through first: what is refused is never built.
        for line, told in _hidden(yaml, text):
            faults.add(line, told)
            return None
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        faults.add(
            mark.line + 1 if mark is not None else 1,
            "the policy must be one document of YAML, however: this line cannot be read; look at "
            "its indentation, colons and quotes",
        )
        return None
    if root is None:
        faults.add(1, "the policy must hold version and rules, however: it is empty")
        return None
    return Node(root, "the policy", faults)


def source_of(node: Node, text: str) -> str:
    """A node's lines as they stand in the file, without what is around them."""
    start, end = node.raw.start_mark, node.raw.end_mark
    lines = text[start.index : end.index].splitlines()
    # A block ends where the next one begins, so comments on that are in it.
    while lines and (not lines[-1].strip() or lines[-1].lstrip().startswith("#")):
        lines.pop()
    indent = " " * start.column
    return "\n".join(line.removeprefix(indent) for line in lines)


def _hidden(yaml: Any, text: str) -> Iterator[tuple[int, str]]:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            yield line, "the policy must have no anchors and aliases, however: one is here"
        if getattr(event, "tag", None):
            yield line, "the policy must have no tags, however: one is here"
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            yield line, f"the policy must be nested {MAX_DEPTH} deep at most, however: deeper"
