"""What commands that read logs share: the checks before reading, the reading, the detector."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stillwatch.data.errors import ConfigError, InputError
from stillwatch.serving.commands.terminal import Advance, progress, working

if TYPE_CHECKING:
    from stillwatch.data.events import Event
    from stillwatch.data.log import Reject
    from stillwatch.data.spool import EventSpool
    from stillwatch.serving.scorer import Scorer

STANDARD = "-"
CHUNK_EVENTS = 256
"""Events scored at a time: enough to fill the encoder's batches, few enough that progress moves
and Ctrl-C is heard within about a second."""

COUNTED_EVENTS = 512

LogsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="LOG", help="JSON Lines or Parquet, plain, .gz or .zst; - is standard input."
    ),
]
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="NAME",
        help="stillwatch, litellm, anthropic, openai_chat, openai_responses or parquet; "
        "guessed if left out.",
    ),
]
BundleOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="The detector; default: the one in the package.")
]
RejectsOption = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Where lines that are no events are named, with why."),
]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Stop at the first line that is no event.")
]
ThreadsOption = Annotated[int, typer.Option(min=1, max=1024, help="Threads that encode.")]
NoProgressOption = Annotated[bool, typer.Option("--no-progress", help="Show no progress.")]


@dataclass(frozen=True, slots=True)
class Intake:
    """A log that was read: its events in order of time, and how many lines were refused."""

    spool: EventSpool
    rejected: int


def check_logs(logs: Sequence[str], format_name: str | None) -> None:
    """Raises before anything is read: InputError for a log that cannot be, ConfigError for an
    unknown format."""
    if format_name is not None:
        from stillwatch.data.readers import reader_named

        reader_named(format_name)
    for log in logs:
        if log == STANDARD:
            continue
        path = Path(log)
        if path.is_dir():
            raise InputError(f"A log must be a file, however: {log} is a folder; name its files")
        if not path.exists():
            raise InputError(f"A log must be a file, however: {log} is missing; check its name")
        if not path.is_file():
            # Its format is told by its first bytes, and a pipe's cannot be read twice.
            raise InputError(
                f"A log must be a file, however: {log} is a pipe or device; "
                f"give it on standard input and name {STANDARD}"
            )


def check_outputs(logs: Sequence[str], outputs: Sequence[tuple[str, str | None]]) -> None:
    """`outputs` are (option, path). Raises OutputError for one that cannot be written, ConfigError
    for one that is also a log or another output."""
    from stillwatch.data.files import check_writable

    taken = {_identity(log): f"the log {log}" for log in logs if log != STANDARD}
    for option, output in outputs:
        if output is None:
            continue
        check_writable(output)
        other = taken.setdefault(_identity(output), option)
        # Several outputs may be thrown away at once.
        if other != option and output != "/dev/null":
            raise ConfigError(
                f"{option} must be a file of its own, however: it is {other} too; name another"
            )


def open_scorer(
    logs: Sequence[str],
    format_name: str | None,
    outputs: Sequence[tuple[str, str | None]],
    bundle: Path | None,
    threads: int,
    show_progress: bool,
) -> Scorer:
    """The detector of a bundle, loaded once the logs and the outputs, (option, path), are found
    fit: what is wrong with those is told before anything long."""
    check_logs(logs, format_name)
    check_outputs(logs, outputs)
    return load_scorer(bundle, threads, show_progress)


def load_scorer(bundle: Path | None, threads: int, show_progress: bool = True) -> Scorer:
    """The detector of a bundle; None is the one that comes with the package."""
    with working("Loading the detector (its encoder is exported on first use)", show_progress):
        from stillwatch.serving.scorer import Scorer
        from stillwatch.serving.stores.memory import MemoryStore

        # Duplicates are dropped where a log is read.
        return Scorer.from_bundle(bundle, threads=threads, store=MemoryStore(remembered=0))


@contextmanager
def read_logs(
    logs: Sequence[str],
    format_name: str | None,
    rejects: str | None,
    strict: bool,
    show_progress: bool,
) -> Iterator[Intake]:
    """Reads the logs to their end. The rejects file is whole before anything is scored.

    Raises InputError if no line is an event, or at the first that is none if `strict`.
    """
    from stillwatch.data.log import read_log, rejects_to
    from stillwatch.data.spool import EventSpool

    refused = 0
    first: Reject | None = None
    with ExitStack() as stack:
        with (
            rejects_to(rejects) if rejects is not None else nullcontext() as write,
            progress("Reading", show=show_progress) as advance,
        ):

            def refuse(reject: Reject) -> None:
                nonlocal refused, first
                refused += 1
                first = first or reject
                if write is not None:
                    write(reject)

            events = read_log(logs, format_name, refuse, strict)
            spool = stack.enter_context(EventSpool(_counted(events, advance)))
        if not len(spool):
            raise InputError(_no_events(refused, first))
        yield Intake(spool, refused)


@contextmanager
def chunks(spool: EventSpool, label: str, show_progress: bool) -> Iterator[Iterator[list[Event]]]:
    """The events in order of time, with progress as they are taken."""
    # A context, so that a bar is gone before an error is told.
    with progress(label, total=len(spool), show=show_progress) as advance:

        def taken() -> Iterator[list[Event]]:
            for chunk in spool.chunks(CHUNK_EVENTS):
                yield chunk
                advance(len(chunk))

        yield taken()


def _counted(events: Iterable[Event], advance: Advance) -> Iterator[Event]:
    # One call for many events: it costs more than reading one.
    iterator = iter(events)
    while part := list(islice(iterator, COUNTED_EVENTS)):
        yield from part
        advance(len(part))


def _identity(path: str) -> str:
    return path if path == STANDARD else str(Path(path).resolve())


def _no_events(refused: int, first: Reject | None) -> str:
    if first is None:
        return "The logs must hold at least one event, however: they are empty; name others"
    which = "their one line is none" if refused == 1 else f"none of their {refused:,} lines is one"
    return (
        f"The logs must hold at least one event, however: {which}, "
        f"the first is {first.file} line {first.line}: {first.reason}"
    )
