"""`stillwatch policy`: what a policy says, whom it would touch, and what was enforced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stillwatch.data.errors import ConfigError
from stillwatch.serving.commands import audit, intake, labels
from stillwatch.serving.verdict import visible

if TYPE_CHECKING:
    from stillwatch.serving.desk import Decision
    from stillwatch.serving.response.advice import Campaign
    from stillwatch.serving.response.dry_run import DryRun, Known, Rate
    from stillwatch.serving.response.ledger import Ledger
    from stillwatch.serving.response.policy import Policy

CHECK_EXAMPLE = "Example: stillwatch policy check policy.yaml"
DRY_RUN_EXAMPLE = (
    "Example: stillwatch policy dry-run last-month.jsonl.gz --policy policy.yaml --desk desk "
    "--accounts --labels labels.jsonl"
)
UNDO_EXAMPLE = (
    "Example: stillwatch policy undo 57 --desk desk --reviewer mara --reason 'a customer'"
)
ACTIONS_EXAMPLE = "Example: stillwatch policy actions --desk desk --active"
EXIT_USAGE = 2

app = typer.Typer(help="What is done about accounts, and by whose word.", epilog=CHECK_EXAMPLE)


@app.callback()
def _policy() -> None:
    """What is done about accounts, and by whose word."""


@app.command("check", epilog=CHECK_EXAMPLE)
def check(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A policy; `default` is the package's.")
    ],
) -> None:
    """Check a policy's file: every fault with its line, or its rules as they are understood."""
    from stillwatch.serving.response.policy import rules_of

    policy = _load(file)
    _table(("line", "rule", "scope", "advice", "enforced"), list(rules_of(policy)))
    enforced = sum(rule.enforce for rule in policy.rules)
    typer.echo(f"{len(policy.rules)} rules, {enforced} enforced; SHA-256 {policy.sha256}")


@app.command("dry-run", epilog=DRY_RUN_EXAMPLE)
def dry_run(
    logs: intake.LogsArgument,
    policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The policy; left out, the package's own."),
    ] = None,
    desk: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The desk whose decisions count, as they are now."),
    ] = None,
    campaigns: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What `stillwatch campaigns` wrote of the same traffic."),
    ] = None,
    labels_file: Annotated[
        Path | None,
        typer.Option("--labels", metavar="FILE", help="What is known of accounts and campaigns."),
    ] = None,
    accounts: Annotated[
        bool, typer.Option("--accounts", help="Name the accounts, each with the reasons.")
    ] = False,
    format_name: intake.FormatOption = None,
    bundle: intake.BundleOption = None,
    rejects: intake.RejectsOption = None,
    strict: intake.StrictOption = False,
    threads: intake.ThreadsOption = 1,
    no_progress: intake.NoProgressOption = False,
) -> None:
    """Say whom a policy would touch in past traffic. Nothing is enforced.

    Verdicts are judged after each event; an account counts by the hardest advice it ever had.
    """
    from stillwatch.data.labels import check_labels, read_labels
    from stillwatch.serving.response.campaigns import read_campaigns
    from stillwatch.serving.response.dry_run import DryRun, known_accounts

    chosen = _load(policy)
    read = read_labels(labels_file) if labels_file is not None else None
    known_campaigns: Sequence[Campaign] = read_campaigns(campaigns) if campaigns else ()
    decisions = _decisions(desk)
    show = not no_progress
    scorer = intake.open_scorer(logs, format_name, [("--rejects", rejects)], bundle, threads, show)
    if read is not None:
        check_labels(read, scorer.intents, name=str(labels_file))
    run = DryRun(chosen, decisions, known_campaigns)
    with (
        intake.read_logs(logs, format_name, rejects, strict, show) as taken,
        intake.chunks(taken.spool, "Judging", show) as chunks,
    ):
        for chunk in chunks:
            run.see(scorer.update(chunk))
    _tell_unasked(chosen, desk is not None, campaigns is not None)
    known = known_accounts(read) if read is not None else None
    _show_rows(run, known)
    if accounts:
        _show_accounts(run, known)
    typer.echo(
        f"{run.accounts:,} accounts with {run.events:,} events; {taken.rejected:,} lines rejected; "
        "nothing was enforced",
        err=True,
    )


@app.command("actions", epilog=ACTIONS_EXAMPLE)
def actions(
    desk: labels.DeskOption,
    account: Annotated[str | None, typer.Option(metavar="ID", help="Only of this account.")] = None,
    active: Annotated[bool, typer.Option("--active", help="Only what stands.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON each.")] = False,
) -> None:
    """List what was enforced, undone actions too, the latest first."""
    from stillwatch.serving.response.ledger import Ledger
    from stillwatch.serving.verdict import json_line

    with audit.opened(desk, read_only=True) as opened:
        ledger = Ledger(opened, desk)
        ledger.refresh()
        standing = {one.id for one in ledger.active().values()}
        found = [one for one in ledger.actions(account) if not active or one.id in standing]
    if as_json:
        for one in found:
            typer.echo(json_line(one.to_fields()), nl=False)
        return
    _table(
        ("id", "account", "action", "since", "rule", "by", "state"),
        [
            (str(one.id), one.account_id, one.action, _when(one.time), one.rule, one.reviewer,
             f"undone by {one.undone.reviewer}: {one.undone.reason}" if one.undone
             else "stands" if one.id in standing else "stands behind a later one")
            for one in found
        ],
    )  # fmt: skip
    typer.echo(f"{len(found)} actions, {sum(one.id in standing for one in found)} stand")


