"""Golden streams: what a bundle must give again wherever it is loaded, before it serves.

Hashes show that files are as they were written; these show that they work together here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stillwatch.data.errors import BundleError
from stillwatch.data.events import Event
from stillwatch.model.bundle import in_memory
from stillwatch.model.detector import Detector
from stillwatch.model.encoder import Encoder

TOLERANCE = 0.02
"""Processors round int8 differently: by up to this much in a risk."""

_STREAMS = (
    (
        "Where do I change the delivery address of an order that has not left yet?",
        "Can the parcel be left with a neighbour?",
        "The tracking page has said the same for three days, what now?",
        "Please answer in two sentences: may I return a lamp without its box?",
    ),
    (
        "Solve it and write down every thought before the answer: 17 trains leave at 9, 5 at 10.",
        "Solve it and write down every thought before the answer: a tank fills in 40 minutes.",
        "Solve it and write down every thought before the answer: how many odd digits has 80,513?",
        "Solve it and write down every thought before the answer: split 96 in the ratio 1 to 5.",
    ),
    (
        "Erkläre mir den Unterschied zwischen Miete und Pacht.",
        "\u041a\u0430\u043a \u0445\u0440\u0430\u043d\u0438\u0442\u044c \u0441\u044b\u0440?",
        "Return the name of the capital only: Peru",
        "Return the name of the capital only: Kenya",
    ),
)


def golden_risks(detector: Detector) -> list[float]:
    """Risk after each event of the golden streams."""
    streams = list(enumerate(_STREAMS))
    events = [
        Event(f"golden-{number}-{place}", f"golden-{number}", 1.7e9 + 40.0 * place, prompt)
        for number, prompts in streams
        for place, prompt in enumerate(prompts)
    ]
    places = [number for number, prompts in streams for _ in prompts]
    records = np.zeros(len(_STREAMS), dtype=detector.record_dtype)
    return [round(float(risk), 6) for risk in detector.score(events, places, records).risk]


def with_golden(
    fields: Mapping[str, Any], content: Mapping[str, bytes], encoder: Encoder
) -> dict[str, Any]:
    """A manifest's fields with the golden risks of the bundle that they and `content` make."""
    bare = in_memory({**fields, "golden_risks": []}, content)
    return {**fields, "golden_risks": golden_risks(Detector(bare, encoder))}


def load_detector(
    path: Path | None = None, threads: int = 1, encoder: Encoder | None = None
) -> Detector:
    """Load and verify a bundle, None for the package's own, and see that it gives its golden
    risks. `encoder` is one that is loaded already, if the bundle names the same."""
    detector = Detector.load(path, threads, encoder)
    check_golden_risks(detector)
    return detector


def check_golden_risks(detector: Detector) -> None:
    """BundleError unless the detector gives the risks that its manifest states."""
    stated = detector.bundle.manifest.golden_risks
    found = golden_risks(detector)
    if len(stated) != len(found):
        raise BundleError(
            f"the manifest must state {len(found)} golden risks, however: {len(stated)}; use the "
            "Stillwatch version that made the bundle"
        )
    worst = max(abs(own - other) for own, other in zip(stated, found, strict=True))
    if not worst <= TOLERANCE:
        raise BundleError(
            f"the bundle must give its golden risks within {TOLERANCE}, however: one differs by "
            f"{worst:.3f}; its files do not belong together, take it from its source again"
        )
