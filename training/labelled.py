"""Labelled logs of a site as streams to train on, beside those composed of the corpora."""

from __future__ import annotations

import os
import zlib
from collections import defaultdict
from collections.abc import Collection, Sequence
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
_FORMAT_HINT = "; name one with --format"
"""What `read_log` advises, though a training has no such option."""


def read_labelled(folder: Path, intents: list[str]) -> list[list[Stream]]:
    """As `read_labelled_folders`, of one folder."""
    return read_labelled_folders([folder], intents)


def read_labelled_folders(folders: Sequence[Path], intents: list[str]) -> list[list[Stream]]:
    """Streams of the labelled accounts in folders of logs beside `labels.jsonl`, grouped: the
    accounts of one campaign are one group, which is never split between training and test, nor
    are campaigns that share an account, or streams of one account in several folders.

    An account has the intents of its own label, without one those of the first campaign that
    names it. Every event of an attacking account counts as an attack prompt, since labels name
    accounts. Raises InputError for a folder without logs or labels, a log that cannot be read,
    labels that name unknown accounts or intents or contradict each other; for what is wrong with
    labels alone before any log is read.
    """
    _check_different(folders)
    labels = {folder: _read_labels(folder, intents) for folder in folders}
    _check_agreement(labels)
    logs = {folder: _logs(folder) for folder in folders}
    root: dict[str, str] = {}
    streams = []
    for folder in folders:
        events = _events_by_account(logs[folder])
        check_labels(labels[folder], intents, events, str(folder / LABELS))
        for label in labels[folder]:
            first, *others = _accounts(label)
            for account in others:
                root[_group(root, account)] = _group(root, first)
        streams += [
            _stream(account, label, events[account])
            for account, label in _judged(labels[folder]).items()
        ]
    groups: dict[str, list[Stream]] = defaultdict(list)
    # In the order of names, so that folds do not depend on the order of labels.
    for stream in sorted(streams, key=lambda stream: stream.account_id):
        groups[_group(root, stream.account_id)].append(stream)
    return list(groups.values())


def deal_groups(groups: list[list[Stream]], folds: int) -> list[list[Stream]]:
    """Each group to one fold, by the name of its first account."""
    dealt: list[list[Stream]] = [[] for _ in range(folds)]
    for group in groups:
        fold = zlib.crc32(group[0].account_id.encode("utf-8", "replace")) % folds
        dealt[fold] += group
    return dealt


def stream_intents(streams: Sequence[Stream]) -> frozenset[str]:
    """Every intent of these streams."""
    return frozenset(intent for stream in streams for intent in stream.intents)


def check_classes(
    intents: Sequence[str], fold_intents: Sequence[Collection[str]], calibration_folds: int
) -> None:
    """Raises InputError, before anything long starts, for an intent that could not be learnt and
    judged: `fold_intents` holds, for each fold, the intents of its wrappers, sources and labels;
    the first `calibration_folds` are calibrated on, each left out of its training."""
    for intent in intents:
        found = [number for number, own in enumerate(fold_intents, start=1) if intent in own]
        if not found:
            raise InputError(
                f"each intent must have a wrapper, a source or a label, however: {intent!r} has "
                "none; add wrappers or labelled logs that name it, or remove it from intents"
            )
        if len(found) == 1:
            raise InputError(
                f"each intent must occur in two folds or more, however: {intent!r} occurs in fold "
                f"{found[0]} alone; add wrappers of other hands, sources or labels of other "
                "campaigns"
            )
        if found[0] > calibration_folds:
            raise InputError(
                f"each intent must occur in a fold that is calibrated on, however: {intent!r} "
                f"occurs in folds {', '.join(map(str, found))} alone; set calibration_folds to "
                f"{found[0]} or more"
            )


def _check_different(folders: Sequence[Path]) -> None:
    seen = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise InputError(
                f"each folder of labelled logs must be named once, however: {folder} is named "
                "twice; remove one"
            )
        seen.add(folder.resolve())


def _read_labels(folder: Path, intents: list[str]) -> list[Label]:
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise InputError(
            f"labelled must name folders of labelled logs, however: {folder} {found}; "
            "correct the path"
        )
    path = folder / LABELS
    if not path.is_file():
        raise InputError(
            f"a folder of labelled logs must hold {LABELS}, however: {folder} does not; "
            "write one label a line into it"
        )
    labels = read_labels(path)
    if not labels:
        raise InputError(
            f"{path} must hold labels, however: it is empty; write one label a line into it"
        )
    check_labels(labels, intents, name=str(path))
    return labels


def _check_agreement(labels: dict[Path, list[Label]]) -> None:
    """Folders are those of one site, or of sites whose account names differ."""
    known: dict[str, tuple[Path, Label]] = {}
    for folder, own in labels.items():
        for account, label in _judged(own).items():
            other, earlier = known.setdefault(account, (folder, label))
            if bool(earlier.intents) != bool(label.intents):
                raise InputError(
                    f"the labels of account {account!r} must agree, however: {other} and {folder} "
                    "make it ordinary and attacking; remove one or rename the account"
                )


def _logs(folder: Path) -> list[Path]:
    """The files beside the labels, each of which can be opened."""
    # A link that leads nowhere does not exist, but is a log that is missed.
    logs = [
        path
        for path in sorted(folder.iterdir())
        if path.name != LABELS and (path.is_file() or not path.exists())
    ]
    if not logs:
        raise InputError(
            f"a folder of labelled logs must hold logs beside {LABELS}, however: {folder} holds "
            "none; put the request logs into it"
        )
    for path in logs:
        try:
            path.open("rb").close()
        except OSError as error:
            raise InputError(
                f"a labelled log must be readable, however: {path} met "
                f"{os.strerror(error.errno or 0)}; restore it or remove it from the folder"
            ) from error
    return logs


def _events_by_account(logs: list[Path]) -> dict[str, list[Event]]:
    found: dict[str, list[Event]] = defaultdict(list)
    try:
        with EventSpool(read_log(logs, strict=True)) as spool:
            for chunk in spool.chunks(_CHUNK):
                for event in chunk:
                    found[event.account_id].append(event)
    except InputError as error:
        if not str(error).endswith(_FORMAT_HINT):
            raise
        raise InputError(
            f"{str(error).removesuffix(_FORMAT_HINT)}; convert it or remove it from the folder"
        ) from error
    return found


def _accounts(label: Label) -> tuple[str, ...]:
    return (label.id,) if label.subject == "account" else label.accounts


def _judged(labels: Sequence[Label]) -> dict[str, Label]:
    """The label that counts for each account: its own before those of campaigns."""
    judged: dict[str, Label] = {}
    for label in sorted(labels, key=lambda label: label.subject != "account"):
        for account in _accounts(label):
            judged.setdefault(account, label)
    return judged


def _group(root: dict[str, str], account: str) -> str:
    """The account that stands for all that are linked with this one."""
    while root.setdefault(account, account) != account:
        root[account] = root[root[account]]
        account = root[account]
    return account


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
