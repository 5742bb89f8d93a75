"""`stillwatch labels`: what was decided, for training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stillwatch.serving.commands import audit, intake

if TYPE_CHECKING:
    from stillwatch.serving.desk import Desk

EXAMPLE = "Example: stillwatch labels export --desk desk --archive archive --output labelled"

app = typer.Typer(help="Decisions as labels to train on.", epilog=EXAMPLE)

DeskOption = Annotated[Path, typer.Option(metavar="DIR", help="The desk's folder.")]
ArchiveOption = Annotated[
    str, typer.Option(metavar="DIR", help="The archive's folder, or postgresql://… of it.")
]
IndexOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="The folder of an archive that is in PostgreSQL."),
]


@app.callback()
def _labels() -> None:
    """Decisions as labels to train on."""


@app.command("export", epilog=EXAMPLE)
def export(
    desk: DeskOption,
    archive: ArchiveOption,
    output: Annotated[Path, typer.Option(metavar="DIR", help="A new or empty folder.")],
    archive_folder: IndexOption = None,
    reviewer: audit.ReviewerOption = None,
    bundle: intake.BundleOption = None,
) -> None:
    """Write the logs of decided accounts and their labels: confirmed ones with their intents,
    rejected ones as ordinary. The folder holds prompts; train on it with
    stillwatch train --labelled+=DIR.
    """
    with opened_with_archive(desk, archive, archive_folder, bundle) as opened:
        found = opened.export_labels(output, audit.name_of(reviewer))
    typer.echo(
        f"exported {found.attacking:,} attacking and {found.ordinary:,} ordinary accounts with "
        f"{found.events:,} events; of {found.missing:,} more the archive holds nothing",
        err=True,
    )


@contextmanager
def opened_with_archive(
    desk: Path, archive: str, archive_folder: Path | None, bundle: Path | None, write: bool = False
) -> Iterator[Desk]:
    """A desk with its archive, which is only read unless `write`. Raises StoreError, and
    ConfigError if another process writes an archive that is to be written."""
    from stillwatch.model.bundle import load_bundle, released_bundle
    from stillwatch.serving.archive import PromptArchive
    from stillwatch.serving.desk import Desk

    with audit.opened(desk, read_only=True):
        pass
    dimensions = load_bundle(bundle or released_bundle()).manifest.encoder.dimensions
    # One that is not there is not made, though it is to be written.
    read = PromptArchive.open(archive, dimensions, folder=archive_folder, read_only=True)
    if write:
        read.close()
        read = PromptArchive.open(archive, dimensions, folder=archive_folder, background=False)
    try:
        opened = Desk.open(desk, read)
        try:
            yield opened
        finally:
            opened.close()
    finally:
        read.close()
