"""An analyst's morning in a real browser, by keyboard; nothing leaves this machine."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from stillwatch.data.events import Event
from stillwatch.serving.pages.tokens import to_token
from tests.serving.pages.pages_support import HARM_ACCOUNT, KEYS, harmful_events, served
from tests.support import make_events

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page

CHROMIUM = Path("/usr/bin/chromium")
AXE = Path(__file__).parent / "axe" / "axe-4.14.1.min.js"
LOOKS = [
    pytest.param(width, scheme, id=f"{width}-{scheme}")
    for width in (1280, 390)
    for scheme in ("light", "dark")
]

MISSING = "Failed to load resource: the server responded with a status of 404 (Not Found)"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.is_file():
        pytest.skip("Chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--headless", "--no-sandbox"]
        )
        yield found
        found.close()


def morning_events() -> list[Event]:
    """Accounts of today, one of which asks under a frame."""
    now = time.time() - 7200
    frame = "Please write down every step that you took, in order, before you answer:"
    asked = ("why is it cold", "who was first", "what is seven", "where is north")
    own = [
        Event(f"f{n}", "framed", now + 60 * n, f"{frame} {words}") for n, words in enumerate(asked)
    ]
    return [*make_events(5, 8), *own]


@contextmanager
def opened(browser: Browser, missing: int = 0, **options: Any) -> Iterator[Page]:
    """A page that must ask nothing of other machines and complain of nothing, but that `missing`
    of what it asked for is not there."""
    context = browser.new_context(accept_downloads=True, **options)
    page = context.new_page()
    asked: list[str] = []
    complaints: list[str] = []

    def note(line: ConsoleMessage) -> None:
        if line.type in ("error", "warning"):
            complaints.append(line.text)

    def refuse(dialog: Dialog) -> None:
        complaints.append("a dialog")
        dialog.dismiss()

    page.on("request", lambda request: asked.append(request.url))
    page.on("console", note)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", refuse)
    try:
        yield page
        assert {urlsplit(url).hostname for url in asked if not url.startswith("data:")} == {
            "127.0.0.1"
        }
        assert complaints == [MISSING] * missing
    finally:
        context.close()


def login(page: Page, address: str, role: str = "analyst") -> None:
    page.goto(f"{address}/desk")
    page.wait_for_selector("#key:focus")
    page.keyboard.type(KEYS[role].key)
    page.keyboard.press("Enter")
    page.wait_for_url("**/desk/queue")


def check(page: Page) -> None:
    """No violation of WCAG 2 A and AA that axe finds, and nothing wider than the screen."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate(
        "axe.run(document, {preload: false, runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa']})"
        ".then(r => r.violations.map(v => [v.id, v.impact, v.nodes.map(n => n.html).slice(0, 3),"
        " v.nodes.map(n => n.failureSummary)[0]]))"
    )
    assert found == [], json.dumps(found, indent=1)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def tab_to(page: Page, name: str) -> None:
    """Press Tab until what has this text or label is focused."""
    for _ in range(150):
        page.keyboard.press("Tab")
        told = page.evaluate(
            "document.activeElement.getAttribute('aria-label') ?? document.activeElement.innerText"
        )
        if (told or "").strip().startswith(name):
            return
    raise AssertionError(f"{name} cannot be reached by Tab")


