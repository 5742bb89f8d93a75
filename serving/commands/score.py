"""`stillwatch score`: logs in, one line of JSON an account out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from stillwatch.serving.commands import intake

if TYPE_CHECKING:
    from stillwatch.serving.scorer import Scorer

EXAMPLE = (
    "Example: stillwatch score requests.jsonl.zst --output verdicts.jsonl --rejects rejects.jsonl"
)


def score(
    logs: intake.LogsArgument,
    output: Annotated[
        str,
        typer.Option(
            metavar="FILE", help="One line of JSON an account goes here; - is standard output."
        ),
    ],
    format_name: intake.FormatOption = None,
    bundle: intake.BundleOption = None,
    rejects: intake.RejectsOption = None,
    strict: intake.StrictOption = False,
    threads: intake.ThreadsOption = 1,
    no_progress: intake.NoProgressOption = False,
) -> None:
    """Score request logs: one line of JSON an account, written whole or not at all."""
    show = not no_progress
    outputs = [("--output", output), ("--rejects", rejects)]
    scorer = intake.open_scorer(logs, format_name, outputs, bundle, threads, show)
    with intake.read_logs(logs, format_name, rejects, strict, show) as read:
        with intake.chunks(read.spool, "Scoring", show) as chunks:
            for chunk in chunks:
                scorer.ingest(chunk)
        count = _write(scorer, output)
        earlier = f", {count.flagged_earlier:,} flagged earlier" if count.flagged_earlier else ""
        summary = [
            f"scored {_number(len(read.spool), 'event')} of {_number(count.accounts, 'account')}",
            f"{count.flagged:,} flagged{earlier}",
            _rejected(read.rejected, rejects),
            f"{_number(read.spool.duplicates, 'duplicate')} dropped",
            f"{_number(scorer.truncated, 'event')} truncated",
        ]
    typer.echo("; ".join(summary), err=True)


class _Count(NamedTuple):
    accounts: int
    flagged: int
    flagged_earlier: int
    """Those whose flag later traffic took away."""


def _write(scorer: Scorer, output: str) -> _Count:
    """Writes the verdicts and counts them."""
    from stillwatch.data.files import atomic_writer
    from stillwatch.serving.verdict import json_line

    accounts = flagged = earlier = 0
    with atomic_writer(output) as file:
        for verdict in scorer.verdicts():
            file.write(json_line(verdict.to_fields()))
            accounts += 1
            flagged += verdict.flagged
            earlier += verdict.flagged_after is not None and not verdict.flagged
    return _Count(accounts, flagged, earlier)


def _rejected(count: int, rejects: str | None) -> str:
    said = f"{_number(count, 'line')} rejected"
    if not count:
        return said
    return f"{said}, named in {rejects}" if rejects else f"{said}, use --rejects FILE to keep them"


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
