"""The worker process: it looks, is started again when it dies, and lets go of what was erased."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillwatch.serving.campaigns import job as job_module
from stillwatch.serving.campaigns.job import CampaignJob
from stillwatch.serving.campaigns.worker import NICE
from tests.serving.campaigns.campaigns_support import (
    CALIBRATION,
    load_and_die,
    load_tiny,
    stream,
)
from tests.serving.pages.pages_support import Place, place


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Pages whose job never looks by itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_module, "FIRST_S", 86_400.0)
        with place(tmp_path_factory.mktemp("job"), stream(), campaigns_every_s=86_400) as made:
            yield made.login()


@pytest.fixture
def job(served: Place) -> CampaignJob:
    found: CampaignJob = served.app.state.campaigns
    found.calibrate, found.load = lambda _: CALIBRATION, load_tiny
    return found


def turn(served: Place, job: CampaignJob) -> float:
    assert served.client.portal is not None
    return served.client.portal.call(job.turn)


def metric(served: Place, name: str) -> float:
    registry = served.app.state.service.metrics.registry
    return registry.get_sample_value(name) or 0.0


def test_a_bundle_that_is_not_calibrated_looks_for_nothing(served: Place) -> None:
    job: CampaignJob = served.app.state.campaigns
    job.calibrate = lambda _: None
    assert job.standing == "uncalibrated"
    assert turn(served, job) == job.every_s
    assert job.pid is None
    assert job.store.last_run() is None
    assert "not calibrated" in served.page("/desk/campaigns")


def test_a_worker_looks_and_is_started_again_when_it_dies(served: Place, job: CampaignJob) -> None:
    assert turn(served, job) == job.every_s
    first = job.store.last_run()
    assert first is not None
    assert (first.events, first.flagged, first.rebuilt) == (180, 2, True)
    found = job.store.previous()
    pid = job.pid
    assert pid is not None
    assert os.getpriority(os.PRIO_PROCESS, pid) >= min(
        os.getpriority(os.PRIO_PROCESS, 0) + NICE, 19
    )

    # It is there for the next look, and reads nothing twice.
    turn(served, job)
    assert job.pid == pid
    second = job.store.last_run()
    assert second is not None
    assert (second.fresh, second.rebuilt) == (0, False)

    os.kill(pid, signal.SIGKILL)
    job._process.join()  # type: ignore[union-attr]
    assert turn(served, job) == job.every_s
    assert job.pid not in (None, pid)
    assert metric(served, "stillwatch_campaign_worker_deaths_total") == 1
    assert job.store.previous() == found
    third = job.store.last_run()
    assert third is not None
    assert third.rebuilt


def test_a_worker_that_dies_in_the_middle_of_a_look_is_told(
    served: Place, job: CampaignJob
) -> None:
    turn(served, job)
    found, deaths = job.store.previous(), metric(served, "stillwatch_campaign_worker_deaths_total")
    assert served.client.portal is not None
    served.client.portal.call(job.stop)
    job.load = load_and_die
    waits = [turn(served, job) for _ in range(3)]
    assert waits == [5.0, 10.0, 20.0]
    assert metric(served, "stillwatch_campaign_worker_deaths_total") == deaths + 3
    assert "has died" in served.page("/desk/campaigns")
    assert job.store.previous() == found
    job.load = load_tiny
    assert turn(served, job) == job.every_s
    assert job.trouble is None
    assert "has died" not in served.page("/desk/campaigns")


def test_an_erased_account_leaves_the_worker_and_its_campaigns(
    served: Place, job: CampaignJob
) -> None:
    turn(served, job)
    pid = job.pid
    (before,) = job.store.of_account("c5")
    served.desk.erase("c5", "admin", "asked for")
    # At once, whether anybody looks again or not.
    assert job.store.of_account("c5") == []
    turn(served, job)
    assert job.pid != pid, "memory that held its hashes is gone"
    last = job.store.last_run()
    assert last is not None
    assert (last.events, last.rebuilt) == (176, True)
    after = job.store.get(before.campaign_id)
    assert "c5" not in after.accounts.values()
    assert len(after.accounts) == 11


def test_a_look_that_fails_is_told_and_leaves_what_was_found(
    served: Place, job: CampaignJob
) -> None:
    turn(served, job)
    found = job.store.previous()
    detector = served.scorer.detector
    name, detector.bundle_id = detector.bundle_id, "another-one"
    try:
        assert turn(served, job) == job.every_s
    finally:
        detector.bundle_id = name
    assert job.trouble is not None
    page = served.page("/desk/campaigns")
    assert "The last look failed" in page
    assert "the bundle in use" in page
    assert job.store.previous() == found
    turn(served, job)
    assert job.trouble is None


def test_the_job_ends_its_worker(served: Place, job: CampaignJob, tmp_path: Path) -> None:
    turn(served, job)
    process = job._process
    assert process is not None
    assert served.client.portal is not None
    served.client.portal.call(job.stop)
    assert not process.is_alive()
    assert job.pid is None
