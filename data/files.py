"""Files as lines, and files that appear whole or not at all."""

from __future__ import annotations

import errno
import gzip
import os
import secrets
import sys
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO, Final, cast

from stillwatch.data.errors import InputError, OutputError

STANDARD = "-"
"""Stands for standard input where a file is read, standard output where one is written."""

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
PARQUET_MAGIC = b"PAR1"

MAX_LINE_BYTES = 64 * 2**20
"""A longer line is never held in memory whole."""

OVERLONG: Final = b"(overlong)"
"""Stands, as this very object, for a line of more than `MAX_LINE_BYTES`."""

_CHUNK_BYTES = 2**20
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


def file_name(path: Path | str) -> str:
    """What messages call the file."""
    return "standard input" if str(path) == STANDARD else str(path)


def magic_bytes(path: Path | str) -> bytes:
    """The first four bytes of a file; empty for standard input, which cannot be read twice."""
    if str(path) == STANDARD:
        return b""
    with _open(path) as file:
        return file.read(4)


def open_lines(path: Path | str) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with their numbers from 1, without their line ends.

    Plain, gzip or Zstandard, told by the first bytes; "-" is standard input. A line of more than
    `MAX_LINE_BYTES` is given as `OVERLONG`. Raises InputError if the file cannot be read, is cut
    off or damaged, naming the line reached.
    """
    number = 0
    try:
        with _open(path) as raw, _decompressed(raw) as file:
            for line in _split(file):
                number += 1
                yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{file_name(path)} must be readable to its end, however: "
            f"{_damage(error)} after line {number}; copy or compress it anew"
        ) from error


def check_writable(path: Path | str) -> None:
    """Raises OutputError if `path` cannot be written, before any work goes into it."""
    if str(path) == STANDARD:
        return
    target = Path(path).resolve()
    if target.is_dir():
        raise OutputError(f"The output must be a file, however: {path} is a folder")
    if not target.parent.is_dir():
        raise OutputError(
            f"The output must lie in an existing folder, however: {path} does not; create it"
        )
    if _is_special(target):
        writable = os.access(target, os.W_OK)
    else:
        try:
            descriptor, temporary = _create_beside(target)
            os.close(descriptor)
            temporary.unlink()
            writable = True
        except OSError:
            writable = False
    if not writable:
        raise OutputError(f"The output must be writable, however: {path} is not; choose another")


@contextmanager
def atomic_writer(path: Path | str) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` when the block ends without an exception.

    It is written beside `path`, synced and renamed; on any exception, Ctrl-C too, it is removed
    and `path` stays as it was. A symbolic link's target is replaced, not the link. "-" and
    devices are written directly. Raises OutputError.
    """
    check_writable(path)
    if str(path) == STANDARD:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = Path(path).resolve()
    temporary: Path | None = None
    try:
        if _is_special(target):
            file = target.open("wb")
        else:
            descriptor, temporary = _create_beside(target)
            file = os.fdopen(descriptor, "wb")
        with file:
            yield cast(BinaryIO, file)
            file.flush()
            if temporary is not None:
                os.fsync(file.fileno())
        if temporary is not None:
            if target.exists():
                temporary.chmod(target.stat().st_mode & 0o777)
            temporary.replace(target)
            temporary = None
            _sync_folder(target.parent)
    except OSError as error:
        # Another errno may stem from whatever the block reads.
        if error.errno in _FULL:
            raise OutputError(
                f"The output must be writable to its end, however: {path} met "
                f"{os.strerror(error.errno)}; make room"
            ) from error
        raise
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def _is_special(target: Path) -> bool:
    """A device or pipe: a rename would put a plain file in its place."""
    return target.exists() and not target.is_file()


def _create_beside(target: Path) -> tuple[int, Path]:
    """A new file in the folder of `target`, with the permissions that the umask gives."""
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.partial")
    return os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), temporary


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open(path: Path | str) -> AbstractContextManager[BinaryIO]:
    if str(path) == STANDARD:
        return nullcontext(sys.stdin.buffer)
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise InputError(
            f"{path} must be a readable file, however: {os.strerror(error.errno or 0)}"
        ) from error


class _Rewound:
    """A stream that cannot seek, with its first bytes put back."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head = head
        self._rest = rest
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        if not self._head:
            return self._rest.read(size)
        if size < 0:
            data, self._head = self._head + self._rest.read(), b""
        else:
            data, self._head = self._head[:size], self._head[size:]
        return data

    def close(self) -> None:
        """The stream itself is closed by whoever opened it."""
        self.closed = True


def _decompressed(raw: BinaryIO) -> AbstractContextManager[BinaryIO]:
    head = raw.read(len(ZSTD_MAGIC))
    stream = cast(BinaryIO, _Rewound(head, raw))
    if head.startswith(GZIP_MAGIC):
        return cast(AbstractContextManager[BinaryIO], gzip.GzipFile(fileobj=stream))
    if head == ZSTD_MAGIC:
        # Not zstandard's own reader: it takes a file that was cut off for one that ended.
        import pyarrow

        return pyarrow.CompressedInputStream(pyarrow.PythonFile(stream, mode="r"), "zstd")
    return nullcontext(stream)


def _split(file: BinaryIO) -> Iterator[bytes]:
    """Lines without their ends. At most one chunk more than the longest line is held."""
    parts: list[bytes] = []
    held = 0
    while chunk := file.read(_CHUNK_BYTES):
        first, *lines = chunk.split(b"\n")
        if held <= MAX_LINE_BYTES:
            parts.append(first)
        held += len(first)
        if not lines:
            continue
        yield b"".join(parts) if held <= MAX_LINE_BYTES else OVERLONG
        yield from lines[:-1]
        parts = [lines[-1]]
        held = len(lines[-1])
    if held:
        yield b"".join(parts) if held <= MAX_LINE_BYTES else OVERLONG


def _damage(error: Exception) -> str:
    if isinstance(error, EOFError) or "runcated" in str(error):
        return "it is cut off"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return "its compressed data are damaged"
