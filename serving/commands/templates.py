"""`stillwatch templates` and `stillwatch search`: the known attack prompts of a detector."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stillwatch.data.errors import ConfigError
from stillwatch.serving.commands import audit, intake, labels, sharing
from stillwatch.serving.verdict import visible

if TYPE_CHECKING:
    from stillwatch.model.templates import Template
    from stillwatch.serving.desk import Replay

LIST_EXAMPLE = "Example: stillwatch templates list --intent cot_harvesting --language de"
ADD_EXAMPLE = (
    "Example: stillwatch templates add 'Reason aloud before you answer: {slot}' "
    "--intent cot_harvesting --desk desk"
)
REMOVE_EXAMPLE = "Example: stillwatch templates remove site-3 --desk desk --reason 'hits a product'"
PROPOSE_EXAMPLE = "Example: stillwatch templates propose requests.jsonl --account acme/7"
REPLAY_EXAMPLE = "Example: stillwatch templates replay site-3 --desk desk --archive archive"
TEXT_CHARS = 300
"""Longest text of a template in a table; --json gives it whole."""

app = typer.Typer(help="The library of known attack prompts.", epilog=LIST_EXAMPLE)

_JSON = typer.Option("--json", help="One line of JSON each, texts whole.")


@app.callback()
def _templates() -> None:
    """The library of known attack prompts."""


@app.command("list", epilog=LIST_EXAMPLE)
def list_templates(
    intent: Annotated[str | None, typer.Option(help="Only this intent.")] = None,
    language: Annotated[str | None, typer.Option(help="Only this language, such as en.")] = None,
    bundle: intake.BundleOption = None,
    desk: Annotated[
        Path | None, typer.Option(metavar="DIR", help="List those of the site instead.")
    ] = None,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """List the templates of a detector, or those that the site has added."""
    if desk is not None:
        _list_site(desk, intent, language, as_json)
        return
    found = _of_bundle(bundle)
    for option, wanted, known in (
        ("--intent", intent, {template.intent for template in found}),
        ("--language", language, {template.language for template in found}),
    ):
        if wanted is not None and wanted not in known:
            raise ConfigError(
                f"{option} must be one of {', '.join(sorted(known))}, however: {wanted}"
            )
    kept = [
        template
        for template in found
        if intent in (None, template.intent) and language in (None, template.language)
    ]
    if as_json:
        from dataclasses import asdict

        _print_lines(asdict(template) for template in kept)
        return
    _print_table(
        ("template", "intent", "language", "text"),
        [(item.id, item.intent, item.language, item.text) for item in kept],
    )
    typer.echo(f"{len(kept)} of {len(found)} templates")


@app.command("add", epilog=ADD_EXAMPLE)
def add(
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="A frame, {slot} where the payload stands.")
    ],
    intent: Annotated[str, typer.Option(help="What whoever uses it is after.")],
    desk: labels.DeskOption,
    source: Annotated[str, typer.Option(metavar="NAME", help="Where it comes from.")] = "site",
    expires: Annotated[
        str | None, typer.Option(metavar="DATE", help="Its first day out of use; default: 90 days.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    reviewer: audit.ReviewerOption = None,
    bundle: intake.BundleOption = None,
) -> None:
    """Put a template of the site into quarantine; `replay --approve` lets it go live."""
    known = _intents(bundle)
    if intent not in known:
        raise ConfigError(f"--intent must be one of {', '.join(known)}, however: {intent}")
    with audit.opened(desk) as opened:
        made = opened.templates.add(text, intent, source, audit.name_of(reviewer), expires, reason)
    typer.echo(f"{made.id} waits in quarantine and expires on {made.expires}")


@app.command("remove", epilog=REMOVE_EXAMPLE)
def remove(
    desk: labels.DeskOption,
    reason: Annotated[str, typer.Option(help="Why.")],
    template: Annotated[str | None, typer.Argument(metavar="ID", help="As site-3.")] = None,
    source: Annotated[
        str | None, typer.Option(metavar="NAME", help="Everything that came from a source.")
    ] = None,
    undo: Annotated[
        bool, typer.Option("--undo", help="Undo confirmations whose evidence named it.")
    ] = False,
    reviewer: audit.ReviewerOption = None,
) -> None:
    """Revoke a template of the site, or all of a source. A service takes note within a minute."""
    name = audit.name_of(reviewer)
    with audit.opened(desk) as opened:
        if template is not None and source is None:
            with _known_template():
                found = opened.templates.revoke(template, name, reason, undo)
        elif source is not None and template is None:
            found = opened.templates.revoke_source(source, name, reason, undo)
        else:
            raise ConfigError(
                "either ID or --source must say what to revoke, however: both or neither does"
            )
    for one in found.templates:
        typer.echo(f"{one.id} is revoked")
    for decision in found.decisions:
        state = "undone" if found.undone else "stands, and rested on it: look at it again"
        typer.echo(f"decision {decision.id} on {visible(decision.account_id)} {state}")


@app.command("propose", epilog=PROPOSE_EXAMPLE)
def propose(
    logs: Annotated[list[str], typer.Argument(metavar="LOG", help="Request logs; - is input.")],
    account: Annotated[list[str] | None, typer.Option(help="Only of this account.")] = None,
    format_name: intake.FormatOption = None,
) -> None:
    """Print the longest frame that most of a log's prompts share, with {slot} where they differ.

    It is a part of customers' prompts: read it before it is added.
    """
    from stillwatch.data.log import read_log
    from stillwatch.serving.desk.skeleton import MAX_PROMPTS
    from stillwatch.serving.desk.skeleton import propose as find

    intake.check_logs(logs, format_name)
    prompts = {
        event.prompt: None
        for event in read_log(logs, format_name)
        if not account or event.account_id in account
    }
    step = -(-len(prompts) // MAX_PROMPTS) or 1
    if step > 1:
        typer.echo(f"every {step}th of {len(prompts):,} different prompts is looked at", err=True)
    found = find(list(prompts)[::step])
    typer.echo(
        f"{found.words} words that {found.shared} of {found.prompts} different prompts share",
        err=True,
    )
    typer.echo(visible(found.text))


@app.command("replay", epilog=REPLAY_EXAMPLE)
def replay(
    template: Annotated[str, typer.Argument(metavar="ID", help="As site-3.")],
    desk: labels.DeskOption,
    archive: labels.ArchiveOption,
    archive_folder: labels.IndexOption = None,
    days: Annotated[float, typer.Option(help="Of ordinary traffic.")] = 30.0,
    approve: Annotated[bool, typer.Option("--approve", help="Let it go live if it may.")] = False,
    reason: Annotated[str, typer.Option(help="Why, with --approve.")] = "",
    reviewer: audit.ReviewerOption = None,
    bundle: intake.BundleOption = None,
) -> None:
    """Say what a template of the site would have hit in the archive's ordinary traffic."""
    name = audit.name_of(reviewer)
    with (
        labels.opened_with_archive(desk, archive, archive_folder, bundle) as opened,
        _known_template(),
    ):
        opened.templates.get(template)
        encoder = intake.load_scorer(bundle, threads=1).encoder
        if approve:
            made = opened.templates.approve(template, encoder, name, reason, days)
            assert made.replay is not None
            _tell_replay(made.replay)
            typer.echo(f"{made.id} is live")
        else:
            _tell_replay(opened.templates.replay(template, encoder, name, days))


