"""What is archived of a scored event, and its form on disk until it is in the tables.

Vectors are of distinct texts, not of events: an event names its texts by their keys.

Axis letters: D dimensions of the encoder.
"""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import zstandard

from stillwatch.data.events import TEXT_FIELDS, Event
from stillwatch.model.detector import FRAME, SLOT, Detector, Scored, text_key

FORMAT = 1
VECTOR = np.dtype("<f2")
"""How a vector is kept: a cosine of two is within 1e-3 of that of the originals."""
NORM_TOLERANCE = 1e-2
MAX_CONTENT = 256 * 2**20
"""A batch that says that it unpacks to more is refused."""

_HEADER = struct.Struct("<4sIII")
_MAGIC = b"SWB1"
_compressor = zstandard.ZstdCompressor(3)
_packing = threading.Lock()
_unpacking = threading.local()


class Row(NamedTuple):
    """One scored event. `frame` and `slot` are the texts that were read of it, `frame` empty if
    there is none; `risk` and `flagged` are those of its account after it; `contribution` in
    [0, 1] is how strongly it speaks for each intent; `similarity` is the cosine of `template`."""

    event: Event
    frame: str
    slot: str
    risk: float
    flagged: bool
    contribution: tuple[float, ...]
    template: str | None
    similarity: float

    @property
    def text_keys(self) -> tuple[bytes | None, bytes]:
        """Of the frame, None without one, and of the slot."""
        return (text_key(FRAME, self.frame) if self.frame else None), text_key(SLOT, self.slot)


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that were scored together. `vectors` float32 (D,), of unit norm, by `text_key`, need
    not have all texts of the rows; `encoder` is `encoder_id` of what made them."""

    rows: Sequence[Row]
    vectors: Mapping[bytes, np.ndarray]
    intents: tuple[str, ...]
    bundle: str
    encoder: str


def encoder_id(detector: Detector) -> str:
    """Vectors can be compared if this is the same for both."""
    entry = detector.bundle.manifest.encoder
    return f"{entry.name} {entry.revision} {entry.precision}"


def batch_of(
    detector: Detector,
    events: Sequence[Event],
    scored: Scored,
    flagged: Sequence[bool],
    vectors: Mapping[bytes, np.ndarray] | None = None,
) -> Batch:
    """What `detector` made of events, as `Detector.score` gave it; `flagged` is whether each
    event's account stood flagged after it. `vectors` takes the place of those of `scored`, for
    callers that had to score twice: the second time no text is encoded again."""
    templates = detector.templates.templates
    rows = [
        Row(
            event=event,
            frame=scored.texts[number].frame,
            slot=scored.texts[number].slot,
            risk=float(scored.risk[number]),
            flagged=flagged[number],
            contribution=tuple(map(float, scored.contribution[number])),
            template=templates[place].id if (place := int(scored.template[number])) >= 0 else None,
            similarity=float(scored.similarity[number]),
        )
        for number, event in enumerate(events)
    ]
    used = scored.vectors if vectors is None else vectors
    return Batch(rows, used, detector.intents, detector.bundle_id, encoder_id(detector))


def to_bytes(batch: Batch, arrival: float) -> bytes:
    """A batch as one record; `arrival` is when it came here, seconds since the epoch."""
    fields = {
        "format": FORMAT,
        "arrival": arrival,
        "bundle": batch.bundle,
        "encoder": batch.encoder,
        "intents": batch.intents,
        "rows": [(_event_fields(row.event), *row[1:]) for row in batch.rows],
        "keys": [key.hex() for key in batch.vectors],
    }
    content = json.dumps(fields, separators=(",", ":"), allow_nan=False).encode("ascii")
    packed = zstandard.compress(content, 1)
    vectors = b"".join(vector.astype(VECTOR).tobytes() for vector in batch.vectors.values())
    return _HEADER.pack(_MAGIC, len(packed), len(content), len(vectors)) + packed + vectors


def from_bytes(record: bytes) -> tuple[Batch, float]:
    """What `to_bytes` was given; ValueError if it is not whole."""
    try:
        magic, packed, size, vector_bytes = _HEADER.unpack_from(record)
        start = _HEADER.size
        if magic != _MAGIC or len(record) != start + packed + vector_bytes or size > MAX_CONTENT:
            raise ValueError("its sizes disagree")
        content = zstandard.ZstdDecompressor().decompress(
            record[start : start + packed], max_output_size=max(size, 1)
        )
        fields = json.loads(content)
        keys = [bytes.fromhex(key) for key in fields["keys"]]
        vectors = np.frombuffer(record, VECTOR, offset=start + packed)
        rows = [
            Row(Event(**event), frame, slot, risk, flagged, tuple(contribution), template, near)
            for event, frame, slot, risk, flagged, contribution, template, near in fields["rows"]
        ]
        shaped = vectors.reshape(len(keys), -1) if keys else vectors
        batch = Batch(
            rows, dict(zip(keys, shaped, strict=True)) if keys else {}, tuple(fields["intents"]),
            fields["bundle"], fields["encoder"],
        )  # fmt: skip
        return batch, float(fields["arrival"])
    except (struct.error, zstandard.ZstdError, KeyError, TypeError, ValueError) as error:
        # Never the error's own words: they may hold a part of a prompt.
        raise ValueError(f"a record that is no batch ({type(error).__name__})") from None


def usable_vector(vector: np.ndarray, dimensions: int) -> bool:
    """Whether a vector is finite, of unit norm and of D dimensions; another would be near to
    everything."""
    if vector.shape != (dimensions,):
        return False
    # Written so that NaN fails.
    return bool(abs(float(np.linalg.norm(vector.astype(np.float32))) - 1) <= NORM_TOLERANCE)


def pack_fields(fields: Mapping[str, Any]) -> bytes:
    """JSON, compressed."""
    return _pack(json.dumps(fields, separators=(",", ":")).encode("ascii"))


def unpack_fields(content: bytes) -> dict[str, Any]:
    """What `pack_fields` was given."""
    return dict(json.loads(unpack_text(content)))


def pack_text(text: str) -> bytes:
    return _pack(text.encode("utf-8", "replace"))


def _pack(content: bytes) -> bytes:
    # One for all: making one takes longer than to compress a prompt.
    with _packing:
        return _compressor.compress(content)


def unpack_text(content: bytes) -> str:
    # One a thread: it is safe in one alone, and making one takes longer than to unpack a prompt.
    own: zstandard.ZstdDecompressor | None = getattr(_unpacking, "own", None)
    if own is None:
        own = _unpacking.own = zstandard.ZstdDecompressor()
    return own.decompress(content, max_output_size=MAX_CONTENT).decode()


def _event_fields(event: Event) -> dict[str, Any]:
    """What is archived of an event: not its turns, nor fields that Stillwatch does not know."""
    fields: dict[str, Any] = {
        "event_id": event.event_id,
        "account_id": event.account_id,
        "timestamp": event.timestamp,
        "prompt": event.prompt,
    }
    if event.system:
        fields["system"] = event.system
    for name in TEXT_FIELDS:
        if (value := getattr(event, name)) is not None:
            fields[name] = value
    return fields
