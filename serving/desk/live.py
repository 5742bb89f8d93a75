"""The site's live templates in the detector that serves."""

from __future__ import annotations

import logging
import threading
from typing import NamedTuple

import numpy as np

from stillwatch.model.detector import Detector
from stillwatch.model.templates import Template
from stillwatch.serving.archive import encoder_id
from stillwatch.serving.desk.site_templates import SiteTemplates, template_vector

_log = logging.getLogger("stillwatch.desk")


class Prepared(NamedTuple):
    """Templates and their unit vectors float32 (N, D), for detectors with one encoder."""

    templates: tuple[Template, ...]
    vectors: np.ndarray
    encoder: str


class LiveTemplates:
    """Keeps detectors up to date with the site's live templates.

    `prepare` takes time and runs in any thread; `install` changes a detector, so only the thread
    that scores may call it, between two calls: through Gate.call.
    """

    def __init__(self, templates: SiteTemplates) -> None:
        self._templates = templates
        self._lock = threading.Lock()
        self._vectors: dict[tuple[str, str], np.ndarray] = {}
        """By encoder and text."""

    def prepare(self, detector: Detector) -> Prepared:
        """The live templates whose intents the detector knows, encoded; each text once.
        StoreError."""
        live = self._templates.live()
        known = [one.to_template() for one in live if one.intent in detector.intents]
        if len(known) < len(live):
            _log.warning(
                "%d live templates of the site are left out: the bundle does not know their "
                "intents", len(live) - len(known),
            )  # fmt: skip
        encoder = encoder_id(detector)
        with self._lock:
            wanted = {(encoder, one.text): one for one in known}
            self._vectors = {key: self._vectors[key] for key in wanted if key in self._vectors}
            for key, one in wanted.items():
                if key not in self._vectors:
                    self._vectors[key] = template_vector(one.text, detector.encoder)
            vectors = [self._vectors[encoder, one.text] for one in known]
        dimensions = detector.templates.dimensions
        stacked = np.array(vectors, dtype=np.float32).reshape(len(known), dimensions)
        return Prepared(tuple(known), stacked, encoder)

    def install(self, detector: Detector, prepared: Prepared | None = None) -> bool:
        """Let a detector search them; whether anything changed. What was prepared for another
        encoder is prepared anew."""
        if prepared is None or prepared.encoder != encoder_id(detector):
            prepared = self.prepare(detector)
        if detector.site_templates == prepared.templates:
            return False
        detector.set_site_templates(prepared.templates, prepared.vectors)
        return True
