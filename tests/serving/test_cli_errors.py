"""What the user is told when a command fails, and that nothing secret is in it."""

import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner, Result

from stillwatch.serving.cli import app
from stillwatch.serving.commands import intake

CANARY = "canary-77aa"


def run(*argv: str) -> Result:
    return CliRunner().invoke(app, argv, prog_name="stillwatch")


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def load(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(intake, "load_scorer", load)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (
            ["scor"],
            "stillwatch: No such command 'scor'. Did you mean 'score'?; see stillwatch --help",
        ),
        (["score"], "stillwatch: Missing argument 'LOG'; see stillwatch score --help"),
        (["templates"], "stillwatch: Missing command; see stillwatch templates --help"),
        (["search", "--templates", "  "], "stillwatch: a search must have a text, however:"),
        (["search", "x", "-k", "0"], "stillwatch: Invalid value for '-k': Input should be"),
    ],
)
def test_wrong_usage_is_one_line(argv: list[str], told: str) -> None:
    result = run(*argv)
    assert result.exit_code == 2
    assert not result.stdout
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(told)


def test_no_command_shows_the_help() -> None:
    result = run()
    assert result.exit_code == 2
    assert "calibrate" in result.stdout


def test_version() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("stillwatch 0.")


@pytest.mark.parametrize(
    "command",
    [
        "demo",
        "score",
        "calibrate",
        "serve",
        "search",
        "templates list",
        "templates",
        "labels export",
        "audit verify",
        "keys new",
    ],
)
def test_every_help_has_an_example(command: str) -> None:
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert f"Example: stillwatch {command}" in result.stdout


@pytest.mark.parametrize("command", ["train", "evaluate", "export"])
def test_help_of_training_is_its_own(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"usage: stillwatch {command}")
    assert f"Example: stillwatch {command}" in " ".join(result.stdout.split())


def test_arguments_of_training_are_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    class Training(ModuleType):
        @staticmethod
        def train(argv: list[str]) -> int:
            given.extend(argv)
            return 3

    monkeypatch.setitem(sys.modules, "stillwatch.training.cli", Training("cli"))
    monkeypatch.setattr("stillwatch.training.cli", Training("cli"), raising=False)
    argv = ["--config", "a.yaml", "--optimisation.epochs=2", "-h", "--version"]
    assert run("train", *argv).exit_code == 3
    assert given == argv


def test_training_without_its_libraries_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    monkeypatch.delitem(sys.modules, "stillwatch.training.cli", raising=False)
    monkeypatch.delattr("stillwatch.training.cli", raising=False)
    result = run("train")
    assert result.exit_code == 2
    assert result.stderr == (
        "stillwatch: stillwatch train must have the training libraries, however: jsonargparse is "
        "missing; run pip install 'stillwatch[train]'\n"
    )


def test_a_fault_is_told_without_values(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, RuntimeError(f"{CANARY}\nmore"))
    result = run("search", "--templates", CANARY)
    assert result.exit_code == 70
    assert result.stderr.startswith(
        "stillwatch: an unexpected RuntimeError in stillwatch.serving.commands.templates, line "
    )
    assert result.stderr.count("\n") == 1
    assert CANARY not in result.output

    monkeypatch.setenv("STILLWATCH_DEBUG", "1")
    result = run("search", "--templates", CANARY)
    assert result.exit_code == 70
    assert f"RuntimeError: {CANARY}" in result.stderr


def test_an_interrupt_has_its_own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, KeyboardInterrupt())
    result = run("search", "--templates", "text")
    assert result.exit_code == 130
    assert result.stderr == "stillwatch: interrupted\n"


def test_a_file_name_cannot_drive_the_terminal(tmp_path: Path) -> None:
    result = run("score", "\x1b]0;title\x07.jsonl", "--output", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert "\x1b" not in result.stderr


HEAVY = ("numpy", "faiss", "onnxruntime", "pyarrow", "pydantic", "tokenizers", "torch")


def test_help_loads_no_library_of_the_detector() -> None:
    code = (
        "import sys; from stillwatch.serving.cli import app\n"
        "try: app(['--help'])\n"
        f"finally: print('loaded', sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    started = time.monotonic()
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.splitlines()[-1] == "loaded []"
    # About 0.3 s; the rest is for a machine that is busy with other things.
    assert time.monotonic() - started < 5
