"""Events that cannot be scored: set aside in a file, so that none is lost without a word.

The file holds prompts, and is readable by its owner alone.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stillwatch.data.events import Event, event_to_fields
from stillwatch.serving.verdict import json_line

REMEMBERED = 4096
"""Events set aside that are known again, so that a caller's retries fill no disk."""
OWNER_ONLY = 0o600


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What a caller gets in the place of a verdict."""

    event_id: str

    def to_fields(self) -> dict[str, Any]:
        """The fields that stand in the place of an account line."""
        return {"event_id": self.event_id, "error": {"code": "dead_letter"}}


class DeadLetters:
    """A JSON Lines file of events: `{"set_aside", "error", "event"}`. The event has its fields as
    they came, the error is its type alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()

    def holds(self, event: Event) -> bool:
        """Whether this event was set aside a short while ago."""
        return _digest(event) in self._known

    def add(self, event: Event, error: BaseException) -> None:
        """Append an event; on return it is on the disk. OSError if that cannot be done."""
        line = json_line(
            {
                "set_aside": datetime.now(UTC).isoformat(timespec="seconds"),
                "error": type(error).__name__,
                "event": event_to_fields(event),
            }
        )
        with self._lock:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self.path, flags, OWNER_ONLY)
            with os.fdopen(descriptor, "ab", buffering=0) as file:
                os.fchmod(file.fileno(), OWNER_ONLY)
                end = os.fstat(file.fileno()).st_size
                if file.write(line) != len(line):
                    # Half a line would spoil the next one.
                    os.ftruncate(file.fileno(), end)
                    raise OSError(errno.ENOSPC, "the dead letters have no room")
                os.fsync(file.fileno())
            self._known[_digest(event)] = None
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)

    def forget(self) -> None:
        """Try every event again: another bundle may score it."""
        self._known.clear()


def _digest(event: Event) -> bytes:
    parts = (event.account_id, event.event_id, event.prompt)
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
