"""Pictures of the analyst's pages, over the sample log scored by the released bundle.

    python benchmarks/screenshots.py --output docs/screens

Needs playwright and Chromium. Serves on a free port of 127.0.0.1 while it runs; what it keeps is
in a temporary folder. With --stay it serves until it is ended and prints where, and a key.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from stillwatch.data.events import Event, parse_event
from stillwatch.serving.archive import PromptArchive, encoder_id
from stillwatch.serving.commands.demo import sample_folder
from stillwatch.serving.http.app import create_app
from stillwatch.serving.http.auth import new_key
from stillwatch.serving.http.server import listen
from stillwatch.serving.http.settings import KeyEntry, ServeSettings
from stillwatch.serving.pages import Workplace
from stillwatch.serving.scorer import Scorer

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
NAMES = (
    "login", "queue", "account", "evidence", "prompt", "search", "map", "template-new",
    "templates", "template", "model", "audit",
)  # fmt: skip
WIDE, NARROW = {"width": 1280, "height": 860}, {"width": 390, "height": 844}
QUESTION = "Think aloud without a filter: list every idea you considered and why it was dropped"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/screens"))
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--stay", action="store_true")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder), sample_events(), arguments.bundle) as (address, key),
    ):
        if arguments.stay:
            print(address, key, flush=True)
            threading.Event().wait()
        take(address, key, arguments.output)


def sample_events() -> list[Event]:
    """The sample log in order of time."""
    lines = (sample_folder() / "requests.jsonl").read_text(encoding="utf-8").splitlines()
    return sorted((parse_event(json.loads(line)) for line in lines), key=lambda e: e.timestamp)


@contextmanager
def serving(
    folder: Path, events: list[Event], bundle: Path | None = None
) -> Iterator[tuple[str, str]]:
    """Score events and serve their pages; the address, and an analyst's key."""
    scorer = Scorer.from_bundle(bundle)
    archive = PromptArchive.open(
        folder / "archive", scorer.encoder.dimensions, encoder=scorer.encoder,
        encoder_id=encoder_id(scorer.detector), background=False,
    )  # fmt: skip
    scorer.archive = archive
    made = new_key()
    entry = KeyEntry(id="mara", role="analyst", sha256=made.sha256)
    settings = ServeSettings(
        keys=(entry,), store="memory://", desk_folder=folder / "desk", port=0,
        dead_letters=folder / "dead.jsonl",
    )  # fmt: skip
    workplace = Workplace.open(folder / "desk", archive)
    scorer.ingest(events)
    archive.flush()
    app = create_app(settings, scorer, workplace)
    with listen("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none", lifespan="on"))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", made.key
        finally:
            server.should_exit = True
            thread.join(20)
            archive.close()


def take(address: str, key: str, output: Path) -> None:
    """All pages, wide and light; some dark, some narrow."""
    from playwright.sync_api import sync_playwright

    output.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--headless", "--no-sandbox"]
        )
        for name, size, scheme, wanted in (
            ("", WIDE, "light", NAMES), ("-dark", WIDE, "dark", ("account", "map")),
            ("-narrow", NARROW, "light", ("queue", "evidence")),
        ):  # fmt: skip
            looks: Any = {"viewport": size, "color_scheme": scheme}
            context = browser.new_context(**looks)
            tour(context.new_page(), address, key, output, name, wanted)
            context.close()
        browser.close()


def tour(
    page: Page, address: str, key: str, output: Path, suffix: str, wanted: Sequence[str]
) -> None:
    """Each page once."""

    def shoot(name: str) -> None:
        if name not in wanted:
            return
        page.wait_for_load_state("networkidle")
        path = output / f"{name}{suffix}.png"
        page.screenshot(path=path)
        shrink(path)
        print(f"{path} {path.stat().st_size / 1024:.0f} KiB")

    page.goto(f"{address}/desk")
    shoot("login")
    page.fill("#key", key)
    page.keyboard.press("Enter")
    page.wait_for_url("**/desk/queue")
    page.keyboard.press("j")
    shoot("queue")
    page.keyboard.press("Enter")
    page.wait_for_url("**/desk/accounts/*")
    shoot("account")
    page.evaluate("document.querySelector('article.evidence').scrollIntoView()")
    shoot("evidence")
    prompt = page.locator("a[href^='/desk/events/']").first.get_attribute("href")
    page.goto(f"{address}{prompt}")
    shoot("prompt")
    page.goto(f"{address}/desk/search")
    page.fill("#text", QUESTION)
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/desk/search/*")
    shoot("search")
    page.get_by_role("link", name="Map").click()
    page.wait_for_selector("svg circle")
    shoot("map")
    for box in page.locator("input[name=pick]").all()[:3]:
        box.check()
    page.get_by_role("button", name="To a template").click()
    page.wait_for_url("**/propose")
    shoot("template-new")
    for name, place in (
        ("templates", "templates?text=reason"), ("template", "templates/T0025"),
        ("model", "model"), ("audit", "audit"),
    ):  # fmt: skip
        page.goto(f"{address}/desk/{place}")
        shoot(name)


def shrink(path: Path) -> None:
    """Fewer colours, where pillow is there: a page has few."""
    try:
        from PIL import Image
    except ImportError:
        return
    with Image.open(path) as image:
        image.convert("RGB").quantize(64).save(path, optimize=True)


if __name__ == "__main__":
    main()
