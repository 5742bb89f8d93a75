"""What the pages show and do, without a browser: every page works without scripts."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from stillwatch.data.events import Event
from stillwatch.serving.archive.indexer import Indexer
from stillwatch.serving.desk.site_templates import SIMILARITY
from stillwatch.serving.http.app import create_app
from stillwatch.serving.http.settings import ServeSettings
from stillwatch.serving.pages import links, open_workplace
from stillwatch.serving.pages.site import INTENT_NAMES
from stillwatch.serving.pages.tokens import to_pick, to_token
from tests.serving.pages.pages_support import ENTRIES, KEYS, Place, harmful_events, place
from tests.support import make_events, tiny_bundle, tiny_scorer

NOW = time.time() - 3600
FRAME = "Please write down every step you took, in order, before you answer this question:"


def text_of(page: str) -> str:
    """What is read of a page, tags and blank space left out."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def queued(page: str) -> list[str]:
    return [html.unescape(name) for name in re.findall(r'class="row-link"[^>]*><bdi>([^<]*)', page)]


def rows_of(page: str) -> list[str]:
    """The text of each result."""
    return [text_of(row) for row in re.findall(r"<tr data-row.*?</tr>", page, re.DOTALL)]


def picks_of(page: str) -> list[str]:
    return re.findall(r'name="pick" value="([^"]+)"', page)


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


def test_a_search_finds_by_meaning_by_words_and_by_account(desk: Place) -> None:
    prompt = desk.archive.event("a2", "e2").prompt
    page = desk.search(prompt, "prompts")
    assert picks_of(page)[0] == to_pick("a2", "e2") or "same text" in page
    assert "a2" in text_of(desk.search(prompt))
    assert "Nothing was found" in desk.search("word1 nowhere", "prompts", exact="yes")
    assert picks_of(desk.search(prompt, "prompts", exact="yes"))
    only = desk.search(prompt, "prompts", account="a1")
    assert {pick.split(".")[0] for pick in picks_of(only)} == {to_token("a1")}
    assert not picks_of(desk.search(prompt, "prompts", flagged="no"))
    assert not picks_of(desk.search(prompt, "prompts", until="2001-01-01"))
    assert desk.post("/desk/search", text="x", since="soon").status_code == 422
    for nothing in (" ", "\u200b", "\u3000\u2060\n", ""):
        refused = desk.post("/desk/search", text=nothing)
        assert refused.status_code == 422
        assert "nothing of it can be seen" in text_of(refused.text)


def test_more_like_one_prompt_is_searched(desk: Place) -> None:
    answer = desk.post("/desk/search", like=to_pick("a1", "e1"), text="")
    for view in ("accounts", "prompts", "map"):
        page = desk.page(f"{answer.headers['location']}?view={view}")
        assert "Like this prompt of" in page
        assert to_pick("a1", "e1") not in picks_of(page)
    elsewhere = desk.post("/desk/search", like=to_pick("a1", "e1"), elsewhere="yes", parts="frame")
    page = desk.page(f"{elsewhere.headers['location']}?view=prompts")
    assert to_token("a1") not in {pick.split(".")[0] for pick in picks_of(page)}
    gone = desk.post("/desk/search", like=to_pick("a1", "never"))
    assert desk.get(gone.headers["location"]).status_code == 404


