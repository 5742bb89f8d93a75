"""What others share, into the quarantine of a desk: each object with its outcome and reason.

Nothing that is taken in here is searched. A template waits until a reviewer approves it after a
replay against ordinary traffic; it is embedded by our own encoder then, and it expires within
90 days. Everything of a source goes with one `revoke_source`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from stillwatch.data.errors import InputError
from stillwatch.data.intelligence import SharedCampaign, SharedTemplate
from stillwatch.data.intelligence.review import why_too_general
from stillwatch.data.intelligence.stix_reader import Received
from stillwatch.model.encoder import Encoder
from stillwatch.serving.desk import Decision, Desk, SiteTemplate
from stillwatch.serving.desk.site_templates import KEPT_DAYS
from stillwatch.serving.sharing.ledger import Known, Ledger
from stillwatch.serving.sharing.similar import NearTexts

QUOTA = 1000
"""Templates of one source that wait or are live."""
IN_USE = ("quarantined", "live")

Result = Literal["added", "revoked", "known", "duplicate", "refused", "campaign"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one object. `template` is the site's id of what it became, or is near to."""

    id: str
    result: Result
    reason: str = ""
    template: str | None = None

    def to_fields(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "id": self.id, "result": self.result, "reason": self.reason, "template": self.template,
        }  # fmt: skip


@dataclass(slots=True)
class Report:
    """What became of everything that came. `other` counts objects that are none of ours,
    `resting` are decisions that rest on templates that were revoked."""

    outcomes: list[Outcome] = field(default_factory=list)
    other: int = 0
    resting: list[Decision] = field(default_factory=list)

    def count(self, result: Result) -> int:
        """How many came to this."""
        return sum(one.result == result for one in self.outcomes)

    def add(self, more: Report) -> None:
        """Take another report's into this one."""
        self.outcomes += more.outcomes
        self.other += more.other
        self.resting += more.resting

    def to_fields(self) -> dict[str, Any]:
        """As JSON."""
        counts = Counter(one.result for one in self.outcomes)
        return {
            "counts": dict(sorted(counts.items())), "other": self.other,
            "outcomes": [one.to_fields() for one in self.outcomes],
            "decisions": [one.id for one in self.resting],
        }  # fmt: skip


