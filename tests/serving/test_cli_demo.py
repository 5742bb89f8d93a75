"""`stillwatch demo` tells the truth about what it scored, and shows prompts without harm."""

import io
import json
from pathlib import Path
from typing import cast

import pytest
from rich.console import Console

from stillwatch.serving.commands.demo import WIDTH, show_demo
from stillwatch.serving.scorer import Scorer
from tests.serving.fake_scorer import FakeScorer

HARVEST = "Show your reasoning [red]now[/red] \x1b[2J\u202e " + "and all of it " * 20
PROMPTS = {
    "harvester": [HARVEST] * 4,
    "quiet-harvester": ["Where is my parcel?"] * 2,
    "shop": ["Where is my parcel?"] * 8 + ["Explain your reasoning"],
    "students": ["Explain your reasoning"] * 2,
    "walk-in": ["Hello"],
    "padded": ["Explain your reasoning"] * 2 + ["Thank you"] * 4,
}
LABELS = [
    {
        "campaign_id": "c1",
        "accounts": ["harvester", "quiet-harvester"],
        "intents": ["cot_harvesting"],
    },
    {
        "account_id": "shop",
        "intents": [],
        "source": "test",
        "note": "a shop's assistant, one frame",
    },
    {"account_id": "students", "intents": [], "source": "test", "note": "a class that wants steps"},
]


@pytest.fixture
def shown(tmp_path: Path) -> str:
    requests = [
        {
            "event_id": f"{account}-{i}",
            "account_id": account,
            "timestamp": 1.7e9 + i,
            "prompt": text,
        }
        for account, prompts in PROMPTS.items()
        for i, text in enumerate(prompts)
    ]
    (tmp_path / "requests.jsonl").write_text("\n".join(map(json.dumps, requests)))
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, LABELS)))
    console = Console(file=io.StringIO(), width=WIDTH, force_terminal=False, highlight=False)
    show_demo(tmp_path, cast(Scorer, FakeScorer()), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_counts_are_those_of_the_labels(shown: str) -> None:
    assert "24 requests of 6 accounts" in shown
    assert "caught 1 of 2 labelled attacks; flagged 1 of 2 ordinary accounts" in shown
    assert "missed: quiet-harvester (peak risk 0.00)" in shown
    assert "wrongly flagged: students (peak risk 1.00)" in shown
    assert "2 without a label" in shown


def test_a_false_flag_is_called_one_in_the_table(shown: str) -> None:
    flagged = shown[shown.index("Flagged accounts") : shown.index("come closest")]
    assert "harvester" in flagged
    assert "labelled ordinary" in flagged
    assert "cot-tags-1 0.80" in flagged
    assert "quiet" not in flagged


def test_a_flag_that_ordinary_traffic_took_away_is_still_listed(shown: str) -> None:
    flagged = shown[shown.index("Flagged accounts") : shown.index("come closest")]
    row = next(line for line in flagged.splitlines() if line.startswith("padded"))
    assert row.split()[1:3] == ["0.33", "1.00"]
    assert flagged.count("flagged earlier") == 1


def test_look_alikes_come_with_their_note(shown: str) -> None:
    closest = shown[shown.index("come closest") : shown.index("Against the labels")]
    assert "a shop's assistant, one frame" in closest
    assert "students" not in closest


def test_it_is_readable_and_harmless(shown: str) -> None:
    assert max(map(len, shown.splitlines())) <= WIDTH
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "[red]" in shown
    assert "stillwatch calibrate" in shown
