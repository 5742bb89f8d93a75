"""Accounts that a reviewer has decided to refuse: a file, read again whenever it changes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from stillwatch.data.errors import ConfigError
from stillwatch.data.events import InvalidEvent, parse_time
from stillwatch.data.strict_json import InvalidJson, parse_object
from stillwatch.serving.http.logs import get_logger

FIELDS: Final = ("account_id", "reviewer", "reason", "decided_at")


class BlockListError(ConfigError):
    """A block list that cannot be used. The message names a line, never an account."""


class BlockList:
    """The accounts in a file of JSON Lines. One call to `holds` costs a look at its time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | str = "unread"
        self._accounts: frozenset[str] = frozenset()
        self.refresh()

    def holds(self, account_id: str) -> bool:
        """Whether the account is listed now."""
        self.refresh()
        return account_id in self._accounts

    def __len__(self) -> int:
        return len(self._accounts)

    def refresh(self) -> None:
        """Take over the file if it changed. A malformed one is refused whole and the old list
        stays, with a line in the log."""
        stamp = self._look()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._accounts = read_block_list(self._path)
        except BlockListError as error:
            # Its message is ours and holds no value of the file.
            get_logger().error(
                "the block list was refused, the old one stays",
                reason=str(error), accounts=len(self),
            )  # fmt: skip
        else:
            get_logger().info("the block list was read", accounts=len(self))

    def _look(self) -> tuple[int, int, int] | str:
        try:
            found = self._path.stat()
        except OSError:
            return "missing"
        return found.st_mtime_ns, found.st_size, found.st_ino


def read_block_list(path: Path) -> frozenset[str]:
    """The accounts of a file whose every line says who decided, why and when. Raises
    BlockListError."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise BlockListError(
            f"the block list must be a readable file, however: {error.strerror}"
        ) from None
    return frozenset(_read_line(line, number) for number, line in enumerate(lines, 1) if line)


def _read_line(line: bytes, number: int) -> str:
    try:
        fields = parse_object(line)
    except InvalidJson as error:
        raise BlockListError(f"line {number}: {error.reason}") from None
    if set(fields) != set(FIELDS):
        raise BlockListError(
            f"line {number} must have {', '.join(FIELDS)} and nothing else, however: it has not"
        )
    for name in FIELDS:
        if not isinstance(fields[name], str) or not fields[name].strip():
            raise BlockListError(
                f"line {number}: {name} must be a text that is not empty, however: it is not"
            )
    try:
        parse_time(fields["decided_at"])
    except InvalidEvent:
        raise BlockListError(
            f"line {number}: decided_at must be ISO 8601, however: another text"
        ) from None
    account_id: str = fields["account_id"]
    return account_id
