"""The audit log's anchor: a file beside the tables with the log's head after each entry.

Whoever changes the tables alone is found out by it. Whoever can change both is found out by a head
that was written down elsewhere.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from stillwatch.data.errors import ConfigError
from stillwatch.serving.desk.records import AuditError, Head

FILE = "audit.head"
_TAIL_BYTES = 1024
"""More than the last two lines take."""


class Tail(NamedTuple):
    """The last whole line, None if there is none, and what stands after it: the beginning of a
    line that a crash cut off."""

    head: Head | None
    torn: str


class Anchor:
    """The file. Methods raise OSError; whoever writes holds the desk's lock."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def exists(self) -> bool:
        return self.path.is_file()

    def create(self) -> None:
        """An empty one."""
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        self._sync_folder()

    def tail(self) -> Tail:
        """The end of the file. AuditError if it is missing or its last line is none."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _TAIL_BYTES))
                content = file.read()
        except FileNotFoundError:
            raise AuditError(
                f"the audit log must have its anchor, however: {FILE} is missing; put it back, or "
                "see to what happened and run `stillwatch audit accept`"
            ) from None
        *lines, torn = content.split(b"\n")
        head = _parse(lines[-1]) if lines else None
        if lines and head is None:
            raise AuditError(
                f"each line of {FILE} must be a head, however: the last is none; run `stillwatch "
                "audit verify`"
            )
        return Tail(head, torn.decode("ascii", "replace"))

    def read(self) -> tuple[list[Head | None], bool]:
        """Every whole line, None for one that is no head; whether another was cut off. OSError."""
        *lines, torn = self.path.read_bytes().split(b"\n")
        return [_parse(line) for line in lines], bool(torn)

    def append(self, head: Head, torn: str = "") -> None:
        """Add a line, in place of the `torn` one."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        try:
            if torn:
                os.ftruncate(descriptor, os.fstat(descriptor).st_size - len(torn))
            line = f"{head}\n".encode("ascii")
            if os.write(descriptor, line) != len(line):
                raise OSError(28, "No space left on device")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def set_aside(self, head: Head) -> None:
        """Keep the file under another name and begin a new one with `head`."""
        if self.exists():
            self.path.rename(self.path.with_name(f"{FILE}.{head.count}"))
        self.create()
        self.append(head)
        self._sync_folder()

    def _sync_folder(self) -> None:
        descriptor = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _parse(line: bytes) -> Head | None:
    try:
        return Head.parse(line.decode("ascii"))
    except (ConfigError, UnicodeDecodeError):
        return None
