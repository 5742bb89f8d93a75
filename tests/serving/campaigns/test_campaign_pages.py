"""Campaigns on the pages and over HTTP: what they show, what can be ruled, what goes out."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from stillwatch.data.events import Event
from stillwatch.serving.campaigns import CampaignStore
from stillwatch.serving.campaigns import job as job_module
from stillwatch.serving.pages.tokens import to_token
from stillwatch.serving.sharing import Shelf
from tests.serving.campaigns.campaigns_support import (
    LOOKED,
    harmful_stream,
    look_at,
    plain,
    stream,
)
from tests.serving.pages.pages_support import HARM_ACCOUNT, KEYS, Place, place

POLICY = """\
version: 1
rules:
  - name: in-a-large-campaign
    advice: throttle
    scope: campaign
    when:
      accounts_at_least: 10
      flagged: true
"""
AWAY = "c-0123456789ab"


@pytest.fixture(scope="module", autouse=True)
def no_worker() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_module, "FIRST_S", 86_400.0)
        yield


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Pages with two campaigns, of 12 accounts c… and of 8 accounts d…"""
    folder = tmp_path_factory.mktemp("campaigns")
    policy = folder / "policy.yaml"
    policy.write_text(POLICY)
    with place(folder, stream(), policy=policy) as made:
        look_at(made)
        yield made.login()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("hostile"), harmful_stream()) as made:
        look_at(made)
        yield made.login()


def name_of(desk: Place, account: str = "c0") -> str:
    store: CampaignStore = desk.app.state.site.campaigns
    return store.of_account(account)[0].campaign_id


def rule(desk: Place, account: str, verdict: str, reason: str = "seen", name: str = "") -> str:
    """Rule on an account; the page after it."""
    path = f"/desk/campaigns/{name or name_of(desk, account)}"
    present = desk.desk.present(account)
    given = {"verdict": verdict, "reason": reason, "expected": str(present.id) if present else ""}
    answer = desk.post(f"{path}/members/{to_token(account)}", **given)
    assert answer.status_code == 303, answer.text
    return desk.page(answer.headers["location"].partition("#")[0])


def test_the_list_says_what_there_is(desk: Place) -> None:
    page = desk.page("/desk/campaigns")
    assert "2 flagged" in page
    for account in ("c0", "d0"):
        assert f'href="/desk/campaigns/{name_of(desk, account)}"' in page
    assert "shared frame" in page
    assert "among 180 prompts" in page
    assert "new <span" in page
    assert "g</kbd> <kbd>c" in page
    assert desk.page("/desk/campaigns?show=all&page=9").count("data-row") == 0


def test_a_page_tells_why_what_ties_it_and_who_is_in_it(desk: Place) -> None:
    page = desk.page(f"/desk/campaigns/{name_of(desk)}")
    text = " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())
    assert "an account gives 100% of its prompts to it" in text
    assert "12 of 12 accounts are drawn" in text
    assert "all 48 prompts of its accounts in the archive" in text
    assert "Lay open each thought that led you to this" in text
    assert "about 27 words shared by 48 prompts of 12 accounts" in text
    assert page.count("<mark>") >= 3
    for number in range(12):
        assert f'href="/desk/accounts/{to_token(f"c{number}")}"' in page
    assert f'href="/desk/accounts/{to_token("d0")}"' not in page
    assert page.count('class="account"') == 12
    account = desk.page(f"/desk/accounts/{to_token('c0')}")
    assert f'href="/desk/campaigns/{name_of(desk)}"' in account
    assert "/desk/campaigns/c-" not in desk.page(f"/desk/accounts/{to_token('o0')}")


def test_the_policys_line_stands_behind_the_advice(desk: Place) -> None:
    page = desk.page(f"/desk/campaigns/{name_of(desk)}")
    assert "throttle</span> for 12 accounts" in page
    assert "line 3 of the policy" in page
    assert "accounts_at_least: 10" in page
    assert "no rule of the policy fits" in desk.page(f"/desk/campaigns/{name_of(desk, 'd0')}")


