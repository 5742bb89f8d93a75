"""What is kept of an account between events: the detector's record, and how the account stands.

As bytes it has a fixed size but for the evidence, and is never more than MAX_BYTES. It names the
detector whose record it holds, so that another one does not misread it, and ends in a checksum.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from stillwatch.data.errors import StoreError
from stillwatch.serving.verdict import Evidence

MAX_BYTES = 16 * 1024
EVIDENCE_KEPT = 5
_FORMAT = 1
# Format, detector's state id, bytes of the record, which follows; then JSON and the checksum.
_HEADER = struct.Struct("<B16sI")
_CHECKSUM = struct.Struct("<I")
_PLAIN_FIELDS = 10


class Kept(NamedTuple):
    """Evidence, and a hash of its prompt: repeats of one prompt are evidence once."""

    prompt_hash: int
    evidence: Evidence


@dataclass(slots=True)
class Standing:
    """How an account stands, in terms that outlive a bundle."""

    bundle: str = ""
    """Id of the bundle that gave the figures, and its threshold."""
    threshold: float = 0.0
    events: int = 0
    risk: float = 0.0
    peak: float = 0.0
    intents: dict[str, float] = field(default_factory=dict)
    flagged: bool = False
    flagged_after: int | None = None
    truncated: int = 0
    held_flag: int = 0
    """Events for which a flag that an older bundle raised stays, while the present one has read
    too little of the account to judge."""
    kept: tuple[Kept, ...] = ()

    def add_evidence(self, new: Kept) -> None:
        """Keep the strongest few of different prompts; of equal ones the earlier stays first."""
        strongest: dict[int, Kept] = {}
        for item in sorted((*self.kept, new), key=lambda item: -item.evidence.contribution):
            strongest.setdefault(item.prompt_hash, item)
        self.kept = tuple(strongest.values())[:EVIDENCE_KEPT]

    @property
    def weakest_evidence(self) -> float:
        """Contribution that an event must exceed to be kept as evidence."""
        return self.kept[-1].evidence.contribution if len(self.kept) == EVIDENCE_KEPT else -1.0


def to_bytes(state_id: str, record: np.void, standing: Standing) -> bytes:
    """At most MAX_BYTES: ids as long as can be would leave room for less evidence."""
    raw = record.tobytes()
    head = _HEADER.pack(_FORMAT, state_id.encode(), len(raw)) + raw
    evidence = [
        [k.prompt_hash, k.evidence.event_id, k.evidence.intent, k.evidence.contribution,
         k.evidence.template_id, k.evidence.similarity, k.evidence.excerpt]
        for k in standing.kept
    ]  # fmt: skip
    while True:
        fields: list[Any] = [
            standing.bundle, standing.threshold, standing.events, standing.risk, standing.peak,
            standing.intents, standing.flagged, standing.flagged_after, standing.truncated,
            standing.held_flag, evidence,
        ]  # fmt: skip
        tail = json.dumps(fields, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        value = head + tail.encode("utf-8", "surrogatepass")
        if len(value) + _CHECKSUM.size <= MAX_BYTES or not evidence:
            return value + _CHECKSUM.pack(zlib.crc32(value))
        evidence.pop()


def from_bytes(value: bytes, state_id: str, dtype: np.dtype) -> tuple[np.void | None, Standing]:
    """The record, of `dtype`, and the standing; no record if it is another detector's. Raises
    StoreError for what is no state, or a damaged one."""
    try:
        stored, (checksum,) = value[: -_CHECKSUM.size], _CHECKSUM.unpack(value[-_CHECKSUM.size :])
        version, found, size = _HEADER.unpack_from(stored)
        if version != _FORMAT or checksum != zlib.crc32(stored):
            raise ValueError
        start, stop = _HEADER.size, _HEADER.size + size
        *plain, evidence = json.loads(stored[stop:].decode("utf-8", "surrogatepass"))
        if len(plain) != _PLAIN_FIELDS:
            raise ValueError
        standing = Standing(*plain)
        standing.kept = tuple(Kept(item[0], Evidence(*item[1:])) for item in evidence)
        if found != state_id.encode():
            return None, standing
        (record,) = np.frombuffer(stored[start:stop], dtype=dtype)
        return record.copy(), standing
    except (ValueError, TypeError, IndexError, RecursionError, struct.error) as error:
        raise StoreError(
            "a store must hold states that this version wrote, however: one of another form or a "
            "damaged one; use the version that wrote it, or another store"
        ) from error
