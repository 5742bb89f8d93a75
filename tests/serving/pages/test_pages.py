"""What the pages show and do, without a browser: every page works without scripts."""

from __future__ import annotations

import html
import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from stillwatch.data.events import Event
from stillwatch.model.traffic import TRAFFIC_FILE, Columns, Traffic
from stillwatch.serving.archive.indexer import Indexer
from stillwatch.serving.http.app import create_app
from stillwatch.serving.http.settings import ServeSettings
from stillwatch.serving.pages import links, open_workplace
from stillwatch.serving.pages.tokens import to_pick, to_token
from tests.serving.pages.pages_support import (
    ENTRIES,
    KEYS,
    Place,
    harmful_events,
    picks_of,
    place,
    queued,
    text_of,
)
from tests.support import make_events, tiny_bundle, tiny_scorer


def test_the_queue_has_what_is_flagged_and_undecided(desk: Place) -> None:
    names = queued(desk.page("/desk/queue"))
    assert sorted(names) == [f"a{number}" for number in range(6)]
    risks = [desk.scorer.verdict(name).risk for name in names]
    assert risks == sorted(risks, reverse=True)
    assert desk.decide("a1", "reject").status_code == 303
    assert desk.decide("a2", "confirm").status_code == 303
    assert "a1" not in queued(desk.page("/desk/queue"))
    assert sorted(queued(desk.page("/desk/queue?show=decided"))) == ["a1", "a2"]
    assert len(queued(desk.page("/desk/queue?show=all"))) == 6


def test_the_queue_is_filtered(desk: Place) -> None:
    assert queued(desk.page("/desk/queue?account=A3")) == ["a3"]
    assert queued(desk.page("/desk/queue?account=nobody")) == []
    every = set(queued(desk.page("/desk/queue")))
    found = [set(queued(desk.page(f"/desk/queue?intent={name}"))) for name in desk.scorer.intents]
    assert set.union(*found) == every
    for name, own in zip(desk.scorer.intents, found, strict=True):
        for account in every:
            intents = desk.scorer.verdict(account).intents
            likely = intents[name] >= 0.5 or intents[name] == max(intents.values())
            assert (account in own) == likely
    assert queued(desk.page("/desk/queue?page=9")) == []
    assert queued(desk.page("/desk/queue?page=x&order=nonsense&since=never&show=9")) != []


def test_the_queue_leaves_out_what_is_older(tmp_path: Path) -> None:
    events = [Event("e1", "old", 1.7e9, "one"), Event("e2", "new", 1.7e9 + 8 * 86_400, "two")]
    with place(tmp_path, events, offset=3.0) as desk:
        desk.login()
        assert queued(desk.page("/desk/queue?since=7d")) == ["new"]
        assert len(queued(desk.page("/desk/queue?since=30d"))) == 2


def test_what_changed_since_the_last_look_is_told_to_each(desk: Place) -> None:
    assert text_of(desk.page("/desk/queue")).count("never looked at") == 6
    desk.page(f"/desk/accounts/{to_token('a4')}")
    desk.scorer.ingest([Event(f"n{number}", "a4", 1.8e9 + number, "anew") for number in range(3)])
    desk.archive.flush()
    told = text_of(desk.page("/desk/queue?account=a4"))
    assert "+3 prompts" in told
    assert "never looked at" not in told
    # The one looked at has risen least since.
    assert queued(desk.page("/desk/queue?order=changed"))[-1] == "a4"
    desk.page(f"/desk/accounts/{to_token('a4')}")
    assert "nothing new" in text_of(desk.page("/desk/queue?account=a4"))
    desk.login("second")
    assert "never looked at" in text_of(desk.page("/desk/queue?account=a4"))


def test_flagged_accounts_that_the_archive_does_not_know_are_found(tmp_path: Path) -> None:
    with place(tmp_path, make_events(3, 4), offset=3.0) as desk:
        desk.scorer.archive = None
        desk.scorer.ingest([Event("x1", "early", 1.7e9, "before there was an archive")])
        desk.login()
        for _ in range(50):
            if "early" in queued(desk.page("/desk/queue")):
                break
        assert "early" in queued(desk.page("/desk/queue"))
        page = text_of(desk.page(f"/desk/accounts/{to_token('early')}"))
        assert "The archive has none of its prompts" in page
        assert desk.decide("early", "confirm").status_code == 303


