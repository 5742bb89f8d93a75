"""Folders of labelled logs: what they become, and what is refused before anything long starts."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from stillwatch.data.errors import InputError
from stillwatch.data.writers import write_events
from stillwatch.training import labelled
from stillwatch.training.labelled import (
    check_classes,
    deal_groups,
    read_labelled,
    read_labelled_folders,
    stream_intents,
)
from tests.support import make_events

INTENTS = ["capability_probing", "cot_harvesting"]


def account(number: int, *intents: str) -> dict[str, Any]:
    return {"account_id": f"a{number}", "intents": list(intents), "source": "test"}


def campaign(name: str, numbers: Sequence[int], *intents: str) -> dict[str, Any]:
    return {
        "campaign_id": name, "accounts": [f"a{n}" for n in numbers], "intents": list(intents),
    }  # fmt: skip


def site(folder: Path, labels: Sequence[dict[str, Any]], accounts: int = 6) -> Path:
    folder.mkdir(parents=True)
    write_events(folder / "log.jsonl", make_events(accounts, each=3))
    write_labels(folder, labels)
    return folder


def write_labels(folder: Path, labels: Sequence[dict[str, Any]]) -> None:
    (folder / "labels.jsonl").write_text("".join(json.dumps(label) + "\n" for label in labels))


def test_labelled_accounts_become_streams(tmp_path: Path) -> None:
    folder = site(tmp_path / "site", [account(1, "cot_harvesting"), account(0)])
    (first,), (second,) = read_labelled(folder, INTENTS)
    assert (first.account_id, first.intents, first.kind) == ("a0", (), "labelled")
    assert (second.account_id, second.intents) == ("a1", ("cot_harvesting",))
    assert second.attack.tolist() == [True] * 3
    assert second.labels == ("cot_harvesting",) * 3
    assert first.labels == ("product",) * 3
    assert not first.attack.any()
    times = [event.timestamp for event in first.events]
    assert {event.account_id for event in first.events} == {"a0"}
    assert times == sorted(times)
    assert stream_intents([first, second]) == {"cot_harvesting"}


@pytest.mark.parametrize("intents", [(), ("cot_harvesting",)])
def test_labels_may_be_all_ordinary_or_all_attacking(
    tmp_path: Path, intents: tuple[str, ...]
) -> None:
    folder = site(tmp_path / "site", [account(0, *intents), account(1, *intents)])
    streams = [stream for (stream,) in read_labelled(folder, INTENTS)]
    assert [stream.intents for stream in streams] == [intents, intents]


def test_an_account_may_be_labelled_through_its_campaign_alone(tmp_path: Path) -> None:
    folder = site(tmp_path / "site", [campaign("c", [2, 4], "cot_harvesting"), account(0)])
    groups = read_labelled(folder, INTENTS)
    assert [[s.account_id for s in group] for group in groups] == [["a0"], ["a2", "a4"]]
    assert [s.intents for s in groups[1]] == [("cot_harvesting",)] * 2
    assert groups[1][0].origins == ("labelled campaign c",) * 3


def test_an_account_in_a_campaign_keeps_its_own_label_and_its_group(tmp_path: Path) -> None:
    labels = [
        campaign("c", [2, 4], "cot_harvesting"),
        account(4, "capability_probing"),
        campaign("d", [5, 4], "cot_harvesting"),
        account(3, "cot_harvesting"),
    ]
    orders = (labels, labels[::-1])
    for number, order in enumerate(orders):
        folder = site(tmp_path / f"site{number}", order)
        groups = read_labelled(folder, INTENTS)
        assert [[s.account_id for s in group] for group in groups] == [["a2", "a4", "a5"], ["a3"]]
        assert groups[0][1].intents == ("capability_probing",)
        dealt = deal_groups(groups, 5)
        assert sorted(len(fold) for fold in dealt) in ([0, 0, 0, 1, 3], [0, 0, 0, 0, 4])


def test_a_label_that_stands_twice_counts_once(tmp_path: Path) -> None:
    labels = [account(1, "cot_harvesting"), account(1, "cot_harvesting"), account(0), account(0)]
    groups = read_labelled(site(tmp_path / "site", labels), INTENTS)
    assert [[s.account_id for s in group] for group in groups] == [["a0"], ["a1"]]


def test_an_account_of_several_folders_is_one_group(tmp_path: Path) -> None:
    march = site(tmp_path / "march", [account(1, "cot_harvesting"), account(0)])
    april = site(tmp_path / "april", [campaign("c", [1, 2], "cot_harvesting")])
    groups = read_labelled_folders([march, april], INTENTS)
    assert [[s.account_id for s in group] for group in groups] == [["a0"], ["a1", "a1", "a2"]]


def spoil_labels(*labels: dict[str, Any]) -> Callable[[Path], None]:
    return lambda folder: write_labels(folder, labels)


def spoil_log(content: bytes) -> Callable[[Path], None]:
    return lambda folder: void((folder / "log.jsonl").write_bytes(content))


def void(_: object) -> None:
    """What a write returns is of no use."""


def remove(*names: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return spoil


def remove_folder(folder: Path) -> None:
    remove("labels.jsonl", "log.jsonl")(folder)
    folder.rmdir()


def leave_a_file(folder: Path) -> None:
    remove_folder(folder)
    folder.touch()


def break_a_link(folder: Path) -> None:
    remove("log.jsonl")(folder)
    (folder / "log.jsonl").symlink_to(folder / "moved.jsonl")


FAULTS: list[tuple[Callable[[Path], None], str]] = [
    (
        remove_folder,
        "labelled must name folders of labelled logs, however: {folder} does not exist; correct "
        "the path",
    ),
    (
        leave_a_file,
        "labelled must name folders of labelled logs, however: {folder} is a file; correct the "
        "path",
    ),
    (
        remove("labels.jsonl"),
        "a folder of labelled logs must hold labels.jsonl, however: {folder} does not; write one "
        "label a line into it",
    ),
    (
        remove("log.jsonl"),
        "a folder of labelled logs must hold logs beside labels.jsonl, however: {folder} holds "
        "none; put the request logs into it",
    ),
    (
        spoil_labels(),
        "{labels} must hold labels, however: it is empty; write one label a line into it",
    ),
    (
        spoil_labels(account(0), account(1, "theft")),
        "{labels}, line 2: intents must be of capability_probing, cot_harvesting, however: "
        "'theft'; correct the label or add the intent",
    ),
    (
        spoil_labels(account(0), account(77)),
        "{labels}, line 2: the account must be in the log, however: 'a77' is not; add its log or "
        "remove the label",
    ),
    (
        spoil_labels(campaign("c", [0, 77], "cot_harvesting")),
        "{labels}, line 1: the account must be in the log, however: 'a77' is not; add its log or "
        "remove the label",
    ),
    (
        spoil_labels(account(0), campaign("c", [0, 1], "cot_harvesting")),
        "{labels}, line 2: the labels of account 'a0' must agree, however: line 1 makes it "
        "ordinary, this one attacking; remove one",
    ),
    (
        break_a_link,
        "a labelled log must be readable, however: {log} met No such file or directory; restore "
        "it or remove it from the folder",
    ),
    (
        spoil_log(gzip.compress(b'{"prompt": "canary"}\n' * 99)[:-12]),
        "{log} must be readable to its end, however: it is cut off after line 0; copy or compress "
        "it anew",
    ),
    (
        spoil_log(b"canary\n"),
        "{log} must be in a format of {formats}, however: no line is an object; convert it or "
        "remove it from the folder",
    ),
    (
        spoil_log(
            b'{"event_id": "e", "account_id": "a0", "timestamp": 1.7e9, "prompt": "canary"}\n'
            b'{"event_id": "f", "account_id": "a0", "prompt": "canary"}\n'
        ),
        "{log}, line 2: timestamp must be epoch seconds or ISO 8601, however: missing",
    ),
]


@pytest.mark.parametrize(("spoil", "message"), FAULTS)
def test_what_cannot_be_learnt_from_is_named(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    from stillwatch.data.readers import FORMATS

    folder = site(tmp_path / "site", [account(0), account(1, "cot_harvesting")])
    spoil(folder)
    with pytest.raises(InputError) as caught:
        read_labelled(folder, INTENTS)
    assert str(caught.value) == message.format(
        folder=folder, labels=folder / "labels.jsonl", log=folder / "log.jsonl",
        formats=", ".join(FORMATS),
    )  # fmt: skip
    assert "canary" not in str(caught.value)


def test_what_is_wrong_with_labels_is_told_before_any_log_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    good = site(tmp_path / "good", [account(0)])
    bad = site(tmp_path / "bad", [account(1, "theft")])
    monkeypatch.setattr(labelled, "read_log", refuse)
    with pytest.raises(InputError, match="'theft'; correct the label"):
        read_labelled_folders([good, bad], INTENTS)


def test_folders_may_not_contradict_each_other(tmp_path: Path) -> None:
    march = site(tmp_path / "march", [account(1, "cot_harvesting")])
    april = site(tmp_path / "april", [campaign("c", [0, 1])])
    with pytest.raises(InputError) as caught:
        read_labelled_folders([march, april], INTENTS)
    assert str(caught.value) == (
        f"the labels of account 'a1' must agree, however: {march} and {april} make it ordinary "
        "and attacking; remove one or rename the account"
    )


def test_a_folder_is_named_once(tmp_path: Path) -> None:
    folder = site(tmp_path / "site", [account(0)])
    again = tmp_path / "site" / ".." / "site"
    with pytest.raises(InputError) as caught:
        read_labelled_folders([folder, again], INTENTS)
    assert str(caught.value) == (
        f"each folder of labelled logs must be named once, however: {again} is named twice; "
        "remove one"
    )


@pytest.mark.parametrize(
    ("folds", "calibration_folds", "message"),
    [
        (
            [["cot_harvesting"]] * 3,
            3,
            "each intent must have a wrapper, a source or a label, however: 'capability_probing' "
            "has none; add wrappers or labelled logs that name it, or remove it from intents",
        ),
        (
            [INTENTS, ["cot_harvesting"], ["cot_harvesting"]],
            3,
            "each intent must occur in two folds or more, however: 'capability_probing' occurs in "
            "fold 1 alone; add wrappers of other hands, sources or labels of other campaigns",
        ),
        (
            [["cot_harvesting"], INTENTS, INTENTS],
            1,
            "each intent must occur in a fold that is calibrated on, however: "
            "'capability_probing' occurs in folds 2, 3 alone; set calibration_folds to 2 or more",
        ),
    ],
)
def test_an_intent_without_material_is_named(
    folds: list[list[str]], calibration_folds: int, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        check_classes(INTENTS, folds, calibration_folds)
    assert str(caught.value) == message


def test_intents_need_not_occur_in_every_fold() -> None:
    check_classes(INTENTS, [["cot_harvesting"], INTENTS, [], INTENTS], 2)
