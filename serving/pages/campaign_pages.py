"""Campaigns: the list of those that were found, and each with what ties it and who is in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from stillwatch.data.errors import InputError
from stillwatch.model.templates import SLOT
from stillwatch.serving.archive.results import ArchivedEvent
from stillwatch.serving.campaigns import Stored, Tie
from stillwatch.serving.campaigns.judged import judged
from stillwatch.serving.campaigns.rulings import likely
from stillwatch.serving.desk.skeleton import propose
from stillwatch.serving.pages import campaign_drawing, campaign_words, wording
from stillwatch.serving.pages.campaign_members import STATES, Member, Members, tallies
from stillwatch.serving.pages.display import Piece, one_line
from stillwatch.serving.pages.guard import ReadSession, see_other
from stillwatch.serving.pages.queue_page import _page as page_number
from stillwatch.serving.pages.sessions import Session
from stillwatch.serving.pages.site import Site
from stillwatch.serving.response.advice import Advice, Case
from stillwatch.serving.response.campaigns import Campaigns
from stillwatch.serving.verdict import Verdict, visible

PATH = "/desk/campaigns"
PAGE = 50
MEMBERS_PAGE = 50
MOST_FRAMES = 6
"""Shared frames whose examples are shown; the others are in the table of links."""
EXAMPLE_CHARS = 4000
"""Of an example, that are compared with its frame."""


class Example(NamedTuple):
    """A prompt with its words as they stand to the frame."""

    event: ArchivedEvent
    pieces: list[Piece]


class Frame(NamedTuple):
    """What prompts share, by the number of their link; no `pieces` where too little is left of it
    in the examples to tell."""

    number: int
    tie: Tie
    pieces: list[Piece]
    examples: list[Example]
    gone: int


class Advised(NamedTuple):
    """One piece of advice and how many of the accounts on this page it is for."""

    advice: Advice
    accounts: int


def add(routes: APIRouter, site: Site) -> None:
    """`/desk/campaigns` and each campaign's page."""

    @routes.get(PATH)
    async def campaigns(request: Request, session: ReadSession) -> Response:
        show = request.query_params.get("show", "")
        number = page_number(request.query_params.get("page", ""))

        def build() -> Response:
            flagged = None if show == "all" else True
            found, total = site.campaigns.page(number, PAGE, flagged)
            standing = tallies(site.campaigns, site.decided.present(), found)
            return site.page(
                "campaigns.html.j2", session, title="Campaigns", found=found, total=total,
                show=show, page=number, pages=-(-total // PAGE), standing=standing,
                links=campaign_words.links, told=campaign_words.change, words=campaign_words.STATES,
                run=site.campaigns.last_run(), trouble=site.job.trouble,
                idle=campaign_words.STANDINGS[site.job.standing], every_s=site.job.every_s,
            )  # fmt: skip

        return await run_in_threadpool(build)

    @routes.get(f"{PATH}/{{campaign_id}}")
    async def campaign(request: Request, campaign_id: str, session: ReadSession) -> Response:
        state = request.query_params.get("show", "")
        number = page_number(request.query_params.get("page", ""))
        stored = await run_in_threadpool(_found, site, campaign_id)
        if isinstance(stored, str):
            return see_other(f"{PATH}/{stored}")

        def members() -> tuple[int, Members, list[Member], int]:
            # Before the decisions are read, so that what is decided between is not taken for seen.
            seen = site.desk.head().count
            own = Members(stored, site.archive, site.decided.present())
            wanted = state if state in STATES else ""
            return (seen, own, *own.rows(wanted, number, MEMBERS_PAGE))

        seen, own, shown, total = await run_in_threadpool(members)
        verdicts: Mapping[str, Verdict] = {}
        responder = site.service.responder
        if responder is not None and responder.policy is not None:
            verdicts = await site.verdicts(member.account_id for member in shown)

        def build() -> Response:
            return _page(site, session, own, shown, total, state, number, verdicts, seen)

        return await run_in_threadpool(build)


def _found(site: Site, campaign_id: str) -> Stored | str:
    """A campaign, or the id of the one that it has become a part of; KeyError."""
    try:
        return site.campaigns.get(campaign_id)
    except KeyError:
        heir = site.campaigns.heir(campaign_id)
        if heir is None:
            raise
        return heir


def _page(
    site: Site, session: Session, own: Members, shown: Sequence[Member], total: int, state: str,
    number: int, verdicts: Mapping[str, Verdict], seen: int,
) -> Response:  # fmt: skip
    stored = own.stored
    summary, excluded = stored.summary, stored.excluded
    names, owner, times = own.events()
    graph = campaign_drawing.graph(stored.ties, stored.accounts, excluded)
    return site.page(
        "campaign.html.j2", session, title=f"Campaign {summary.campaign_id}", one=summary,
        stored=stored, reasons=campaign_words.reasons(summary.reasons),
        kinds=campaign_words.LINKS, words=campaign_words.STATES, told=campaign_words.change,
        graph=graph,
        groups=campaign_drawing.evidence_groups(graph),
        timeline=campaign_drawing.timeline(names, owner, times, excluded),
        prompts=len(times), unarchived=len(stored.accounts) - len(names),
        frames=_frames(site, stored), counts=own.counts(), members=shown, total=total,
        state=state if state in STATES else "", page=number, pages=-(-total // MEMBERS_PAGE),
        likely=likely(summary) if summary.intents else [],
        confirming=site.confirming.progress(summary.campaign_id), seen=seen,
        advised=_advised(site, stored, shown, verdicts), trouble=site.job.trouble,
        run=site.campaigns.last_run(),
    )  # fmt: skip


def _frames(site: Site, stored: Stored) -> list[Frame]:
    ties = [(n, tie) for n, tie in enumerate(stored.ties) if tie.kind == "skeleton"]
    found = []
    for number, tie in ties[:MOST_FRAMES]:
        events = []
        for account_id, event_id in tie.events:
            with suppress(KeyError):
                events.append(site.archive.event(account_id, event_id))
        text = None
        with suppress(InputError):
            text = propose([event.prompt for event in events]).text
        examples = []
        for event in events:
            if text is None:
                pieces = [Piece("same", one_line(event.prompt))]
            else:
                pieces, _ = wording.compare(event.prompt[:EXAMPLE_CHARS], text)
            examples.append(Example(event, pieces))
        shared = _with_slot(text) if text is not None else []
        found.append(Frame(number, tie, shared, examples, len(tie.events) - len(events)))
    return found


def _with_slot(frame: str) -> list[Piece]:
    before, slot, after = visible(frame).partition(SLOT)
    return [Piece("same", before), Piece("slot", slot), Piece("same", after)]


def _advised(
    site: Site, stored: Stored, shown: Sequence[Member], verdicts: Mapping[str, Verdict]
) -> list[Advised]:
    """What the policy says of the accounts on a page, as members of this campaign."""
    responder = site.service.responder
    policy = responder.policy if responder is not None else None
    if policy is None:
        return []
    decided = site.decided.present()
    known = Campaigns([judged(stored)], decided)
    counts: Counter[Advice] = Counter()
    for member in shown:
        verdict = verdicts.get(member.account_id)
        if verdict is not None:
            decision = decided.get(member.account_id)
            counts[policy.advise(Case(verdict, decision, known.of(member.account_id)))] += 1
    found = Counter[Any]()
    firsts: dict[Any, Advice] = {}
    for advice, count in counts.items():
        # Figures of single accounts are on their own pages.
        key = (advice.action, advice.rule, advice.line)
        firsts.setdefault(key, advice)
        found[key] += count
    return [Advised(firsts[key], count) for key, count in found.most_common()]
