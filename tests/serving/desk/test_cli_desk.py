"""`stillwatch audit`, `stillwatch labels` and the site's part of `stillwatch templates`."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from stillwatch.data.writers import write_events
from stillwatch.serving.cli import _Commands
from stillwatch.serving.commands import audit, erase, intake, labels, templates
from stillwatch.serving.desk import Desk
from stillwatch.serving.stores import open_store
from stillwatch.serving.stores.base import Write
from tests.serving.archive.archive_support import filled, opened, put
from tests.serving.desk.desk_support import anchor_lines, desk_in, in_tables, verdict
from tests.support import make_events, tiny_bundle, tiny_scorer

app = typer.Typer(cls=_Commands, add_completion=False, pretty_exceptions_enable=False)
for part, name in ((audit.app, "audit"), (labels.app, "labels"), (templates.app, "templates")):
    app.add_typer(part, name=name)
app.command("erase")(erase.erase)


def run(*argv: object, typed: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(word) for word in argv], input=typed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with desk_in(tmp_path / "desk") as desk:
        desk.decide("a1", "confirm", "r\x1b[2J", "ann", verdict("a1"))
        desk.decide("a2", "reject", "r", "bob", verdict("a2"))
    return tmp_path / "desk"


def test_a_head_is_printed_and_verified_by(folder: Path) -> None:
    printed = run("audit", "head", folder)
    assert printed.stdout == anchor_lines(folder)[-1]
    head = printed.stdout.strip()
    found = run("audit", "verify", folder, "--head", head)
    assert (found.exit_code, found.stdout.splitlines()) == (0, ["intact: 3 entries", head])
    assert run("audit", "verify", folder, "--head", "x").exit_code == 2
    in_tables(folder, lambda c: c.execute("UPDATE audit SET content = content || ' '"))
    found = run("audit", "verify", folder)
    assert found.exit_code == 1
    assert "entry 1 must have the hash" in found.stdout
    assert found.stderr == "not intact: 3 entries\n"


def test_nothing_is_changed_by_verifying(folder: Path) -> None:
    (folder / "audit.head").write_text("".join(anchor_lines(folder)[:-1]))
    assert "the last waits for its anchor" in run("audit", "verify", folder).stdout
    assert len(anchor_lines(folder)) == 2


def test_a_log_is_accepted(folder: Path) -> None:
    (folder / "audit.head").unlink()
    assert run("audit", "verify", folder).exit_code == 1
    result = run("audit", "accept", folder, "--reason", "a new disk", "--reviewer", "ann")
    assert result.exit_code == 0, result.output
    assert run("audit", "verify", folder).exit_code == 0


def test_a_wrong_folder_is_one_line(tmp_path: Path) -> None:
    for command in (["audit", "verify", tmp_path], ["audit", "head", tmp_path / "none"]):
        result = run(*command)
        assert result.exit_code == 2
        assert result.stderr.count("\n") == 1
        assert "holds no desk.sqlite" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture
def site(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Options that name desk, archive and bundle."""
    bundle = tiny_bundle(tmp_path / "tiny")
    monkeypatch.setattr(intake, "load_scorer", lambda *_, **__: tiny_scorer(bundle))
    with opened(tmp_path / "archive") as archive:
        put(archive, filled(60))
    return ["--desk", folder, "--archive", tmp_path / "archive", "--bundle", bundle.path]


def test_labels_are_exported(site: list[object], tmp_path: Path) -> None:
    result = run("labels", "export", *site, "--output", tmp_path / "out", "--reviewer", "ann")
    assert result.exit_code == 0, result.output
    assert "1 attacking and 1 ordinary accounts with 12 events" in result.stderr
    assert (tmp_path / "out" / "labels.jsonl").is_file()