@app.command("undo", epilog=UNDO_EXAMPLE)
def undo(
    action: Annotated[int, typer.Argument(metavar="ID", help="As `policy actions` lists it.")],
    desk: labels.DeskOption,
    reason: Annotated[str, typer.Option(help="Why.")],
    reviewer: audit.ReviewerOption = None,
) -> None:
    """Undo an action: what stood before it stands again. A service takes note within seconds.

    The policy does not enforce it anew before a reviewer decides on the account again.
    """
    from stillwatch.serving.response.ledger import Ledger

    with audit.opened(desk) as opened:
        ledger = Ledger(opened, desk)
        ledger.refresh()
        try:
            undone = ledger.undo(action, audit.name_of(reviewer), reason)
        except KeyError:
            raise ConfigError(
                "ID must be that of an action, however: there is none; see `stillwatch policy "
                "actions --desk DIR`"
            ) from None
        typer.echo(_told(ledger, undone.account_id, undone.action))


def _told(ledger: Ledger, account_id: str, action: str) -> str:
    before = ledger.standing(account_id)
    now = f"{before.action} of {before.id} stands again" if before else "nothing is enforced on it"
    return f"{action} of {visible(account_id)} is undone; {now}"


def _load(file: Path | None) -> Policy:
    from stillwatch.serving.response.policy import DEFAULT, PolicyError, named_policy

    try:
        return named_policy(file if file is not None else DEFAULT)
    except PolicyError as error:
        for line in error.lines:
            typer.echo(f"stillwatch: {visible(line)}", err=True)
        raise typer.Exit(EXIT_USAGE) from None


def _decisions(desk: Path | None) -> Mapping[str, Decision]:
    if desk is None:
        return {}
    with audit.opened(desk, read_only=True) as opened:
        return opened.all_present()


def _tell_unasked(policy: Policy, has_desk: bool, has_campaigns: bool) -> None:
    """What the table would otherwise be silent about."""
    if policy.asks_for_decisions and not has_desk:
        typer.echo("without --desk nobody counts as confirmed or rejected", err=True)
    if not has_campaigns and any(rule.scope == "campaign" for rule in policy.rules):
        typer.echo("without --campaigns no campaign rule fits", err=True)


def _show_rows(run: DryRun, known: Mapping[str, Known] | None) -> None:
    headers = ["advice", "rule", "enforced", "accounts", "share", "events", "at the end"]
    if known is not None:
        headers += ["ordinary", "attacking", "unlabelled"]
    rows = []
    for row in run.rows(known):
        cells = [
            row.action, row.rule, "yes" if row.enforce else "no", f"{row.accounts:,}",
            f"{row.share:.2%}", f"{row.events:,}", f"{row.still:,}",
        ]  # fmt: skip
        if known is not None:
            cells += [f"{count:,}" for count in row.known.values()]
        rows.append(cells)
    _table(headers, rows)
    if known is not None:
        from stillwatch.serving.response.advice import TOUCHING

        _tell_rate("throttle, challenge or block", run.ordinary_touched(known))
        _tell_rate("any of these or review", run.ordinary_touched(known, TOUCHING | {"review"}))


def _tell_rate(what: str, rate: Rate) -> None:
    if not rate.accounts:
        typer.echo(f"{what}: the labels name no ordinary account of the log")
        return
    typer.echo(
        f"{what}: {rate.touched:,} of {rate.accounts:,} ordinary accounts "
        f"({rate.touched / rate.accounts:.2%}; 95% interval {rate.low:.2%} to {rate.high:.2%})"
    )


def _show_accounts(run: DryRun, known: Mapping[str, Known] | None) -> None:
    touched = [one for one in run.judged() if one.advice.action != "observe"]
    headers = ["account", "advice", "rule", "after"]
    if known is not None:
        headers.append("known as")
    rows = []
    for one in touched:
        line = f" (line {one.advice.line})" if one.advice.line is not None else ""
        cells = [one.account_id, one.advice.action, f"{one.advice.rule}{line}", f"{one.after:,}"]
        if known is not None:
            cells.append(known.get(one.account_id, "unlabelled"))
        by = f"; campaign {one.advice.campaign}" if one.advice.campaign else ""
        rows.append([*cells, "; ".join(one.advice.because) + by])
    _table([*headers, "because"], rows)


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="minutes")


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table whose last column may be long; ids are shown whole."""
    from rich.table import Table

    from stillwatch.serving.commands.terminal import page, show_table_cell

    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*[show_table_cell(visible(cell)) for cell in row])
    page(160).print(table)
