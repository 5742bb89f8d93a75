"""Bundles are replaced while events are scored: on request, and from a watched folder."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from stillwatch.data.events import Event, event_to_fields
from stillwatch.model.bundle import MANIFEST, Bundle
from stillwatch.model.detector import Detector
from stillwatch.serving.http.app import create_app
from stillwatch.serving.http.bundles import Bundles
from stillwatch.serving.reload import Reloader
from stillwatch.serving.scorer import Scorer
from stillwatch.serving.stores.memory import MemoryStore
from tests.serving.http.http_support import settings_in
from tests.spoil import spoil
from tests.support import make_events, tiny_bundle, tiny_scorer

CANARY = "canary-7731"


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("first") / "a", seed=0)


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("second") / "b", seed=1)


def place(bundle: Bundle, folder: Path, name: str, written: int = 100) -> Path:
    """A copy, renamed into place, whose manifest was written at `written`, epoch seconds."""
    copy = Path(shutil.copytree(bundle.path, folder / f".{name}"))
    os.utime(copy / MANIFEST, (written, written))
    return copy.rename(folder / name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bundles").mkdir()
    return tmp_path / "bundles"


def app_of(bundle: Bundle, tmp_path: Path, **settings: Any) -> tuple[FastAPI, Scorer]:
    """An app that has time: no request is refused for the length of the queue."""
    scorer = tiny_scorer(bundle, MemoryStore(kept=64))
    given = {"bundle": bundle.path, "bundle_poll_s": 3600, "max_wait_s": 60, **settings}
    return create_app(settings_in(tmp_path, **given), scorer), scorer


@pytest.fixture
def client(first: Bundle, tmp_path: Path, folder: Path) -> Iterator[TestClient]:
    """An app with the first bundle and an empty folder."""
    app, _ = app_of(first, tmp_path, bundle_folder=folder)
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


@asynccontextmanager
async def started(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://127.0.0.1"
        ) as client,
    ):
        yield client


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 120))


def reload(client: TestClient, path: str | None = None) -> Any:
    if path is None:
        return client.post("/v1/bundle/reload")
    # In ASCII, which can spell half a surrogate pair.
    content = json.dumps({"path": path})
    headers = {"Content-Type": "application/json"}
    return client.post("/v1/bundle/reload", content=content, headers=headers)


def send(client: TestClient, *events: Event) -> list[dict[str, Any]]:
    fields = [event_to_fields(event) for event in events]
    answer = client.post("/v1/events", json={"events": fields})
    assert answer.status_code == 200, answer.text
    verdicts: list[dict[str, Any]] = answer.json()["verdicts"]
    return verdicts


def test_the_bundle_that_decides_is_told(client: TestClient, first: Bundle) -> None:
    told = client.get("/v1/bundle").json()
    assert told["bundle"] == first.id
    assert told["intents"] == first.manifest.intents
    assert told["thresholds"] == first.manifest.thresholds.model_dump()
    assert told["watched"] is True
    assert told["reloading"] is False
    assert told["last_refusal"] is None
    assert told["loaded_at"].endswith("Z")


def test_a_named_bundle_is_taken_over(
    client: TestClient, first: Bundle, second: Bundle, folder: Path
) -> None:
    place(second, folder, "b")
    answer = reload(client, "b")
    assert answer.status_code == 200
    assert answer.json() == {"bundle": second.id, "previous": first.id}
    assert client.get("/v1/bundle").json()["bundle"] == second.id
    assert client.get("/readyz").json()["bundle"] == second.id
    assert send(client, make_events()[0])[0]["bundle"] == second.id
    assert reload(client, "b").json() == {"bundle": second.id, "previous": second.id}
    page = client.get("/metrics").text
    assert f'stillwatch_bundle_info{{bundle="{second.id}"}} 1.0' in page
    assert first.id not in page
    for result in ("taken", "same"):
        assert f'stillwatch_bundle_reloads_total{{result="{result}"}} 1.0' in page


def test_without_a_body_the_configured_bundle_is_read_again(
    client: TestClient, first: Bundle, second: Bundle, folder: Path
) -> None:
    assert reload(client).json() == {"bundle": first.id, "previous": first.id}
    place(first, folder, "old", 100)
    bad = place(second, folder, "new", 200)
    (bad / "extra").touch()
    assert reload(client).status_code == 422, "the newest is meant, and it is refused"
    (bad / "extra").unlink()
    assert reload(client).json() == {"bundle": second.id, "previous": first.id}


@pytest.mark.parametrize(
    "path",
    ["../outside", "out", "/etc", "", ".", "nothing", "ring", ".b", "b\0", "x" * 5000, "\ud800",
     f"{CANARY}"],
)  # fmt: skip
def test_no_path_leads_out_of_the_folder(
    client: TestClient, first: Bundle, second: Bundle, folder: Path, path: str
) -> None:
    place(second, folder.parent, "outside")
    (folder / "out").symlink_to("../outside")
    (folder / "ring").symlink_to("ring")
    place(second, folder, "b").rename(folder / ".b")
    answer = reload(client, path)
    assert answer.status_code == 422
    assert answer.json()["code"] == "bundle_not_found"
    assert answer.json()["detail"] == (
        "The bundle must be a folder below bundle_folder, however: it is not; name one by its path "
        "from there."
    )
    assert client.get("/v1/bundle").json()["bundle"] == first.id


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 400), (b"[]", 400), (b"{}", 422), (b'{"path": 1}', 422), (b'{"path": null}', 422),
     (b'{"path": "a", "more": 1}', 422), (b'{"path": "a", "path": "a"}', 400)],
)  # fmt: skip
def test_a_malformed_request_is_refused(client: TestClient, body: bytes, status: int) -> None:
    headers = {"Content-Type": "application/json"}
    answer = client.post("/v1/bundle/reload", content=body, headers=headers)
    assert answer.status_code == status
    assert client.post("/v1/bundle/reload", content=b'{"path": "a"}').status_code == 415


def test_without_a_folder_no_bundle_can_be_named(first: Bundle, tmp_path: Path) -> None:
    app, _ = app_of(first, tmp_path)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        answer = reload(client, "a")
        assert (answer.status_code, answer.json()["code"]) == (422, "bundle_not_found")
        assert reload(client).status_code == 200
        assert client.get("/v1/bundle").json()["watched"] is False


def test_a_bad_bundle_leaves_the_old_one_and_its_reason_is_shown(
    client: TestClient, first: Bundle, second: Bundle, folder: Path, log: Any
) -> None:
    expected = tiny_scorer(first)
    events = make_events()
    for number in range(40):
        spoil(place(second, folder, f"b{number}"), number)
        answer = reload(client, f"b{number}")
        assert answer.status_code == 422
        problem = answer.json()
        assert problem["code"] == "bundle_refused"
        refusal = client.get("/v1/bundle").json()["last_refusal"]
        assert refusal["folder"] == f"b{number}"
        assert refusal["reason"].lower() in problem["detail"].lower()
        assert str(folder) not in problem["detail"]
        (found,) = send(client, events[number])
        (own,) = expected.update([events[number]])
        assert found["bundle"] == first.id
        assert found["risk"] == pytest.approx(own.risk, abs=1e-6)
    assert 'result="refused"} 40.0' in client.get("/metrics").text
    assert log.getvalue().count("a bundle was refused") == 40


def test_names_that_are_no_text_are_survived(
    client: TestClient, second: Bundle, folder: Path
) -> None:
    path = place(second, folder, "b")
    os.close(os.open(os.fsencode(path) + b"/\xff\x1b", os.O_CREAT))
    assert reload(client, "b").status_code == 422
    assert client.get("/v1/bundle").status_code == 200


def blocked(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event, list[str]]:
    """Loading waits for the second event once it has set the first; names of its threads."""
    entered, go = threading.Event(), threading.Event()
    threads: list[str] = []
    load = Reloader._load

    def slow(self: Reloader, path: Path) -> Detector:
        threads.append(threading.current_thread().name)
        entered.set()
        assert go.wait(60)
        return load(self, path)

    monkeypatch.setattr(Reloader, "_load", slow)
    return entered, go, threads


def test_while_one_is_loaded_events_are_scored_and_a_second_is_refused(
    first: Bundle, second: Bundle, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go, threads = blocked(monkeypatch)
    app, scorer = app_of(first, tmp_path, bundle_folder=folder)
    taken_in: list[str] = []
    take_over = Reloader.take_over

    def noted(self: Reloader, detector: Detector) -> Any:
        taken_in.append(threading.current_thread().name)
        return take_over(self, detector)

    monkeypatch.setattr(Reloader, "take_over", noted)

    async def scenario() -> None:
        async with started(app) as client:
            place(second, folder, "b")
            loading = asyncio.create_task(
                client.post("/v1/bundle/reload", json={"path": "b"}, timeout=60)
            )
            assert await asyncio.to_thread(entered.wait, 60)
            for body in ({"path": "b"}, None):
                answer = await client.post("/v1/bundle/reload", json=body)
                assert (answer.status_code, answer.json()["code"]) == (409, "reload_running")
            assert (await client.get("/v1/bundle")).json()["reloading"] is True
            answer = await client.post("/v1/events", json=event_to_fields(make_events()[0]))
            assert answer.json()["verdicts"][0]["bundle"] == first.id
            go.set()
            assert (await loading).json() == {"bundle": second.id, "previous": first.id}
            assert (await client.get("/v1/bundle")).json()["reloading"] is False

    run(scenario())
    assert threads == ["reload"]
    assert taken_in == ["gate"]
    assert scorer.bundle_id == second.id


def test_a_reload_is_finished_though_its_caller_has_gone(
    first: Bundle, second: Bundle, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go, _ = blocked(monkeypatch)
    app, scorer = app_of(first, tmp_path, bundle_folder=folder)
    bundles: Bundles = app.state.bundles

    async def scenario() -> None:
        async with started(app):
            place(second, folder, "b")
            asking = asyncio.create_task(bundles.reload_named("b", "test"))
            assert await asyncio.to_thread(entered.wait, 60)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert bundles.running
            go.set()
            assert bundles._reload is not None
            await bundles._reload

    run(scenario())
    assert scorer.bundle_id == second.id


def test_the_service_stops_while_a_bundle_is_loaded(
    first: Bundle, second: Bundle, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go, _ = blocked(monkeypatch)
    app, scorer = app_of(first, tmp_path, bundle_folder=folder)

    async def scenario() -> None:
        async with started(app):
            place(second, folder, "b")
            asking = asyncio.create_task(app.state.bundles.reload_named("b", "test"))
            assert await asyncio.to_thread(entered.wait, 60)
        with pytest.raises(asyncio.CancelledError):
            await asking

    begun = time.monotonic()
    run(scenario())
    assert time.monotonic() - begun < 30, "a disk that never answers holds up no stop"
    go.set()
    assert scorer.bundle_id == first.id


def test_every_verdict_is_of_one_bundle_while_bundles_are_swapped(
    first: Bundle, second: Bundle, tmp_path: Path, folder: Path
) -> None:
    events = make_events(accounts=6, each=40)
    expected: dict[tuple[str, str, int], float] = {}
    for bundle in (first, second):
        for own in tiny_scorer(bundle).update(events):
            expected[bundle.id, own.account_id, own.events] = own.risk
    app, scorer = app_of(first, tmp_path, bundle_folder=folder)
    found: list[dict[str, Any]] = []
    swaps: list[str] = []

    async def stream(client: httpx.AsyncClient, account: str, done: asyncio.Event) -> None:
        for event in events:
            if event.account_id == account:
                answer = await client.post("/v1/events", json=event_to_fields(event))
                assert answer.status_code == 200, answer.text
                found.extend(answer.json()["verdicts"])
                if len(found) % 12 == 0:
                    # What comes again changes nothing, whichever bundle decides.
                    await client.post("/v1/events", json=event_to_fields(event))
        done.set()

    async def swap(client: httpx.AsyncClient, done: asyncio.Event) -> None:
        while not done.is_set():
            for name in ("b", "a"):
                answer = await client.post("/v1/bundle/reload", json={"path": name}, timeout=60)
                assert answer.status_code == 200, answer.text
                swaps.append(answer.json()["bundle"])

    async def scenario() -> None:
        place(first, folder, "a", 200)
        place(second, folder, "b", 100)
        async with started(app) as client:
            done = asyncio.Event()
            accounts = sorted({event.account_id for event in events})
            await asyncio.gather(
                *(stream(client, account, done) for account in accounts), swap(client, done)
            )

    run(scenario())
    assert len(found) == len(events)
    other = {first.id: second.id, second.id: first.id}
    told_apart = 0
    for verdict in found:
        place_ = (verdict["account_id"], verdict["events"])
        assert verdict["risk"] == pytest.approx(expected[(verdict["bundle"], *place_)], abs=1e-4)
        away = expected[(other[verdict["bundle"]], *place_)]
        told_apart += abs(verdict["risk"] - away) > 1e-3
    assert told_apart > 0.9 * len(found)
    assert len(swaps) >= 6
    shares = [sum(verdict["bundle"] == one for verdict in found) for one in other]
    assert min(shares) > 20, "both have decided"
    assert scorer.replayed > 6
    assert scorer.duplicates > 0


def test_flags_and_counts_outlive_a_swap(tmp_path: Path, folder: Path) -> None:
    sure = tiny_bundle(tmp_path / "sure", offset=6.0, seed=0)
    calm = tiny_bundle(tmp_path / "calm", offset=-6.0, seed=1)
    place(calm, folder, "calm", 100)
    place(sure, folder, "sure", 200)
    app, _ = app_of(sure, tmp_path, bundle_folder=folder)
    events = make_events(accounts=2, each=20)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        before = send(client, *events[:20])
        assert all(verdict["flagged"] for verdict in before)
        assert reload(client, "calm").status_code == 200
        held = client.get("/v1/accounts/a0").json()
        assert (held["bundle"], held["events"], held["flagged"]) == (sure.id, 10, True)
        assert send(client, events[0]) == [held]
        after = send(client, *events[20:30])
        assert [verdict["events"] for verdict in after] == [n for n in range(11, 16) for _ in "ab"]
        for verdict in after:
            assert verdict["bundle"] == calm.id
            assert verdict["risk"] < calm.manifest.thresholds.leave
            assert verdict["flagged"], "until the new bundle has read enough of it"
            assert verdict["flagged_after"] == 1
            assert verdict["peak_risk"] > 0.9
        assert reload(client, "sure").status_code == 200
        again = send(client, *events[30:])
        assert [verdict["events"] for verdict in again] == [n for n in range(16, 21) for _ in "ab"]
        expected = tiny_scorer(sure)
        expected.update(events[:30])
        risks = [verdict.risk for verdict in expected.update(events[30:])]
        assert [verdict["risk"] for verdict in again] == pytest.approx(risks, abs=1e-5)


def test_the_newest_good_bundle_of_the_folder_serves_from_the_start(
    first: Bundle, second: Bundle, tmp_path: Path, folder: Path
) -> None:
    place(second, folder, "good", 100)
    (place(first, folder, "bad", 200) / "extra").touch()
    app, scorer = app_of(first, tmp_path, bundle_folder=folder)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        assert scorer.bundle_id == second.id
        assert client.get("/v1/bundle").json()["last_refusal"]["folder"] == "bad"


def test_the_folder_is_watched(
    first: Bundle, second: Bundle, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    load = Reloader._load

    def noted(self: Reloader, path: Path) -> Detector:
        tried.append(path.name)
        return load(self, path)

    monkeypatch.setattr(Reloader, "_load", noted)
    place(first, folder, "a", 100)
    app, scorer = app_of(first, tmp_path, bundle_folder=folder)
    bundles: Bundles = app.state.bundles

    async def looks(count: int = 3) -> list[str]:
        tried.clear()
        for _ in range(count):
            await bundles.look()
        return tried

    async def scenario() -> None:
        async with started(app) as client:
            assert tried == ["a"]
            assert await looks() == []
            bad = place(second, folder, "bad", 300)
            (bad / "extra").touch()
            assert await looks(6) == ["bad"], "it is refused once"
            place(second, folder, "b", 200)
            assert await looks() == ["b"]
            assert scorer.bundle_id == second.id
            # A named one stays, until something new comes.
            await client.post("/v1/bundle/reload", json={"path": "a"})
            assert scorer.bundle_id == first.id
            assert await looks() == []
            (bad / "extra").unlink()
            assert await looks() == ["bad"]
            assert scorer.bundle_id == second.id
            shutil.rmtree(bad)
            shutil.rmtree(folder / "b")
            assert await looks() == ["a"], "to remove a bundle goes back to the one before"
            assert scorer.bundle_id == first.id
            shutil.rmtree(folder)
            assert await looks() == []
            assert (await client.post("/v1/bundle/reload")).status_code == 200
            assert scorer.bundle_id == first.id

    run(scenario())


def test_the_watcher_looks_again_and_again(
    first: Bundle, second: Bundle, tmp_path: Path, folder: Path
) -> None:
    app, scorer = app_of(first, tmp_path, bundle_folder=folder, bundle_poll_s=0.01)
    bundles: Bundles = app.state.bundles
    look, looked = bundles.look, 0

    async def faulty(settled: bool = True) -> bool:
        nonlocal looked
        looked += 1
        if looked == 2:
            raise ValueError(CANARY)
        return await look(settled)

    bundles.look = faulty  # type: ignore[method-assign]

    async def scenario() -> None:
        async with started(app):
            place(second, folder, "b")
            while scorer.bundle_id != second.id:
                await asyncio.sleep(0.01)

    run(scenario())
    assert looked > 2
