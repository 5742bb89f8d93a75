"""What the pages work on, opened once: archive, desk, campaigns, and when who looked at what."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from stillwatch.data.errors import StoreError
from stillwatch.serving.archive import ArchiveSettings, PromptArchive, encoder_id
from stillwatch.serving.campaigns import CampaignStore
from stillwatch.serving.desk import Desk
from stillwatch.serving.http.settings import ServeSettings
from stillwatch.serving.pages.looks import Looks
from stillwatch.serving.scorer import Scorer


@dataclass(frozen=True, slots=True)
class Workplace:
    """`report` is a page of the evaluation of the bundle in use, None if there is none; `folder`
    is the desk's."""

    folder: Path
    archive: PromptArchive
    desk: Desk
    looks: Looks
    campaigns: CampaignStore
    report: Path | None = None
    owns_archive: bool = False

    @classmethod
    def open(
        cls,
        folder: Path,
        archive: PromptArchive,
        *,
        two_person: bool = False,
        report: Path | None = None,
        make_desk: Callable[..., Desk] = Desk.open,
    ) -> Self:
        """Open the desk in `folder`, beside an archive that stays its owner's. StoreError."""
        with ExitStack() as opened:
            looks = opened.enter_context(closing(Looks(folder)))
            campaigns = opened.enter_context(closing(CampaignStore.open(folder)))
            desk = make_desk(folder, archive, two_person=two_person)
            desk.also_forget.append(campaigns)
            opened.pop_all()
        return cls(folder, archive, desk, looks, campaigns, report)

    def close(self) -> None:
        """Close what was opened here, and the archive if it is nobody else's."""
        self.looks.close()
        self.campaigns.close()
        self.desk.close()
        if self.owns_archive:
            self.archive.close()


def open_workplace(settings: ServeSettings, scorer: Scorer) -> Workplace | None:
    """The workplace that the settings ask for, None if they do not; `scorer` archives there what
    it scores from now on. Close it after the scorer. ConfigError, StoreError."""
    home = settings.desk_folder
    if home is None:
        return None
    try:
        # Whatever makes it later would leave it open to others.
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StoreError(
            f"desk_folder must be a folder that can be written, however: {error.strerror}; name "
            "another"
        ) from error
    where = settings.archive or str(home / "archive")
    in_server = "://" in where
    archive = PromptArchive.open(
        where,
        scorer.encoder.dimensions,
        folder=home / "archive" if in_server else None,
        encoder=scorer.encoder,
        encoder_id=encoder_id(scorer.detector),
        settings=ArchiveSettings(
            retention_days=settings.archive_days,
            backup_hours=settings.archive_backup_hours,
            threads=settings.threads,
        ),
    )
    try:
        opened = Workplace.open(
            home, archive, two_person=settings.desk_two_person, report=settings.desk_report
        )
    except BaseException:
        archive.close()
        raise
    scorer.archive = archive
    return replace(opened, owns_archive=True)
