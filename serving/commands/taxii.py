"""`stillwatch taxii poll`: another provider's templates, read from its TAXII 2.1 server."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stillwatch.data.errors import ConfigError
from stillwatch.serving.commands import audit, intake, labels, sharing
from stillwatch.serving.verdict import visible

if TYPE_CHECKING:
    from stillwatch.serving.sharing.poller import Feed, Poll

EXAMPLE = (
    "Example: stillwatch taxii poll https://peer.example/taxii2/api/ --collection "
    "6d0a… --desk desk --source acme"
)
ID_EXAMPLE = "Example: stillwatch taxii collection --desk desk"
USER_VARIABLE, PASSWORD_VARIABLE = "STILLWATCH_TAXII_USER", "STILLWATCH_TAXII_PASSWORD"
LEAST_EVERY_S = 10.0
EXIT_UNREAD = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

app = typer.Typer(help="Templates of other providers over TAXII 2.1.", epilog=EXAMPLE)


@app.callback()
def _taxii() -> None:
    """Templates of other providers over TAXII 2.1."""


@app.command("poll", epilog=EXAMPLE)
def poll(
    url: Annotated[str, typer.Argument(metavar="URL", help="The API root of the server.")],
    collection: Annotated[str, typer.Option(metavar="ID", help="Of the collection.")],
    desk: labels.DeskOption,
    source: Annotated[str, typer.Option(metavar="NAME", help="Whom it comes from.")],
    every: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Poll again and again until stopped; default: once."),
    ] = None,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Read all of it, not only what is new.")
    ] = False,
    ca: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Certificates to trust in place of the usual ones."),
    ] = None,
    archive: sharing.ReplayArchiveOption = None,
    archive_folder: labels.IndexOption = None,
    reviewer: audit.ReviewerOption = None,
    detector: intake.BundleOption = None,
    as_json: sharing.JsonOption = False,
) -> None:
    """Take what is new in a collection into quarantine, as `stillwatch templates import` does.

    The key is the password in STILLWATCH_TAXII_PASSWORD, its user STILLWATCH_TAXII_USER. Ends with
    1 if the server is slow, wrong or gone; what came before that is kept, and the next poll goes on
    from there. `stillwatch templates remove --source taxii:NAME` takes all of it back.
    """
    if every is not None and not LEAST_EVERY_S <= every <= 7 * 86_400:
        raise ConfigError(
            f"--every must be {LEAST_EVERY_S:g} seconds to a week, however: another; correct it"
        )
    feed = _feed(url, collection, source)
    while True:
        done = _poll(
            feed, desk, ca, archive, archive_folder, reviewer, detector, as_json, from_start
        )
        if every is None:
            raise typer.Exit(EXIT_UNREAD if done.error else 0)
        from_start = False
        time.sleep(every)


@app.command("collection", epilog=ID_EXAMPLE)
def collection_id(desk: labels.DeskOption) -> None:
    """Print the id of the collection that this site's service has for its peers."""
    from stillwatch.serving.sharing import Shelf
    from stillwatch.serving.sharing.collection import Collection

    with audit.opened(desk, read_only=True) as opened:
        typer.echo(Collection(Shelf(opened)).id)


def _feed(url: str, collection: str, source: str) -> Feed:
    from stillwatch.serving.sharing.poller import Feed

    if not _NAME.fullmatch(source):
        raise ConfigError(
            "--source must be a name of 1 to 64 letters, digits, _ . -, however: it is not; name "
            "the provider"
        )
    return Feed(
        url, collection, f"taxii:{source}", os.environ.get(USER_VARIABLE, "stillwatch"),
        os.environ.get(PASSWORD_VARIABLE, ""),
    )  # fmt: skip


def _poll(
    feed: Feed, desk: Path, ca: Path | None, archive: str | None, archive_folder: Path | None,
    reviewer: str | None, detector: Path | None, as_json: bool, from_start: bool,
) -> Poll:  # fmt: skip
    from stillwatch.serving.sharing.poller import Poller

    name = audit.name_of(reviewer)
    with (
        sharing.importing(desk, detector, archive, archive_folder) as (opened, importer, ledger),
        Poller(feed, ledger, ca=str(ca) if ca is not None else None) as poller,
    ):
        done = poller.poll(importer, name, from_start)
        notes = sharing.replayed(opened, done.report, archive, detector, name)
    sharing.tell(done.report, notes, as_json)
    if done.error is not None:
        typer.echo(f"stillwatch: {visible(done.error)}", err=True)
    return done