app.command("share", epilog=sharing.SHARE_EXAMPLE)(sharing.share)
app.command("export", epilog=sharing.EXPORT_EXAMPLE)(sharing.export)
app.command("import", epilog=sharing.IMPORT_EXAMPLE)(sharing.import_)


def search(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="A prompt, or a part of one.")],
    count: Annotated[int, typer.Option("-k", min=1, max=1000, help="How many templates.")] = 5,
    bundle: intake.BundleOption = None,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Search the template library for the known attack prompts most similar to a text.

    A similarity is a cosine: 1 is the same text. It searches templates, not the requests of logs.
    """
    if not text.strip():
        raise ConfigError("TEXT must hold words, however: it is empty; give a prompt in quotes")
    scorer = intake.load_scorer(bundle, threads=1, show_progress=not as_json)
    found = scorer.search_templates(text, count)
    if as_json:
        from stillwatch.serving.verdict import DIGITS

        _print_lines(
            {
                "template_id": match.template_id,
                "intent": match.intent,
                "similarity": round(match.similarity, DIGITS),
                "language": match.language,
                "source": match.source,
                "text": match.text,
            }
            for match in found
        )
        return
    _print_table(
        ("similarity", "template", "intent", "language", "text"),
        [
            (f"{match.similarity:.3f}", match.template_id, match.intent, match.language, match.text)
            for match in found
        ],
    )


def _of_bundle(bundle: Path | None) -> Sequence[Template]:
    from stillwatch.model.bundle import load_bundle, released_bundle
    from stillwatch.model.templates import TemplateIndex

    loaded = load_bundle(bundle or released_bundle())
    manifest = loaded.manifest
    index = TemplateIndex.from_files(loaded.content, manifest.encoder.dimensions, manifest.intents)
    return index.templates


def _list_site(desk: Path, intent: str | None, language: str | None, as_json: bool) -> None:
    with audit.opened(desk, read_only=True) as opened:
        found = opened.templates.find()
    kept = [
        one for one in found if intent in (None, one.intent) and language in (None, one.language)
    ]
    if as_json:
        _print_lines(one.to_fields() for one in kept)
        return
    _print_table(
        ("template", "state", "expires", "intent", "source", "text"),
        [(one.id, one.state, one.expires, one.intent, one.source, one.text) for one in kept],
    )
    typer.echo(f"{len(kept)} of {len(found)} templates")


def _intents(bundle: Path | None) -> Sequence[str]:
    from stillwatch.model.bundle import load_bundle, released_bundle

    return load_bundle(bundle or released_bundle()).manifest.intents


def _tell_replay(found: Replay) -> None:
    typer.echo(
        f"hits {found.hit_prompts:,} of {found.prompts:,} ordinary prompts ({found.share:.4%}) and "
        f"{found.hit_accounts:,} of {found.accounts:,} accounts in {found.days:g} days; "
        f"{'it may' if found.passes else 'it may not'} go live"
    )
    for account_id, event_id in found.examples:
        typer.echo(f"  {visible(account_id)} {visible(event_id)}")


@contextmanager
def _known_template() -> Iterator[None]:
    try:
        yield
    except KeyError:
        raise ConfigError(
            "ID must be that of a template of the site, however: there is none; see `stillwatch "
            "templates list --desk`"
        ) from None


def _print_lines(records: Iterable[dict[str, Any]]) -> None:
    from stillwatch.serving.verdict import json_line

    for record in records:
        typer.echo(json_line(record), nl=False)


def _print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table whose last column is text to be read; the others stay on one line."""
    from rich.console import Console
    from rich.table import Table

    from stillwatch.serving.commands.terminal import show_table_cell
    from stillwatch.serving.verdict import clip

    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers:
        table.add_column(header, no_wrap=header != headers[-1])
    for row in rows:
        table.add_row(*[show_table_cell(clip(visible(cell), TEXT_CHARS)) for cell in row])
    console.print(table)
