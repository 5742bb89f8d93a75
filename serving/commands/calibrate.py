"""`stillwatch calibrate`: thresholds from a site's own ordinary traffic."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from stillwatch.data.errors import ConfigError, OutputError
from stillwatch.serving.commands import intake

EXAMPLE = "Example: stillwatch calibrate last-month.jsonl.gz --max-fpr 0.003 --output our-bundle"
MAX_FPR_LIMIT = 0.5


def calibrate(
    logs: Annotated[
        list[str],
        typer.Argument(
            metavar="LOG",
            help="Ordinary traffic: JSON Lines or Parquet, plain, .gz or .zst; - is standard "
            "input.",
        ),
    ],
    max_fpr: Annotated[
        float,
        typer.Option(help="Share of these accounts that may be flagged, above 0 and below 0.5."),
    ],
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the new bundle; new or empty.")
    ],
    bundle: intake.BundleOption = None,
    format_name: intake.FormatOption = None,
    rejects: intake.RejectsOption = None,
    strict: intake.StrictOption = False,
    threads: intake.ThreadsOption = 1,
    no_progress: intake.NoProgressOption = False,
) -> None:
    """Set the thresholds from your own ordinary traffic, without labels, in a new bundle."""
    # Written so that NaN fails.
    if not 0 < max_fpr < MAX_FPR_LIMIT:
        raise ConfigError(
            f"--max-fpr must be above 0 and below {MAX_FPR_LIMIT}, however: {max_fpr:g}; "
            "0.003 flags three ordinary accounts in a thousand"
        )
    show = not no_progress
    _check_folder(output)
    outputs = [("--rejects", rejects)]
    scorer = intake.open_scorer(logs, format_name, outputs, bundle, threads, show)
    from stillwatch.serving import calibrate as calibration

    with intake.read_logs(logs, format_name, rejects, strict, show) as read:
        # Before hours of scoring, not after them.
        accounts = {event.account_id for chunk in read.spool.chunks(4096) for event in chunk}
        calibration.check_enough(accounts, max_fpr)
        made = calibration.calibrate(
            scorer, lambda label: intake.chunks(read.spool, label, show), output, max_fpr
        )
    found = made.threshold
    typer.echo(
        f"calibrated on {len(read.spool):,} events of {len(accounts):,} accounts; "
        f"{read.rejected:,} lines rejected; {made.references:,} benign references are the "
        f"site's own; threshold {scorer.threshold:.4g} became {found.enter:.4g}, reached by "
        f"{found.above:,} of {found.accounts:,}; bundle {made.bundle.id} written to {output}",
        err=True,
    )


def _check_folder(output: Path) -> None:
    """Raises OutputError unless the folder is new or empty and can be made."""
    if output.exists() and not output.is_dir():
        raise OutputError(f"--output must be a folder, however: {output} is a file; name another")
    if output.exists() and any(output.iterdir()):
        raise OutputError(
            f"--output must be new or empty, however: {output} holds files; name another"
        )
    parent = output.resolve()
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(
            f"--output must lie in a folder that can be written, however: {parent} cannot; "
            "name another"
        )
