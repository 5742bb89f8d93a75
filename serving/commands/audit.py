"""`stillwatch audit`: whether what was decided is still what the log says."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stillwatch.serving.verdict import visible

if TYPE_CHECKING:
    from stillwatch.serving.desk import Desk

VERIFY_EXAMPLE = "Example: stillwatch audit verify /var/lib/stillwatch/desk --head 3f6a…:412"
HEAD_EXAMPLE = "Example: stillwatch audit head /var/lib/stillwatch/desk"
ACCEPT_EXAMPLE = (
    "Example: stillwatch audit accept /var/lib/stillwatch/desk --reason 'restored from a backup'"
)
EXIT_TAMPERED = 1

app = typer.Typer(help="The audit log of the desk.", epilog=VERIFY_EXAMPLE)

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The desk's folder.")]
ReviewerOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Who decides; default: the user's name.")
]


@app.callback()
def _audit() -> None:
    """The audit log of the desk."""


@app.command("verify", epilog=VERIFY_EXAMPLE)
def verify(
    folder: Folder,
    head: Annotated[
        str | None,
        typer.Option(
            metavar="HASH:COUNT", help="What `stillwatch audit head` printed at an earlier time."
        ),
    ] = None,
) -> None:
    """Look for edits, deletions, swaps and cuts in the audit log and in what rests on it.

    Ends with 1 if there are any. A forger who can write the whole folder is found out only by a
    head that was written down elsewhere.
    """
    from stillwatch.serving.desk import Head

    given = Head.parse(head) if head is not None else None
    with opened(folder, read_only=True) as desk:
        found = desk.verify(given)
    for line in found.findings:
        typer.echo(visible(line))
    if not found.intact:
        typer.echo(f"not intact: {found.head.count} entries", err=True)
        raise typer.Exit(EXIT_TAMPERED)
    late = "; the last waits for its anchor" if found.behind else ""
    typer.echo(f"intact: {found.head.count} entries{late}")
    typer.echo(found.head)


@app.command("head", epilog=HEAD_EXAMPLE)
def head(folder: Folder) -> None:
    """Print the audit log's head, HASH:COUNT, to be written down elsewhere."""
    with opened(folder, read_only=True) as desk:
        typer.echo(desk.head())


@app.command("accept", epilog=ACCEPT_EXAMPLE)
def accept(
    folder: Folder,
    reason: Annotated[str, typer.Option(help="Why the log is not as it was left.")],
    reviewer: ReviewerOption = None,
) -> None:
    """Go on from a log that differs from its anchor, after a backup was put back, say.

    The old anchor is kept beside the new one, and an entry tells of it. What was changed in the
    log itself is found as before.
    """
    with opened(folder) as desk:
        entry = desk.accept_log(name_of(reviewer), reason)
    typer.echo(f"the log goes on after entry {entry.number}", err=True)


@contextmanager
def opened(folder: Path, read_only: bool = False) -> Iterator[Desk]:
    """The desk in a folder that is one. Raises StoreError."""
    from stillwatch.data.errors import ConfigError
    from stillwatch.serving.desk import Desk
    from stillwatch.serving.desk.database import FILE

    if not (folder / FILE).is_file():
        raise ConfigError(
            f"the desk must be a folder that the service writes, however: {folder} holds no "
            f"{FILE}; correct the path"
        )
    desk = Desk.open(folder, read_only=read_only)
    try:
        yield desk
    finally:
        desk.close()


def name_of(reviewer: str | None) -> str:
    """The reviewer, by default whoever runs the command."""
    return reviewer if reviewer is not None else getpass.getuser()
