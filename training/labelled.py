"""Labelled logs of a site as streams to train on, beside those composed of the corpora."""

from __future__ import annotations

import zlib
from collections import defaultdict
from pathlib import Path

import numpy as np

from stillwatch.data.errors import InputError
from stillwatch.data.events import Event, Label
from stillwatch.data.labels import check_labels, read_labels
from stillwatch.data.log import read_log
from stillwatch.data.simulator.streams import Stream
from stillwatch.data.spool import EventSpool

LABELS = "labels.jsonl"
_CHUNK = 4096


def read_labelled(folder: Path, intents: list[str]) -> list[list[Stream]]:
    """Streams of the labelled accounts in a folder of logs beside `labels.jsonl`, grouped: the
    accounts of one campaign are one group, which is never split between training and test.

    Every event of an attacking account counts as an attack prompt, since labels name accounts.
    Raises InputError, before anything long starts, for a folder without logs or labels, labels
    that name unknown accounts or intents or contradict each other.
    """
    path = folder / LABELS
    if not path.is_file():
        raise InputError(
            f"a folder of labelled logs must hold {LABELS}, however: {folder} does not; "
            "write one label a line into it"
        )
    logs = sorted(p for p in folder.iterdir() if p.is_file() and p.name != LABELS)
    if not logs:
        raise InputError(
            f"a folder of labelled logs must hold logs beside {LABELS}, however: {folder} holds "
            "none; put the request logs into it"
        )
    labels = read_labels(path)
    events = _events_by_account(logs)
    check_labels(labels, intents, events)
    groups: dict[str, list[Stream]] = defaultdict(list)
    judged: set[str] = set()
    for label in labels:
        for account in (label.id,) if label.subject == "account" else label.accounts:
            if account not in judged:
                judged.add(account)
                groups[f"{label.subject} {label.id}"].append(
                    _stream(account, label, events[account])
                )
    return [groups[name] for name in sorted(groups)]


def deal_groups(groups: list[list[Stream]], folds: int) -> list[list[Stream]]:
    """Each group to one fold, by the name of its first account."""
    dealt: list[list[Stream]] = [[] for _ in range(folds)]
    for group in groups:
        fold = zlib.crc32(group[0].account_id.encode("utf-8", "replace")) % folds
        dealt[fold] += group
    return dealt


def _events_by_account(logs: list[Path]) -> dict[str, list[Event]]:
    found: dict[str, list[Event]] = defaultdict(list)
    with EventSpool(read_log(logs, strict=True)) as spool:
        for chunk in spool.chunks(_CHUNK):
            for event in chunk:
                found[event.account_id].append(event)
    return found


def _stream(account: str, label: Label, events: list[Event]) -> Stream:
    attacking = bool(label.intents)
    kind = label.intents[0] if attacking else "product"
    return Stream(
        account_id=account,
        kind="labelled",
        intents=label.intents,
        share=float(attacking),
        language="",
        events=tuple(events),
        attack=np.full(len(events), attacking),
        labels=(kind,) * len(events),
        origins=(f"labelled {label.subject} {label.id}",) * len(events),
    )
