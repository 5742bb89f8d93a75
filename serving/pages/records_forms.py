"""What leaves the records and what is taken out of them: labels as a file, the erasure of an
account. Both are an admin's, have a reason, and are confirmed by typing."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, Response
from starlette.background import BackgroundTask

from stillwatch.data.errors import OutputError
from stillwatch.serving.desk import Refused
from stillwatch.serving.pages.display import name
from stillwatch.serving.pages.guard import AdminForm, Posted, see_other
from stillwatch.serving.pages.sessions import Notice
from stillwatch.serving.pages.site import Site
from stillwatch.serving.pages.tokens import from_token

EXPORT_WORD = "export"
"""What is typed to confirm an export."""
WAITED_S = 3.0
"""How long an erasure is waited for; a longer one goes on while its account's page is shown."""


def add(routes: APIRouter, site: Site) -> None:
    """`/desk/labels` and `/desk/accounts/…/erase`."""

    @routes.post("/desk/labels")
    async def export(posted: AdminForm) -> Response:
        _check_typed(posted, EXPORT_WORD)
        reason = _reason(posted)
        reviewer = posted.session.caller.key_id

        def write() -> tuple[Path, Path]:
            # Beside the desk's own files, for they may hold prompts and their disk is known.
            try:
                scratch = Path(tempfile.mkdtemp(prefix=".labels-", dir=site.folder))
            except OSError as error:
                raise OutputError(
                    "the desk's folder must be writable, however: "
                    f"{os.strerror(error.errno or 0)}; make room there"
                ) from error
            try:
                site.desk.export_labels(scratch / "labelled", reviewer, reason)
                return scratch, _packed(scratch / "labelled")
            except BaseException:
                shutil.rmtree(scratch, ignore_errors=True)
                raise

        scratch, file = await run_in_threadpool(write)
        return FileResponse(
            file, media_type="application/zip", filename="labelled.zip",
            background=BackgroundTask(shutil.rmtree, scratch, ignore_errors=True),
        )  # fmt: skip

    @routes.post("/desk/accounts/{token}/erase")
    async def erase(token: str, posted: AdminForm) -> Response:
        account_id = from_token(token)
        _check_typed(posted, name(account_id))
        await _check_known(site, account_id)
        task = site.erasures.begin(account_id, posted.session.caller.key_id, _reason(posted))
        done, _ = await asyncio.wait([task], timeout=WAITED_S)
        if done:
            removed = task.result()
            told = f"{name(account_id)} is erased: {removed.events:,} prompts."
        else:
            told = f"{name(account_id)} is being erased; this page will say when it is done."
        posted.session.notice = Notice(told)
        return see_other(f"/desk/accounts/{token}")


async def _check_known(site: Site, account_id: str) -> None:
    """KeyError for an account of which there is nothing to erase: a mistake, most likely."""
    if await site.verdicts([account_id]):
        return

    def is_known() -> bool:
        begun = site.desk.erasure(account_id)
        unfinished = begun is not None and begun.done is None
        return unfinished or account_id in site.archive.account_numbers([account_id])

    if not await run_in_threadpool(is_known):
        raise KeyError("account")


def _reason(posted: Posted) -> str:
    reason = posted.form.get("reason")
    if not reason.strip():
        raise Refused("a reason must be given for this, however: there is none; say why")
    return reason


def _check_typed(posted: Posted, expected: str) -> None:
    if posted.form.get("typed").strip() != expected.strip():
        raise Refused(
            "what is asked for must be typed to confirm this, however: something else was; go "
            "back and type it as it is shown"
        )


def _packed(folder: Path) -> Path:
    """The folder as a file beside it; what is in it is compressed already."""
    target = folder.with_suffix(".zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"{folder.name}/{path.name}")
    shutil.rmtree(folder)
    return target
