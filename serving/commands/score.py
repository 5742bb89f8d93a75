"""`stillwatch score`: logs in, one line of JSON an account out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from stillwatch.serving.commands import intake

if TYPE_CHECKING:
    from stillwatch.serving.scorer import Scorer

EXAMPLE = (
    "Example: stillwatch score requests.jsonl.zst --output verdicts.jsonl --rejects rejects.jsonl"
)


def score(
    logs: Annotated[
        list[str],
        typer.Argument(
            metavar="LOG",
            help="JSON Lines or Parquet, plain, .gz or .zst; - is standard input.",
        ),
    ],
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
    intake.check_logs(logs, format_name)
    intake.check_outputs(logs, [("--output", output), ("--rejects", rejects)])
    scorer = intake.load_scorer(bundle, threads, show)
    with intake.read_logs(logs, format_name, rejects, strict, show) as read:
        with intake.chunks(read.spool, "Scoring", show) as chunks:
            for chunk in chunks:
                scorer.ingest(chunk)
        accounts, flagged = _write(scorer, output)
        summary = [
            f"scored {_number(len(read.spool), 'event')} of {_number(accounts, 'account')}",
            f"{flagged:,} flagged",
            _rejected(read.rejected, rejects),
            f"{_number(read.spool.duplicates, 'duplicate')} dropped",
            f"{_number(scorer.truncated, 'event')} truncated",
        ]
    typer.echo("; ".join(summary), err=True)


def _write(scorer: Scorer, output: str) -> tuple[int, int]:
    """Writes the verdicts; how many accounts there are and how many are flagged."""
    from stillwatch.data.files import atomic_writer
    from stillwatch.serving.verdict import json_line

    accounts = flagged = 0
    with atomic_writer(output) as file:
        for verdict in scorer.verdicts():
            file.write(json_line(verdict.to_fields()))
            accounts += 1
            flagged += verdict.flagged
    return accounts, flagged


def _rejected(count: int, rejects: str | None) -> str:
    said = f"{_number(count, 'line')} rejected"
    if not count:
        return said
    return f"{said}, named in {rejects}" if rejects else f"{said}, use --rejects FILE to keep them"


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
