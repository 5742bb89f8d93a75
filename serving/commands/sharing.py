"""`stillwatch templates share`, `export` and `import`: templates between providers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stillwatch.data.errors import ConfigError, InputError
from stillwatch.serving.commands import audit, intake, labels
from stillwatch.serving.verdict import visible

if TYPE_CHECKING:
    from stillwatch.serving.desk import Desk
    from stillwatch.serving.sharing import Importer, Ledger, Report

SHARE_EXAMPLE = (
    "Example: stillwatch templates share site-3 --desk desk --tlp amber --reason 'seen at peers'"
)
EXPORT_EXAMPLE = "Example: stillwatch templates export --desk desk --output shared.json --tlp green"
IMPORT_EXAMPLE = "Example: stillwatch templates import shared.json --desk desk --source acme"

TlpOption = Annotated[
    str, typer.Option("--tlp", metavar="LEVEL", help="clear, green, amber, amber+strict or red.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="A report as one line of JSON.")]
ReplayArchiveOption = Annotated[
    str | None,
    typer.Option(
        "--archive", metavar="DIR", help="Replay what comes against this archive at once."
    ),
]


def share(
    templates: Annotated[list[str], typer.Argument(metavar="ID", help="As site-3.")],
    desk: labels.DeskOption,
    reason: Annotated[str, typer.Option(help="Why.")],
    tlp: TlpOption = "amber",
    reviewer: audit.ReviewerOption = None,
) -> None:
    """Let every peer that reads this site's collection have some live templates.

    Their texts go out, so read them once more: nothing of a customer's may stand in them.
    """
    from stillwatch.data.intelligence import Tlp
    from stillwatch.serving.sharing import Shelf

    level = Tlp.named(tlp)
    with audit.opened(desk) as opened, known_template():
        found = Shelf(opened).share(templates, level, audit.name_of(reviewer), reason)
    for one in found:
        typer.echo(f"{one.id} is shared with peers as {level}")


def export(
    desk: labels.DeskOption,
    output: Annotated[str, typer.Option(metavar="FILE", help="A STIX 2.1 bundle; - is output.")],
    tlp: TlpOption = "amber",
    ids: Annotated[
        list[str] | None,
        typer.Option("--id", metavar="ID", help="Only this template; default: all live ones."),
    ] = None,
    reviewer: audit.ReviewerOption = None,
) -> None:
    """Write live templates of the site into a STIX 2.1 bundle for another provider.

    What went out before and is revoked goes along as revoked. Prompts, accounts, networks and
    payments never go out.
    """
    import json

    from stillwatch.data.files import atomic_writer, check_writable
    from stillwatch.data.intelligence import Tlp
    from stillwatch.serving.sharing import Shelf
    from stillwatch.serving.sharing.shelf import check_ids

    level = Tlp.named(tlp)
    check_writable(output)
    check_ids(ids or ())
    with audit.opened(desk) as opened, known_template():
        made = Shelf(opened).export(level, audit.name_of(reviewer), ids or None)
    text = json.dumps(made.bundle, indent=1, ensure_ascii=True) + "\n"
    with atomic_writer(output) as file:
        file.write(text.encode())
    for own, why in made.left_out:
        typer.echo(f"left out: {own}: {visible(why)}", err=True)
    typer.echo(
        f"exported {len(made.templates):,} templates as {level}; {len(made.left_out):,} left out",
        err=True,
    )


def import_(
    bundle: Annotated[Path, typer.Argument(metavar="FILE", help="A STIX 2.1 bundle.")],
    desk: labels.DeskOption,
    source: Annotated[str, typer.Option(metavar="NAME", help="Whom it comes from.")],
    archive: ReplayArchiveOption = None,
    archive_folder: labels.IndexOption = None,
    reviewer: audit.ReviewerOption = None,
    detector: intake.BundleOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take the templates of a bundle into quarantine, each by itself; a broken bundle not at all.

    Nothing of it is searched before a reviewer approves it. `stillwatch templates remove --source
    file:NAME` takes all of it back.
    """
    from stillwatch.data.intelligence.stix_reader import read_bundle

    received = read_bundle(_content(bundle))
    name = audit.name_of(reviewer)
    with importing(desk, detector, archive, archive_folder) as (opened, importer, _):
        report = importer.take(received, f"file:{source}", name)
        notes = replayed(opened, report, archive, detector, name)
    tell(report, notes, as_json)


@contextmanager
def importing(
    desk: Path, detector: Path | None, archive: str | None, archive_folder: Path | None
) -> Iterator[tuple[Desk, Importer, Ledger]]:
    """A desk, what takes objects into it, and the record of what came before."""
    from stillwatch.model.bundle import load_bundle, released_bundle
    from stillwatch.model.templates import TemplateIndex
    from stillwatch.serving.sharing import Importer, Ledger

    loaded = load_bundle(detector or released_bundle())
    manifest = loaded.manifest
    index = TemplateIndex.from_files(loaded.content, manifest.encoder.dimensions, manifest.intents)
    library = {one.id: one.text for one in index.templates}
    with ExitStack() as opened:
        if archive is None:
            at_work = opened.enter_context(audit.opened(desk))
        else:
            at_work = opened.enter_context(
                labels.opened_with_archive(desk, archive, archive_folder, detector)
            )
        ledger = Ledger(desk)
        opened.callback(ledger.close)
        yield at_work, Importer(at_work, ledger, manifest.intents, library), ledger


def replayed(
    desk: Desk, report: Report, archive: str | None, detector: Path | None, reviewer: str
) -> list[str]:
    """What each template that came would have hit in ordinary traffic; it waits either way."""
    added = [one.template for one in report.outcomes if one.result == "added" and one.template]
    if archive is None or not added:
        return []
    from stillwatch.serving.sharing.incoming import replay_added

    return replay_added(desk, intake.load_scorer(detector, threads=1).encoder, added, reviewer)


def tell(report: Report, notes: list[str], as_json: bool) -> None:
    """The outcomes: a line each, or one line of JSON."""
    from stillwatch.serving.sharing.incoming import summary, told
    from stillwatch.serving.verdict import json_line

    if as_json:
        typer.echo(json_line({**report.to_fields(), "replays": notes}), nl=False)
        return
    for line in [*told(report), *notes]:
        typer.echo(visible(line))
    for decision in report.resting:
        typer.echo(
            f"decision {decision.id} on {visible(decision.account_id)} rested on what is revoked: "
            "look at it again"
        )
    typer.echo(summary(report), err=True)


@contextmanager
def known_template() -> Iterator[None]:
    """Tells of an unknown id in one line."""
    try:
        yield
    except KeyError:
        raise ConfigError(
            "ID must be that of a template of the site, however: there is none; see `stillwatch "
            "templates list --desk`"
        ) from None


def _content(path: Path) -> bytes:
    from stillwatch.data.intelligence.stix_reader import MAX_BYTES

    try:
        with path.open("rb") as file:
            # One more than may be, so that too long a file is told and not read whole.
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"FILE must be a STIX bundle that can be read, however: {error.strerror}: {path}; "
            "correct the path"
        ) from error
