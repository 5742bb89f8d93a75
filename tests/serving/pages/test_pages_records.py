"""The audit log on its page, labels as a file, and the erasure of an account."""

from __future__ import annotations

import io
import json
import re
import sqlite3
import threading
import zipfile
from collections.abc import Iterator
from contextlib import closing
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from stillwatch.data.errors import StoreError
from stillwatch.data.events import Event
from stillwatch.serving.desk.database import FILE
from stillwatch.serving.pages import audit_page, records_forms
from stillwatch.serving.pages.display import name
from stillwatch.serving.pages.tokens import to_pick, to_token
from tests.serving.archive.archive_support import traces
from tests.serving.pages.pages_support import HARM_ACCOUNT, KEYS, Place, place, text_of
from tests.support import make_events, tiny_bundle

CANARY = "heliotrope-petticoat-4711"
REASON = "asked for by the customer"


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[Place]:
    """Ordinary traffic, and an account whose prompts have a canary in them, all of it flagged."""
    own = [Event(f"s{n}", "secret", 1.7e9 + n, f"{CANARY} {n}") for n in range(3)]
    with place(tmp_path, [*make_events(4, 6), *own], offset=3.0) as made:
        made.login()
        made.decide("a0", "confirm", intent="cot_harvesting")
        made.decide("secret", "reject", "a product")
        yield made


def audit_rows(page: str) -> list[tuple[int, str, str]]:
    """Number, actor and action of each entry that a page shows."""
    found = re.findall(
        r'id="entry-(\d+)">.*?</td><td><bdi>(.*?)</bdi></td><td><span class="tag">(.*?)</span>',
        page, re.DOTALL,
    )  # fmt: skip
    return [(int(number), unescape(actor), action) for number, actor, action in found]


def erase(desk: Place, account: str, **fields: Any) -> Any:
    fields = {"reason": REASON, "typed": name(account), **fields}
    return desk.post(f"/desk/accounts/{to_token(account)}/erase", **fields)


