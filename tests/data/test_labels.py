"""Labels: what is read, and which faults are found with their line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillwatch.data.errors import InputError
from stillwatch.data.events import Label
from stillwatch.data.labels import check_labels, read_labels

Write = Callable[..., Path]

INTENTS = ("capability_probing", "cot_harvesting")


def account(name: str, *intents: str) -> dict[str, Any]:
    return {"account_id": name, "intents": list(intents), "source": "review"}


def campaign(name: str, accounts: list[str], *intents: str) -> dict[str, Any]:
    return {"campaign_id": name, "accounts": accounts, "intents": list(intents)}


def test_labels_are_read_with_their_lines(write_lines: Write) -> None:
    path = write_lines([account("a", "cot_harvesting"), b"", campaign("c", ["b", "d"])])
    labels = read_labels(path)
    assert labels == [
        Label("account", "a", ("cot_harvesting",), "review"),
        Label("campaign", "c", (), "", ("b", "d")),
    ]
    assert [label.line for label in labels] == [1, 3]
    check_labels(labels, INTENTS, {"a", "b", "d"})


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"{", "no JSON"),
        ({"intents": []}, "either account_id or campaign_id"),
        ({"account_id": "a", "campaign_id": "c", "intents": []}, "either account_id or"),
        ({"account_id": 7, "intents": []}, "account_id must"),
        ({"account_id": "", "intents": []}, "account_id must"),
        ({"account_id": "a"}, "intents must be a list"),
        ({"account_id": "a", "intents": "cot_harvesting"}, "intents must be a list"),
        ({"account_id": "a", "intents": [None]}, "intents must be a list"),
        ({"account_id": "a", "intents": [], "accounts": ["b"]}, "accounts must stand with"),
        ({"campaign_id": "c", "intents": []}, "accounts must be a list"),
        ({"campaign_id": "c", "intents": [], "accounts": []}, "accounts must list"),
        ({"account_id": "a", "intents": [], "source": 1}, "source must"),
    ],
)
def test_malformed_labels_are_named_with_their_line(
    write_lines: Write, record: Any, reason: str
) -> None:
    with pytest.raises(InputError, match=rf"line 2: .*{reason}"):
        read_labels(write_lines([account("a"), record]))


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([account("a", "theft")], "line 1: .*capability_probing, cot_harvesting, .*'theft'"),
        ([account("a"), account("z")], "line 2: .*'z'"),
        ([campaign("c", ["a", "z"], "cot_harvesting")], "line 1: .*'z'"),
        ([account("a", "cot_harvesting"), account("a")], "line 2: .*line 1 gives other"),
        (
            [account("a", "cot_harvesting"), account("a", "capability_probing")],
            "line 2: .*line 1 gives other intents",
        ),
        (
            [account("a"), campaign("c", ["b", "a"], "cot_harvesting")],
            "line 2: .*line 1 makes it ordinary, this one attacking",
        ),
        (
            [campaign("c", ["a"]), campaign("d", ["a"], "cot_harvesting")],
            "line 2: .*account 'a' must agree",
        ),
        ([account("z", "theft"), account("a")], r"\(and 1 more faults\)"),
    ],
)
def test_faults_are_named_with_their_line(
    write_lines: Write, records: list[Any], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        check_labels(read_labels(write_lines(records)), INTENTS, {"a", "b"})


def test_a_fault_names_the_file_that_it_stands_in(write_lines: Write) -> None:
    labels = read_labels(write_lines([account("a", "theft")]))
    with pytest.raises(InputError) as caught:
        check_labels(labels, INTENTS, name="site/labels.jsonl")
    assert str(caught.value) == (
        "site/labels.jsonl, line 1: intents must be of capability_probing, cot_harvesting, "
        "however: 'theft'; correct the label or add the intent"
    )


def test_labels_may_repeat_and_a_campaign_may_have_other_intents(write_lines: Write) -> None:
    records = [
        account("a", "cot_harvesting", "capability_probing"),
        account("a", "capability_probing", "cot_harvesting"),
        campaign("c", ["a", "b"], "cot_harvesting"),
        account("unseen"),
    ]
    check_labels(read_labels(write_lines(records)), INTENTS)
