"""Decisions as a folder of labelled logs, which `stillwatch train --labelled+=FOLDER` reads."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from stillwatch.data.errors import InputError, OutputError, StoreError
from stillwatch.data.events import Event
from stillwatch.data.writers import write_events
from stillwatch.serving.archive import PromptArchive
from stillwatch.serving.archive.results import ArchivedEvent
from stillwatch.serving.desk.records import Decision, Exported

LOG, LABELS = "log.jsonl.zst", "labels.jsonl"
_PAGE = 5000


def export(
    folder: Path, archive: PromptArchive, present: Mapping[str, Decision]
) -> tuple[Exported, str]:
    """Write the events of every account that is confirmed or rejected, for its owner's eyes alone,
    and its labels; with the SHA-256 of the labels. The folder appears whole or not at all.

    OutputError if the folder is not new or empty or cannot be written, InputError if nothing is
    decided or the archive holds nothing of it.
    """
    decided = {
        name: one
        for name, one in sorted(present.items())
        if one.verdict in ("confirm", "reject") and one.state == "counts"
    }
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(
            f"the output must be a new or empty folder, however: {folder} is not; name another"
        )
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}.partial")
    try:
        partial.mkdir(parents=True, mode=0o700)
        found: dict[str, int] = {}
        written = write_events(partial / LOG, _events(archive, decided, found))
        kept = {name: one for name, one in decided.items() if found.get(name)}
        if not kept:
            raise InputError(
                f"labels must be of accounts that the archive holds, however: of {len(decided)} "
                "decided accounts it holds none; confirm or reject some first"
            )
        lines = b"".join(_line(one) for one in kept.values())
        (partial / LABELS).write_bytes(lines)
        for path in partial.iterdir():
            path.chmod(0o600)
            _sync(path)
        partial.rename(folder)
        _sync(folder.parent)
    except OSError as error:
        raise OutputError(
            f"the output must be writable, however: {folder} met "
            f"{os.strerror(error.errno or 0)}; make room or name another"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    attacking = sum(one.verdict == "confirm" for one in kept.values())
    exported = Exported(attacking, len(kept) - attacking, written, len(decided) - len(kept))
    return exported, hashlib.sha256(lines).hexdigest()


def _line(decision: Decision) -> bytes:
    """A label. It names the decision, not who made it."""
    fields = {
        "account_id": decision.account_id,
        "intents": list(decision.intents),
        "source": f"desk decision {decision.id}",
        "note": decision.reason,
    }
    return json.dumps(fields).encode("ascii") + b"\n"


def _events(
    archive: PromptArchive, decided: Mapping[str, Decision], found: dict[str, int]
) -> Iterator[Event]:
    """Every event of the accounts, each account's in the order of time; `found` gets how many they
    are."""
    for account in decided:
        page = archive.events(account, 0, _PAGE)
        pages = [page.events]
        for number in range(1, -(-page.total // _PAGE)):
            pages.append(archive.events(account, number, _PAGE).events)
        # New events push others to the next page, where they are met again.
        every = {one.id: one for own in pages for one in own}
        found[account] = len(every)
        for one in sorted(every.values(), key=lambda one: (one.time, one.id)):
            yield _event(one)


def _event(one: ArchivedEvent) -> Event:
    return Event(
        event_id=one.event_id, account_id=one.account_id, timestamp=one.time, prompt=one.prompt,
        system=one.system, model=one.model, platform=one.platform, network=one.network,
        payment=one.payment, client=one.client, session_id=one.session_id,
    )  # fmt: skip


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def archive_of(archive: PromptArchive | None) -> PromptArchive:
    """The archive, with all that was accepted so far findable; StoreError if there is none."""
    if archive is None:
        raise StoreError(
            "the desk must have an archive for this, however: it was opened without; configure one"
        )
    archive.flush()
    return archive
