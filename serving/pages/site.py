"""What the pages share: sessions, the look of a page, and the way to verdicts and templates."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import jinja2
from fastapi.responses import HTMLResponse
from markupsafe import Markup

from stillwatch.model.templates import Template
from stillwatch.serving.archive.language import LANGUAGES
from stillwatch.serving.archive.results import ArchivedEvent
from stillwatch.serving.campaigns.confirming import Confirming
from stillwatch.serving.campaigns.job import CampaignJob
from stillwatch.serving.campaigns.rulings import Rulings
from stillwatch.serving.http.auth import is_loopback
from stillwatch.serving.http.desk_api import TemplateKeeper
from stillwatch.serving.http.service import Service
from stillwatch.serving.pages import display
from stillwatch.serving.pages.assets import Assets
from stillwatch.serving.pages.campaign_members import Decided
from stillwatch.serving.pages.erasures import Erasures
from stillwatch.serving.pages.recent_verdicts import RecentVerdicts
from stillwatch.serving.pages.sessions import Session, Sessions
from stillwatch.serving.pages.tallies import Tallies
from stillwatch.serving.pages.tokens import to_pick, to_token
from stillwatch.serving.pages.workplace import Workplace
from stillwatch.serving.verdict import Verdict

CHUNK = 50
"""Verdicts that are asked for in one turn of the scorer's thread."""

INTENT_NAMES = {
    "capability_probing": "Capability probing",
    "cot_harvesting": "CoT harvesting",
    "output_harvesting": "Output harvesting",
}
CAUSES = {
    "new": "new", "second": "needs a second reviewer", "more": "more was wanted",
    "changed": "changed since rejected",
}  # fmt: skip
RULINGS = {"confirm": "confirmed", "reject": "rejected", "needs_more": "needs more"}