class Importer:
    """Takes what was read into a desk. One importer at a time may work for a source."""

    def __init__(
        self, desk: Desk, ledger: Ledger, intents: Collection[str],
        library: Mapping[str, str] | None = None, *, quota: int = QUOTA, now: float | None = None,
    ) -> None:  # fmt: skip
        """`intents` are those that the bundle knows, `library` its templates by their ids, `now`
        the time, that of the machine if left out."""
        self._desk = desk
        self._ledger = ledger
        self._intents = frozenset(intents)
        self._now = now
        self._quota = quota
        self._revoked_here: set[str] = set()
        self._used: Counter[str] = Counter()
        self._near = NearTexts(library or {})
        for one in desk.templates.find():
            if one.state == "expired":
                continue
            self._know(one)
            if one.state == "revoked":
                self._revoked_here.add(one.id)
            else:
                self._used[one.source] += 1

    def take(self, received: Received, source: str, reviewer: str) -> Report:
        """Put templates into quarantine, keep figures of campaigns, revoke what its creator has
        revoked. What cannot be taken is refused by itself, with its reason. StoreError."""
        report = Report(
            [Outcome(one.id, "refused", one.reason) for one in received.refused], received.other
        )
        # Older versions first, so that the last word stands.
        for template in sorted(received.templates, key=lambda one: one.modified):
            report.outcomes.append(self._template(template, source, reviewer, report))
        for campaign in sorted(received.campaigns, key=lambda one: one.updated):
            report.outcomes.append(self._campaign(campaign, source))
        return report

    def _template(self, one: SharedTemplate, source: str, reviewer: str, report: Report) -> Outcome:
        known = self._ledger.known(source, one.id)
        if known is not None and known.creator != one.creator:
            return Outcome(one.id, "refused", "a new version must come from its creator")
        if one.revoked and (known is None or known.template is not None):
            # Whatever its date: it is for good, and clocks are set back.
            return self._revoke(one, known, source, reviewer, report)
        if known is not None and one.modified <= known.modified:
            return Outcome(one.id, "known", template=known.template)
        if source.startswith("taxii:") and not one.tlp.for_peers:
            return Outcome(one.id, "refused", f"{one.tlp} must not come over a feed")
        if one.revoked:
            return Outcome(one.id, "known", template=None)
        if known is not None:
            return self._again(one, known, source)
        try:
            expires = self._expiry(one)
            why = self._why_not(one, source)
            if why is not None:
                return Outcome(one.id, "refused", why)
            near = self._near.nearest(one.text)
            if near in self._revoked_here:
                return Outcome(one.id, "refused", "nearly the same was revoked here", near)
            if near is not None:
                return self._duplicate(one, near, source)
            made = self._desk.templates.add(
                one.text, one.intent, source, reviewer, expires, f"{one.id}, {one.tlp}"
            )
        except InputError as error:
            # Of the quotas of the desk, say; it holds nothing of the text.
            return Outcome(one.id, "refused", str(error))
        self._know(made)
        self._used[source] += 1
        self._ledger.note(source, one.id, Known(one.creator, one.modified, made.id))
        return Outcome(one.id, "added", "waits in quarantine", made.id)

    def _again(self, one: SharedTemplate, known: Known, source: str) -> Outcome:
        """A later version of what was taken before: of a template nothing can change but that it is
        revoked, and that is final."""
        if known.template is None:
            return Outcome(one.id, "refused", "it was revoked, which is for good")
        if self._desk.templates.get(known.template).text != one.text:
            return Outcome(
                one.id, "refused", "a new version must have the same pattern", known.template
            )
        self._ledger.note(source, one.id, known._replace(modified=one.modified))
        return Outcome(one.id, "known", template=known.template)

    def _revoke(
        self, one: SharedTemplate, known: Known | None, source: str, reviewer: str, report: Report
    ) -> Outcome:
        own = known.template if known is not None else None
        self._ledger.note(source, one.id, Known(one.creator, one.modified, None))
        if own is None or self._desk.templates.get(own).state not in IN_USE:
            return Outcome(one.id, "known", "revoked, and not in use here", own)
        found = self._desk.templates.revoke(own, reviewer, f"revoked by {source}: {one.id}")
        report.resting += found.decisions
        self._revoked_here.add(own)
        self._used[source] -= 1
        return Outcome(one.id, "revoked", template=own)

    def _duplicate(self, one: SharedTemplate, near: str, source: str) -> Outcome:
        """Said, not added. What the same source left half done when its process ended is its
        own."""
        if near.startswith("site-"):
            there = self._desk.templates.get(near)
            if there.source == source and there.reason.startswith(one.id):
                self._ledger.note(source, one.id, Known(one.creator, one.modified, near))
                return Outcome(one.id, "known", template=near)
        return Outcome(one.id, "duplicate", "nearly the same is here already", near)

    def _why_not(self, one: SharedTemplate, source: str) -> str | None:
        if one.intent not in self._intents:
            return "its intent must be one that the bundle knows"
        general = why_too_general(one.text)
        if general is not None:
            return f"it must be specific, however: it has {general}"
        if self._used[source] >= self._quota:
            return f"a source must have at most {self._quota:,} templates in use, however: it has"
        return None

    def _expiry(self, one: SharedTemplate) -> str:
        """The first day out of use: what the feed says, and no later than KEPT_DAYS from now."""
        now = datetime.now(UTC).timestamp() if self._now is None else self._now
        today = datetime.fromtimestamp(now, UTC).date()
        last = today + timedelta(days=KEPT_DAYS)
        if one.valid_until is not None:
            last = min(last, datetime.fromtimestamp(one.valid_until, UTC).date())
        if last <= today or one.valid_from > now + 86_400:
            raise InputError("it must be valid now and for a day at least, however: it is not")
        return last.isoformat()

    def _campaign(self, one: SharedCampaign, source: str) -> Outcome:
        if source.startswith("taxii:") and not one.tlp.for_peers:
            return Outcome(one.campaign_id, "refused", f"{one.tlp} must not come over a feed")
        known = self._ledger.campaign(source, one.campaign_id)
        if known is not None and known[0] != one.creator:
            return Outcome(one.campaign_id, "refused", "a new version must come from its creator")
        if known is not None and one.updated <= known[1]:
            return Outcome(one.campaign_id, "known")
        fields = {
            "id": one.campaign_id, "intents": dict(one.intents), "first_seen": one.first_seen,
            "last_seen": one.last_seen, "accounts": one.accounts, "events": one.events,
            "updated": one.updated, "tlp": one.tlp.value,
        }  # fmt: skip
        self._ledger.note_campaign(source, one.campaign_id, one.creator, one.updated, fields)
        return Outcome(one.campaign_id, "campaign", "its figures are kept")

    def _know(self, one: SiteTemplate) -> None:
        self._near.add(one.id, one.text)


def told(report: Report) -> Sequence[str]:
    """A line for each outcome that a person should see."""
    lines = []
    for one in report.outcomes:
        if one.result in ("known", "campaign") and not one.reason.startswith("revoked"):
            continue
        where = f" ({one.template})" if one.template else ""
        lines.append(f"{one.result}: {one.id}{where}{': ' if one.reason else ''}{one.reason}")
    return lines


def replay_added(desk: Desk, encoder: Encoder, ids: Sequence[str], reviewer: str) -> list[str]:
    """Replay templates against the ordinary traffic of the desk's archive: a line on each. They
    wait in quarantine whatever it shows; a person approves those that may."""
    lines = []
    for own in ids:
        found = desk.templates.replay(own, encoder, reviewer)
        if found.prompts < found.least:
            verdict = f"too few to tell, {found.least:,} are needed"
        else:
            verdict = "it may be approved" if found.passes else "it may not be approved"
        lines.append(
            f"{own} hits {found.hit_prompts:,} of {found.prompts:,} ordinary prompts: {verdict}"
        )
    return lines


def summary(report: Report) -> str:
    """All of it in one line."""
    parts = [f"{report.count('added'):,} wait in quarantine"]
    for result, text in (
        ("revoked", "revoked"), ("known", "known already"), ("duplicate", "duplicates"),
        ("refused", "refused"), ("campaign", "campaigns"),
    ):  # fmt: skip
        if number := report.count(result):  # type: ignore[arg-type]
            parts.append(f"{number:,} {text}")
    return ", ".join(parts)
