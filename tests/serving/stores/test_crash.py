"""SIGKILL at random moments: nothing acknowledged is lost, nothing counts twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import crash
import pytest

from stillwatch.serving.scorer import Scorer
from stillwatch.serving.stores import open_store
from stillwatch.serving.stores.base import Write
from stillwatch.serving.stores.sqlite import SqliteStore
from tests.serving.stores.conftest import needs_redis_server


@pytest.mark.slow
@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_kills_lose_nothing_and_count_nothing_twice(store: str, tmp_path: Path) -> None:
    if store == "redis":
        needs_redis_server()
    found = crash.run(store, kills=8, seed=1, folder=tmp_path)
    assert found.sound, found
    assert found.kills_of_scorer + found.kills_of_server == 8
    assert found.kills_of_server == (4 if store == "redis" else 0)
    # The kills came upon something.
    assert found.kills_in_a_batch > 0
    assert found.events > 50


class TestTheTrialItself:
    """It must notice what it is there to notice: a store in this process that does wrong."""

    @pytest.fixture
    def trial(self, tmp_path: Path) -> crash.Trial:
        trial = crash.Trial("sqlite", 1, 0, tmp_path, None)
        trial._under_way = trial._batch()
        return trial

    def score(self, trial: crash.Trial) -> None:
        scorer = Scorer(crash.load(None), open_store(trial._url))
        scorer.update(trial._under_way)
        scorer.close()

    def test_what_is_right_is_sound(self, trial: crash.Trial) -> None:
        self.score(trial)
        trial._look()
        assert trial.figures.written_but_not_acknowledged == 1
        trial._acknowledge()
        trial._look()
        trial._judge()
        assert trial.figures.sound

    def test_a_lost_event_is_noticed(self, trial: crash.Trial) -> None:
        trial._acknowledge()
        trial._look()
        assert trial.figures.lost == len(trial._acknowledged)

    def test_a_torn_batch_is_noticed(
        self, trial: crash.Trial, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write = SqliteStore.write

        def half(store: SqliteStore, writes: Sequence[Write]) -> None:
            write(store, writes[: len(writes) // 2])

        monkeypatch.setattr(SqliteStore, "write", half)
        self.score(trial)
        trial._look()
        assert trial.figures.torn_batches == 1

    def test_what_counts_twice_is_noticed(
        self, trial: crash.Trial, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.score(trial)
        monkeypatch.setattr("stillwatch.serving.scorer.event_digest", lambda event: bytes(16))
        self.score(trial)
        monkeypatch.undo()
        trial._acknowledge()
        trial._judge()
        assert trial.figures.counted_twice > 0
        assert trial.figures.wrong_risks > 0
