"""The door of an archive: batches that the scorer hands over, accepted on disk or held back."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from stillwatch.data.errors import StoreError
from stillwatch.serving.archive import rows
from stillwatch.serving.archive.rows import Batch
from stillwatch.serving.archive.spool import RECORD_BYTES, Spool

_log = logging.getLogger("stillwatch.archive")


class Intake:
    """Safe to share between threads."""

    def __init__(
        self, spool: Spool, retry_bytes: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._spool = spool
        self._retry_bytes = retry_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._held: deque[tuple[bytes, int]] = deque()
        """Records that were not accepted, each with its number of rows."""
        self._held_bytes = 0
        self.dropped = 0
        """Rows that are lost."""

    @property
    def retrying(self) -> int:
        """Rows that are held in memory until they can be accepted."""
        with self._lock:
            return sum(count for _, count in self._held)

    def add(self, batch: Batch) -> None:
        """Accept a batch: on return it outlives the process. StoreError if there is no room,
        ValueError for a batch that is none."""
        if batch.rows:
            self._spool.append(self._record(batch))

    def offer(self, batch: Batch) -> None:
        """As `add`, for whom the archive must not stop: never raises. What is not accepted is
        held in memory and tried again; what there is no room for is lost, counted and told."""
        if not batch.rows:
            return
        count = len(batch.rows)
        try:
            record = self._record(batch)
        except Exception as error:
            self.lose(count, type(error).__name__)
            return
        try:
            self._spool.append(record)
        except Exception as error:
            self._hold(record, count, error)

    def lose(self, count: int, reason: str) -> None:
        """Count and tell of rows that are not archived."""
        with self._lock:
            self.dropped += count
        _log.error("%d events are not archived: %s", count, reason)

    def retry(self) -> None:
        """Accept what is held back. StoreError if there is still no room."""
        while True:
            with self._lock:
                if not self._held:
                    return
                record, _ = self._held[0]
                self._spool.append(record)
                self._held.popleft()
                self._held_bytes -= len(record)

    def forget(self, account_id: str) -> None:
        """Drop an account's rows from what is held back: it was erased."""
        with self._lock:
            held, self._held, self._held_bytes = self._held, deque(), 0
            for record, _ in held:
                batch, arrival = rows.from_bytes(record)
                left = [row for row in batch.rows if row.event.account_id != account_id]
                if not left:
                    continue
                keys = {key for row in left for key in row.text_keys}
                vectors = {key: vector for key, vector in batch.vectors.items() if key in keys}
                kept = rows.to_bytes(replace(batch, rows=left, vectors=vectors), arrival)
                self._held.append((kept, len(left)))
                self._held_bytes += len(kept)

    def _record(self, batch: Batch) -> bytes:
        for row in batch.rows:
            if len(row.contribution) != len(batch.intents):
                raise ValueError(
                    f"a row must have a contribution for each of {len(batch.intents)} intents, "
                    f"however: {len(row.contribution)}; hand over what the detector gave"
                )
        return rows.to_bytes(batch, self._clock())

    def _hold(self, record: bytes, count: int, error: Exception) -> None:
        with self._lock:
            # What the queue never has room for would hold up all that comes after it.
            fits = (
                self._held_bytes + len(record) <= self._retry_bytes
                and len(record) + RECORD_BYTES <= self._spool.limit
            )
            if fits:
                self._held.append((record, count))
                self._held_bytes += len(record)
        reason = str(error) if isinstance(error, StoreError) else type(error).__name__
        if fits:
            _log.warning("%d events wait to be archived: %s", count, reason)
        else:
            self.lose(count, reason)
