"""Scored events come into the archive by themselves, and nothing there changes a score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stillwatch.data.errors import StoreError
from stillwatch.model.bundle import Bundle
from stillwatch.model.text import normalise
from stillwatch.serving.archive import encoder_id
from stillwatch.serving.archive.spool import Spool
from stillwatch.serving.stores.base import ConflictError
from stillwatch.serving.stores.memory import MemoryStore
from tests.serving.archive.archive_support import opened
from tests.support import TinyEncoder, make_events, tiny_bundle, tiny_scorer


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def test_every_scored_event_is_archived(bundle: Bundle, tmp_path: Path) -> None:
    events = make_events()
    plain = tiny_scorer(bundle).update(events)
    scorer = tiny_scorer(bundle)
    with opened(tmp_path / "archive", encoder_id=encoder_id(scorer.detector)) as archive:
        scorer.archive = archive
        verdicts = [
            v for start in range(0, 100, 7) for v in scorer.update(events[start : start + 7])
        ]
        assert [v.risk for v in verdicts] == pytest.approx([v.risk for v in plain], abs=1e-6)
        scorer.update(events[:30])
        archive.flush()
        status = archive.status()
        assert (status.events, status.without_vector, status.dropped) == (100, 0, 0)
        framed = 0
        for event, verdict in zip(events, verdicts, strict=True):
            found = archive.event(event.account_id, event.event_id)
            assert (found.prompt, found.system) == (event.prompt, event.system)
            assert found.risk == pytest.approx(verdict.risk)
            assert found.flagged == verdict.flagged
            assert found.template in {"T0", "T1", "T2"}
            slot = archive.text(found.slot)
            assert slot in normalise(event.prompt)
            if found.frame:
                framed += 1
                assert archive.text(found.frame)
            else:
                assert slot == normalise(event.prompt)
            near = archive.search(TinyEncoder().encode([slot])[0].vector, 1)
            assert near[0].similarity == pytest.approx(1, abs=2e-3)
        assert framed > 20


def test_a_second_try_still_has_the_vectors(bundle: Bundle, tmp_path: Path) -> None:
    class Contended(MemoryStore):
        refused = 0

        def write(self, writes: object) -> None:
            if self.refused < 2:
                self.refused += 1
                raise ConflictError("another wrote it, however: so; again")
            super().write(writes)  # type: ignore[arg-type]

    scorer = tiny_scorer(bundle, Contended())
    options = {"encoder_id": encoder_id(scorer.detector), "encoder": None}
    with opened(tmp_path / "archive", **options) as archive:
        scorer.archive = archive
        scorer.ingest(make_events())
        archive.flush()
        status = archive.status()
        assert (status.events, status.without_vector) == (100, 0)


def test_what_was_not_counted_is_not_archived(bundle: Bundle, tmp_path: Path) -> None:
    class Broken(MemoryStore):
        def write(self, writes: object) -> None:
            raise StoreError("the store must be there, however: it is not; wait")

    scorer = tiny_scorer(bundle, Broken())
    with opened(tmp_path / "archive", encoder_id=encoder_id(scorer.detector)) as archive:
        scorer.archive = archive
        with pytest.raises(StoreError):
            scorer.ingest(make_events())
        archive.flush()
        assert archive.status().events == 0


def test_an_archive_that_fails_stops_no_scoring(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [verdict.risk for verdict in tiny_scorer(bundle).update(make_events())]
    scorer = tiny_scorer(bundle)
    with opened(tmp_path / "archive", encoder_id=encoder_id(scorer.detector)) as archive:
        scorer.archive = archive
        monkeypatch.setattr(Spool, "append", lambda *_: 1 / 0)
        found = [verdict.risk for verdict in scorer.update(make_events())]
        assert found == pytest.approx(expected, abs=1e-6)
        assert archive.status().retrying == 100
    # Closed, it still stops nothing.
    monkeypatch.undo()
    scorer.ingest(make_events(seed=1))
    assert np.isfinite(scorer.peak_risks()).all()