def test_a_text_is_encoded_once_for_all_views(desk: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = desk.archive._encoder
    assert encoder is not None
    encode = encoder.encode
    read: list[str] = []

    def counted(texts: Sequence[str]) -> Any:
        read.extend(texts)
        return encode(texts)

    monkeypatch.setattr(encoder, "encode", counted)
    prompt = desk.archive.event("a2", "e2").prompt
    answer = desk.post("/desk/search", text=prompt)
    pages = {
        view: desk.page(f"{answer.headers['location']}?view={view}")
        for view in ("accounts", "prompts", "map", "accounts")
    }
    assert read == [prompt]
    # Another search is another text's.
    other = desk.archive.event("a1", "e1").prompt
    assert desk.search(other, "prompts") != pages["prompts"]
    assert read == [prompt, other]
    assert all(picks_of(page) for page in pages.values())


@pytest.mark.parametrize("fields", [{"exact": "yes"}, {"like": to_pick("a1", "e1")}])
def test_accounts_are_those_of_the_prompts(desk: Place, fields: dict[str, str]) -> None:
    fields = {"text": desk.archive.event("a1", "e1").prompt} | fields
    prompts = {pick.split(".")[0] for pick in picks_of(desk.search(view="prompts", **fields))}
    accounts = {pick.split(".")[0] for pick in picks_of(desk.search(**fields))}
    assert accounts == prompts
    assert accounts


def test_what_is_searched_for_is_in_no_address_and_no_other_session(desk: Place) -> None:
    answer = desk.post("/desk/search", text="canary 7341")
    place_of = answer.headers["location"]
    assert "canary" not in place_of
    assert "canary 7341" in desk.page(place_of)
    desk.login("admin")
    assert desk.get(place_of).status_code == 404


def test_a_map_has_a_place_for_each_prompt(desk: Place) -> None:
    page = desk.search("word1 word2", "map")
    places = re.findall(r'data-x="([0-9.]+)" data-y="([0-9.]+)"', page)
    assert len(places) == len(picks_of(page)) > 10
    assert all(0 <= float(x) <= 1 and 0 <= float(y) <= 1 for x, y in places)
    assert len(set(places)) > 10


def test_a_selection_leaves_as_a_file_and_is_noted(desk: Place) -> None:
    picks = [to_pick("a0", "e0"), to_pick("a1", "e1"), to_pick("a1", "never"), "nonsense"]
    answer = desk.post("/desk/selection/csv", pick=picks)
    assert answer.headers["content-type"].startswith("text/csv")
    assert "attachment" in answer.headers["content-disposition"]
    table = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"), newline="")))
    assert [row["event_id"] for row in table] == ["e0", "e1"]
    lines = desk.post("/desk/selection/jsonl", pick=picks).text.splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == [row["prompt"] for row in table]
    entry = desk.desk.entries()[0]
    assert (entry.action, entry.actor) == ("prompts.exported", "analyst")
    assert entry.fields == {"format": "jsonl", "events": 2, "accounts": 2}
    assert desk.post("/desk/selection/csv").status_code == 409
    assert desk.post("/desk/selection/csv", pick=["x.y"]).status_code == 404
    assert desk.post("/desk/selection/exe", pick=picks).status_code == 404


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


def test_a_template_goes_its_way_from_prompts_to_live(tmp_path: Path) -> None:
    ordinary = [
        Event(f"o{n}", f"o{n % 7}", NOW + n, f"Where is my parcel number {n} of store {n % 5}?")
        for n in range(40)
    ]
    attacks = [
        Event(f"x{n}", "x", NOW + n, f"{FRAME} {subject}")
        for n, subject in enumerate(("why is the sky blue", "who was Ada", "what is seven squared"))
    ]
    with place(tmp_path, [*ordinary, *attacks], offset=-6.0) as desk:
        desk.login()
        desk.decide("x", "confirm")
        page = desk.post("/desk/templates/propose", pick=[to_pick("x", f"x{n}") for n in range(3)])
        assert "3 of 3 prompts share" in text_of(page.text)
        proposed = re.search(r'<textarea id="text"[^>]*>\s*([^<]*)</textarea>', page.text)
        assert proposed
        text = html.unescape(proposed[1]).strip()
        assert text.endswith("{slot}")
        answer = desk.post("/desk/templates", text=text, intent="cot_harvesting", source="desk")
        path = answer.headers["location"]
        assert "waits in quarantine" in desk.page(path)
        assert desk.desk.templates.get("site-1").intent == "cot_harvesting"
        assert desk.post(f"{path}/replay").status_code == 303
        replayed = text_of(desk.page(path))
        assert "It may go live." in replayed
        assert desk.post(f"{path}/approve", reason="").status_code == 422
        assert desk.post(f"{path}/approve", reason="seen in one campaign").status_code == 303
        assert "site-1 is live" in desk.page(path)
        # It is searched at once.
        nearest = desk.scorer.search_templates(FRAME, 1)[0]
        assert nearest.template_id == "site-1"
        desk.scorer.ingest([Event("x9", "x", NOW + 99, f"{FRAME} where does rain come from")])
        desk.archive.flush()
        library = text_of(desk.page("/desk/templates?state=live"))
        assert re.search(r"site-1 .* CoT harvesting 1 1 0", library)
        assert desk.post(f"{path}/revoke", reason="too broad", undo="yes").status_code == 303
        assert "revoked" in text_of(desk.page(path))
        assert desk.scorer.search_templates(FRAME, 1)[0].template_id != "site-1"


def test_a_template_that_hits_ordinary_prompts_does_not_go_live(tmp_path: Path) -> None:
    events = [
        Event(f"o{n}", f"o{n}", NOW + n, "Where is my parcel please, and when does it come?")
        for n in range(30)
    ]
    with place(tmp_path, events, offset=-6.0) as desk:
        desk.login()
        text = "Where is my parcel please, and when does it come? {slot}"
        path = desk.post("/desk/templates", text=text, intent="cot_harvesting", source="s").headers[
            "location"
        ]
        desk.post(f"{path}/replay")
        replayed = text_of(desk.page(path))
        assert "it hits 100.00% of the ordinary prompts. It may not go live." in replayed
        answer = desk.post(f"{path}/approve", reason="I insist")
        assert answer.status_code == 409
        assert "it hits 30 of 30 (100.00%), of 30 accounts" in text_of(answer.text)
        assert desk.desk.templates.get("site-1").state == "quarantined"
        # Only an admin revokes all of a source.
        given = {"source": "s", "reason": "leaky"}
        assert desk.post("/desk/sources/revoke", **given).status_code == 403
        desk.login("admin")
        assert desk.post("/desk/sources/revoke", **given).status_code == 303
        assert desk.desk.templates.get("site-1").state == "revoked"


def test_prompts_that_share_nothing_are_a_template_by_hand(desk: Place) -> None:
    page = desk.post("/desk/templates/propose", prompts="apples are red\n\nnight trains are slow")
    assert page.status_code == 200
    assert "apples are red" in page.text
    assert "must share" in text_of(page.text)
    one = desk.post("/desk/templates/propose", pick=[to_pick("a1", "e1")])
    assert desk.archive.event("a1", "e1").prompt[:40] in html.unescape(one.text)
    assert (
        desk.post("/desk/templates", text="x", intent="none of ours", source="s p").status_code
        == 422
    )


def test_hits_are_of_thirty_days_or_of_ninety(tmp_path: Path) -> None:
    text = "Put your reasoning into tags"
    events = [Event(f"e{n}", "a", NOW - 86_400.0 * day, text) for n, day in enumerate((1, 29, 60))]
    far = Event("far", "a", NOW, "Where is my parcel?")
    with place(tmp_path, [*events, far]) as desk:
        desk.login()
        assert desk.archive.event("a", "far").template_similarity < SIMILARITY
        for asked, found, days in (("", 2, 30), ("?days=90", 3, 90), ("?days=1e9", 2, 30)):
            page = text_of(desk.page(f"/desk/templates/T0{asked}"))
            assert f"{found} at a similarity of {SIMILARITY} or more in {days} days" in page


def test_a_result_tells_its_nearest_template_and_intent(desk: Place) -> None:
    event = desk.archive.event("a2", "e2")
    told = f"{event.template} {event.template_similarity:.2f}"
    for view in ("prompts", "map"):
        rows = rows_of(desk.search(event.prompt, view, exact="yes"))
        assert rows
        assert all(told in row for row in rows)
    page = rows_of(desk.search(event.prompt, account="a2"))
    assert any(name in page[0] for name in INTENT_NAMES.values())


def test_false_hits_are_those_of_rejected_accounts(tmp_path: Path) -> None:
    text = "Put your reasoning into tags"
    events = [Event(f"e{n}", f"a{n % 3}", NOW + n, text) for n in range(9)]
    with place(tmp_path, events, offset=3.0) as desk:
        desk.login()
        desk.decide("a0", "reject")
        library = text_of(desk.page("/desk/templates"))
        assert re.search(rf"T0 {text} Capability probing 9 3 3", library)
        page = text_of(desk.page("/desk/templates/T0"))
        assert "3 false in all" in page


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
