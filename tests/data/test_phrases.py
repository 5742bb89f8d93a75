"""The shipped phrases are complete, and malformed ones are refused without being quoted."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from stillwatch.data.errors import InputError
from stillwatch.data.simulator.phrases import SLOT, SLOTS, Phrase, load_phrases, read_phrases

ENOUGH: list[dict[str, object]] = [
    {"kind": k, "language": "en", "text": f"{k} {SLOT * n[-1]}"} for k, n in SLOTS.items()
]

FEWEST = {  # kind: (in English, in each of OTHERS)
    "follow_up": (25, 10),
    "opening": (60, 15),
    "student": (30, 6),
    "reasoning_request": (25, 4),
    "jailbreak_try": (20, 0),
    "redteam": (15, 0),
    "evaluate": (20, 0),
    "new_model": (12, 0),
}
OTHERS = ("es", "de", "fr", "pt", "it", "zh", "ja", "ru", "ar", "hi", "ko")

Write = Callable[[list[dict[str, object]]], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_lines(lines: list[dict[str, object]]) -> Path:
        path = tmp_path / "phrases.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return path

    return write_lines


@pytest.mark.parametrize("kind", SLOTS)
def test_shipped_phrases_are_enough_in_every_language(kind: str) -> None:
    counts = Counter(phrase.language for phrase in load_phrases()[kind])
    in_english, in_others = FEWEST[kind]
    assert counts["en"] >= in_english
    assert min(counts[language] for language in OTHERS) >= in_others


def test_shipped_phrases_have_no_stray_braces_or_spaces() -> None:
    phrases = [phrase for group in load_phrases().values() for phrase in group]
    assert [p for p in phrases if p.text != p.text.strip()] == []
    assert [p for p in phrases if set("{}\\") & set(p.text.replace(SLOT, ""))] == []


def test_what_a_caller_changes_stays_his_own() -> None:
    load_phrases().clear()
    assert set(load_phrases()) == set(SLOTS)


def test_read_groups_by_kind_in_the_order_of_the_file(write: Write) -> None:
    more: dict[str, object] = {"kind": "opening", "language": "de", "text": "Hallo"}
    phrases = read_phrases(write([more, *ENOUGH]))
    assert list(phrases) == list(SLOTS)
    assert phrases["opening"] == (
        Phrase("opening", "de", "Hallo"),
        Phrase("opening", "en", "opening "),
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"kind": "poem", "language": "en", "text": "secret"}, "kind must be of"),
        ({"kind": "opening", "language": "English", "text": "secret"}, "language must be"),
        ({"kind": "opening", "language": "en", "text": " "}, "text must say something"),
        ({"kind": "opening", "language": "en"}, "'text' is not"),
        ({"kind": "opening", "language": "en", "text": "secret", "x": 1}, "'x' is not"),
        ({"kind": "student", "language": "en", "text": "secret"}, "1 times, however: 0"),
        ({"kind": "opening", "language": "en", "text": "secret {slot}"}, "0 times, however: 1"),
        ({"kind": "reasoning_request", "language": "en", "text": SLOT * 2}, "0 or 1 times"),
        (ENOUGH[0], "a text must stand once"),
    ],
)
def test_malformed_phrase_is_refused_unquoted(
    write: Write, line: dict[str, object], reason: str
) -> None:
    with pytest.raises(InputError, match=r"^phrases\.jsonl, line 9: ") as refusal:
        read_phrases(write([*ENOUGH, line]))
    assert reason in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_every_kind_must_be_there_in_english(write: Write) -> None:
    with pytest.raises(InputError, match="no opening"):
        read_phrases(write([p for p in ENOUGH if p["kind"] != "opening"]))


def test_the_other_faults_are_counted(write: Write) -> None:
    wrong: dict[str, object] = {"kind": "poem", "language": "en", "text": "a"}
    with pytest.raises(InputError, match=r"\(and 1 more faults\)$"):
        read_phrases(write([*ENOUGH, wrong, wrong]))
