"""Corpora: read whole or refused by file and line, thinned by content, sessions kept together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillwatch.data import corpora
from stillwatch.data.corpora import Source, corpora_dir, read_corpora
from stillwatch.data.errors import InputError


def write_corpora(folder: Path, sources: dict[str, tuple[str, list[dict[str, Any]]]]) -> Path:
    folder.mkdir(exist_ok=True)
    rows = ["name\trole\tlicence"]
    for name, (role, records) in sources.items():
        rows.append(f"{name}\t{role}\tMIT")
        lines = [json.dumps(record, ensure_ascii=False) for record in records]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "MANIFEST.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def talk(sessions: int, turns: int) -> list[dict[str, Any]]:
    return [
        {"prompt": f"turn {turn} of talk {session}", "session": f"s{session}", "lang": "de"}
        for turn in range(turns)
        for session in range(sessions)
    ]


def test_sources_come_in_the_order_of_the_manifest(tmp_path: Path) -> None:
    folder = write_corpora(
        tmp_path,
        {
            "zeta": ("chat", talk(2, 3)),
            "alpha": ("app", [{"prompt": "你好", "system": "Be brief."}, {"prompt": "  \n"}]),
        },
    )
    first, second = read_corpora(folder)
    assert (first.name, first.role, second.name, second.role) == ("zeta", "chat", "alpha", "app")
    assert [prompt.text for prompt in second.prompts] == ["你好"]
    assert (second.prompts[0].system, second.prompts[0].language) == ("Be brief.", "en")
    assert second.sessions == ()
    assert first.prompts[0].language == "de"
    texts = [[first.prompts[p].text for p in session] for session in first.sessions]
    assert texts == [[f"turn {t} of talk {s}" for t in range(3)] for s in range(2)]


def test_a_limit_keeps_whole_sessions_and_follows_the_content(tmp_path: Path) -> None:
    records = talk(30, 4)
    (whole,) = read_corpora(write_corpora(tmp_path, {"talk": ("chat", records)}))
    (thin,) = read_corpora(tmp_path, limit=42)
    assert 42 <= len(thin.prompts) < 42 + 4
    assert {len(session) for session in thin.sessions} == {4}
    (turned,) = read_corpora(write_corpora(tmp_path, {"talk": ("chat", records[::-1])}), limit=42)
    assert {prompt.text for prompt in turned.prompts} == {prompt.text for prompt in thin.prompts}
    (all_of_it,) = read_corpora(tmp_path, limit=120)
    assert len(all_of_it.prompts) == len(whole.prompts) == 120


def test_long_prompts_can_be_left_out(tmp_path: Path) -> None:
    records = [{"prompt": "x" * length} for length in (1, 99, 100, 101)]
    write_corpora(tmp_path, {"mixed": ("app", records)})
    (source,) = read_corpora(tmp_path, longest=100)
    assert [len(prompt.text) for prompt in source.prompts] == [1, 99, 100]


def spoil_line(content: bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        whole = (folder / "shop.jsonl").read_bytes()
        (folder / "shop.jsonl").write_bytes(whole + content)

    return spoil


def write(name: str, text: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_text(text, encoding="utf-8")

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_line(b'{"prompt": '), "shop.jsonl line 3 must be a JSON object"),
        (spoil_line(b'{"text": "secret"}'), "shop.jsonl line 3 must be a JSON object"),
        (spoil_line(b'{"prompt": 7}'), "shop.jsonl line 3 must be a JSON object"),
        (spoil_line(b'["secret"]'), "shop.jsonl line 3 must be a JSON object"),
        (spoil_line(b'{"prompt": "secret \xff"}'), "shop.jsonl line 3 must be a JSON object"),
        (write("shop.jsonl", ""), "shop.jsonl must hold prompts"),
        (write("MANIFEST.tsv", "name\trole\nshop\tattack\n"), "role of shop in MANIFEST.tsv must"),
        (write("MANIFEST.tsv", "name\trole\nother\tapp\n"), "other.jsonl must exist"),
        (write("MANIFEST.tsv", "name\trole\n"), "MANIFEST.tsv must list sources"),
        (write("MANIFEST.tsv", ""), "MANIFEST.tsv must list sources"),
        (write("MANIFEST.tsv", "source\tkind\nshop\tapp\n"), "must have columns name and role"),
        (lambda folder: (folder / "MANIFEST.tsv").unlink(), "must hold MANIFEST.tsv"),
    ],
)
def test_what_cannot_be_read_is_named(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    write_corpora(tmp_path, {"shop": ("app", [{"prompt": "one"}, {"prompt": "two"}])})
    spoil(tmp_path)
    with pytest.raises(InputError) as caught:
        read_corpora(tmp_path)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda folder: None,
            "the corpora folder must be a folder, however: {folder} does not exist; name the "
            "corpora with --corpora or STILLWATCH_CORPORA",
        ),
        (
            lambda folder: folder.touch(),
            "the corpora folder must be a folder, however: {folder} is a file; name the corpora "
            "with --corpora or STILLWATCH_CORPORA",
        ),
        (
            lambda folder: folder.mkdir(),
            "the corpora folder must hold MANIFEST.tsv, however: {folder} is empty; name the "
            "corpora with --corpora or STILLWATCH_CORPORA",
        ),
        (
            lambda folder: write("shop.jsonl", "{}")(made(folder)),
            "the corpora folder must hold MANIFEST.tsv, however: {folder} does not; name the "
            "corpora with --corpora or STILLWATCH_CORPORA",
        ),
        (
            lambda folder: write("MANIFEST.tsv", "")(made(folder)),
            "{folder}/MANIFEST.tsv must list sources, however: it is empty; write one source a "
            "line, with its name and role",
        ),
        (
            lambda folder: (made(folder) / "MANIFEST.tsv").write_bytes(b"name\trole\n\xff\tapp\n"),
            "{folder}/MANIFEST.tsv must be a readable table in UTF-8, however: "
            "UnicodeDecodeError; restore it",
        ),
    ],
)
def test_a_folder_that_holds_no_corpora_is_named(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    folder = tmp_path / "corpora"
    make(folder)
    with pytest.raises(InputError) as caught:
        read_corpora(folder)
    assert str(caught.value) == message.format(folder=folder)


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_no_corpora_at_all_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "corpora_dir", lambda path: None)
    with pytest.raises(InputError) as caught:
        read_corpora()
    assert str(caught.value) == (
        "the corpora folder must be named or be ../shared/corpora, however: neither is so; name "
        "the corpora with --corpora or STILLWATCH_CORPORA"
    )


def test_a_source_of_nothing_but_long_prompts_is_named(tmp_path: Path) -> None:
    folder = write_corpora(tmp_path, {"shop": ("app", [{"prompt": "x" * 2501}])})
    with pytest.raises(InputError) as caught:
        read_corpora(folder, longest=2500)
    assert str(caught.value) == (
        f"{folder}/shop.jsonl must hold prompts of at most 2,500 characters, however: it holds "
        "none; fill it or remove its row from the manifest"
    )


def test_an_empty_source_is_not_said_to_hold_long_prompts(tmp_path: Path) -> None:
    folder = write_corpora(tmp_path, {"shop": ("app", [{"prompt": "one"}])})
    (folder / "shop.jsonl").write_bytes(b"")
    with pytest.raises(InputError, match=r"shop.jsonl must hold prompts, however: it holds none;"):
        read_corpora(folder, longest=2500)


def test_a_source_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_corpora(tmp_path, {"shop": ("app", [{"prompt": "one"}])})

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(InputError) as caught:
        read_corpora(folder)
    assert str(caught.value) == (
        f"{folder}/shop.jsonl must be readable, however: Permission denied; correct its "
        "permissions or remove its row from the manifest"
    )


def test_the_folder_is_found_by_name_or_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_corpora(tmp_path / "own", {"shop": ("app", [{"prompt": "one"}])})
    monkeypatch.setenv("STILLWATCH_CORPORA", str(folder))
    assert corpora_dir() == folder
    assert corpora_dir(tmp_path) == tmp_path
    (source,) = read_corpora()
    assert isinstance(source, Source)