def names(page: Page) -> list[str]:
    return page.locator(".queue .row-link").all_inner_texts()


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_a_morning_by_keyboard(browser: Browser, tmp_path: Path, width: int, scheme: str) -> None:
    size = {"width": width, "height": 800}
    with (
        served(tmp_path, morning_events(), offset=3.0) as (address, _, desk),
        opened(browser, viewport=size, color_scheme=scheme) as page,
    ):
        keys = page.keyboard
        page.goto(f"{address}/desk")
        check(page)
        login(page, address)
        check(page)
        everyone = names(page)
        assert len(everyone) == 6

        # The queue, by account.
        keys.press("/")
        keys.type("framed")
        page.wait_for_selector(".queue tbody:not(:has([data-row] ~ [data-row]))")
        keys.press("Escape")

        # Why is it flagged?
        keys.press("j")
        keys.press("Enter")
        page.wait_for_url("**/desk/accounts/*")
        page.wait_for_selector(".chart canvas")
        assert page.locator("article.evidence mark").count() > 0
        check(page)

        # Who else asked this? From the first of the evidence.
        keys.press("j")
        keys.press("Tab")
        keys.press("Enter")
        page.wait_for_url("**/desk/search/*")
        assert page.get_by_text("Like this prompt of").is_visible()
        check(page)
        tab_to(page, "Prompts")
        keys.press("Enter")
        page.wait_for_url("**view=prompts")

        # Three of these to a template.
        for _ in range(3):
            keys.press("j")
            keys.press("x")
        assert page.locator("input[name=pick]:checked").count() == 3
        check(page)
        tab_to(page, "To a template")
        keys.press("Enter")
        page.wait_for_url("**/desk/templates/propose")
        assert "{slot}" in page.locator("#text").input_value()
        check(page)
        tab_to(page, "Put into quarantine")
        keys.press("Enter")
        page.wait_for_url("**/desk/templates/site-1")
        tab_to(page, "Replay now")
        keys.press("Enter")
        page.wait_for_selector("text=prompts of accounts neither flagged nor confirmed")
        check(page)

        # Decisions, each with a reason, from the queue.
        keys.press("g")
        keys.press("q")
        page.wait_for_url("**/desk/queue")
        first, second = names(page)[:2]
        keys.press("j")
        keys.press("c")
        page.wait_for_selector("dialog[open]")
        check(page)
        keys.type("one suffix in every prompt")
        keys.press("Enter")
        page.wait_for_selector(f"text={first} is confirmed")
        assert first not in names(page)
        keys.press("j")
        keys.press("r")
        keys.type("a product of theirs")
        keys.press("Enter")
        page.wait_for_selector(f"text={second} is rejected")
        check(page)
        keys.press("u")
        page.wait_for_selector(f"text=The decision on {second} is undone")
        decided = {one.account_id: one for one in desk.decisions()}
        assert decided[first].verdict == "confirm"
        assert decided[first].reason == "one suffix in every prompt"
        assert decided[second].undone is not None

        # On the account's own page the keys lead to the reason first.
        keys.press("c")
        keys.type("seen again")
        keys.press("Escape")
        keys.press("r")
        page.wait_for_selector(f"text={second} is rejected")

        # A search, and what it found as a file.
        keys.press("g")
        keys.press("s")
        page.wait_for_url("**/desk/search")
        check(page)
        keys.type("write down every step before you answer")
        keys.press("Control+Enter")
        page.wait_for_url("**/desk/search/*")
        tab_to(page, "Prompts")
        keys.press("Enter")
        page.wait_for_url("**view=prompts")
        keys.press("j")
        keys.press("x")
        tab_to(page, "CSV")
        with page.expect_download() as download:
            keys.press("Enter")
        content = Path(download.value.path()).read_text(encoding="utf-8-sig")
        assert "write down every step" in content

        # The same search as a map, and from it to a decision on several accounts.
        page.get_by_role("link", name="Map", exact=True).click()
        page.wait_for_selector("svg circle")
        check(page)
        page.locator("[data-all]").click()
        page.get_by_role("button", name="Decide on their accounts").click()
        page.wait_for_url("**/selected/accounts")
        check(page)

        for key, path in (("t", "templates"), ("m", "model"), ("a", "audit")):
            keys.press("g")
            keys.press(key)
            page.wait_for_url(f"**/desk/{path}")
            check(page)
        for path in (f"events/{to_token('framed')}/{to_token('f1')}", "templates/new"):
            page.goto(f"{address}/desk/{path}")
            check(page)


def test_prompts_that_mean_harm_do_none(browser: Browser, tmp_path: Path) -> None:
    token = to_token(HARM_ACCOUNT)
    with (
        served(tmp_path, [*make_events(3, 4), *harmful_events()], offset=3.0) as (address, *_),
        opened(browser, viewport={"width": 1280, "height": 800}) as page,
    ):
        login(page, address)
        paths = ["queue", f"accounts/{token}", "templates", "model", f"audit?of={token}"]
        paths += [f"events/{token}/{to_token(event.event_id)}" for event in harmful_events()]
        for path in paths:
            started = time.monotonic()
            page.goto(f"{address}/desk/{path}", wait_until="load")
            assert time.monotonic() - started < 8
            unharmed(page)
        for event in harmful_events()[3:5]:
            page.goto(f"{address}/desk/search")
            page.fill("#text", event.prompt)
            page.get_by_role("button", name="Search").click()
            page.wait_for_url("**/desk/search/*")
            assert page.locator("#text").input_value() == event.prompt
            for view in ("Prompts", "Map"):
                page.get_by_role("link", name=view, exact=True).click()
                page.wait_for_load_state()
                unharmed(page)
        page.locator("[data-all]").click()
        page.get_by_role("button", name="Decide on their accounts").click()
        page.wait_for_url("**/selected/accounts")
        unharmed(page)


def unharmed(page: Page) -> None:
    """Nothing that a prompt brought has become a part of the page."""
    assert page.title().endswith("· Stillwatch")
    assert page.locator("img, main script, iframe, object").count() == 0
    # Each prompt has a direction of its own: what stands beside it keeps its place.
    loose = page.evaluate(
        "[...document.querySelectorAll('.excerpt, .prompt, .words')]"
        ".filter(e => e.textContent.trim() && !e.querySelector('bdi') && !e.querySelector('code'))"
        ".length"
    )
    assert loose == 0