class Site:
    """One app's pages."""

    def __init__(
        self, workplace: Workplace, service: Service, keeper: TemplateKeeper, job: CampaignJob
    ) -> None:
        self.workplace = workplace
        self.service = service
        self.keeper = keeper
        """Brings live templates to the detector."""
        self.job = job
        """Has campaigns looked for."""
        self.campaigns = workplace.campaigns
        self.decided = Decided(workplace.desk)
        self.confirming = Confirming(Rulings(workplace.desk, workplace.campaigns), self.verdicts)
        self.archive = workplace.archive
        self.desk = workplace.desk
        self.looks = workplace.looks
        self.folder = workplace.folder
        self.sessions = Sessions()
        self.tallies = Tallies(workplace.archive)
        self.assets = Assets()
        settings = service.settings
        self.open_to_all = settings.auth == "off"
        self.secure_cookies = (
            not is_loopback(settings.host)
            if settings.desk_secure_cookies is None
            else settings.desk_secure_cookies
        )
        self.unarchived: set[str] = set()
        """Flagged accounts of which the archive knows nothing."""
        self.erasures = Erasures(
            self.desk, service.scorer.store, service.gate.call, self.forget_account
        )
        self.recent_verdicts = RecentVerdicts(self.verdicts)
        self._scan: asyncio.Task[None] | None = None
        self._environment = self._make_environment()

    @property
    def intents(self) -> tuple[str, ...]:
        return self.service.scorer.intents

    @property
    def detector(self) -> Any:
        """The scorer's, None of a scripted one. Read it once for a page: it may be replaced."""
        return getattr(self.service.scorer, "detector", None)

    @property
    def threshold(self) -> float | None:
        detector = self.detector
        return detector.bundle.manifest.thresholds.enter if detector else None

    def templates(self) -> dict[str, Template]:
        """Those of the bundle in use and of the site, by id."""
        found: dict[str, Template] = {}
        detector = self.detector
        if detector is not None:
            found.update((template.id, template) for template in detector.templates.templates)
        for own in self.desk.templates.find():
            found[own.id] = own.to_template()
        return found

    async def verdicts(self, account_ids: Iterable[str]) -> dict[str, Verdict]:
        """Verdicts now, of those accounts that the scorer knows. StoreError, Overloaded."""
        scorer = self.service.scorer
        found: dict[str, Verdict] = {}
        left = iter(account_ids)
        while chunk := list(islice(left, CHUNK)):
            found |= await self.service.gate.call(lambda names=chunk: _ask(scorer, names))  # type: ignore[misc]
        return found

    def look_for_unarchived(self) -> None:
        """Begin to look, once, for flagged accounts that the archive knows nothing of: it may be
        younger than the state store."""
        if self._scan is None:
            self._scan = asyncio.create_task(self._scan_store())
            # What it fails of is told by the readiness of the store.
            self._scan.add_done_callback(lambda task: task.cancelled() or task.exception())

    def forget_account(self, account_id: str) -> None:
        """Hold nothing of an account in memory any more."""
        self.sessions.forget(account_id)
        self.unarchived.discard(account_id)
        self.recent_verdicts.forget(account_id)
        # What was found from its prompts is found again without them.
        self.job.hasten()

    async def close(self) -> None:
        if self._scan is not None:
            self._scan.cancel()
            await asyncio.gather(self._scan, return_exceptions=True)
        await self.confirming.close()
        await self.erasures.close()

    def page(
        self, view: str, session: Session | None, code: int = 200, /, **values: Any
    ) -> HTMLResponse:
        """A page from its template."""
        text = self._environment.get_template(view).render(
            session=session,
            notice=session.take_notice() if session is not None else None,
            now=time.time(),
            intents=self.intents,
            two_person=self.service.settings.desk_two_person,
            **values,
        )
        # Half a surrogate pair has no bytes in UTF-8, and any text may hold one.
        return HTMLResponse(text.encode("utf-8", "replace"), code)

    async def _scan_store(self) -> None:
        names = self.service.scorer.store.accounts()
        call = self.service.gate.call
        while chunk := await call(lambda: list(islice(names, CHUNK))):
            known = await asyncio.to_thread(self.archive.account_numbers, chunk)
            found = await self.verdicts(name for name in chunk if name not in known)
            self.unarchived |= {name for name, verdict in found.items() if verdict.flagged}

    def _make_environment(self) -> jinja2.Environment:
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("stillwatch.serving.pages", "views"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        environment.filters |= {
            "name": display.name, "line": display.one_line, "pieces": display.pieces,
            "when": display.when, "day": display.day, "iso": display.iso,
            "percent": display.percent, "token": to_token, "ago": display.ago,
            "json": lambda value: json.dumps(value, allow_nan=False),
            "intent": lambda value: INTENT_NAMES.get(value or "", display.name(value or "none")),
            "cause": lambda value: CAUSES.get(value, value),
            "ruling": lambda value: RULINGS.get(value, value),
        }  # fmt: skip
        environment.globals |= {
            "asset": self.assets.url,
            "pick": to_pick,
            "shown_chars": display.SHOWN_CHARS,
            "languages": LANGUAGES,
            "open_to_all": self.open_to_all,
            "csrf": _csrf_field,
            "like": _like_form,
        }
        return environment


def strongest(verdict: Verdict, most: int = 3) -> Sequence[tuple[str, float]]:
    """Its likeliest intents, the likeliest first."""
    return sorted(verdict.intents.items(), key=lambda item: -item[1])[:most]


@jinja2.pass_context
def _csrf_field(context: jinja2.runtime.Context) -> Markup:
    return Markup('<input type="hidden" name="csrf" value="{}">').format(context["session"].csrf)


@jinja2.pass_context
def _like_form(context: jinja2.runtime.Context, event: ArchivedEvent) -> Markup:
    """A button that searches for prompts like one."""
    return Markup(
        '<form method="post" action="/desk/search" class="inline">{}<button class="small-button" '
        'name="like" value="{}">More like this</button></form>'
    ).format(_csrf_field(context), to_pick(event.account_id, event.event_id))


def _ask(scorer: Any, names: Sequence[str]) -> dict[str, Verdict]:
    found = {}
    for name in names:
        try:
            found[name] = scorer.verdict(name)
        except KeyError:
            continue
    return found