def test_an_account_shows_what_its_risk_rests_on(desk: Place) -> None:
    verdict = desk.scorer.verdict("a1")
    page = desk.page(f"/desk/accounts/{to_token('a1')}")
    told = text_of(page)
    assert f"{verdict.risk:.2f} flagged; threshold 0.50" in told
    charts = [json.loads(html.unescape(c)) for c in re.findall(r'data-chart="([^"]+)"', page)]
    assert [chart["kind"] for chart in charts] == ["line", "bars", "line"]
    assert charts[0]["limit"] == verdict.threshold
    assert sum(charts[1]["y"]) == verdict.events
    assert max(charts[2]["y"]) > 0.5, "it asks under a frame"
    assert page.count('<article class="evidence"') == len(verdict.evidence)
    for item in verdict.evidence:
        assert f"{item.intent.split('_')[0][:3]}".lower() in told.lower()
        assert f"/desk/events/{to_token('a1')}/{to_token(item.event_id)}" in page
        assert f'href="/desk/templates/{item.template_id}"' in page
    assert "<mark>" in page


def test_a_stream_is_paged_whole(tmp_path: Path) -> None:
    events = [Event(f"e{n}", "a0", 1.7e9 + n, f"prompt number {n}") for n in range(60)]
    with place(tmp_path, events, offset=3.0) as desk:
        desk.login()
        path = f"/desk/accounts/{to_token('a0')}"
        seen = [picks_of(desk.page(f"{path}?page={number}")) for number in range(4)]
        assert [len(own) for own in seen] == [25, 25, 10, 0]
        assert [pick for own in seen for pick in own] == [
            to_pick("a0", f"e{n}") for n in range(59, -1, -1)
        ]


def test_accounts_that_share_something_are_linked(tmp_path: Path, monkeypatch: Any) -> None:
    events = [
        Event("e1", "one", 1.7e9, "x", network="n1", payment="p1", client="lib"),
        Event("e2", "two", 1.7e9, "x", payment="p1", client="lib"),
        Event("e3", "three", 1.7e9, "x", network="n1", client="lib"),
        Event("e4", "four", 1.7e9, "x", network="n2", client="lib"),
    ]
    monkeypatch.setitem(links.COMMON, "client", 3)
    with place(tmp_path, events) as desk:
        desk.login()
        page = text_of(desk.page(f"/desk/accounts/{to_token('one')}"))
        linked = page.split("Linked accounts")[1]
        assert re.search(r"two payment 1 .* three network 1", linked)
        assert "four" not in linked
        assert "Its client is shared by too many" in linked
        # What came later is there too, and what is gone is not.
        desk.scorer.ingest([Event("e5", "five", 1.7e9, "x", payment="p1")])
        desk.archive.flush()
        desk.archive.erase("two")
        linked = text_of(desk.page(f"/desk/accounts/{to_token('one')}")).split("Linked accounts")[1]
        assert "five" in linked
        assert "two payment" not in linked


def test_a_decision_is_on_what_was_shown(desk: Place) -> None:
    shown = desk.shown("a0")
    seen = desk.scorer.verdict("a0")
    desk.scorer.ingest([Event("late", "a0", 1.8e9, "something else")])
    given = {"verdict": "confirm", "intent": "cot_harvesting", **shown}
    path = f"/desk/accounts/{to_token('a0')}/decide"
    answer = desk.post(path, reason="the same suffix in each", **given)
    assert answer.status_code == 303
    (decision,) = desk.desk.decisions("a0")
    assert decision.events == seen.events
    assert decision.risk == pytest.approx(seen.risk, abs=1e-6)
    assert decision.reviewer == "analyst"
    assert decision.intents == ("cot_harvesting",)
    page = text_of(desk.page(f"/desk/accounts/{to_token('a0')}"))
    assert "a0 is confirmed. Reason to undo" in page
    assert "the same suffix in each" in page


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"reason": " "}, 422), ({"reason": "x" * 2001}, 422), ({"verdict": "burn"}, 422),
        ({"verdict": ""}, 422), ({"shown": "guessed"}, 409), ({"shown": ""}, 409),
        ({"expected": "?"}, 409), ({"expected": "-1"}, 409), ({"expected": "9" * 99}, 409),
    ],
)  # fmt: skip
def test_a_decision_that_is_none_is_refused(
    desk: Place, fields: dict[str, str], status: int
) -> None:
    given = {**desk.shown("a0"), "reason": "seen", "verdict": "reject", **fields}
    before = desk.desk.head()
    assert desk.post(f"/desk/accounts/{to_token('a0')}/decide", **given).status_code == status
    # Nor on another account than the one that was shown.
    given = {**desk.shown("a1"), "reason": "seen", "verdict": "reject"}
    assert desk.post(f"/desk/accounts/{to_token('a0')}/decide", **given).status_code == 409
    # Nor by a page that does not tell which decision it showed.
    given = {"shown": desk.shown("a0")["shown"], "reason": "seen", "verdict": "reject"}
    assert desk.post(f"/desk/accounts/{to_token('a0')}/decide", **given).status_code == 409
    assert desk.desk.head() == before


