"""The template library and the two FAISS indexes: known attack prompts, and ordinary references.

A similarity is a cosine in [-1, 1], higher is closer.

Axis letters: N vectors of the index, M queries, D dimensions of the encoder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from stillwatch.data.errors import BundleError, InputError, StillwatchError
from stillwatch.data.events import DEFAULT_INTENTS
from stillwatch.model import flat

SLOT = "{slot}"
MAX_TEXT_CHARS = 4000

TEMPLATES_FAISS = "templates.faiss"
TEMPLATES_JSONL = "templates.jsonl"
BENIGN_FAISS = "benign.faiss"

_FIELDS = ("id", "family", "intent", "language", "text", "source", "created", "expires")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")


@dataclass(frozen=True, slots=True)
class Template:
    """A known attack prompt pattern. `text` is its frame without the payload; `{slot}` stands
    where the payload stood. `created` and `expires` (or None) are ISO dates."""

    id: str
    family: str
    intent: str
    language: str
    text: str
    source: str
    created: str
    expires: str | None


def embedding_text(template: Template) -> str:
    """The text of a template that is encoded: without its slot, whitespace folded."""
    return " ".join(template.text.replace(SLOT, " ").split())


def library_path() -> Path:
    """The library that comes with the package."""
    return Path(__file__).with_name("library.jsonl")


def load_library(
    path: Path | str | None = None, intents: Sequence[str] = DEFAULT_INTENTS
) -> tuple[Template, ...]:
    """Read and check a template library, by default the one that comes with the package.

    Raises InputError naming the file, the line and the field that is wrong.
    """
    source = library_path() if path is None else Path(path)
    try:
        content = source.read_bytes()
    except OSError as error:
        raise InputError(
            f"{source} must be a readable template library, however: {error.strerror}; "
            "name a JSON Lines file of templates"
        ) from error
    return _parse_templates(content, str(source), intents, InputError)


def templates_to_bytes(templates: Sequence[Template]) -> bytes:
    """JSON Lines, one template a line, in the form that `load_library` reads."""
    lines = [json.dumps(asdict(template), ensure_ascii=False) for template in templates]
    return "".join(f"{line}\n" for line in lines).encode()


def _parse_templates(
    content: bytes, name: str, intents: Sequence[str], error_type: type[StillwatchError]
) -> tuple[Template, ...]:
    templates: list[Template] = []
    lines_by_id: dict[str, int] = {}
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue

        def refuse(field: str, rule: str, found: object, number: int = number) -> StillwatchError:
            return error_type(
                f"{name} line {number}: {field} must be {rule}, however: {found}; "
                "correct or remove the line"
            )

        template = _parse_line(line, intents, refuse)
        if template.id in lines_by_id:
            raise refuse("id", "unique", f"{template.id} is line {lines_by_id[template.id]} too")
        lines_by_id[template.id] = number
        templates.append(template)
    if not templates:
        raise error_type(f"{name} must hold templates, however: it holds none; add one a line")
    return tuple(templates)


def _parse_line(
    line: bytes, intents: Sequence[str], refuse: Callable[[str, str, object], StillwatchError]
) -> Template:
    """One template. Errors show short names that were found, never the text."""
    try:
        record = json.loads(line, object_pairs_hook=_without_duplicates)
    # Deep nesting ends the parser by RecursionError.
    except (ValueError, RecursionError):
        raise refuse("the line", "a JSON object without repeated keys", "it is none") from None
    if not isinstance(record, dict):
        raise refuse("the line", "a JSON object", f"a {type(record).__name__}")
    if set(record) != set(_FIELDS):
        odd = sorted(set(_FIELDS) - set(record)) or sorted(set(record) - set(_FIELDS))
        state = "missing" if odd[0] in _FIELDS else "unknown"
        raise refuse("the line", f"an object of {', '.join(_FIELDS)}", f"{odd[0]!a:.40} is {state}")
    for field in ("id", "family", "intent", "language", "source"):
        value = record[field]
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            raise refuse(field, "a name of 1 to 128 letters, digits, _ . : -", f"{value!a:.40}")
    if record["intent"] not in intents:
        raise refuse("intent", f"one of {', '.join(intents)}", record["intent"])
    text = record["text"]
    if not isinstance(text, str) or not text.replace(SLOT, "").strip():
        raise refuse("text", "text beside the slot", "there is none")
    if len(text) > MAX_TEXT_CHARS:
        raise refuse("text", f"at most {MAX_TEXT_CHARS} characters", len(text))
    if text.count(SLOT) > 1:
        raise refuse("text", f"of at most one {SLOT}", text.count(SLOT))
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise refuse("text", "Unicode text", "it holds a lone surrogate")
    for field in ("created", "expires"):
        if field == "expires" and record[field] is None:
            continue
        if not _is_date(record[field]):
            raise refuse(field, "a date such as 2026-03-31", f"{record[field]!a:.40}")
    if record["expires"] is not None and record["expires"] <= record["created"]:
        raise refuse("expires", f"after {record['created']} or null", record["expires"])
    return Template(**record)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("repeated key")
    return fields


def _is_date(value: object) -> bool:
    # fromisoformat alone also takes 20260331 and 2026-W13-2.
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        return False
    try:
        date.fromisoformat(value)
    except ValueError:
        return False
    return True


class TemplateIndex:
    """The nearest templates of a text, by the cosine of their vectors."""

    def __init__(self, templates: Sequence[Template], vectors: np.ndarray) -> None:
        """`vectors` float32 (N, D) of unit norm, one a template, in their order."""
        self.templates = tuple(templates)
        self._index = flat.build(vectors, len(self.templates), "templates")

    @property
    def dimensions(self) -> int:
        return int(self._index.d)

    def __len__(self) -> int:
        return len(self.templates)

    def vectors(self) -> np.ndarray:
        """float32 (N, D)."""
        return flat.stored_vectors(self._index)

    def search(self, vectors: np.ndarray, k: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """float32 (M, D) -> similarity float32 (M, k), higher is closer, and position in
        `templates` int64 (M, k), nearest first. k is at most N."""
        return flat.search(self._index, vectors, k)

    def to_files(self) -> dict[str, bytes]:
        """Contents of the index's two files, by name."""
        return {
            TEMPLATES_FAISS: flat.to_bytes(self._index),
            TEMPLATES_JSONL: templates_to_bytes(self.templates),
        }

    @classmethod
    def from_files(
        cls,
        content: Mapping[str, bytes],
        dimensions: int,
        intents: Sequence[str] = DEFAULT_INTENTS,
    ) -> TemplateIndex:
        """Read what `to_files` gave; BundleError names the file and both values."""
        templates = _parse_templates(
            _file(content, TEMPLATES_JSONL), TEMPLATES_JSONL, intents, BundleError
        )
        index = flat.from_bytes(
            _file(content, TEMPLATES_FAISS), TEMPLATES_FAISS, len(templates), dimensions
        )
        made = cls.__new__(cls)
        made.templates, made._index = templates, index
        return made


