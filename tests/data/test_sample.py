"""The demo's sample log: it is what its script makes, sound as a log, and gives no class away."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from stillwatch.data.events import Event, Label, parse_event
from stillwatch.data.files import open_lines
from stillwatch.data.labels import check_labels, read_labels
from stillwatch.data.strict_json import parse_object

ROOT = Path(__file__).resolve().parents[2]
REQUESTS = ROOT / "data" / "sample" / "requests.jsonl"
LABELS = ROOT / "data" / "sample" / "labels.jsonl"
INTENTS = ("capability_probing", "cot_harvesting", "output_harvesting")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = ROOT / "scripts" / "make_sample.py"
    spec = importlib.util.spec_from_file_location("make_sample", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return [parse_event(parse_object(line)) for _, line in open_lines(REQUESTS)]


@pytest.fixture(scope="module")
def labels() -> list[Label]:
    return read_labels(LABELS)


def test_the_files_are_what_the_script_makes(script: ModuleType) -> None:
    requests, labels = script.make_sample()
    assert script.to_lines(requests) == REQUESTS.read_bytes(), "run scripts/make_sample.py"
    assert script.to_lines(labels) == LABELS.read_bytes(), "run scripts/make_sample.py"


def test_size_and_counts(events: list[Event], labels: list[Label]) -> None:
    assert REQUESTS.stat().st_size < 800_000
    assert 1_400 <= len(events) <= 1_600
    assert len({event.prompt for event in events}) >= 900
    assert len(labels) == 40
    found = Counter(label.intents for label in labels)
    assert found == {
        (): 28,
        ("cot_harvesting",): 4,
        ("output_harvesting",): 5,
        ("capability_probing",): 3,
    }


def test_every_account_is_labelled_once(events: list[Event], labels: list[Label]) -> None:
    accounts = {event.account_id for event in events}
    assert sorted(label.id for label in labels) == sorted(accounts)
    assert all(label.subject == "account" and label.source == "sample" for label in labels)
    check_labels(labels, INTENTS, accounts)


def test_ids_are_unique_and_events_are_sorted(events: list[Event]) -> None:
    assert len({event.event_id for event in events}) == len(events)
    times = [event.timestamp for event in events]
    assert times == sorted(times)
    assert 12 * 86_400 < times[-1] - times[0] < 15 * 86_400
    # All are fields that Stillwatch knows: a misspelt one would end in `extra`.
    assert not any(event.extra for event in events)


def test_ids_and_hashes_have_one_form(events: list[Event]) -> None:
    for event in events:
        assert re.fullmatch(r"req_[0-9a-z]{10}", event.event_id)
        assert re.fullmatch(r"acct_[0-9a-z]{4}", event.account_id)
        assert re.fullmatch(r"kh:[0-9a-f]{12}", event.network or "")
        assert re.fullmatch(r"kh:[0-9a-f]{12}", event.payment or "kh:000000000000")
        assert event.prompt.strip()
        assert "<<" not in event.prompt


@pytest.mark.parametrize(
    "name", ["model", "client", "platform", "temperature", "max_tokens", "n", "logprobs"]
)
def test_no_value_is_found_with_attackers_alone(
    events: list[Event], labels: list[Label], name: str
) -> None:
    attackers = {label.id for label in labels if label.intents}
    values: dict[bool, set[object]] = {True: set(), False: set()}
    for event in events:
        values[event.account_id in attackers].add(getattr(event, name))
    assert values[True] <= values[False]


@pytest.mark.parametrize(
    ("name", "share"), [("diluted_garden_centre", 0.25), ("diluted_travel_agency", 0.15)]
)
def test_a_diluted_account_holds_its_share_of_attack(
    script: ModuleType, events: list[Event], name: str, share: float
) -> None:
    account = tomllib.loads((script.MATERIAL / f"{name}.toml").read_text(encoding="utf-8"))
    ordinary, attack = (set(script.lines(part["items"])) for part in account["parts"])
    sent = [event.prompt for event in events if event.account_id == account["account"]]
    harvest = [prompt for prompt in sent if prompt in attack]
    assert len(harvest) >= 12
    assert len(harvest) / len(sent) == pytest.approx(share, abs=0.01)
    assert set(sent) == ordinary | attack