def test_a_decision_is_undone_and_the_account_comes_back(desk: Place) -> None:
    desk.decide("a0", "reject", "a product")
    (decision,) = desk.desk.decisions("a0")
    assert "a0" not in queued(desk.page("/desk/queue"))
    path = f"/desk/decisions/{decision.id}/undo"
    assert desk.post(path, reason="").status_code == 422
    assert (
        desk.post(path, reason="wrong account", back="queue").headers["location"].endswith("queue")
    )
    assert "a0" in queued(desk.page("/desk/queue"))
    assert desk.post(path, reason="again").status_code == 409
    assert desk.post("/desk/decisions/999/undo", reason="x").status_code == 404
    assert "wrong account" in text_of(desk.page(f"/desk/accounts/{to_token('a0')}"))


def test_two_reviewers_confirm_where_two_have_to(tmp_path: Path) -> None:
    with place(tmp_path, offset=3.0, desk_two_person=True) as desk:
        desk.login()
        desk.decide("a0", "confirm")
        assert "once a second reviewer" in text_of(desk.page("/desk/queue"))
        desk.decide("a0", "confirm")
        assert desk.desk.present("a0").state == "pending"  # type: ignore[union-attr]
        desk.login("second")
        assert "needs a second reviewer" in text_of(desk.page("/desk/queue?account=a0"))
        desk.decide("a0", "confirm")
        assert desk.desk.present("a0").state == "counts"  # type: ignore[union-attr]
        assert "a0" not in queued(desk.page("/desk/queue"))


def test_several_accounts_are_decided_on_at_once(desk: Place) -> None:
    answer = desk.post(
        "/desk/selected/accounts",
        pick=[to_pick("a0", "e0"), to_pick("a0", "e6"), to_pick("a3", "e3")],
    )
    names = [to_token("a0"), to_token("a3")]
    assert re.findall(r'name="account" value="([^"]+)"', answer.text) == names
    shown = dict(re.findall(r'name="((?:shown|expected)\.[^"]+)" value="([^"]*)"', answer.text))
    given = {"verdict": "confirm", "reason": "one operation", "account": names}
    # One page that is too old decides nothing, on no account.
    assert (
        desk.post("/desk/decide", **given, **{**shown, f"shown.{names[1]}": "x"}).status_code == 409
    )
    assert desk.desk.decisions() == []
    assert desk.post("/desk/decide", **given, **shown).status_code == 303
    assert {one.account_id for one in desk.desk.decisions()} == {"a0", "a3"}
    assert "2 accounts confirmed" in desk.page("/desk/queue")
    assert desk.post("/desk/decide", verdict="confirm", reason="x").status_code == 409