def test_a_line_drawn_around_points_ticks_them(browser: Browser, tmp_path: Path) -> None:
    with (
        served(tmp_path, offset=3.0) as (address, *_),
        opened(browser, viewport={"width": 1280, "height": 900}) as page,
    ):
        login(page, address)
        page.goto(f"{address}/desk/search")
        page.fill("#text", "word1 word2 word3")
        page.get_by_role("button", name="Search").click()
        page.get_by_role("link", name="Map", exact=True).click()
        page.wait_for_selector("svg circle")
        points = page.locator("svg circle").count()
        box = page.locator("[data-plot] svg").bounding_box()
        assert box is not None
        left, top, right = box["x"] + 2, box["y"] + 2, box["x"] + box["width"] / 2
        bottom = box["y"] + box["height"] - 2
        page.mouse.move(left, top)
        page.mouse.down()
        for x, y in ((right, top), (right, bottom), (left, bottom), (left, top)):
            page.mouse.move(x, y, steps=4)
        page.mouse.up()
        inside = page.locator("tr[data-x]").evaluate_all(
            "rows => rows.filter(r => r.querySelector('input').checked).map(r => +r.dataset.x)"
        )
        assert 0 < len(inside) < points
        assert max(inside) <= 0.51
        assert page.locator("circle.ticked").count() == len(inside)
        assert page.locator("[data-count]").inner_text() == f"{len(inside)} ticked:"
        page.locator("[data-colour]").select_option("intent")
        classes = page.locator("svg circle").evaluate_all(
            "all => all.map(c => c.className.baseVal)"
        )
        assert all(re.match(r"colour-[0-3]", name) for name in classes)
        check(page)


def test_pages_work_without_scripts(browser: Browser, tmp_path: Path) -> None:
    with (
        served(tmp_path, offset=3.0) as (address, _, desk),
        opened(browser, java_script_enabled=False) as page,
    ):
        login(page, address)
        page.locator("select[name=order]").select_option("changed")
        page.get_by_role("button", name="Apply").click()
        page.wait_for_url("**order=changed*")
        page.locator(".row-link").first.click()
        page.fill("#reason", "seen")
        page.get_by_role("button", name="Reject").click()
        page.wait_for_selector("text=is rejected")
        page.locator(".notice button").click()
        page.wait_for_selector("text=is undone")
        assert desk.decisions()[0].undone is not None
        page.goto(f"{address}/desk/search")
        page.fill("#text", "word1")
        page.get_by_role("button", name="Search").click()
        page.wait_for_url("**/desk/search/*")
        page.get_by_role("link", name="Map", exact=True).click()
        assert page.locator("input[name=pick]").count() > 0


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_records_by_keyboard(browser: Browser, tmp_path: Path, width: int, scheme: str) -> None:
    size = {"width": width, "height": 800}
    with (
        served(tmp_path, morning_events(), offset=3.0) as (address, archive, desk),
        opened(browser, missing=1, viewport=size, color_scheme=scheme) as page,
    ):
        keys = page.keyboard
        login(page, address, "admin")
        desk.decide("a1", "reject", "<b>a product</b>", "ann", None)
        desk.decide("a2", "reject", "another", "bob", None)

        # Who decided what, and that nothing was changed since.
        keys.press("g")
        keys.press("a")
        page.wait_for_url("**/desk/audit")
        assert page.get_by_text("Intact").is_visible()
        assert page.locator("tr[data-row]").count() == 3
        check(page)
        page.locator("select[name=action]").select_option("account.decided")
        page.locator("tr[data-row]").nth(2).wait_for(state="detached")
        assert page.locator("tr[data-row]").count() == 2
        assert page.get_by_text("<b>a product</b>").is_visible()
        page.context.grant_permissions(["clipboard-write"])
        page.locator("[data-copy]").click()
        page.wait_for_selector("text=Copied.")
        assert page.locator("#head").input_value() == str(desk.anchored())
        check(page)

        # Labels as a file.
        page.goto(f"{address}/desk/model")
        page.get_by_text("Export labels").click()
        check(page)
        form = page.locator("form[action='/desk/labels']")
        form.locator("[name=reason]").fill("the next training")
        form.locator("[name=typed]").fill("export")
        with page.expect_download() as download:
            keys.press("Enter")
        assert download.value.suggested_filename == "labelled.zip"
        assert desk.entries(limit=1)[0].fields["reason"] == "the next training"

        # An erasure, which has to be typed.
        path = f"{address}/desk/accounts/{to_token('framed')}"
        page.goto(path)
        page.get_by_text("Erase this account").click()
        check(page)
        form = page.locator("form[action$='/erase']")
        form.locator("[name=reason]").fill("asked for")
        form.locator("[name=typed]").fill("framed")
        keys.press("Enter")
        page.wait_for_selector("text=This account was erased")
        assert archive.events("framed").total == 0
        check(page)
