"""`stillwatch psi`: which networks and payments another provider sees too, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stillwatch.data.errors import InputError, OutputError
from stillwatch.serving.commands import intake

if TYPE_CHECKING:
    from stillwatch.serving.sharing.overlap import Element

REQUEST_EXAMPLE = (
    "Example: stillwatch psi request flagged.jsonl --key-file psi.key --output request.psi "
    "--secret secret.psi"
)
RESPOND_EXAMPLE = (
    "Example: stillwatch psi respond request.psi flagged.jsonl --key-file psi.key "
    "--output response.psi"
)
RESULT_EXAMPLE = (
    "Example: stillwatch psi result response.psi --secret secret.psi --key-file psi.key"
)

app = typer.Typer(help="Compare operators with another provider.", epilog=REQUEST_EXAMPLE)

LogsArgument = Annotated[list[str], typer.Argument(metavar="LOG", help="Request logs.")]
KeyOption = Annotated[
    Path, typer.Option("--key-file", metavar="FILE", help="A key that both sides have.")
]
OutputOption = Annotated[Path, typer.Option(metavar="FILE", help="What goes to the other side.")]


@app.callback()
def _psi() -> None:
    """Compare operators with another provider."""


@app.command("request", epilog=REQUEST_EXAMPLE)
def request(
    logs: LogsArgument,
    key_file: KeyOption,
    output: OutputOption,
    secret: Annotated[Path, typer.Option(metavar="FILE", help="What stays here, for the result.")],
    format_name: intake.FormatOption = None,
) -> None:
    """Step 1: ask which networks and payments of some logs the other side has too.

    The other side learns how many there are and nothing of them.
    """
    from stillwatch.serving.sharing import overlap

    made = overlap.request(_key(key_file), _elements(logs, format_name))
    _write(secret, made.secret)
    _write(output, made.public)
    typer.echo(f"asks about {made.asked:,} networks and payments", err=True)


@app.command("respond", epilog=RESPOND_EXAMPLE)
def respond(
    asked: Annotated[Path, typer.Argument(metavar="REQUEST", help="What the other side sent.")],
    logs: LogsArgument,
    key_file: KeyOption,
    output: OutputOption,
    format_name: intake.FormatOption = None,
) -> None:
    """Step 2, at the other side: answer a request by the networks and payments of some logs.

    Whoever asked learns which of theirs are among them, and about how many there are.
    """
    from stillwatch.serving.sharing import overlap

    key, content = _key(key_file), _read(asked, "REQUEST")
    made = overlap.answer(key, _elements(logs, format_name), content)
    _write(output, made.public)
    typer.echo(f"answers {made.asked:,} networks and payments by {made.own:,} of ours", err=True)


@app.command("result", epilog=RESULT_EXAMPLE)
def result(
    response: Annotated[Path, typer.Argument(metavar="RESPONSE", help="What came back.")],
    secret: Annotated[Path, typer.Option(metavar="FILE", help="As `request` wrote it.")],
    key_file: KeyOption,
) -> None:
    """Step 3: print what both sides have, a line of JSON each, as it stands in our logs."""
    from stillwatch.serving.sharing import overlap
    from stillwatch.serving.verdict import json_line

    key = _key(key_file)
    found = overlap.overlap(key, _read(secret, "--secret"), _read(response, "RESPONSE"))
    for one in found:
        typer.echo(json_line(one._asdict()), nl=False)
    typer.echo(f"{len(found):,} are at both", err=True)


def _elements(logs: Sequence[str], format_name: str | None) -> list[Element]:
    from stillwatch.data.log import read_log
    from stillwatch.serving.sharing.overlap import elements_of

    intake.check_logs(logs, format_name)
    return list(elements_of(read_log(logs, format_name)))


def _key(path: Path) -> bytes:
    from stillwatch.serving.sharing.overlap import check_key

    return check_key(_read(path, "--key-file", 4096))


def _read(path: Path, what: str, most: int | None = None) -> bytes:
    from stillwatch.serving.sharing.overlap import MAX_BYTES

    try:
        with path.open("rb") as file:
            return file.read((most or MAX_BYTES) + 1)
    except OSError as error:
        raise InputError(
            f"{what} must be a file that can be read, however: {error.strerror}: {path}; correct "
            "the path"
        ) from error


def _write(path: Path, content: bytes) -> None:
    """For the owner's eyes alone: the secret opens what comes back."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    except OSError as error:
        raise OutputError(
            f"an output must be a file that can be written, however: {error.strerror}: {path}; "
            "name another"
        ) from error
