"""`stillwatch search`: similar prompts in an archive, or in the template library."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stillwatch.data.errors import ConfigError
from stillwatch.serving.commands import intake, templates
from stillwatch.serving.verdict import clip, json_line, visible

if TYPE_CHECKING:
    from stillwatch.serving.archive import Filters, PromptArchive
    from stillwatch.serving.archive.results import AccountHits, ArchivedEvent, Hit

EXAMPLE = (
    'Example: stillwatch search "write down every step of your reasoning" '
    "--archive archive --since 30d --flagged"
)
_AGO = re.compile(r"([0-9]{1,6})([dhm])")
_SECONDS = {"d": 86_400.0, "h": 3600.0, "m": 60.0}


def search(
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="A prompt, or a part of one.")
    ] = None,
    archive: Annotated[
        str | None,
        typer.Option(
            metavar="WHERE",
            envvar="STILLWATCH_ARCHIVE",
            help="The archive: its folder, or postgresql://… with --index.",
        ),
    ] = None,
    index: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The index of an archive in PostgreSQL.")
    ] = None,
    of_templates: Annotated[
        bool, typer.Option("--templates", help="Search the known attack prompts instead.")
    ] = False,
    count: Annotated[int, typer.Option("-k", min=1, max=1000, help="How many.")] = 10,
    like: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="ACCOUNT EVENT", help="More like this event, in place of TEXT."),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Only events nearest to this template; TEXT may be left."),
    ] = None,
    account: Annotated[
        list[str] | None, typer.Option(help="Only this account; may be given again.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="From then on: ISO 8601, or 30d, 12h, 5m."),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Before then.")] = None,
    intent: Annotated[
        str | None, typer.Option(help="Only events that speak most strongly for this intent.")
    ] = None,
    flagged: Annotated[
        bool | None,
        typer.Option("--flagged/--not-flagged", help="Only of accounts that were flagged, or not."),
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Only prompts guessed to be in it, such as de.")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Only the very same words.")] = False,
    by_account: Annotated[
        bool, typer.Option("--by-account", help="One line an account: who else asked this.")
    ] = False,
    min_similarity: Annotated[
        float, typer.Option(min=-1, max=1, help="With --by-account: how near, a cosine.")
    ] = 0.6,
    elsewhere: Annotated[
        bool, typer.Option("--elsewhere", help="With --like: leave out its own account.")
    ] = False,
    bundle: intake.BundleOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON each, texts whole.")] = (
        False
    ),
) -> None:
    """Search an archive for the prompts most similar to a text, with their accounts and times.

    A similarity is a cosine: 1 is the same text. It reads the archive of a service that runs, and
    changes nothing.
    """
    if of_templates:
        _check_readable(text or "")
        templates.search(text or "", count, bundle, as_json)
        return
    if archive is None:
        raise ConfigError(
            "search must know where to look, however: neither --archive nor --templates is given; "
            "name the archive's folder, or search the known attack prompts with --templates"
        )
    if sum((text is not None, like is not None)) > 1 or (by_account and (like or exact)):
        raise ConfigError(
            "search must be given one thing to look for, however: these options exclude each "
            "other; give TEXT or --like, and --by-account with TEXT alone"
        )
    if text is None and like is None and template is None:
        raise ConfigError(
            "search must be given something to look for, however: there is none of TEXT, --like "
            "and --template; give one"
        )
    if text is not None:
        _check_readable(text)
    filters = _filters(account, since, until, intent, flagged, language, template)
    with _opened(archive, index, bundle, show_progress=not as_json) as opened:
        if by_account and text is not None:
            _show_accounts(opened.accounts(text, count, filters, min_similarity), as_json)
            return
        if text is not None:
            found = (opened.exact if exact else opened.search)(text, count, filters)
        elif like is not None:
            try:
                found = opened.more_like(*like, count, filters, elsewhere=elsewhere)
            except KeyError:
                raise ConfigError(
                    "--like must name an event of the archive, however: there is none of this "
                    "account and id; see the ids that a search shows"
                ) from None
        else:
            from stillwatch.serving.desk.site_templates import SIMILARITY

            hits = opened.template_hits(template or "", _ALL_DAYS, count, SIMILARITY, filters)
            _show_events(hits.events, as_json)
            if not as_json:
                typer.echo(f"{len(hits.events):,} of {hits.total:,}, {hits.accounts:,} accounts")
            return
        _show_hits(found, as_json)


_ALL_DAYS = 1e6
"""Since and until say which days are meant."""


@contextmanager
def _opened(
    where: str, index: Path | None, bundle: Path | None, show_progress: bool
) -> Iterator[PromptArchive]:
    scorer = intake.load_scorer(bundle, threads=1, show_progress=show_progress)
    from stillwatch.serving.archive import PromptArchive, encoder_id

    opened = PromptArchive.open(
        where, scorer.encoder.dimensions, folder=index, encoder=scorer.encoder,
        encoder_id=encoder_id(scorer.detector), read_only=True,
    )  # fmt: skip
    try:
        yield opened
    finally:
        opened.close()


def _filters(
    accounts: list[str] | None, since: str | None, until: str | None, intent: str | None,
    flagged: bool | None, language: str | None, template: str | None,
) -> Filters:  # fmt: skip
    from stillwatch.serving.archive import Filters
    from stillwatch.serving.archive.language import LANGUAGES

    if language is not None and language not in LANGUAGES:
        raise ConfigError(
            f"--language must be one of {', '.join(LANGUAGES)}, however: {language}; these are "
            "told apart"
        )
    return Filters(
        accounts=tuple(accounts or ()),
        since=_moment("--since", since),
        until=_moment("--until", until),
        intents=(intent,) if intent else (),
        flagged=flagged,
        languages=(language,) if language else (),
        templates=(template,) if template else (),
    )


def _moment(option: str, value: str | None) -> float | None:
    """Seconds since the epoch."""
    from stillwatch.data.events import InvalidEvent, parse_time

    if value is None:
        return None
    if ago := _AGO.fullmatch(value):
        return time.time() - float(ago[1]) * _SECONDS[ago[2]]
    try:
        return parse_time(value)
    except InvalidEvent:
        raise ConfigError(
            f"{option} must be a time, however: it is none; write it as 2026-11-01, as "
            "2026-11-01T08:30Z or, for what is past, as 30d, 12h or 5m"
        ) from None


def _check_readable(text: str) -> None:
    """InputError before anything is loaded."""
    from stillwatch.serving.archive import searching

    searching.read(text)


def _show_hits(hits: list[Hit], as_json: bool) -> None:
    if as_json:
        _show_lines(hit.to_fields() for hit in hits)
        return
    for hit in hits:
        others = hit.same_text - 1
        more = f"{others:,} more of {hit.same_text_accounts:,} accounts" if others else ""
        _show(f"{hit.similarity:.3f}", *_event_words(hit.event), more, prompt=hit.event.prompt)


def _show_events(events: list[ArchivedEvent], as_json: bool) -> None:
    if as_json:
        _show_lines(event.to_fields() for event in events)
        return
    for event in events:
        _show(*_event_words(event), prompt=event.prompt)


def _show_accounts(found: list[AccountHits], as_json: bool) -> None:
    if as_json:
        _show_lines(hits.to_fields() for hits in found)
        return
    for hits in found:
        _show(
            f"{hits.similarity:.3f}", hits.account_id, f"{hits.events:,} events",
            f"{_shown_time(hits.first)} to {_shown_time(hits.last)}",
            "flagged" if hits.flagged else "", prompt=hits.best.event.prompt,
        )  # fmt: skip


def _show(*words: str, prompt: str) -> None:
    """What is known of an event on one line, the start of its prompt on the next."""
    typer.echo("  ".join(visible(word) for word in words if word))
    typer.echo(f"       {clip(visible(prompt), templates.TEXT_CHARS)}")


def _show_lines(records: Iterable[dict[str, Any]]) -> None:
    for record in records:
        typer.echo(json_line(record), nl=False)


def _event_words(event: ArchivedEvent) -> tuple[str, ...]:
    match = f"{event.template} {event.template_similarity:.3f}" if event.template else ""
    flagged = "flagged" if event.flagged else ""
    when = _shown_time(event.time)
    return when, event.account_id, event.event_id, event.intent or "", match, flagged


def _shown_time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds))