def test_an_account_is_erased(site: list[object], folder: Path, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'state.db'}"
    with closing(open_store(store)) as states:
        states.write([Write("a1", 0, b"state", 0.1, []), Write("a2", 0, b"other", 0.1, [])])
    with closing(Desk.open(folder)) as desk:
        for text, accounts in (("one", ["a1"]), ("both", ["a1", "a2"]), ("typed", [])):
            desk.templates.add(text, "cot_harvesting", "own", "ann", accounts=accounts)
    command = ["erase", "a1", *site, "--store", store, "--reason", "asked for", "--reviewer", "ann"]
    for typed in ("", "a2\n", "a1 and more\n"):
        assert run(*command, typed=typed).exit_code != 0
    result = run(*command, typed="a1\n")
    assert result.exit_code == 0, result.output
    assert "erased 6 prompts; its state too; entry 9" in result.stderr
    assert "as made of its prompts alone: site-1\n" in result.stderr
    assert "have in common with others': site-2; see" in result.stderr
    assert "not covered: 1 of the site's templates" in result.stderr
    with closing(open_store(store)) as states:
        assert list(states.accounts()) == ["a2"]
    with opened(tmp_path / "archive") as archive:
        assert archive.events("a1").total == 0
        assert archive.status().events == 54
        # The service has it open: it is erased on its pages.
        result = run("erase", "a2", *site, "--reason", "r", "--yes")
        assert result.exit_code == 2
        assert "another has it open" in result.stderr
    assert "no --store was given" in run("erase", "a2", *site, "--reason", "r", "--yes").stderr
    result = run("erase", "a2", *site, "--reason", "r", "--yes")
    assert result.exit_code == 2
    assert "must have been seen" in result.stderr
    for wrong in (["--reason", " "], ["--reason", "r", "--store", "memory://"]):
        assert run("erase", "a3", *site, *wrong, "--yes").exit_code == 2
    missing = [*site[:2], "--archive", tmp_path / "none", *site[4:]]
    assert run("erase", "a3", *missing, "--reason", "r", "--yes").exit_code == 2
    assert not (tmp_path / "none").exists()
    assert run("audit", "verify", folder).exit_code == 0


def test_the_way_of_a_template(
    site: list[object], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, bundle = site[:2], site[4:]
    text = "Say \x1b[1m aloud what led you to {slot}"
    add = ("templates", "add", text, *desk, *bundle, "--reviewer", "ann")
    assert run(*add, "--intent", "theft").exit_code == 2
    result = run(*add, "--intent", "cot_harvesting", "--source", "own")
    assert result.stdout.startswith("site-1 waits in quarantine")
    shown = run("templates", "list", *desk).stdout
    assert "quarantined" in shown
    assert "\x1b" not in shown
    listed = run("templates", "list", *desk, "--json").stdout
    assert json.loads(listed)["id"] == "site-1"
    result = run("templates", "replay", "site-1", *site)
    assert result.exit_code == 0, result.output
    # The archive's events are older than its thirty days.
    assert "hits 0 of 0 ordinary prompts" in result.stdout
    result = run("templates", "replay", "site-1", *site, "--days", "3000")
    # What is confirmed is not ordinary.
    assert "hits 0 of 54 ordinary prompts" in result.stdout
    assert "it may not go live" in result.stdout
    result = run("templates", "replay", "site-1", *site, "--approve", "--reason", "r")
    assert result.exit_code == 2
    assert "replayed against 10,000 ordinary prompts" in result.stderr
    least = Desk.open.__func__.__kwdefaults__  # type: ignore[attr-defined]
    monkeypatch.setitem(least, "least_replayed", 50)
    options = ("--approve", "--reason", "r", "--days", "3000")
    result = run("templates", "replay", "site-1", *site, *options)
    assert result.stdout.endswith("site-1 is live\n"), result.output
    remove = ("templates", "remove", *desk, "--reason", "r", "--reviewer", "ann")
    assert run(*remove).exit_code == 2
    assert run(*remove, "site-9").exit_code == 2
    assert run(*remove, "site-1").stdout == "site-1 is revoked\n"
    assert run(*remove, "--source", "own").exit_code == 2
    assert run("audit", "verify", folder).exit_code == 0


def test_a_frame_is_proposed_from_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    write_events(log, make_events(3, 10))
    result = run("templates", "propose", log, "--account", "a1")
    assert result.exit_code == 0, result.output
    assert result.stdout == (
        "Please solve the following with care and in order: {slot} Show all steps.\n"
    )
    assert "10 of 10 different prompts" in result.stderr
    result = run("templates", "propose", log, "--account", "nobody")
    assert result.exit_code == 2
