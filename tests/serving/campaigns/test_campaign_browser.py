"""Campaigns in a real browser, by keyboard and without scripts; nothing leaves this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stillwatch.data.events import Event
from stillwatch.serving.archive import ArchiveFeed, PromptArchive
from stillwatch.serving.campaigns import CampaignStore
from stillwatch.serving.campaigns.linking import Linker, Order
from stillwatch.serving.pages.tokens import to_token
from tests.serving.campaigns.campaigns_support import (
    CALIBRATION,
    harmful_stream,
    load_tiny,
    no_templates,
    stream,
)
from tests.serving.pages.pages_support import HARM_ACCOUNT, served
from tests.serving.pages.test_pages_browser import (  # noqa: F401 - browser is a fixture
    LOOKS,
    browser,
    check,
    login,
    opened,
    tab_to,
    unharmed,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow
PICTURES = os.environ.get("STILLWATCH_PICTURES")
"""A folder for pictures of what was checked."""


def found(folder: Path, archive: PromptArchive, account: str) -> str:
    """Look for campaigns beside the service; the id of one that holds an account."""
    feed, store = ArchiveFeed.open(archive.where), CampaignStore.open(folder / "desk")
    try:
        detector = load_tiny(folder / "bundle")
        order = Order(folder / "bundle", detector.bundle_id, CALIBRATION)
        Linker(feed, store, load_tiny, no_templates).look(order)
        return store.of_account(account)[0].campaign_id
    finally:
        store.close()
        feed.close()


def events() -> Sequence[Event]:
    return stream()


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_a_campaign_by_keyboard(
    browser: Browser, tmp_path: Path, width: int, scheme: str  # noqa: F811
) -> None:  # fmt: skip
    size = {"width": width, "height": 800}
    with (
        served(tmp_path, events()) as (address, archive, desk),
        opened(browser, viewport=size, color_scheme=scheme) as page,
    ):
        name = found(tmp_path, archive, "c0")
        keys = page.keyboard
        login(page, address)
        keys.press("g")
        keys.press("c")
        page.wait_for_url("**/desk/campaigns")
        check(page)
        assert page.locator("tr[data-row]").count() == 2
        page.locator(f"a.row-link[href$='{name}']").focus()
        keys.press("Enter")
        page.wait_for_url(f"**/desk/campaigns/{name}")
        assert page.locator("svg.graph circle.account").count() == 12
        assert page.locator("svg.lifelines path").count() == 12
        check(page)
        if PICTURES:
            page.screenshot(path=f"{PICTURES}/campaign-{width}-{scheme}.png", full_page=True)

        # One that does not belong, then all the others.
        row = page.locator(f"tr:has(a[href$='{to_token('c3')}'])")
        row.locator("summary", has_text="Rule").focus()
        keys.press("Enter")
        keys.press("Tab")
        keys.type("a reseller of ours")
        check(page)
        keys.press("Tab")
        tab_to(page, "Take out")
        keys.press("Enter")
        page.wait_for_selector("text=c3 is taken out")
        page.locator("#reason").focus()
        keys.type("one frame, one pace")
        tab_to(page, "Confirm 11 accounts")
        keys.press("Enter")
        page.wait_for_selector("text=/are confirmed|being confirmed/")
        page.goto(f"{address}/desk/campaigns/{name}")
        page.wait_for_selector("text=11 confirmed")
        check(page)
        assert set(desk.all_present()) == {f"c{n}" for n in range(12)} - {"c3"}

        # `c` alone still leads to a decision, not to the list.
        page.goto(f"{address}/desk/accounts/{to_token('c3')}")
        keys.press("c")
        page.wait_for_selector("#reason:focus")


def test_harmful_prompts_do_none(
    browser: Browser, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    with (
        served(tmp_path, harmful_stream()) as (address, archive, _),
        opened(browser, viewport={"width": 1280, "height": 800}) as page,
    ):
        name = found(tmp_path, archive, f"{HARM_ACCOUNT}0")
        login(page, address)
        for path in ("campaigns", f"campaigns/{name}"):
            page.goto(f"{address}/desk/{path}")
            unharmed(page)
        assert page.locator("main mark").count() > 0
        with page.expect_download() as download:
            page.get_by_role("button", name="Accounts, CSV").click()
        content = Path(download.value.path()).read_text(encoding="utf-8-sig")
        assert "\"'=acct" in content
        assert '"=' not in content


def test_campaigns_work_without_scripts(
    browser: Browser, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    with (
        served(tmp_path, events()) as (address, archive, desk),
        opened(browser, java_script_enabled=False) as page,
    ):
        name = found(tmp_path, archive, "d0")
        login(page, address)
        page.get_by_role("link", name="Campaigns").click()
        page.get_by_role("link", name=name).click()
        page.wait_for_url(f"**/desk/campaigns/{name}")
        row = page.locator(f"tr:has(a[href$='{to_token('d2')}'])")
        row.locator("summary", has_text="Rule").click()
        row.locator("input[name=reason]").fill("one song")
        row.get_by_role("button", name="Confirm").click()
        page.wait_for_selector("text=d2 is confirmed")
        row = page.locator(f"tr:has(a[href$='{to_token('d2')}'])")
        row.locator("summary", has_text="Undo").click()
        row.locator("input[name=reason]").first.fill("by mistake")
        row.get_by_role("button", name="Undo").click()
        page.wait_for_selector("text=The ruling on d2 is undone")
        assert desk.present("d2") is None