class TestAudit:
    def test_every_entry_is_shown_and_found_by_what_it_is(self, secret: Place) -> None:
        secret.login("second")
        secret.decide("a1", "reject", "nothing in it")
        secret.post("/desk/decisions/2/undo", reason="taken back")
        rows = audit_rows(secret.page("/desk/audit"))
        assert rows == [
            (5, "second", "decision.undone"), (4, "second", "account.decided"),
            (3, "analyst", "account.decided"), (2, "analyst", "account.decided"),
            (1, "stillwatch", "log.opened"),
        ]  # fmt: skip

        def numbers(query: str) -> list[int]:
            return [number for number, *_ in audit_rows(secret.page(f"/desk/audit?{query}"))]

        assert numbers("action=account.decided") == [4, 3, 2]
        assert numbers("actor=second") == [5, 4]
        assert numbers("actor=second&action=account.decided") == [4]
        # What undoes a decision is on its account, though it does not name it.
        assert numbers("account=a0") == [5, 2]
        assert numbers(f"of={to_token('secret')}") == [3]
        assert numbers("account=nobody") == []
        assert "No entry matches" in secret.page("/desk/audit?action=none.such")

    def test_it_is_paged(self, secret: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(audit_page, "PAGE", 2)
        found = [audit_rows(secret.page(f"/desk/audit?page={page}")) for page in range(3)]
        assert [[number for number, *_ in rows] for rows in found] == [[3, 2], [1], []]
        assert "Page 1 of 2" in text_of(secret.page("/desk/audit"))

    def test_the_anchored_head_is_there_to_copy(self, secret: Place) -> None:
        head = str(secret.desk.head())
        page = secret.page("/desk/audit")
        assert f'value="{head}" readonly' in page
        assert "Intact" in page
        secret.decide("a1", "reject")
        answer = secret.post("/desk/audit/verify", head=head)
        assert answer.headers["location"] == "/desk/audit"
        assert "the head given among them" in text_of(secret.page("/desk/audit"))
        forged = f"{'0' * 64}:2"
        secret.post("/desk/audit/verify", head=forged)
        assert "entry 2 must have the hash of the head given" in secret.page("/desk/audit")
        assert secret.post("/desk/audit/verify", head="no head").status_code == 422

    def test_a_change_behind_its_back_is_told(self, secret: Place, tmp_path: Path) -> None:
        assert "Intact" in secret.page("/desk/audit")
        with closing(sqlite3.connect(tmp_path / "desk" / FILE)) as tables, tables:
            tables.execute("UPDATE audit SET content = replace(content, 'a product', 'a harvest')")
        secret.post("/desk/audit/verify")
        page = text_of(secret.page("/desk/audit"))
        assert "Not intact" in page
        assert "entry 3 must have the hash of its content" in page

    def test_what_is_no_entry_stops_nothing(self, secret: Place, tmp_path: Path) -> None:
        with closing(sqlite3.connect(tmp_path / "desk" / FILE)) as tables, tables:
            tables.execute("UPDATE audit SET content = '{no json' WHERE number = 2")
        assert secret.get("/desk/audit").status_code == 503
        assert [n for n, *_ in audit_rows(secret.page("/desk/audit?actor=stillwatch"))] == [1]

    def test_a_long_log_is_checked_when_asked(
        self, secret: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(audit_page, "AT_ONCE", 2)
        assert "not checked since the service started" in text_of(secret.page("/desk/audit"))
        secret.post("/desk/audit/verify")
        secret.decide("a1", "reject")
        page = text_of(secret.page("/desk/audit"))
        assert "Intact" in page
        assert "Since then: 1 more" in page

    def test_hostile_names_and_reasons_are_shown_as_text(self, tmp_path: Path) -> None:
        events = [Event("e1", HARM_ACCOUNT, 1.7e9, "hello")]
        with place(tmp_path, events, offset=3.0) as desk:
            desk.login()
            desk.decide(HARM_ACCOUNT, "reject", "<script>1</script>\u202e")
            page = desk.page(f"/desk/audit?of={to_token(HARM_ACCOUNT)}")
            assert [action for _, _, action in audit_rows(page)] == ["account.decided"]
            assert "<script>1" not in page
            assert "acct<b>" not in page
            assert f'href="/desk/accounts/{to_token(HARM_ACCOUNT)}"' in page
            assert desk.get("/desk/audit?of=!").status_code == 404


class TestExport:
    def test_an_admin_gets_what_training_reads(self, secret: Place, tmp_path: Path) -> None:
        secret.login("admin")
        answer = secret.post("/desk/labels", reason=REASON, typed="export")
        assert answer.status_code == 200, answer.text
        assert "labelled.zip" in answer.headers["content-disposition"]
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert sorted(archive.namelist()) == ["labelled/labels.jsonl", "labelled/log.jsonl.zst"]
            lines = archive.read("labelled/labels.jsonl").splitlines()
        assert [json.loads(line)["account_id"] for line in lines] == ["a0", "secret"]
        (entry,) = secret.desk.entries(limit=1)
        assert (entry.action, entry.actor, entry.fields["reason"]) == (
            "labels.exported", "admin", REASON,
        )  # fmt: skip
        # Nothing of it stays beside the desk.
        assert not list((tmp_path / "desk").glob(".labels-*"))

    @pytest.mark.parametrize(
        ("fields", "status"),
        [({"typed": "export"}, 409), ({"reason": " ", "typed": "export"}, 409),
         ({"reason": REASON}, 409), ({"reason": REASON, "typed": "Exporter"}, 409)],
    )  # fmt: skip
    def test_it_needs_a_reason_and_the_word(
        self, secret: Place, fields: dict[str, str], status: int
    ) -> None:
        secret.login("admin")
        before = secret.desk.head()
        assert secret.post("/desk/labels", **fields).status_code == status
        assert secret.desk.head() == before

    def test_nothing_decided_is_told(self, tmp_path: Path) -> None:
        with place(tmp_path, make_events(2, 3), offset=3.0) as desk:
            desk.login("admin")
            answer = desk.post("/desk/labels", reason=REASON, typed="export")
            assert answer.status_code == 422
            assert "it holds none" in answer.text
            assert not list((tmp_path / "desk").glob(".labels-*"))

    def test_only_an_admin_sees_the_forms(self, secret: Place) -> None:
        path = f"/desk/accounts/{to_token('secret')}"
        for role, seen in (("analyst", False), ("admin", True)):
            secret.login(role)
            assert ('action="/desk/labels"' in secret.page("/desk/model")) == seen
            assert (f'action="{path}/erase"' in secret.page(path)) == seen


class TestErasure:
    def test_nothing_of_an_account_is_left(self, secret: Place, tmp_path: Path) -> None:
        path = f"/desk/accounts/{to_token('secret')}"
        api = {"X-API-Key": KEYS["admin"].key}
        search = secret.post("/desk/search", text=CANARY).headers["location"]
        secret.login("admin")
        assert secret.client.get("/v1/accounts/secret", headers=api).status_code == 200
        answer = erase(secret, "secret")
        assert answer.headers["location"] == path
        assert secret.client.get("/v1/accounts/secret", headers=api).status_code == 404
        page = secret.get(path)
        assert page.status_code == 404
        told = text_of(page.text)
        assert "secret is erased: 3 prompts" in told
        assert "This account was erased" in told
        assert REASON in told
        # What was decided stays.
        assert "rejected" in told
        assert CANARY not in page.text
        assert not traces(tmp_path, {"canary": CANARY.encode()})
        assert secret.get(search).status_code == 404
        assert secret.desk.unfinished_erasures() == []
        assert "secret" not in secret.page("/desk/queue")
        actions = [action for *_, action in audit_rows(secret.page("/desk/audit?account=secret"))]
        assert actions == ["account.erased", "account.erasing", "account.decided"]

    def test_its_templates_go_or_are_listed(self, secret: Place, tmp_path: Path) -> None:
        own = [to_pick("secret", f"s{n}") for n in range(3)]
        other = to_pick("a1", secret.archive.events("a1").events[0].event_id)
        # One prompt, a frame that one of those ticked does not share, and none: the first alone.
        ticked = ((own[:1], "secret"), ([other, *own], "secret"), ([other, own[0]], "a1"))
        made: list[str] = []
        for picks, owner in ticked:
            answer = secret.post("/desk/templates/propose", pick=picks)
            accounts = re.findall(r'name="account" value="([^"]*)"', answer.text)
            assert accounts == [to_token(owner)]
            words = CANARY if owner == "secret" else "others"
            fields = {"text": f"{words} {len(made)} {{slot}}", "intent": "cot_harvesting"}
            path = secret.post("/desk/templates", source="s", account=accounts, **fields)
            made.append(path.headers["location"])
        common = {"text": "words of both {slot}", "intent": "cot_harvesting", "source": "s"}
        both = [to_token("secret"), to_token("a1")]
        made.append(secret.post("/desk/templates", account=both, **common).headers["location"])
        assert "Made of prompts of secret" in text_of(secret.page(made[0]))
        secret.login("admin")
        erase(secret, "secret")
        page = text_of(secret.get(f"/desk/accounts/{to_token('secret')}").text)
        assert "revoked and without their text now: site-1 , site-2 ." in page
        assert "left as they are: site-4 ." in page
        assert not traces(tmp_path, {"canary": CANARY.encode()})
        for path in made[:2]:
            assert "Its text went with the erasure" in secret.page(path)
        assert CANARY not in secret.page("/desk/templates")
        # A form that was open meanwhile brings nothing back.
        late = secret.post("/desk/templates", account=[to_token("secret")], **common)
        assert late.status_code == 409
        typed = secret.post("/desk/templates", **common | {"text": "typed by hand {slot}"})
        assert "not recorded" in secret.page(typed.headers["location"])
        page = text_of(secret.get(f"/desk/accounts/{to_token('secret')}").text)
        assert "Not covered: 1 template of which" in page

    def test_what_comes_later_is_a_new_account(self, secret: Place) -> None:
        secret.login("admin")
        erase(secret, "secret")
        # A late copy of an old prompt is not counted again.
        old = Event("s0", "secret", 1.7e9, f"{CANARY} 0")
        new = Event("s9", "secret", 1.7e9 + 9, "hello again")
        secret.scorer.ingest([old, new])
        secret.archive.flush()
        assert secret.scorer.verdict("secret").events == 1
        page = text_of(secret.page(f"/desk/accounts/{to_token('secret')}"))
        assert "An account of this name was erased" in page
        assert CANARY not in page

    @pytest.mark.parametrize(
        "fields", [{"typed": ""}, {"typed": "secre"}, {"reason": ""}, {"reason": " \n"}]
    )
    def test_it_needs_a_reason_and_the_name(self, secret: Place, fields: dict[str, str]) -> None:
        secret.login("admin")
        before = secret.desk.head()
        assert erase(secret, "secret", **fields).status_code == 409
        assert secret.desk.head() == before
        assert secret.archive.events("secret").total == 3

    def test_an_id_that_means_harm_is_typed_as_it_is_shown(self, tmp_path: Path) -> None:
        with place(tmp_path, [Event("e1", HARM_ACCOUNT, 1.7e9, CANARY)], offset=3.0) as desk:
            desk.login("admin")
            assert erase(desk, HARM_ACCOUNT).status_code == 303
            assert desk.archive.events(HARM_ACCOUNT).total == 0
            assert desk.get(f"/desk/accounts/{to_token(HARM_ACCOUNT)}").status_code == 404

    def test_one_that_takes_long_is_told_of(
        self, secret: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        held, begun = threading.Event(), threading.Event()
        whole = secret.archive.erase

        def slow(account_id: str) -> Any:
            begun.set()
            assert held.wait(20)
            return whole(account_id)

        monkeypatch.setattr(records_forms, "WAITED_S", 0.01)
        monkeypatch.setattr(secret.archive, "erase", slow)
        secret.login("admin")
        try:
            assert erase(secret, "secret").status_code == 303
            assert begun.wait(20)
            page = text_of(secret.page(f"/desk/accounts/{to_token('secret')}"))
            assert "secret is being erased" in page
            assert "This account is being erased" in page
            assert erase(secret, "secret").status_code == 409
        finally:
            held.set()

    def test_one_that_fails_can_be_begun_again(
        self, secret: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(account_id: str) -> Any:
            raise StoreError("the store must answer, however: it does not")

        secret.login("admin")
        with monkeypatch.context() as patch:
            patch.setattr(secret.archive, "erase", fail)
            assert erase(secret, "secret").status_code == 503
        path = f"/desk/accounts/{to_token('secret')}"
        assert "is not finished: erase it again" in text_of(secret.page(path))
        assert erase(secret, "secret").status_code == 303
        assert secret.get(path).status_code == 404

    def test_nobody_is_erased_that_never_was(self, secret: Place) -> None:
        secret.login("admin")
        before = secret.desk.head()
        assert erase(secret, "nobody").status_code == 404
        assert secret.desk.head() == before


def test_a_reload_is_an_entry(tmp_path: Path) -> None:
    api = {"X-API-Key": KEYS["admin"].key}
    with place(tmp_path, make_events(2, 3), offset=3.0, bundle_folder=tmp_path / "next") as desk:
        before = desk.scorer.bundle_id
        new = tiny_bundle(tmp_path / "next" / "one", offset=2.0)
        for _ in range(2):
            answer = desk.client.post("/v1/bundle/reload", json={"path": "one"}, headers=api)
            assert answer.status_code == 200, answer.text
        # The second time it was there already.
        (entry,) = [one for one in desk.desk.entries() if one.action == "bundle.reloaded"]
        assert (entry.actor, entry.fields) == ("admin", {"bundle": new.id, "previous": before})
        # That it cannot be noted keeps no bundle from serving.
        (tmp_path / "desk" / "audit.head").rename(tmp_path / "aside")
        tiny_bundle(tmp_path / "next" / "two", offset=1.0)
        answer = desk.client.post("/v1/bundle/reload", json={"path": "two"}, headers=api)
        assert answer.status_code == 200
        assert answer.json()["previous"] == new.id
