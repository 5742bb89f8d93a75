"""Fills and changes an archive in a process that is killed at the n-th point where it writes.

Run as a program: folder, the point at which it kills itself (0: never). It prints a line for each
thing that was acknowledged, at once.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stillwatch.serving.archive import ArchiveSettings, sqlite
from tests.serving.archive.archive_support import batch, filled, opened, row, wait_for_build

EACH = 40
ROUNDS = 8
SETTINGS = ArchiveSettings(train_at=100, save_least=60, save_share=0.0)


def main(folder: Path, kill_at: int) -> None:
    reached = 0

    def counted(call: Callable[..., Any], after: bool = False) -> Callable[..., Any]:
        def wrapped(*args: Any, **named: Any) -> Any:
            nonlocal reached
            reached += 1
            if reached == kill_at and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*args, **named)
            if reached == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapped

    def half(descriptor: int, content: Any) -> int:
        nonlocal reached
        reached += 1
        if reached == kill_at:
            # Torn: a part of it reaches the file.
            plain_write(descriptor, bytes(content)[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return plain_write(descriptor, content)

    plain_write = os.write
    os.write = half
    os.fsync = counted(os.fsync)
    Path.unlink = counted(Path.unlink)  # type: ignore[method-assign]
    Path.replace = counted(Path.replace)  # type: ignore[method-assign]
    connection: Any = sqlite._Connection
    connection.run = counted(connection.run)
    connection.many = counted(connection.many, after=True)

    with opened(folder, settings=SETTINGS) as archive:
        for number in range(ROUNDS):
            rows = filled(EACH, seed=number, first=EACH * number)
            rows.append(row(f"short lived {number}", account="gone", event=f"gone-{number}"))
            archive.add(batch(rows))
            say(f"added {number}")
            archive.flush()
            wait_for_build(archive)
            if number in (4, 6):
                archive.erase("gone")
                say(f"erased {number}")
            if number == 5:
                archive.backup()
    say(f"points {reached}")


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
