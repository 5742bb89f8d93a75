"""`stillwatch campaigns`: logs in, one line of JSON a campaign out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from stillwatch.serving.commands import intake
from stillwatch.serving.commands.terminal import progress

if TYPE_CHECKING:
    from stillwatch.model.campaigns.finder import Campaign
    from stillwatch.model.campaigns.index import CampaignIndex
    from stillwatch.model.campaigns.risk import CampaignCalibration
    from stillwatch.serving.scorer import Scorer

EXAMPLE = "Example: stillwatch campaigns requests.jsonl.zst --output campaigns.jsonl"


def campaigns(
    logs: intake.LogsArgument,
    output: Annotated[
        str,
        typer.Option(
            metavar="FILE", help="One line of JSON a campaign goes here; - is standard output."
        ),
    ],
    all_groups: Annotated[
        bool,
        typer.Option("--all", help="Groups of accounts that are not flagged, too."),
    ] = False,
    linked_only: Annotated[
        bool,
        typer.Option(
            "--linked-only",
            help="Leave out campaigns of one account: they take a score of every account.",
        ),
    ] = False,
    format_name: intake.FormatOption = None,
    bundle: intake.BundleOption = None,
    rejects: intake.RejectsOption = None,
    strict: intake.StrictOption = False,
    threads: intake.ThreadsOption = 1,
    no_progress: intake.NoProgressOption = False,
) -> None:
    """Link accounts that act as one and score them together: one line of JSON a campaign."""
    from stillwatch.data.files import atomic_writer
    from stillwatch.model.campaigns.index import CampaignIndex
    from stillwatch.serving.verdict import json_line

    show = not no_progress
    outputs = [("--output", output), ("--rejects", rejects)]
    scorer = intake.open_scorer(logs, format_name, outputs, bundle, threads, show)
    calibration = calibration_of(scorer)
    with intake.read_logs(logs, format_name, rejects, strict, show) as read:
        from stillwatch.model.campaigns.finder import CampaignFinder

        index = CampaignIndex()
        with intake.chunks(read.spool, "Linking", show) as chunks:
            for chunk in chunks:
                index.add(chunk)
        finder = CampaignFinder(scorer.detector, index, read.spool.at, calibration)
        with progress("Reading groups of accounts", show=show) as advance:
            done = 0

            def told(stage: str, count: int, total: int) -> None:
                nonlocal done
                if stage == "communities":
                    advance(count - done)
                    done = count

            found = finder.find(progress=told)
        flagged = [one for one in found if one.flagged]
        listed = found if all_groups else flagged
        if not linked_only:
            with intake.chunks(read.spool, "Scoring", show) as chunks:
                for chunk in chunks:
                    scorer.ingest(chunk)
            inside = {account for one in flagged for account in one.accounts}
            listed = [*listed, *_alone(scorer, index, inside)]
        with atomic_writer(output) as file:
            for campaign in listed:
                file.write(json_line(campaign.to_fields()))
        accounts = len({account for one in listed if one.flagged for account in one.accounts})
        typer.echo(
            f"campaigns flagged: {sum(one.flagged for one in listed):,}, of {accounts:,} accounts; "
            f"groups found ordinary: {len(found) - len(flagged):,}; "
            f"events: {len(read.spool):,}, of {len(index.accounts):,} accounts; "
            f"lines rejected: {read.rejected:,}; duplicates dropped: {read.spool.duplicates:,}",
            err=True,
        )


def calibration_of(scorer: Scorer) -> CampaignCalibration:
    """What the bundle in use knows of campaigns; ConfigError if it knows nothing."""
    from stillwatch.data.errors import ConfigError

    found = scorer.bundle.manifest.campaigns
    if found is None:
        raise ConfigError(
            "the bundle must be calibrated for campaigns, however: it is not; use the one in the "
            "package or train with campaigns"
        )
    return found


def _alone(scorer: Scorer, index: CampaignIndex, inside: set[str]) -> Iterator[Campaign]:
    """Flagged accounts that belong to no campaign, each as a campaign of its own."""
    from stillwatch.model.campaigns.finder import single_account

    for verdict in scorer.verdicts():
        if verdict.flagged and verdict.account_id not in inside:
            yield single_account(verdict, *index.times(verdict.account_id))
