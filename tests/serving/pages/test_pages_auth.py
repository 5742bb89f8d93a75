"""Who may see and do what on the pages: every route with every role, sessions, forms, headers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fastapi.routing import iter_route_contexts

from stillwatch.serving.http.auth import Caller
from stillwatch.serving.pages.sessions import IDLE_S, LONGEST_S, MAX_SESSIONS, Sessions
from stillwatch.serving.pages.tokens import from_token, to_token
from tests.serving.pages.pages_support import HARM_ACCOUNT, KEYS, Place, csrf_of, place

EVERYONE = frozenset({"none", "wrong", "scorer", "analyst", "admin"})
READERS = frozenset({"analyst", "admin"})
ADMIN = frozenset({"admin"})

MATRIX = {
    ("GET", "/desk"): EVERYONE,
    ("GET", "/desk/assets/{name}"): EVERYONE,
    ("GET", "/desk/login"): EVERYONE,
    ("POST", "/desk/login"): EVERYONE,
    ("POST", "/desk/logout"): READERS,
    ("GET", "/desk/queue"): READERS,
    ("GET", "/desk/campaigns"): READERS,
    ("GET", "/desk/campaigns/{campaign_id}"): READERS,
    ("POST", "/desk/campaigns/{campaign_id}/confirm"): READERS,
    ("POST", "/desk/campaigns/{campaign_id}/members/{token}"): READERS,
    ("POST", "/desk/campaigns/{campaign_id}/rulings/{number}/{token}/undo"): READERS,
    ("POST", "/desk/campaigns/{campaign_id}/share"): READERS,
    ("POST", "/desk/campaigns/{campaign_id}/export/{kind}"): READERS,
    ("GET", "/desk/account"): READERS,
    ("GET", "/desk/accounts/{token}"): READERS,
    ("POST", "/desk/accounts/{token}/decide"): READERS,
    ("POST", "/desk/decide"): READERS,
    ("POST", "/desk/decisions/{number}/undo"): READERS,
    ("GET", "/desk/events/{account}/{event}"): READERS,
    ("GET", "/desk/search"): READERS,
    ("POST", "/desk/search"): READERS,
    ("GET", "/desk/search/{name}"): READERS,
    ("POST", "/desk/selection/{kind}"): READERS,
    ("POST", "/desk/selected/accounts"): READERS,
    ("GET", "/desk/templates"): READERS,
    ("GET", "/desk/templates/new"): READERS,
    ("POST", "/desk/templates/propose"): READERS,
    ("POST", "/desk/templates"): READERS,
    ("GET", "/desk/templates/{name}"): READERS,
    ("POST", "/desk/templates/{name}/replay"): READERS,
    ("POST", "/desk/templates/{name}/approve"): READERS,
    ("POST", "/desk/templates/{name}/revoke"): READERS,
    ("POST", "/desk/sources/revoke"): ADMIN,
    ("GET", "/desk/model"): READERS,
    ("GET", "/desk/model/report"): READERS,
    ("GET", "/desk/audit"): READERS,
    ("POST", "/desk/audit/verify"): READERS,
    ("POST", "/desk/labels"): ADMIN,
    ("POST", "/desk/accounts/{token}/erase"): ADMIN,
}
"""Who may call each route. A new route needs a line here."""
VALUES = {"token": to_token("a0"), "account": to_token("a0"), "event": to_token("e0"),
          "name": "T0", "number": "1", "kind": "csv",
          "campaign_id": "c-000000000001"}  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    with place(tmp_path_factory.mktemp("matrix"), offset=3.0) as made:
        yield made


def test_the_matrix_knows_every_route(shared: Place) -> None:
    found = set()
    for context in iter_route_contexts(shared.app.routes):
        assert context.path is not None
        if context.path.startswith("/desk"):
            found |= {(method, context.path) for method in context.methods or ()}
    assert found == set(MATRIX)


@pytest.mark.parametrize("role", sorted(EVERYONE))
@pytest.mark.parametrize(("method", "path"), sorted(MATRIX))
def test_a_route_serves_only_its_roles(shared: Place, method: str, path: str, role: str) -> None:
    url = re.sub(r"{(\w+)}", lambda found: VALUES[found[1]], path)
    if role in ("analyst", "admin"):
        shared.login(role)
    else:
        shared.client.cookies.clear()
        shared.csrf = "x"
    if role == "wrong":
        # A key in a header is no session, nor is a cookie that nobody was given.
        shared.client.cookies.set("stillwatch", "x" * 43)
    headers = {"Authorization": f"Bearer {KEYS['admin'].key}"} if role == "wrong" else {}
    if role == "scorer":
        # Such a key cannot log in: this is a session whose key has changed its role.
        site = shared.app.state.site
        value = site.sessions.begin(Caller("gateway", "scorer"))
        shared.csrf = site.sessions.find(value).csrf
        shared.client.cookies.set("stillwatch", value)
    data = {"csrf": shared.csrf} if method == "POST" else None
    answer = shared.client.request(method, url, data=data, headers=headers, follow_redirects=False)
    if path == "/desk/login" and method == "POST":
        assert answer.status_code == 403, "this form has no token of its page"
    elif role in MATRIX[method, path]:
        assert answer.status_code not in (401, 403), answer.text
        assert answer.headers.get("location") != "/desk/login" or path == "/desk/logout"
    elif role in ("none", "wrong"):
        assert answer.status_code == (303 if method == "GET" else 401)
        if method == "GET":
            assert answer.headers["location"] == "/desk/login"
    else:
        assert answer.status_code == 403
        assert "role must be" in answer.text


@pytest.mark.parametrize(("method", "path"), sorted(key for key in MATRIX if key[0] == "POST"))
def test_a_post_needs_its_sessions_token(shared: Place, method: str, path: str) -> None:
    shared.login("admin")
    before = shared.desk.head()
    url = re.sub(r"{(\w+)}", lambda found: VALUES[found[1]], path)
    for token in ("", "x", shared.csrf[:-1], "ä" * 32):
        assert shared.post(url, csrf=token).status_code == 403
    assert shared.client.post(url, data={"x": "1"}).status_code == 403
    # A page of another site would not have the token, and tells so of itself.
    for site in ("cross-site", "same-site"):
        answer = shared.client.post(
            url, data={"csrf": shared.csrf}, headers={"Sec-Fetch-Site": site}
        )
        assert answer.status_code == 403
    json = shared.client.post(url, json={"csrf": shared.csrf})
    assert json.status_code == 415
    assert shared.desk.head() == before


def test_one_sessions_token_is_no_others(shared: Place) -> None:
    other = shared.login("second").csrf
    shared.login("analyst")
    assert shared.post("/desk/logout", csrf=other).status_code == 403


@pytest.mark.parametrize(
    ("key", "status"),
    [
        ("scorer", 403),
        ("bound", 403),
        ("analyst", 303),
        ("admin", 303),
        ("", 401),
        ("sw_nobody", 401),
    ],
)
def test_who_may_log_in(shared: Place, key: str, status: int) -> None:
    shared.client.cookies.clear()
    csrf = csrf_of(shared.get("/desk/login").text)
    given = KEYS[key].key if key in KEYS else key
    answer = shared.post("/desk/login", csrf=csrf, key=given)
    assert answer.status_code == status
    if status != 303:
        assert given == "" or given not in answer.text
        assert shared.get("/desk/queue").headers["location"] == "/desk/login"


def test_nobody_is_logged_in_by_another_site(shared: Place) -> None:
    shared.client.cookies.clear()
    csrf = csrf_of(shared.get("/desk/login").text)
    shared.client.cookies.clear()
    # The form without the cookie of its page.
    assert shared.post("/desk/login", csrf=csrf, key=KEYS["admin"].key).status_code == 403


@pytest.mark.parametrize(
    ("host", "secure", "wanted"),
    [("127.0.0.1", None, False), ("0.0.0.0", None, True), ("127.0.0.1", True, True)],
)
def test_the_cookie_is_kept_from_scripts_and_other_sites(
    tmp_path: Path, host: str, secure: bool | None, wanted: bool
) -> None:
    with place(tmp_path, [], host=host, desk_secure_cookies=secure) as made:
        made.client.base_url = "https://desk.example" if wanted else "http://127.0.0.1"
        csrf = csrf_of(made.get("/desk/login").text)
        answer = made.post("/desk/login", csrf=csrf, key=KEYS["analyst"].key)
        cookie = answer.headers["set-cookie"].split("stillwatch=")[1].split(", ")[0]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert "Path=/" in cookie
        assert ("Secure" in cookie) == wanted
        assert "__Host-stillwatch=" in answer.headers["set-cookie"] or not wanted
        assert "Max-Age" not in cookie, "it ends with the browser"


def test_logging_out_ends_the_session_for_good(shared: Place) -> None:
    shared.login()
    cookie = shared.client.cookies["stillwatch"]
    assert shared.post("/desk/logout").headers["location"] == "/desk/login"
    shared.client.cookies.set("stillwatch", cookie)
    assert shared.get("/desk/queue").headers["location"] == "/desk/login"


def test_a_login_is_a_new_session(shared: Place) -> None:
    shared.login()
    first = shared.client.cookies["stillwatch"]
    csrf = csrf_of(shared.client.get("/desk/queue").text)
    shared.login()
    assert shared.client.cookies["stillwatch"] != first
    assert csrf_of(shared.page("/desk/queue")) != csrf


def test_sessions_end_by_themselves() -> None:
    now = 0.0
    sessions = Sessions(lambda: now)
    caller = Caller("mara", "analyst")
    idle, busy = sessions.begin(caller), sessions.begin(caller)
    while now <= LONGEST_S:
        assert sessions.find(busy) is not None
        now += IDLE_S / 2
    assert sessions.find(idle) is None
    assert sessions.find(busy) is None
    first = sessions.begin(caller)
    for _ in range(MAX_SESSIONS):
        sessions.begin(caller)
    assert sessions.find(first) is None


def test_every_answer_is_kept_to_itself(shared: Place) -> None:
    shared.login()
    for path in (
        "/desk/queue",
        "/desk/assets/desk.js",
        "/desk/search/gone",
        "/desk",
        "/desk/model",
    ):
        answer = shared.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert "no-store" in answer.headers["cache-control"]


def test_no_page_has_a_script_or_style_in_it(shared: Place) -> None:
    shared.login("admin")
    pages = ["queue", "search", "templates", "templates/new", "templates/T0", "model",
             f"accounts/{to_token('a0')}", f"events/{to_token('a0')}/{to_token('e0')}"]  # fmt: skip
    for path in pages:
        text = shared.page(f"/desk/{path}")
        assert "<style" not in text
        assert not re.search(r"<[^>]*\s(style|on\w+)\s*=", text)
        assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", text))
        assert not re.search(r"(src|href|action)=\"(https?:)?//", text)


def test_without_keys_only_this_machines_names_open_the_pages(tmp_path: Path) -> None:
    with place(tmp_path, [], auth="off", keys=()) as made:
        csrf = csrf_of(made.get("/desk/login").text)
        assert made.get("/desk/login", headers={"Host": "evil.example"}).status_code == 403
        assert made.post("/desk/login", csrf=csrf).status_code == 303
        assert made.get("/desk/queue", headers={"Host": "evil.example:8080"}).status_code == 403
        assert made.get("/desk/queue", headers={"Host": "localhost:8080"}).status_code == 200


def test_without_a_desk_there_are_no_pages(tmp_path: Path) -> None:
    from tests.serving.http.http_support import ScriptedScorer, client_of, settings_in

    with client_of(settings_in(tmp_path), ScriptedScorer()) as client:
        assert client.get("/desk/login").status_code == 404


@pytest.mark.parametrize("identity", ["a0", HARM_ACCOUNT, "ä/%2e%2e\n", "\udc80", "=" * 256])
def test_a_token_stands_for_any_id(identity: str) -> None:
    token = to_token(identity)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", token)
    assert from_token(token) == identity


@pytest.mark.parametrize("token", ["a", "a0==", "ä", "a b", "_" * 2000, "/w"])
def test_what_is_no_token_is_no_id(token: str) -> None:
    with pytest.raises(KeyError):
        from_token(token)
