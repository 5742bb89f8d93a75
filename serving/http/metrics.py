"""What Prometheus reads: counts and times of the service, and never an account."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from stillwatch.model.encoder import Encoder, TextVectors

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class TimedEncoder:
    """An encoder whose time is observed."""

    def __init__(self, encoder: Encoder, seconds: Histogram) -> None:
        self._encoder = encoder
        self._seconds = seconds

    @property
    def name(self) -> str:
        return self._encoder.name

    @property
    def dimensions(self) -> int:
        return self._encoder.dimensions

    def encode(self, texts: Sequence[str]) -> list[TextVectors]:
        """As the encoder does."""
        with self._seconds.time():
            return self._encoder.encode(texts)


class Metrics:
    """The metrics of one app, in a registry of their own. Base units: seconds and events."""

    def __init__(self, version: str) -> None:
        self.registry = own = CollectorRegistry()
        ProcessCollector(namespace="stillwatch", registry=own)
        self.requests = Counter(
            "stillwatch_requests", "Requests answered.", ("route", "method", "status"), registry=own
        )
        self.request_seconds = Histogram(
            "stillwatch_request_seconds", "Time from a request's headers to the end of its answer.",
            ("route",), buckets=_SECONDS, registry=own,
        )  # fmt: skip
        self.events = Counter("stillwatch_events", "Events scored.", registry=own)
        self.flagged = Counter(
            "stillwatch_flagged_verdicts", "Verdicts that said flagged.", registry=own
        )
        self.queue_depth = Gauge(
            "stillwatch_queue_events", "Events that wait or are being scored.", registry=own
        )
        self.refused = Counter(
            "stillwatch_refused", "Requests refused, by the problem's code.", ("code",),
            registry=own,
        )  # fmt: skip
        self.batch_events = Histogram(
            "stillwatch_batch_events", "Events scored together.", buckets=_SIZES, registry=own
        )
        self.score_seconds = Histogram(
            "stillwatch_score_seconds", "Time to score a batch and make it durable.",
            buckets=_SECONDS, registry=own,
        )  # fmt: skip
        self.encode_seconds = Histogram(
            "stillwatch_encode_seconds", "Time to encode the new texts of a batch.",
            buckets=_SECONDS, registry=own,
        )  # fmt: skip
        self.dead_letters = Counter(
            "stillwatch_dead_letters", "Events set aside, for they cannot be scored.", registry=own
        )
        self.skewed_clocks = Counter(
            "stillwatch_skewed_clocks", "Events whose time lay ahead and was corrected.",
            registry=own,
        )  # fmt: skip
        self.store_errors = Counter(
            "stillwatch_store_errors", "Batches that the state store did not take.", registry=own
        )
        self.template_failures = Counter(
            "stillwatch_template_failures",
            "Times that the site's templates were not brought to the detector, or their expiry not "
            "noted; it is tried again.",
            ("stage",), registry=own,
        )  # fmt: skip
        self.index_rebuilds = Counter(
            "stillwatch_archive_index_rebuilds",
            "Times that the archive's index was lost or damaged and is made from the tables.",
            registry=own,
        )  # fmt: skip
        self.build_info = Gauge(
            "stillwatch_build_info", "Always 1; the version that runs.", ("version",), registry=own
        )
        self.build_info.labels(version).set(1)
        self.bundle_info = Gauge(
            "stillwatch_bundle_info", "Always 1; the bundle that decides.", ("bundle",),
            registry=own,
        )  # fmt: skip

    def set_bundle(self, bundle_id: str) -> None:
        """Name the bundle that decides from now on."""
        self.bundle_info.clear()
        self.bundle_info.labels(bundle_id).set(1)

    def render(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self.registry)