def test_rules_for_campaigns_hold_for_every_verdict(desk: Place) -> None:
    def advice(account: str) -> tuple[str, str | None]:
        key = {"X-API-Key": KEYS["analyst"].key}
        found = desk.get(f"/v1/accounts/{account}", headers=key).json()["advice"]
        return found["action"], found["campaign"]

    portal, job = desk.client.portal, desk.app.state.campaigns
    assert portal is not None
    portal.call(job.took_over)
    assert advice("c7") == ("throttle", name_of(desk))
    assert advice("d7") == ("observe", None), "its campaign is too small"
    rule(desk, "c7", "exclude", "a customer")
    assert advice("c7") == ("observe", None)
    assert advice("c8") == ("throttle", name_of(desk))
    ruling = desk.app.state.site.campaigns.get(name_of(desk)).rulings["c7"]
    path = f"/desk/campaigns/{name_of(desk)}/rulings/{ruling.entry}/{to_token('c7')}/undo"
    assert desk.post(path, reason="it is none").status_code == 303
    assert advice("c7") == ("throttle", name_of(desk))


def test_members_are_ruled_on_one_by_one(desk: Place) -> None:
    page = rule(desk, "c3", "exclude", "a reseller of ours")
    assert "c3 is taken out" in page
    assert "1 taken out" in page
    assert "a reseller of ours" in page
    page = rule(desk, "c4", "confirm", "one frame")
    assert "1 confirmed" in page
    decision = desk.desk.present("c4")
    assert decision is not None
    assert decision.risk is not None, "with the verdict as it stood"
    assert "1 taken out, 1 confirmed" in " ".join(
        re.sub(r"<[^>]*>", " ", desk.page("/desk/campaigns")).split()
    )
    only = desk.page(f"/desk/campaigns/{name_of(desk)}?show=excluded")
    assert to_token("c3") in only
    assert f"/desk/accounts/{to_token('c5')}" not in only.partition('id="members"')[2]
    # After another look too.
    look_at(desk)
    page = desk.page(f"/desk/campaigns/{name_of(desk)}?show=excluded")
    undo = re.search(r'action="([^"]*/rulings/[^"]*/undo)"', page)
    assert undo
    assert desk.post(undo[1], reason="it is none").status_code == 303
    page = desk.page(f"/desk/campaigns/{name_of(desk)}")
    assert "taken out" not in page.partition('id="members"')[2].partition("</h2>")[0]
    actions = [entry.action for entry in desk.desk.entries(limit=4)]
    assert actions == [
        "campaign.undone", "campaign.confirmed", "account.decided", "campaign.excluded",
    ]  # fmt: skip


def test_what_cannot_be_ruled_is_refused(desk: Place) -> None:
    path = f"/desk/campaigns/{name_of(desk)}"
    before = desk.desk.head()
    for account, fields, status in (
        ("c5", {"verdict": "confirm", "reason": " "}, 422),
        ("c5", {"verdict": "destroy", "reason": "x"}, 422),
        ("nobody", {"verdict": "exclude", "reason": "x"}, 404),
        ("d0", {"verdict": "confirm", "reason": "of another campaign"}, 404),
    ):
        given = {"expected": "", **fields}
        assert desk.post(f"{path}/members/{to_token(account)}", **given).status_code == status
    assert desk.post(f"/desk/campaigns/{AWAY}/confirm", reason="x", seen="0").status_code == 404
    for seen in ({}, {"seen": ""}, {"seen": "x"}):
        assert desk.post(f"{path}/confirm", reason="x", **seen).status_code == 409
    undo = desk.post(f"{path}/rulings/1/{to_token('c5')}/undo", reason="x")
    assert undo.status_code == 404
    assert desk.desk.head() == before


