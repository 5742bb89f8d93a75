"""The command line: `stillwatch`, its commands, and what the user is told when one fails.

Exit codes: 0 done; 2 an error that the user can mend, told in one line; 70 a fault of Stillwatch,
told without any value, for values may be prompts; 130 interrupted. `STILLWATCH_DEBUG=1` adds the
traceback. What commands need is imported when they run: `stillwatch --help` loads no model.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from stillwatch.data.errors import MissingError, StillwatchError
from stillwatch.data.events import Event
from stillwatch.serving.commands import (
    archive,
    audit,
    calibrate,
    campaigns,
    demo,
    erase,
    labels,
    policy,
    psi,
    score,
    search,
    serve,
    taxii,
    templates,
)
from stillwatch.serving.verdict import Verdict, visible

DEBUG_VARIABLE = "STILLWATCH_DEBUG"
EXIT_USAGE = 2
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130

# All that follows the command's name is read by the training command itself, --help too.
_HAND_OVER = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "allow_interspersed_args": False,
    "help_option_names": [],
}


class _Commands(TyperGroup):
    """The one place where an exception becomes a line on standard error and an exit code."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> NoReturn:
        try:
            # Not standalone: typer's own answer to an error is a box of several lines.
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except typer.TyperException as error:
            code = _tell(error, _usage_message(error), EXIT_USAGE)
        except StillwatchError as error:
            code = _tell(error, str(error), EXIT_USAGE)
        except (KeyboardInterrupt, typer.Abort) as error:
            code = _tell(error, "interrupted", EXIT_INTERRUPTED)
        except Exception as error:
            code = _tell(error, _internal_message(error), EXIT_INTERNAL)
        else:
            if code == EXIT_INTERRUPTED:
                # typer has caught the interrupt itself.
                print("stillwatch: interrupted", file=sys.stderr)
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Finds adversarial distillation in the prompt streams of an LLM API.",
    epilog="Example: stillwatch demo",
    context_settings={"help_option_names": ["--help", "-h"]},
)
app.command("demo", epilog=demo.EXAMPLE)(demo.demo)
app.command("score", epilog=score.EXAMPLE)(score.score)
app.command("campaigns", epilog=campaigns.EXAMPLE)(campaigns.campaigns)
app.command("calibrate", epilog=calibrate.EXAMPLE)(calibrate.calibrate)
app.command("serve", epilog=serve.EXAMPLE)(serve.serve)
app.add_typer(serve.keys_app, name="keys")
app.command("search", epilog=search.EXAMPLE)(search.search)
app.add_typer(archive.app, name="archive")
app.add_typer(templates.app, name="templates")
app.add_typer(labels.app, name="labels")
app.add_typer(audit.app, name="audit")
app.command("erase", epilog=erase.EXAMPLE)(erase.erase)
app.add_typer(taxii.app, name="taxii")
app.add_typer(psi.app, name="psi")
app.add_typer(policy.app, name="policy")


def main() -> NoReturn:
    """The console script."""
    # So that a run that is ended removes its temporary files, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    for stream in (sys.stdout, sys.stderr):
        # An account may be named in letters that the terminal's encoding lacks.
        with suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    app(prog_name="stillwatch")
    sys.exit(0)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as version_of

        typer.echo(f"stillwatch {version_of('stillwatch')}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(EXIT_USAGE)


@app.command("train", context_settings=_HAND_OVER, add_help_option=False)
def _train(context: typer.Context) -> None:
    """Train a detector and write its bundle. Options: stillwatch train --help."""
    _hand_over("train", context.args)


@app.command("evaluate", context_settings=_HAND_OVER, add_help_option=False)
def _evaluate(context: typer.Context) -> None:
    """Test on material left out of training. Options: stillwatch evaluate --help."""
    _hand_over("evaluate", context.args, judge_log)


@app.command("export", context_settings=_HAND_OVER, add_help_option=False)
def _export(context: typer.Context) -> None:
    """Write a bundle with its encoder, for machines without torch."""
    _hand_over("export", context.args)


def judge_log(bundle: Path, events: Iterable[Event]) -> Mapping[str, Verdict]:
    """Verdicts of a log's accounts as they serve: what an evaluation tests a bundle by, in
    processes of one thread."""
    from stillwatch.serving.scorer import Scorer

    scorer = Scorer.from_bundle(bundle)
    scorer.ingest(events)
    return {verdict.account_id: verdict for verdict in scorer.verdicts()}


def _hand_over(name: str, argv: list[str], *needs: Callable[..., Any]) -> None:
    """Run a command of `stillwatch.training`, which may not be installed whole and which imports
    nothing of serving: what it `needs` of that is handed to it."""
    try:
        from stillwatch.training import cli

        code = getattr(cli, name)(argv, *needs)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "stillwatch":
            raise
        raise MissingError(
            f"stillwatch {name} must have the training libraries, however: {error.name} is "
            "missing; run pip install 'stillwatch[train]'"
        ) from error
    raise typer.Exit(code)


def _tell(error: BaseException, message: str, code: int) -> int:
    if os.environ.get(DEBUG_VARIABLE) == "1":
        traceback.print_exception(error)
    print(f"stillwatch: {visible(message)}", file=sys.stderr)
    return code


def _usage_message(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    hint = f"; see {context.command_path} --help" if context is not None else ""
    return error.format_message().rstrip(".") + hint


def _internal_message(error: Exception) -> str:
    """The type and place of a fault, and no value: any may hold a prompt."""
    place = "an unknown place"
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__", "")
        if module.startswith("stillwatch.") and module != __name__:
            place = f"{module}, line {line}"
    return (
        f"an unexpected {type(error).__name__} in {place}; {DEBUG_VARIABLE}=1 shows the "
        "traceback, which may hold prompts"
    )
