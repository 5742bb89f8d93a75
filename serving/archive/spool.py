"""The queue between scoring and the tables: records in files, each synced before it is accepted.

A segment is a file of records, each with its length and checksum; new records go to the newest
segment. The worker seals it, reads the sealed ones to their end, and removes them once what they
hold is in the tables. A record cut off at the end of a segment was never accepted.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from stillwatch.data.errors import StoreError

_RECORD = struct.Struct("<4sII")
_MAGIC = b"SWR1"
RECORD_BYTES = _RECORD.size
"""That a record takes beside its own bytes."""
SUFFIX = ".spool"


class Spool:
    """Records of bytes in a folder, at most `limit` bytes of them. `append` and the rest may be
    called by different threads. One process alone may have it open."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self._damaged: dict[Path, int] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._file: int | None = None
        self._path = folder
        self._written = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._sealed = sorted(folder.glob(f"*{SUFFIX}"))
            self._sealed_bytes = sum(path.stat().st_size for path in self._sealed)
        except OSError as error:
            raise _unusable("the archive's queue must be readable", error) from error
        self._next = int(self._sealed[-1].stem) + 1 if self._sealed else 1

    @property
    def waiting(self) -> int:
        """Bytes that are not in the tables yet."""
        with self._lock:
            return self._sealed_bytes + self._written

    @property
    def damaged(self) -> int:
        """Bytes of segments that could not be read: more than a cut-off end means damage."""
        return sum(self._damaged.values())

    def append(self, payload: bytes) -> None:
        """Accept a record: on return it outlives the process and the machine's power.

        StoreError if there is no room; nothing was accepted then.
        """
        record = _RECORD.pack(_MAGIC, len(payload), zlib.crc32(payload)) + payload
        with self._lock:
            if self._closed:
                raise StoreError("the archive must be open, however: it was closed; open it again")
            if self._sealed_bytes + self._written + len(record) > self.limit:
                raise StoreError(
                    f"the archive's queue must stay below {self.limit:,} bytes, however: it is "
                    "full; see why the archive's tables are not written, or raise the limit"
                )
            try:
                if self._file is None:
                    self._open()
                assert self._file is not None
                _write_all(self._file, record)
                os.fsync(self._file)
            except OSError as error:
                self._undo()
                raise _unusable("the archive's queue must be writable", error) from error
            self._written += len(record)

    def sealed(self) -> list[Path]:
        """The segments that hold all that was accepted so far, oldest first; nothing is written
        to them any more."""
        with self._lock:
            self._seal()
            return list(self._sealed)

    def read(self, segment: Path) -> Iterator[bytes]:
        """The records of a sealed segment. What follows a damaged one is counted, not read."""
        try:
            content = segment.read_bytes()
        except OSError as error:
            raise _unusable("the archive's queue must be readable", error) from error
        start = 0
        while start < len(content):
            head = content[start : start + _RECORD.size]
            if len(head) < _RECORD.size or head[:4] != _MAGIC:
                break
            _, length, checksum = _RECORD.unpack(head)
            payload = content[start + _RECORD.size : start + _RECORD.size + length]
            if len(payload) < length or zlib.crc32(payload) != checksum:
                break
            yield payload
            start += _RECORD.size + length
        if start < len(content):
            self._damaged[segment] = len(content) - start

    def remove(self, segment: Path) -> None:
        """Remove a segment whose records are in the tables."""
        with self._lock:
            try:
                size = segment.stat().st_size
                segment.unlink()
                sync_folder(self.folder)
            except OSError as error:
                raise _unusable("the archive's queue must be writable", error) from error
            self._sealed.remove(segment)
            self._sealed_bytes = max(self._sealed_bytes - size, 0)

    def close(self) -> None:
        """Close the files; what was accepted stays. Closing twice does nothing."""
        with self._lock:
            self._closed = True
            self._seal()

    def _open(self) -> None:
        path = self.folder / f"{self._next:012d}{SUFFIX}"
        self._next += 1
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            sync_folder(self.folder)
        except OSError:
            os.close(file)
            raise
        self._file, self._path, self._written = file, path, 0

    def _undo(self) -> None:
        """Take back a record that was written in part, or leave the segment as it is: reading it
        stops before the part, and the next record goes to another segment."""
        if self._file is None:
            return
        try:
            os.ftruncate(self._file, self._written)
            os.fsync(self._file)
        except OSError:
            self._seal()

    def _seal(self) -> None:
        if self._file is None:
            return
        with suppress(OSError):
            os.close(self._file)
        self._file = None
        self._sealed.append(self._path)
        self._sealed_bytes += self._written
        self._written = 0


def sync_folder(folder: Path) -> None:
    """Make names that were given or taken in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(file: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(file, left) :]


def _unusable(rule: str, error: OSError) -> StoreError:
    reason = os.strerror(error.errno or 0)
    return StoreError(f"{rule}, however: {reason}; make room or restore its folder")
