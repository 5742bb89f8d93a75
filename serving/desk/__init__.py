"""The analyst's desk: decisions on accounts, the audit log, labels, templates of the site."""

from stillwatch.serving.desk.desk import Desk
from stillwatch.serving.desk.live import LiveTemplates
from stillwatch.serving.desk.records import (
    AuditError,
    Cause,
    Decision,
    Entry,
    EntryPage,
    Erased,
    Erasure,
    Exported,
    Forgotten,
    Head,
    Proposal,
    Refused,
    Replay,
    Revoked,
    Ruling,
    Shown,
    SiteTemplate,
    Undone,
    Verification,
)

__all__ = [
    "AuditError",
    "Cause",
    "Decision",
    "Desk",
    "Entry",
    "EntryPage",
    "Erased",
    "Erasure",
    "Exported",
    "Forgotten",
    "Head",
    "LiveTemplates",
    "Proposal",
    "Refused",
    "Replay",
    "Revoked",
    "Ruling",
    "Shown",
    "SiteTemplate",
    "Undone",
    "Verification",
]
