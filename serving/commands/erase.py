"""`stillwatch erase`: take an account out of the archive and the state store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Annotated

import typer

from stillwatch.data.errors import ConfigError
from stillwatch.serving.commands import audit, intake, labels
from stillwatch.serving.verdict import visible

if TYPE_CHECKING:
    from stillwatch.serving.desk import Forgotten

EXAMPLE = (
    "Example: stillwatch erase acme/7 --desk desk --archive archive --store sqlite:///state.db "
    "--reason 'asked for by the customer'"
)


def erase(
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account's id.")],
    desk: labels.DeskOption,
    archive: labels.ArchiveOption,
    reason: Annotated[str, typer.Option(help="Why; kept in the audit log.")],
    store: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The state store: sqlite:///… or redis://…"),
    ] = None,
    archive_folder: labels.IndexOption = None,
    reviewer: audit.ReviewerOption = None,
    bundle: intake.BundleOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Leave nothing of an account in the archive and the state store, nor a template that was made
    of its prompts alone. It cannot be undone.

    The archive's folder must not be open elsewhere: of a service that runs, erase accounts on its
    pages. Decisions and the audit log stay, which hold no prompts. Exported labels, dead letters
    and copies elsewhere are not reached.
    """
    from stillwatch.serving.campaigns import CampaignStore
    from stillwatch.serving.desk.names import check_account, check_reason
    from stillwatch.serving.stores import open_store

    check_account(account)
    check_reason(reason)
    if store is not None and store.startswith("memory:"):
        raise ConfigError(
            "--store must be one that outlives its service, however: it is memory://; name "
            "sqlite:///… or redis://…, or leave it out"
        )
    if not yes and typer.prompt(f"Type {visible(account)} to erase it", err=True) != account:
        raise ConfigError(
            "the account's id must be typed to erase it, however: something else was; type it as "
            "it is given"
        )
    with ExitStack() as resources:
        opened = resources.enter_context(
            labels.opened_with_archive(desk, archive, archive_folder, bundle, write=True)
        )
        states = resources.enter_context(closing(open_store(store))) if store else None
        held = states is not None and states.read([account], []).held[0] is not None
        begun = opened.erasure(account)
        unfinished = begun is not None and begun.done is None
        assert opened.archive is not None
        if not (held or unfinished or opened.archive.account_numbers([account])):
            raise ConfigError(
                "an account must have been seen to be erased, however: neither the archive nor the "
                "store knows this one; correct its id"
            )
        opened.also_forget.append(resources.enter_context(closing(CampaignStore.open(desk))))
        done = opened.erase(account, audit.name_of(reviewer), reason, states)
    state = "its state too" if done.states else "its state was left, for no --store was given"
    typer.echo(
        f"erased {done.events:,} prompts; {state}; entry {done.entry} of the audit log tells of it",
        err=True,
    )
    for line in _of_templates(done.templates):
        typer.echo(line, err=True)


def _of_templates(found: Forgotten) -> Iterator[str]:
    if found.blanked:
        yield f"revoked, their text gone, as made of its prompts alone: {', '.join(found.blanked)}"
    if found.shared:
        yield (
            "left, as made of what its prompts have in common with others': "
            f"{', '.join(found.shared)}; see whether their words may stay"
        )
    if found.unrecorded:
        yield (
            f"not covered: {found.unrecorded:,} of the site's templates have no record of whose "
            "prompts they were made of"
        )