class BenignIndex:
    """The nearest ordinary references of a text. `sources` names where each vector comes from;
    it belongs to the manifest, the file holds vectors alone."""

    def __init__(self, sources: Sequence[str], vectors: np.ndarray) -> None:
        """`vectors` float32 (N, D) of unit norm, one a source name, in their order."""
        self.sources = tuple(sources)
        self._index = flat.build(vectors, len(self.sources), "sources")

    @property
    def dimensions(self) -> int:
        return int(self._index.d)

    def __len__(self) -> int:
        return len(self.sources)

    def vectors(self) -> np.ndarray:
        """float32 (N, D)."""
        return flat.stored_vectors(self._index)

    def search(self, vectors: np.ndarray, k: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """As TemplateIndex.search, with positions in `sources`."""
        return flat.search(self._index, vectors, k)

    def to_files(self) -> dict[str, bytes]:
        """Contents of the index's file, by name."""
        return {BENIGN_FAISS: flat.to_bytes(self._index)}

    @classmethod
    def from_files(
        cls, content: Mapping[str, bytes], dimensions: int, sources: Sequence[str]
    ) -> BenignIndex:
        """Read what `to_files` gave; BundleError names the file and both values."""
        index = flat.from_bytes(
            _file(content, BENIGN_FAISS), BENIGN_FAISS, len(sources), dimensions
        )
        made = cls.__new__(cls)
        made.sources, made._index = tuple(sources), index
        return made


def _file(content: Mapping[str, bytes], name: str) -> bytes:
    if name not in content:
        held = ", ".join(sorted(content)) or "nothing"
        raise BundleError(
            f"a bundle must hold {name}, however: it holds {held}; "
            "take the bundle from its source again"
        )
    return content[name]