def test_the_model_tells_of_drift_and_labels(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text("<h1>Evaluation</h1><script>1</script>")
    day = 86_400.0
    events = [
        Event(f"e{n}", f"a{n % 20}", 1.7e9 + n * day / 20, "où est la gare" if n > 400 else "where")
        for n in range(500)
    ]
    with place(tmp_path, events, offset=3.0, desk_report=report) as desk:
        desk.login()
        desk.decide("a0", "confirm", intent="cot_harvesting")
        desk.decide("a1", "reject")
        told = text_of(desk.page("/desk/model"))
        assert "earliest full week" in told
        assert re.search(r"Language as guessed [0-9.]+ large", told)
        assert re.search(r"Confirmed 1 CoT harvesting 1 Rejected 1", told)
        assert "Retraining would use 25 prompts of 1 attacking and 25 of 1 ordinary" in told
        assert "A test bundle" in told
        assert "3 entries; look at them" in told
        answer = desk.get("/desk/model/report")
        assert "sandbox" in answer.headers["content-security-policy"]
        assert "script-src" not in answer.headers["content-security-policy"]


def test_drift_is_measured_from_the_calibration_where_there_was_one(tmp_path: Path) -> None:
    events = [
        Event(f"e{n}", f"a{n % 20}", 1.7e9 + n * 600, "where is the ferry") for n in range(200)
    ]
    with place(tmp_path, events) as desk:
        desk.login()
        rows = desk.archive.rows
        alike = Columns(
            rows.risk, rows.contribution, rows.similarity, rows.time, rows.frame > 0,
            rows.account, {"en": 1}, {"cot_harvesting": 1},
        )  # fmt: skip
        moved = replace(alike, risk=rows.risk + 1, accounts=np.arange(200))
        detector = desk.scorer.detector
        told = text_of(desk.page("/desk/model"))
        assert "was not calibrated here" in told
        for columns, level in ((alike, "small"), (moved, "large")):
            content = {TRAFFIC_FILE: Traffic.of(columns).to_bytes()}
            detector.bundle = replace(
                detector.bundle, content={**detector.bundle.content, **content}
            )
            told = text_of(desk.page("/desk/model"))
            assert "the traffic that the bundle’s thresholds were set by" in told
            assert re.search(rf"Risk of the account after each prompt [0-9.]+ {level}", told)
            assert re.search(rf"Prompts an account in its time [0-9.]+ {level}", told)
            assert re.search(r"Hour of the day, UTC 0.000 small 0.000", told)


def test_an_index_that_was_lost_is_told_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "archive" / "index").mkdir(parents=True)
    (tmp_path / "archive" / "index" / "manifest.json").write_text("garbage")
    with capture_logs() as lines, place(tmp_path) as desk:
        desk.login()
        assert "Index rebuilt 1 since start Lost" in text_of(desk.page("/desk/model"))
        monkeypatch.setattr(Indexer, "building", True)
        assert "Index rebuilt 1 since start; building now" in text_of(desk.page("/desk/model"))
        assert "stillwatch_archive_index_rebuilds_total 1.0" in metrics_of(desk)
    told = [line for line in lines if "index was lost or damaged" in line["event"]]
    assert told == [
        {
            "event": "the archive's index was lost or damaged: it is made from the tables",
            "log_level": "warning",
            "events": 72,
        }
    ]


def test_an_index_that_is_there_is_not_told(tmp_path: Path) -> None:
    with capture_logs() as lines, place(tmp_path) as desk:
        desk.login()
        assert "Index rebuilt 0 since start Lost" in text_of(desk.page("/desk/model"))
        assert "stillwatch_archive_index_rebuilds_total 0.0" in metrics_of(desk)
    assert not [line for line in lines if "index" in line["event"]]


def metrics_of(desk: Place) -> str:
    return str(desk.get("/metrics", headers={"X-API-Key": KEYS["admin"].key}).text)


def test_few_events_show_no_drift(tmp_path: Path) -> None:
    with place(tmp_path, []) as desk:
        desk.login()
        assert "the archive has 0" in desk.page("/desk/model")
        assert "No account is flagged" in desk.page("/desk/queue")
        assert "Nothing was found" in desk.search("anything")


def test_a_workplace_is_opened_as_the_settings_say(tmp_path: Path) -> None:
    scorer = tiny_scorer(tiny_bundle(tmp_path / "bundle", offset=3.0))
    assert open_workplace(ServeSettings(auth="off"), scorer) is None
    assert scorer.archive is None
    settings = ServeSettings(
        keys=ENTRIES, desk_folder=tmp_path / "desk", dead_letters=tmp_path / "dead.jsonl",
        desk_two_person=True, archive_days=30, archive_backup_hours=12,
    )  # fmt: skip
    workplace = open_workplace(settings, scorer)
    assert workplace is not None
    app = create_app(settings, scorer, workplace)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        event = {"event_id": "e1", "account_id": "a1", "timestamp": time.time(), "prompt": "one"}
        headers = {"X-API-Key": KEYS["scorer"].key}
        assert client.post("/v1/events", json=event, headers=headers).status_code == 200
        workplace.archive.flush()
        desk = Place(app, scorer, workplace.archive, workplace.desk, client).login()
        assert queued(desk.page("/desk/queue")) == ["a1"]
        desk.decide("a1", "confirm")
        assert desk.desk.decisions()[0].state == "pending"
    assert (tmp_path / "desk").stat().st_mode & 0o077 == 0
    assert len(list((tmp_path / "desk" / "archive" / "backups").iterdir())) == 1
    # All of it is closed, and can be opened again.
    again = open_workplace(settings, tiny_scorer(scorer.bundle))
    assert again is not None
    assert again.archive.status().events == 1
    again.close()


