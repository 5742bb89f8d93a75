"""The log formats that Stillwatch reads, one module each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stillwatch.data.errors import ConfigError
from stillwatch.data.readers import (
    anthropic,
    litellm,
    openai_chat,
    openai_responses,
    parquet,
    stillwatch,
)
from stillwatch.data.readers.base import Reader

READERS: tuple[Reader, ...] = (
    stillwatch,
    litellm,
    anthropic,
    openai_chat,
    openai_responses,
    parquet,
)
"""In the order in which they are asked; of those that fit equally well the first is taken."""

FORMATS = tuple(reader.name for reader in READERS)


def reader_named(name: str) -> Reader:
    """The reader that `--format` asks for. Raises ConfigError."""
    for reader in READERS:
        if reader.name == name:
            return reader
    raise ConfigError(f"The format must be one of {', '.join(FORMATS)}, however: {name!r}")


def sniff(records: Sequence[Mapping[str, Any]]) -> Reader | None:
    """The reader that fits the most records, None if none fits any.

    A record counts for the first reader that it fits.
    """
    votes = [0] * len(READERS)
    for record in records:
        for index, reader in enumerate(READERS):
            if reader.matches(record):
                votes[index] += 1
                break
    best = max(votes)
    return READERS[votes.index(best)] if best else None
