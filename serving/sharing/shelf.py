"""What goes out of a desk: reviewed templates and campaign figures that somebody chose to share.

Who shared what, under which marking, is in the audit log and nowhere else. What was shared once and
is revoked goes on to go out, as revoked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, date, datetime
from datetime import time as midnight
from typing import Any

from stillwatch.data.errors import InputError, StoreError
from stillwatch.data.intelligence import (
    NotShareable,
    Producer,
    SharedCampaign,
    SharedTemplate,
    Tlp,
)
from stillwatch.data.intelligence.review import why_not_shareable
from stillwatch.data.intelligence.stix_writer import bundle_of, objects_of, template_id
from stillwatch.serving.desk import Desk, Refused, SiteTemplate
from stillwatch.serving.desk.names import check_reason
from stillwatch.serving.desk.records import Entry

RELEASED, EXPORTED = "sharing.released", "sharing.exported"
CAMPAIGN_RELEASED = "sharing.campaign_released"
FOREIGN = ("taxii:", "file:")
"""Beginnings of the sources of what came from others: theirs to share, not ours."""
PAGE = 500
"""Entries of the audit log read at a time."""
ERASED = "(erased) {slot}"
"""In place of the text of a template that went with an account: peers have to learn that it is
revoked, and an indicator must have a pattern."""


@dataclass(frozen=True, slots=True)
class Release:
    """That a template is shared: under which marking and since when, None for a file alone;
    `object_id` is its STIX id, "" in entries that are older than erasures of templates."""

    tlp: Tlp
    time: float | None
    object_id: str = ""


@dataclass(frozen=True, slots=True)
class Export:
    """A bundle, the site's ids of the templates and how many campaigns are in it, and (id, reason)
    of templates that were left out."""

    bundle: Mapping[str, Any]
    templates: tuple[str, ...]
    campaigns: int
    left_out: tuple[tuple[str, str], ...]


class Shelf:
    """What of a desk goes out. As safe to share between threads as the desk is."""

    def __init__(self, desk: Desk, name: str = "") -> None:
        """`name` is what the site calls itself before others."""
        self.desk = desk
        self._name = name or Producer("").name
        self._released = _Released()
        self._producer: Producer | None = None

    def producer(self) -> Producer:
        """Who shares: known by the audit log, which begins with random digits of its own."""
        if self._producer is None:
            first = self.desk.entries(before=2, limit=1)
            if not first or "log" not in first[0].fields:
                raise StoreError(
                    "the desk's audit log must begin with its own digits, however: it does not; "
                    "run `stillwatch audit verify`"
                )
            self._producer = Producer(str(first[0].fields["log"]), self._name)
        return self._producer

    def share(self, ids: Sequence[str], tlp: Tlp, reviewer: str, reason: str) -> list[SiteTemplate]:
        """Let every peer that reads the collection have these live templates; all or none.
        NotShareable, Refused; KeyError for an unknown id."""
        _check_for_peers(tlp)
        chosen = [self.desk.templates.get(one) for one in dict.fromkeys(ids)]
        for one in chosen:
            self._check(one)
        told = {
            "templates": [one.id for one in chosen], "tlp": tlp.value,
            "objects": [self._object_id(one) for one in chosen], "reason": check_reason(reason),
        }  # fmt: skip
        self.desk.record(RELEASED, reviewer, told)
        return chosen

    def share_campaign(self, figures: SharedCampaign, reviewer: str, reason: str) -> None:
        """Let every peer that reads the collection have these figures of a campaign; shared again,
        they take the place of the earlier ones. NotShareable."""
        _check_for_peers(figures.tlp)
        told = asdict(figures) | {"tlp": figures.tlp.value, "reason": check_reason(reason)}
        self.desk.record(CAMPAIGN_RELEASED, reviewer, told)

    def released(self) -> dict[str, Release]:
        """The templates that were shared at any time, by the site's ids."""
        return self._read_log().templates

    def campaigns(self) -> list[SharedCampaign]:
        """The figures of campaigns that peers have, the newest of each."""
        return list(self._read_log().campaigns.values())

    def _read_log(self) -> _Released:
        known = self._released
        newest: list[Entry] = []
        before = None
        while True:
            page = self.desk.entries(before=before, limit=PAGE)
            newest += [one for one in page if one.number > known.upto]
            if len(page) < PAGE or page[-1].number <= known.upto:
                break
            before = page[-1].number
        if newest:
            self._released = known = _with(known, reversed(newest))
        return known

    def objects(self) -> list[dict[str, Any]]:
        """STIX objects for peers: what `share` and `share_campaign` chose."""
        templates, local, accounts = [], {}, self._accounts()
        for own, release in self.released().items():
            site = self.desk.templates.get(own)
            if release.time is None or self._why_not(site, accounts, release) is not None:
                continue
            modified = max(site.changed, release.time)
            made = self._to_shared(site, release.tlp, modified, release)
            templates.append(made)
            local[own] = made.id
        return objects_of(self.producer(), templates, self.campaigns(), local)

    def export(
        self, tlp: Tlp, reviewer: str, ids: Sequence[str] | None = None,
        campaigns: Sequence[SharedCampaign] | None = None,
    ) -> Export:  # fmt: skip
        """A bundle for a file: these templates, by default all live ones of the site's own, and
        those that went out before and are revoked; and these campaigns, by default those that peers
        have. It is noted in the audit log.

        What must not go out is left out and told of; NotShareable if it was named or if nothing is
        left. Exported twice it is the same.
        """
        released = self.released()
        accounts = self._accounts()
        kept, left_out = [], []
        for one in self._chosen(ids, released):
            why = self._why_not(one, accounts, released.get(one.id))
            if why is None:
                kept.append(one)
            elif ids is not None:
                raise NotShareable(f"{one.id} must be fit to be shared, however: {why}")
            elif not one.source.startswith(FOREIGN):
                left_out.append((one.id, why))
        figures = list(self.campaigns() if campaigns is None else campaigns)
        if not kept and not figures:
            why = "; ".join(f"{own}: {reason}" for own, reason in left_out)
            raise NotShareable(
                "an export must hold a template or a campaign, however: "
                f"{why or 'none is live'}; approve a template first"
            )
        shared = [self._to_shared(one, tlp, one.changed, released.get(one.id)) for one in kept]
        local = {one.id: own.id for one, own in zip(kept, shared, strict=True)}
        bundle = bundle_of(self.producer(), shared, figures, local)
        told = {
            "templates": [one.id for one in kept], "campaigns": len(figures), "tlp": tlp.value,
            "objects": [one.id for one in shared], "bundle": bundle["id"],
        }  # fmt: skip
        self.desk.record(EXPORTED, reviewer, told)
        return Export(bundle, tuple(one.id for one in kept), len(figures), tuple(left_out))

    def _chosen(
        self, ids: Sequence[str] | None, released: Mapping[str, Release]
    ) -> list[SiteTemplate]:
        if ids is not None:
            return [self.desk.templates.get(one) for one in dict.fromkeys(ids)]
        found = self.desk.templates.find()
        return [
            one
            for one in reversed(found)
            if one.state == "live" or (one.state == "revoked" and one.id in released)
        ]

    def _check(self, template: SiteTemplate) -> None:
        why = self._why_not(template, self._accounts(), None)
        if why is not None:
            raise Refused(f"{template.id} must be fit to be shared, however: {why}")

    def _why_not(
        self, template: SiteTemplate, accounts: Iterable[str], release: Release | None
    ) -> str | None:
        """Why a template must not go out; one that was released before may as revoked."""
        if template.source.startswith(FOREIGN):
            return "it came from another provider, whose it is to share"
        if template.state != "live" and not (template.state == "revoked" and release):
            return (
                f"it is {template.state}, and only what a person approved after a replay goes out"
            )
        if not template.text and not (release and release.object_id):
            return "its text was erased with the account whose prompts it was made from"
        why = why_not_shareable(template.text, accounts)
        return None if why is None else f"its text holds {why}; add one without it"

    def _accounts(self) -> list[str]:
        """Accounts that the desk has decided on: their ids must stand in nothing that goes out."""
        return list(self.desk.all_present())

    def _object_id(self, one: SiteTemplate) -> str:
        return template_id(self.producer(), one.id, one.intent, one.text)

    def _to_shared(
        self, one: SiteTemplate, tlp: Tlp, modified: float, release: Release | None
    ) -> SharedTemplate:
        until = datetime.combine(date.fromisoformat(one.expires), midnight(), UTC).timestamp()
        return SharedTemplate(
            id=self._object_id(one) if one.text or release is None else release.object_id,
            text=one.text or ERASED, intent=one.intent, language=one.language,
            created=one.added, modified=modified, valid_from=one.added, valid_until=until,
            revoked=one.state == "revoked", tlp=tlp,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Released:
    """What the audit log up to entry `upto` says was shared."""

    templates: dict[str, Release] = field(default_factory=dict)
    campaigns: dict[str, SharedCampaign] = field(default_factory=dict)
    upto: int = 0


def _with(known: _Released, entries: Iterable[Entry]) -> _Released:
    """What is known with further entries, the oldest first."""
    templates, campaigns, upto = dict(known.templates), dict(known.campaigns), known.upto
    for entry in entries:
        upto = max(upto, entry.number)
        if entry.action == CAMPAIGN_RELEASED:
            own = {one.name: entry.fields[one.name] for one in fields(SharedCampaign)}
            own |= {"tlp": Tlp(own["tlp"]), "templates": tuple(own["templates"])}
            campaigns[own["campaign_id"]] = SharedCampaign(**own)
        elif entry.action in (RELEASED, EXPORTED):
            tlp = Tlp(entry.fields["tlp"])
            ids = entry.fields["templates"]
            for one, made in zip(ids, entry.fields.get("objects", [""] * len(ids)), strict=True):
                if entry.action == RELEASED:
                    templates[one] = Release(tlp, entry.time, made)
                else:
                    templates.setdefault(one, Release(tlp, None, made))
    return _Released(templates, campaigns, upto)


def _check_for_peers(tlp: Tlp) -> None:
    if not tlp.for_peers:
        raise NotShareable(
            f"what peers read must be TLP:CLEAR, TLP:GREEN or TLP:AMBER, however: {tlp} is for "
            "fewer; share it otherwise"
        )


def check_ids(ids: Iterable[str]) -> None:
    """InputError for an id that no template of a site can have."""
    if not all(one.startswith("site-") for one in ids):
        raise InputError(
            "--id must be that of a template of the site, however: another; see `stillwatch "
            "templates list --desk`"
        )