def test_what_is_not_there_is_told_so(desk: Place) -> None:
    for path in ("accounts/bm9ib2R5", "accounts/!", f"events/{to_token('a0')}/bm9uZQ", "search/x",
                 "templates/T999", "model/report", "assets/desk.py",
                 "assets/..%2fsite.py"):  # fmt: skip
        answer = desk.get(f"/desk/{path}")
        assert answer.status_code == 404, path
        if path != "assets/..%2fsite.py":
            assert answer.headers["content-type"].startswith("text/html")
    answer = desk.get("/desk/account?id=a0")
    assert answer.headers["location"] == f"/desk/accounts/{to_token('a0')}"


def test_a_store_that_fails_is_told_of(desk: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from stillwatch.data.errors import StoreError

    def fail(*_: object, **__: object) -> None:
        raise StoreError("the archive's tables must be readable, however: SQLITE_FULL")

    monkeypatch.setattr(desk.archive, "search", fail)
    answer = desk.post("/desk/search", text="x")
    answer = desk.get(f"{answer.headers['location']}?view=prompts")
    assert answer.status_code == 503
    assert "SQLITE_FULL" in answer.text


def test_hostile_prompts_are_escaped_on_every_page(hostile: Place) -> None:
    token = to_token(harmful_events()[0].account_id)
    pages = [
        hostile.page("/desk/queue?show=all"), hostile.page(f"/desk/accounts/{token}"),
        hostile.page("/desk/templates"), hostile.page("/desk/model"),
    ]  # fmt: skip
    for event in harmful_events():
        path = f"/desk/events/{token}/{to_token(event.event_id)}"
        pages.append(hostile.page(path))
        for view in ("accounts", "prompts", "map"):
            text = event.prompt.encode("utf-8", "replace").decode()
            pages.append(hostile.search(text[:5000], view))
        answer = hostile.post("/desk/search", like=to_pick(event.account_id, event.event_id))
        pages.append(hostile.page(f"{answer.headers['location']}?view=prompts"))
        picks = [to_pick(event.account_id, event.event_id)]
        pages.append(hostile.post("/desk/templates/propose", pick=picks).text)
        pages.append(hostile.post("/desk/selected/accounts", pick=picks).text)
    for page in pages:
        assert "<img" not in page
        assert 'onerror="' not in page.replace("&#34;", "'")
        assert page.count("<script") <= 6
        assert "<script>" not in page
        assert "</p><script" not in page
        assert "49 ${7*7}" not in page
        # Nothing that turns the direction of a text, or has no glyph, leaves the server.
        outside = re.sub(r"<textarea[^>]*>.*?</textarea>", "", page, flags=re.S)
        assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b\x00\x1b]", outside)
        assert len(page) < 200_000, "a long prompt is cut"


def test_all_of_a_long_prompt_can_be_read(hostile: Place) -> None:
    event = max(harmful_events(), key=lambda one: len(one.prompt))
    path = f"/desk/events/{to_token(event.account_id)}/{to_token(event.event_id)}"
    shown = ""
    for part in range(11):
        page = hostile.page(f"{path}?part={part}")
        found = re.search(r'<section id="text">.*?<bdi[^>]*>(.*?)</bdi>', page, re.S)
        shown += html.unescape(found[1]) if found else ""
    assert shown == event.prompt
    assert len(shown) == 200_000


def test_no_prompt_and_no_search_is_logged(
    hostile: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    hostile.search("canary-5523 <b>")
    hostile.get("/desk/account?id=canary-5523")
    hostile.post("/desk/templates", text="canary-5523", intent="x", source="bad source")
    output = "".join(capfd.readouterr())
    assert "canary-5523" not in output
