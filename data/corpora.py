"""Reads the corpora: real prompts from public repositories, one JSON Lines file a source.

`MANIFEST.tsv` names each source's role. The folder is beside the project, not part of it: it is
found through `--corpora`, the environment variable STILLWATCH_CORPORA or `../shared/corpora`.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from stillwatch.data.errors import InputError

ROLES = (
    "attack_harvest", "attack_cot", "attack_probe", "attack_boundary",
    "judge", "chat", "app", "lookalike",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CorpusPrompt:
    """One prompt of a source; prompts of one `session` follow each other by `turn`."""

    text: str
    system: str
    session: str | None
    language: str


@dataclass(frozen=True, slots=True)
class Source:
    """One corpus file. `sessions` groups positions in `prompts` that belong together; `slots` are
    the kinds of slot that its prompts can fill, if the manifest says so."""

    name: str
    role: str
    prompts: tuple[CorpusPrompt, ...]
    sessions: tuple[tuple[int, ...], ...]
    slots: tuple[str, ...] = ()


def corpora_dir(path: Path | str | None = None) -> Path | None:
    """The corpora folder that is asked for or found, None if there is none."""
    named = path or os.environ.get("STILLWATCH_CORPORA")
    if named:
        return Path(named)
    beside = Path(__file__).resolve().parents[1] / ".." / "shared" / "corpora"
    return beside.resolve() if (beside / "MANIFEST.tsv").is_file() else None


def read_corpora(
    path: Path | str | None = None, limit: int | None = None, longest: int | None = None
) -> tuple[Source, ...]:
    """Read every source of the manifest, in its order.

    `limit` keeps that many prompts of each source, chosen by a hash of their text (whole sessions
    first come first served), so that the choice does not depend on the order of the file. Prompts
    of more than `longest` characters are left out first.
    Raises InputError if the folder, the manifest or a file is missing, empty or malformed.
    """
    folder = corpora_dir(path)
    fault = _folder_fault(folder)
    if folder is None or fault:
        raise InputError(f"{fault}; name the corpora with --corpora or STILLWATCH_CORPORA")
    try:
        with (folder / "MANIFEST.tsv").open(encoding="utf-8", newline="") as manifest:
            rows = list(csv.DictReader(manifest, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{folder}/MANIFEST.tsv must be a readable table in UTF-8, however: "
            f"{type(error).__name__}; restore it"
        ) from error
    if not rows:
        raise InputError(
            f"{folder}/MANIFEST.tsv must list sources, however: it is empty; "
            "write one source a line, with its name and role"
        )
    if not {"name", "role"} <= rows[0].keys():
        raise InputError(
            f"{folder}/MANIFEST.tsv must have columns name and role, however: it has "
            f"{', '.join(map(str, rows[0]))}; correct its first line"
        )
    return tuple(_read_source(folder, row, limit, longest) for row in rows)


def _folder_fault(folder: Path | None) -> str:
    """What keeps a folder from being a corpora folder; empty if nothing does."""
    if folder is None:
        return "the corpora folder must be named or be ../shared/corpora, however: neither is so"
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        return f"the corpora folder must be a folder, however: {folder} {found}"
    if (folder / "MANIFEST.tsv").is_file():
        return ""
    try:
        found = "does not" if any(folder.iterdir()) else "is empty"
    except OSError:
        found = "cannot be read"
    return f"the corpora folder must hold MANIFEST.tsv, however: {folder} {found}"


def _read_source(
    folder: Path, row: dict[str, str], limit: int | None, longest: int | None
) -> Source:
    name, role = row["name"], row["role"]
    slots = tuple(filter(None, (row.get("slots") or "").split(",")))
    if role not in ROLES:
        raise InputError(
            f"the role of {name} in MANIFEST.tsv must be one of {', '.join(ROLES)}, "
            f"however: {role}; correct the manifest"
        )
    path = folder / f"{name}.jsonl"
    if not path.is_file():
        raise InputError(f"{path} must exist, however: it does not; restore it or its manifest row")
    prompts: list[CorpusPrompt] = []
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} must be readable, however: {os.strerror(error.errno or 0)}; "
            "correct its permissions or remove its row from the manifest"
        ) from error
    # As bytes, so that a line that is not UTF-8 is named like any other malformed one.
    lines = content.splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            text = record["prompt"]
            if not isinstance(text, str):
                raise TypeError
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} line {number} must be a JSON object with a prompt, however: "
                f"{type(error).__name__}; correct or remove the line"
            ) from error
        if text.strip() and (longest is None or len(text) <= longest):
            prompts.append(
                CorpusPrompt(
                    text, record.get("system") or "", record.get("session"),
                    record.get("lang") or "en",
                )
            )  # fmt: skip
    if not prompts:
        kept = f" of at most {longest:,} characters" if longest is not None and lines else ""
        raise InputError(
            f"{path} must hold prompts{kept}, however: it holds none; "
            "fill it or remove its row from the manifest"
        )
    if limit is not None and len(prompts) > limit:
        prompts = _thin(prompts, limit)
    return Source(name, role, tuple(prompts), _group_sessions(prompts), slots)


def _thin(prompts: list[CorpusPrompt], limit: int) -> list[CorpusPrompt]:
    def key(prompt: CorpusPrompt) -> str:
        unit = prompt.session if prompt.session is not None else prompt.text
        return hashlib.sha256(unit.encode("utf-8", "replace")).hexdigest()

    keys = [key(prompt) for prompt in prompts]
    last = sorted(keys)[limit - 1]
    return [prompt for prompt, own in zip(prompts, keys, strict=True) if own <= last]


def _group_sessions(prompts: list[CorpusPrompt]) -> tuple[tuple[int, ...], ...]:
    groups: dict[str, list[int]] = {}
    for position, prompt in enumerate(prompts):
        if prompt.session is not None:
            groups.setdefault(prompt.session, []).append(position)
    return tuple(tuple(group) for group in groups.values())
