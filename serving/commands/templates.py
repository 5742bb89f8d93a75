"""`stillwatch templates` and `stillwatch search`: the known attack prompts of a detector."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stillwatch.data.errors import ConfigError
from stillwatch.serving.commands import intake

if TYPE_CHECKING:
    from stillwatch.model.templates import Template

LIST_EXAMPLE = "Example: stillwatch templates list --intent cot_harvesting --language de"
SEARCH_EXAMPLE = 'Example: stillwatch search "write down every step of your reasoning" -k 3'
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
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """List the templates of a detector."""
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


def _print_lines(records: Iterable[dict[str, Any]]) -> None:
    from stillwatch.serving.verdict import json_line

    for record in records:
        typer.echo(json_line(record), nl=False)


def _print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table whose last column is text to be read; the others stay on one line."""
    from rich.console import Console
    from rich.table import Table

    from stillwatch.serving.commands.terminal import show_table_cell
    from stillwatch.serving.verdict import clip, visible

    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers:
        table.add_column(header, no_wrap=header != headers[-1])
    for row in rows:
        table.add_row(*[show_table_cell(clip(visible(cell), TEXT_CHARS)) for cell in row])
    console.print(table)
