"""`stillwatch archive`: copies of an archive of prompts, and the way back to one."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from stillwatch.data.errors import ConfigError

BACKUP_EXAMPLE = "Example: stillwatch archive backup /var/lib/stillwatch/desk/archive"
RESTORE_EXAMPLE = "Example: stillwatch archive restore /var/lib/stillwatch/desk/archive"

app = typer.Typer(help="Copies of the archive of prompts.", epilog=BACKUP_EXAMPLE)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The archive's folder.")]


@app.callback()
def _archive() -> None:
    """Copies of the archive of prompts."""


@app.command("backup", epilog=BACKUP_EXAMPLE)
def backup(
    folder: Folder,
    kept: Annotated[
        int | None, typer.Option("--keep", min=1, help="Copies that stay; default: 2.")
    ] = None,
) -> None:
    """Copy an archive's tables to its folder backups, beside a service that runs.

    The index is left out: it is made anew from the tables. An erasure reaches copies that are
    there; what is copied elsewhere is yours to erase. Prints the copy's folder.
    """
    from stillwatch.serving.archive import ArchiveSettings, backups, sqlite

    _check_owner(folder / sqlite.FILE)
    typer.echo(backups.make_beside(folder, kept or ArchiveSettings().backups))


@app.command("restore", epilog=RESTORE_EXAMPLE)
def restore(
    folder: Folder,
    source: Annotated[
        Path | None, typer.Option("--from", metavar="BACKUP", help="The copy; default: the latest.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Put a copy in the place of an archive, while no service has it open.

    What came into the archive after the copy was made is lost from it. A copy that was kept
    elsewhere may hold accounts that were erased since: erase them again.
    """
    from stillwatch.serving.archive import backups, restoring

    chosen = source or backups.latest(folder)
    if chosen is None:
        raise ConfigError(
            "an archive must have a backup to be restored, however: its folder holds none; name "
            "one with --from"
        )
    _check_owner(folder)
    at = backups.made_at(chosen)
    made = datetime.fromtimestamp(at, UTC).strftime("of %Y-%m-%d %H:%M:%SZ") if at else "given"
    if not yes and not typer.confirm(f"Lose what came after the copy {made}?", err=True):
        raise ConfigError(
            "what came after a copy must be given up to restore it, however: that was declined; "
            "answer y, or leave the archive as it is"
        )
    restoring.restore(folder, chosen)
    typer.echo(f"restored the copy {made}", err=True)


def _check_owner(path: Path) -> None:
    """Files of another user would be closed to the service, and stay when it erases."""
    if not path.exists():
        raise ConfigError(
            f"an archive must be in a folder, however: {path} is missing; correct the path"
        )
    if os.geteuid() != path.stat().st_uid:
        raise ConfigError(
            "an archive's copies must be made and restored by the user whose files it has, "
            f"however: this one is another; run it as user {path.stat().st_uid}"
        )
