"""`stillwatch templates share/export/import` and `stillwatch taxii`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from stillwatch.data.events import DEFAULT_INTENTS
from stillwatch.serving.cli import _Commands
from stillwatch.serving.commands import taxii, templates
from stillwatch.serving.sharing import Shelf
from stillwatch.serving.sharing.collection import Collection
from tests.serving.desk.desk_support import Clock, desk_in, files_holding
from tests.serving.sharing.sharing_support import (
    FRAMES,
    PEER,
    app_around,
    go_live,
    served,
    share_all,
    sharing_desk,
)

app = typer.Typer(cls=_Commands, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(templates.app, name="templates")
app.add_typer(taxii.app, name="taxii")


def run(*argv: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in argv])


@pytest.fixture
def north(tmp_path: Path) -> Path:
    """The folder of a desk with three live templates, the last of which must not go out."""
    with sharing_desk(tmp_path / "n", clock=Clock(time.time() - 3600), least_replayed=0) as (
        desk,
        _,
    ):
        go_live(desk, *FRAMES[:2], "Write to mara@north-works.example all that is known of {slot}")
    return tmp_path / "n" / "desk"


@pytest.fixture
def south(tmp_path: Path) -> Path:
    with desk_in(tmp_path / "south"):
        pass
    return tmp_path / "south"


def waiting(folder: Path) -> dict[str, str]:
    with desk_in(folder, read_only=True) as desk:
        return {one.text: one.source for one in desk.templates.find("quarantined")}


def test_from_one_desk_to_another_by_a_file(north: Path, south: Path, tmp_path: Path) -> None:
    file = tmp_path / "shared.json"
    done = run("templates", "export", "--desk", north, "--output", file, "--tlp", "green")
    assert done.exit_code == 0, done.output
    assert done.stderr.splitlines() == [
        "left out: site-3: its text holds an e-mail address; add one without it",
        "exported 2 templates as TLP:GREEN; 1 left out",
    ]
    assert b"mara@" not in file.read_bytes()
    done = run("templates", "import", file, "--desk", south, "--source", "north")
    assert done.exit_code == 0, done.output
    assert done.stderr == "2 wait in quarantine\n"
    assert len(done.stdout.splitlines()) == 2
    assert all(line.startswith("added: indicator--") for line in done.stdout.splitlines())
    assert waiting(south) == dict.fromkeys(FRAMES[:2], "file:north")
    done = run("templates", "import", file, "--desk", south, "--source", "north", "--json")
    assert json.loads(done.stdout)["counts"] == {"known": 2}
    # Revoked there, revoked here.
    run("templates", "remove", "site-1", "--desk", north, "--reason", "it hit a product")
    assert run("templates", "export", "--desk", north, "--output", file).exit_code == 0
    done = run("templates", "import", file, "--desk", south, "--source", "north")
    assert "1 revoked" in done.stderr
    assert set(waiting(south)) == {FRAMES[1]}
    done = run("templates", "remove", "--source", "file:north", "--desk", south, "--reason", "r")
    assert done.stdout == "site-2 is revoked\n" or done.stdout == "site-1 is revoked\n"
    assert waiting(south) == {}
    # No text outside the table.
    assert set(files_holding(south, FRAMES[1][:30].encode())) <= {"desk.sqlite", "desk.sqlite-wal"}


def test_what_is_named_must_be_fit(north: Path, tmp_path: Path) -> None:
    file = tmp_path / "o.json"
    for options, why in (
        (["--id", "site-3"], "e-mail"), (["--id", "site-9"], "must be that of a template"),
        (["--id", "T1"], "--id must be"), (["--tlp", "white"], "one of clear"),
    ):  # fmt: skip
        done = run("templates", "export", "--desk", north, "--output", file, *options)
        assert done.exit_code == 2
        assert why in done.stderr
        assert done.stderr.count("\n") == 1
    assert not file.exists()
    done = run("templates", "share", "site-1", "--desk", north, "--tlp", "red", "--reason", "r")
    assert (done.exit_code, "for fewer" in done.stderr) == (2, True)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"type":"bundle"}', b"\xff", b"[" * 10**6, None])
def test_a_broken_file_is_one_line(south: Path, tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "broken.json"
    if content is not None:
        file.write_bytes(content)
    done = run("templates", "import", file, "--desk", south, "--source", "north")
    assert done.exit_code == 2, done.output
    assert done.stderr.count("\n") == 1
    assert waiting(south) == {}


def test_a_poisoned_file_is_told_line_by_line(north: Path, south: Path, tmp_path: Path) -> None:
    file = tmp_path / "shared.json"
    assert run("templates", "export", "--desk", north, "--output", file).exit_code == 0
    bundle = json.loads(file.read_text())
    good, other = [one for one in bundle["objects"] if one["type"] == "indicator"]
    changes: list[dict[str, Any]] = [
        {"pattern": "please answer {slot}"}, {"object_marking_refs": []}, {"embedding": [1.0]},
        {"pattern": "Now reason on {slot}\u202e as long as you can and say all of it"},
    ]  # fmt: skip
    for number, change in enumerate(changes):
        own = f"indicator--6d0a2e0c-0000-4000-8000-00000000000{number}"
        bundle["objects"].append({**good, "id": own, **change})
    file.write_text(json.dumps(bundle))
    done = run("templates", "import", file, "--desk", south, "--source", "north")
    assert done.exit_code == 0, done.output
    assert "2 wait in quarantine, 4 refused" in done.stderr
    refused = [line for line in done.stdout.splitlines() if line.startswith("refused: ")]
    assert len(refused) == 4
    assert len(set(refused)) == 4
    assert set(waiting(south)) == {good["pattern"], other["pattern"]}


def test_a_feed_is_polled(
    north: Path, south: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(taxii.PASSWORD_VARIABLE, PEER.key)
    shared = run("templates", "share", "site-1", "--desk", north, "--tlp", "green", "--reason", "r")
    assert shared.stdout == "site-1 is shared with peers as TLP:GREEN\n"
    (collection,) = run("taxii", "collection", "--desk", north).stdout.split()
    with desk_in(north) as desk:
        shelf = Shelf(desk)
        assert Collection(shelf).id == collection
        with served(app_around(shelf, tmp_path)) as url:
            argv = ["taxii", "poll", f"{url}/taxii2/api/", "--collection", collection, "--desk",
                    south, "--source", "north"]  # fmt: skip
            done = run(*argv)
            assert done.exit_code == 0, done.output
            assert done.stderr == "1 wait in quarantine\n"
            assert waiting(south) == {FRAMES[0]: "taxii:north"}
            share_all(shelf, ["site-2"])
            assert "1 wait in quarantine, 1 known" in run(*argv).stderr
            monkeypatch.setenv(taxii.PASSWORD_VARIABLE, "wrong")
            done = run(*argv)
            assert done.exit_code == 1
            assert "let this key read it" in done.stderr
            assert "wrong" not in done.stderr
    done = run(*argv)
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].startswith("stillwatch: the feed must be")
    assert len(waiting(south)) == 2


def test_wrong_options_of_a_poll_are_one_line(south: Path) -> None:
    for url, options in (
        ("https://peer.example/", ["--every", "1"]), ("https://peer.example/", ["--source", "a b"]),
        ("http://peer.example/", []), ("nowhere", []),
    ):  # fmt: skip
        argv = ["--collection", "c", "--desk", south, "--source", "north", *options]
        done = run("taxii", "poll", url, *argv)
        assert done.exit_code == 2
        assert done.stderr.count("\n") == 1


def test_intents_are_those_of_the_bundle() -> None:
    from stillwatch.data.intelligence.vocabulary import attack_pattern

    assert {attack_pattern(one)["name"] for one in DEFAULT_INTENTS} == {
        "Capability probing", "Chain-of-thought harvesting", "Output harvesting",
    }  # fmt: skip
