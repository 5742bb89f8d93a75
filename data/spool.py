"""A log larger than memory, without duplicates and in the order of time."""

from __future__ import annotations

import json
import os
import struct
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from stillwatch.data.errors import OutputError
from stillwatch.data.events import Event, Turn

_LENGTH = struct.Struct("<I")
_FIRST_READ_BYTES = 4096
_ENCODE = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode


class EventSpool:
    """Spools `events` to a temporary file, then gives them in order of (timestamp, arrival).

    A later event with the `event_id` of an earlier one of the same account is dropped. At most
    about 60 bytes an event are held in memory, however long the prompts. The file is open to this
    process alone and has no name, so that no way of ending leaves it behind:

        with EventSpool(read_log(paths)) as spool:
            for chunk in spool.chunks(512):
                ...

    `folder` is where the file lies, by default that of temporary files. Raises OutputError when
    it is full.
    """

    def __init__(self, events: Iterable[Event], folder: Path | str | None = None) -> None:
        self._events = events
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._offsets: np.ndarray[Any, np.dtype[np.int64]] = np.zeros(0, dtype=np.int64)
        """(N,) where each event lies in the file, in order of time."""
        self._length = 0
        self.duplicates = 0
        """How many events were dropped."""
        self.accounts = 0
        """How many accounts there are."""

    def __enter__(self) -> EventSpool:
        self._file = tempfile.TemporaryFile(dir=self._folder, prefix="stillwatch-")
        try:
            self._fill(self._file)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the disk space back."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __len__(self) -> int:
        """Events left after dropping duplicates."""
        return self._length

    def chunks(self, size: int) -> Iterator[list[Event]]:
        """The events, `size` at a time, the last time fewer. May be called again."""
        if size < 1:
            raise ValueError(f"size must be at least 1, however: {size}")
        chunk: list[Event] = []
        for record in self._records(self._descriptor()):
            chunk.append(_decode(record))
            if len(chunk) == size:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def _fill(self, file: IO[bytes]) -> None:
        times = array("d")
        offsets = array("q")
        # Two halves of a 16-byte digest of account and event id, and 8 bytes of the account.
        high = array("Q")
        low = array("Q")
        accounts = array("Q")
        position = 0
        split = struct.Struct("<QQ").unpack
        for event in self._events:
            account = blake2b(event.account_id.encode(), digest_size=16).digest()
            identity = blake2b(event.event_id.encode(), digest_size=16, key=account).digest()
            first, second = split(identity)
            high.append(first)
            low.append(second)
            accounts.append(split(account)[0])
            times.append(event.timestamp)
            offsets.append(position)
            record = _encode(event)
            try:
                file.write(_LENGTH.pack(len(record)))
                file.write(record)
            except OSError as error:
                raise self._full(error) from error
            position += _LENGTH.size + len(record)
        try:
            file.flush()
        except OSError as error:
            raise self._full(error) from error

        if not times:
            return
        # Each array is dropped as soon as it has served: here memory is at its peak.
        self.accounts = _count_distinct(np.frombuffer(accounts, np.uint64))
        del accounts
        repeated = _repeated(np.frombuffer(high, np.uint64), np.frombuffer(low, np.uint64))
        del high, low
        moments = np.frombuffer(times, np.float64)
        starts = np.frombuffer(offsets, np.int64)
        self.duplicates = len(repeated)
        self._length = len(moments) - self.duplicates
        if self.duplicates:
            moments = np.delete(moments, repeated)
            starts = np.delete(starts, repeated)
        # A stable sort keeps the order of arrival among equal times.
        self._offsets = starts[np.argsort(moments, kind="stable")]

    def at(self, places: Sequence[int]) -> list[Event]:
        """The events at some places in the order of time."""
        descriptor = self._descriptor()
        return [_decode(_read_at(descriptor, int(self._offsets[place]))) for place in places]

    def _descriptor(self) -> int:
        if self._file is None:
            raise ValueError("An EventSpool must be read inside its with block, however: outside")
        return self._file.fileno()

    def _records(self, descriptor: int) -> Iterator[bytes]:
        # Positions are given with each read: two iterations at once do not disturb each other.
        for offset in self._offsets:
            yield _read_at(descriptor, int(offset))

    def _full(self, error: OSError) -> OutputError:
        return OutputError(
            f"The folder of temporary files must have room for the log, however: "
            f"{self._folder or tempfile.gettempdir()} met {os.strerror(error.errno or 0)}; "
            "set TMPDIR to another"
        )


def _encode(event: Event) -> bytes:
    text = _ENCODE(
        [
            event.event_id,
            event.account_id,
            event.timestamp,
            event.prompt,
            event.system,
            event.turns,
            event.model,
            event.platform,
            event.network,
            event.payment,
            event.client,
            event.session_id,
            event.temperature,
            event.max_tokens,
            event.n,
            event.logprobs,
            event.extra,
        ]
    )
    # Unknown fields may hold lone surrogates.
    return text.encode("utf-8", "surrogatepass")


def _decode(record: bytes) -> Event:
    fields = json.loads(record)
    if fields[5]:
        fields[5] = tuple([Turn(role, text) for role, text in fields[5]])
    else:
        fields[5] = ()
    return Event(*fields)


def _read_at(descriptor: int, offset: int) -> bytes:
    """The record that starts at `offset`."""
    data = os.pread(descriptor, _FIRST_READ_BYTES, offset)
    (length,) = _LENGTH.unpack_from(data)
    end = _LENGTH.size + length
    while len(data) < end:
        data += os.pread(descriptor, end - len(data), offset + len(data))
    return data[_LENGTH.size : end]


def _count_distinct(values: np.ndarray[Any, np.dtype[np.uint64]]) -> int:
    ordered = np.sort(values)
    return 1 + int(np.count_nonzero(ordered[1:] != ordered[:-1]))


def _repeated(
    high: np.ndarray[Any, np.dtype[np.uint64]], low: np.ndarray[Any, np.dtype[np.uint64]]
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The positions (N,) of digests that stand at an earlier position too."""
    # Nearly always no two share even a half, which takes less memory to find.
    order = np.argsort(high, kind="stable")
    ordered = high[order]
    if not bool(np.any(ordered[1:] == ordered[:-1])):
        return np.empty(0, np.int64)
    order = np.lexsort((low, high))
    near = np.flatnonzero(ordered[1:] == ordered[:-1])
    return order[near + 1][low[order[near + 1]] == low[order[near]]]