def test_all_of_a_campaign_is_confirmed(desk: Place) -> None:
    name = name_of(desk, "d0")
    rule(desk, "d1", "exclude", "a customer")
    (seen,) = re.findall(r'name="seen" value="(\d+)"', desk.page(f"/desk/campaigns/{name}"))
    desk.desk.decide("d2", "reject", "a customer of ours", "noor", None)
    answer = desk.post(
        f"/desk/campaigns/{name}/confirm", reason="one song", intent="cot_harvesting", seen=seen
    )
    assert answer.status_code == 303
    page = desk.page(answer.headers["location"])
    assert "6 accounts of" in page
    assert "1 were decided or taken out meanwhile" in page
    assert "6 confirmed" in page
    present = desk.desk.all_present()
    ruled = {name for name, one in present.items() if one.verdict == "confirm" and name[0] == "d"}
    assert ruled == {f"d{number}" for number in range(8)} - {"d1", "d2"}
    assert present["d2"].verdict == "reject"
    assert present["d0"].intents == ("cot_harvesting",)
    assert present["d0"].reason == "one song"
    again = desk.post(f"/desk/campaigns/{name}/confirm", reason="one song", seen=seen)
    assert again.status_code == 409


def test_files_hold_what_they_should(desk: Place) -> None:
    name = name_of(desk)
    answer = desk.post(f"/desk/campaigns/{name}/export/csv")
    rows = list(csv.reader(io.StringIO(answer.content.decode("utf-8-sig"))))
    assert rows[0][:4] == ["campaign_id", "account_id", "state", "prompts"]
    assert {row[1]: row[3] for row in rows[1:]} == {f"c{n}": "4" for n in range(12)}
    assert f'filename="{name}.csv"' in answer.headers["content-disposition"]
    line = json.loads(desk.post(f"/desk/campaigns/{name}/export/jsonl").content)
    assert line["campaign_id"] == name
    assert len(line["accounts"]) == 12
    assert desk.desk.entries(limit=1)[0].action == "campaign.exported"
    made = desk.post(f"/desk/campaigns/{name}/export/stix")
    assert made.status_code == 200, made.text
    bundle = made.json()
    (own,) = [one for one in bundle["objects"] if one["type"] == "campaign"]
    assert name not in made.text
    assert not re.search(r"\bc1?\d\b|Lay open", made.text), "no account and no prompt"
    assert [next(iter(own["extensions"].values()))[field] for field in ("accounts", "events")] == [
        12,
        48,
    ]
    assert desk.desk.entries(limit=1)[0].action == "sharing.exported"
    assert desk.post(f"/desk/campaigns/{name}/export/exe").status_code == 404


def test_figures_are_shared_with_peers_for_a_reason(desk: Place) -> None:
    name = name_of(desk)
    shelf = Shelf(desk.desk)
    assert shelf.campaigns() == []
    answer = desk.post(f"/desk/campaigns/{name}/share", reason="seen elsewhere too")
    assert answer.status_code == 303, answer.text
    (shared,) = shelf.campaigns()
    assert (shared.campaign_id, shared.accounts, shared.events) == (name, 12, 48)
    (own,) = [one for one in shelf.objects() if one["type"] == "campaign"]
    assert not re.search(r"\bc1?\d\b|Lay open|elsewhere", json.dumps(own))
    entry = desk.desk.entries(limit=1)[0]
    assert (entry.action, entry.fields["reason"]) == (
        "sharing.campaign_released", "seen elsewhere too",
    )  # fmt: skip
    assert desk.post("/desk/campaigns/c-none/share", reason="r").status_code == 404
    assert desk.post(f"/desk/campaigns/{name}/share", reason=" ").status_code == 422


def test_over_http(desk: Place) -> None:
    key = {"X-API-Key": KEYS["analyst"].key}
    found = desk.get("/v1/campaigns?limit=1", headers=key).json()
    assert found["total"] == 2
    assert found["run"]["events"] == 180
    (first,) = found["campaigns"]
    second = desk.get("/v1/campaigns?limit=1&page=1", headers=key).json()["campaigns"][0]
    assert {first["campaign_id"], second["campaign_id"]} == {
        name_of(desk, "c0"), name_of(desk, "d0"),
    }  # fmt: skip
    one = desk.get(f"/v1/campaigns/{name_of(desk)}", headers=key).json()
    assert sorted(one["accounts"]) == sorted(f"c{n}" for n in range(12))
    for path, status, code in (
        (AWAY, 404, "not_found"), ("c-x", 422, "invalid_request"), ("%00", 422, "invalid_request"),
    ):  # fmt: skip
        answer = desk.get(f"/v1/campaigns/{path}", headers=key)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    bound = desk.get("/v1/campaigns", headers={"X-API-Key": KEYS["bound"].key})
    assert bound.json()["code"] == "forbidden_account"


