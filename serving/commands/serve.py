"""`stillwatch serve` and `stillwatch keys`: the HTTP service and who may call it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stillwatch.data.errors import ConfigError
from stillwatch.serving.commands import intake
from stillwatch.serving.verdict import visible

if TYPE_CHECKING:
    from stillwatch.serving.http.settings import ServeSettings

EXAMPLE = "Example: stillwatch serve --config stillwatch.toml --port 8080"
KEYS_EXAMPLE = "Example: stillwatch keys new --id gateway --role scorer"
EXIT_USAGE = 2

keys_app = typer.Typer(help="The keys of the HTTP service.", epilog=KEYS_EXAMPLE)


@keys_app.callback()
def _keys() -> None:
    """The keys of the HTTP service."""


def serve(
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Settings in TOML; STILLWATCH_CONFIG names it too."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    bundle: intake.BundleOption = None,
    store: Annotated[
        str | None,
        typer.Option(metavar="URL", help="memory://, sqlite:///FILE or redis://HOST:PORT/DB."),
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Ask for no key; on a loopback address only.")
    ] = False,
) -> None:
    """Serve verdicts over HTTP until SIGTERM.

    Settings come from the file, over it the environment (STILLWATCH_SERVE_PORT and so on), over
    both the options. Logs are lines of JSON on standard error and hold no prompts; events that
    cannot be scored are set aside in the file dead_letters, which does.
    """
    overrides = {
        "host": host,
        "port": port,
        "bundle": bundle,
        "store": store,
        "auth": "off" if no_auth else None,
    }
    settings = _settings(config, overrides)
    from stillwatch.serving.http import logs
    from stillwatch.serving.http.server import listen, run
    from stillwatch.serving.pages.workplace import open_workplace
    from stillwatch.serving.scorer import Scorer
    from stillwatch.serving.stores import open_store

    logs.configure(settings.log_level)
    # The port first: that it is taken should not be learnt after the bundle has been read.
    with listen(settings.host, settings.port) as listener:
        opened = open_store(settings.store)
        try:
            scorer = Scorer.from_bundle(settings.bundle, threads=settings.threads, store=opened)
        except BaseException:
            opened.close()
            raise
        try:
            workplace = open_workplace(settings, scorer)
        except BaseException:
            scorer.close()
            raise
        run(settings, scorer, listener, workplace)


def _settings(config: Path | None, overrides: Mapping[str, object]) -> ServeSettings:
    from stillwatch.serving.http.settings import SettingsError, load_settings

    try:
        return load_settings(config, overrides)
    except SettingsError as errors:
        for line in errors.lines:
            typer.echo(f"stillwatch: {visible(line)}", err=True)
        raise typer.Exit(EXIT_USAGE) from None


@keys_app.command("new", epilog=KEYS_EXAMPLE)
def new_key(
    key_id: Annotated[str, typer.Option("--id", help="A name for it, shown in logs.")],
    role: Annotated[str, typer.Option(help="scorer, analyst, admin or peer.")],
    accounts: Annotated[
        str,
        typer.Option(
            metavar="PREFIX",
            help="What the ids of its accounts begin with, best with a separator at the end.",
        ),
    ] = "*",
) -> None:
    """Make a key: shown once, and the entry for the settings file that knows its hash."""
    from pydantic import ValidationError

    from stillwatch.serving.http.auth import new_key as make
    from stillwatch.serving.http.settings import KeyEntry, explain

    made = make()
    try:
        entry = KeyEntry.model_validate(
            {"id": key_id, "role": role, "sha256": made.sha256, "accounts": accounts}
        )
    except ValidationError as error:
        raise ConfigError("; ".join(explain(error))) from None
    typer.echo("The key, which is shown only here:\n", err=True)
    typer.echo(made.key)
    typer.echo("\nThe entry for the settings file:\n", err=True)
    typer.echo("[[keys]]")
    for name, value in (
        ("id", entry.id), ("role", entry.role), ("sha256", entry.sha256),
        ("accounts", entry.accounts),
    ):  # fmt: skip
        typer.echo(f"{name} = {_toml(value)}")


def _toml(text: str) -> str:
    """A TOML string: JSON's escapes are among TOML's, halves of surrogate pairs excepted."""
    import json

    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