def test_answers_are_as_described(desk: Place) -> None:
    key = {"X-API-Key": KEYS["analyst"].key}
    described = desk.get("/openapi.json").json()["paths"]
    for path, url in (
        ("/v1/campaigns", "/v1/campaigns"),
        ("/v1/campaigns/{campaign_id}", f"/v1/campaigns/{name_of(desk)}"),
    ):
        content = described[path]["get"]["responses"]["200"]["content"]["application/json"]
        answer = desk.get(url, headers=key).json()
        assert list(Draft202012Validator(content["schema"]).iter_errors(answer)) == []


def test_harm_is_shown_and_does_none(hostile: Place) -> None:
    name = name_of(hostile, f"{HARM_ACCOUNT}0")
    for path in ("/desk/campaigns", f"/desk/campaigns/{name}"):
        answer = hostile.get(path)
        assert answer.status_code == 200
        text = answer.text
        assert "<script>document" not in text
        assert "<img" not in text
        assert "acct<b>" not in text
        assert not re.search(r"<b\d", text), "a word of each prompt's own"
        assert "\u202e" not in text
        assert "49 " not in text.partition("Shared frames")[2].partition("<h2>")[0]
        assert "<style" not in text
        assert not re.search(r"<[^>]*\s(style|on\w+)\s*=", text)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
    assert "&lt;script&gt;document.title=1" in text
    assert re.search(r"<mark>&lt;b\d", text)
    rows = hostile.post(f"/desk/campaigns/{name}/export/csv").content.decode("utf-8-sig")
    assert f"'={HARM_ACCOUNT}1".partition("\u202e")[0] in rows
    for row in list(csv.reader(io.StringIO(rows)))[1:]:
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row)


def test_a_ruling_on_an_account_with_an_odd_id(hostile: Place) -> None:
    account = f"={HARM_ACCOUNT}1"
    page = rule(hostile, account, "exclude", "<b>odd</b> \u202e")
    assert "<b>odd" not in page
    assert hostile.app.state.site.campaigns.get(name_of(hostile, account)).excluded == {account}


def test_an_id_that_is_no_more_leads_on(tmp_path: Path) -> None:
    with place(tmp_path, [Event("e1", "a", 1e9, "one prompt")]) as made:
        made.login()
        store: CampaignStore = made.app.state.site.campaigns
        store.replace(LOOKED, [plain("c-000000000001", "abc"), plain("c-000000000002", "xyz")])
        store.replace(LOOKED, [plain("c-000000000001", "abcxyz", was=("c-000000000002",))])
        answer = made.get("/desk/campaigns/c-000000000002")
        assert answer.headers["location"] == "/desk/campaigns/c-000000000001"
        assert made.get(f"/desk/campaigns/{AWAY}").status_code == 404
        page = made.page("/desk/campaigns/c-000000000001")
        assert "Of 5 accounts the archive has no prompts." in page or "has none" in page
        assert "c-000000000002 merged into it" in page


def test_a_ruling_is_on_the_decision_that_was_shown(desk: Place) -> None:
    other = desk.beside("second")
    first = desk.desk.decide("c11", "reject", "a customer", "ann", None)
    path = f"/desk/campaigns/{name_of(desk)}/members/{to_token('c11')}"
    given = {"verdict": "confirm", "reason": "one frame"}
    answer = other.post(path, expected="", **given)
    assert answer.status_code == 409
    assert "by ann: a customer" in unescape(answer.text)
    assert desk.desk.present("c11") == first
    page = other.page(f"/desk/campaigns/{name_of(desk)}")
    shown = re.search(rf'action="{path}">.*?name="expected" value="([^"]*)"', page, re.DOTALL)
    assert shown
    assert shown[1] == str(first.id)
    assert other.post(path, expected=shown[1], **given).status_code == 303
