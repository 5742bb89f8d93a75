"""What README.md says can be typed, can be typed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

NOT_RUN = "<!-- not run -->"
FENCE = re.compile(r"^```(\w*)$")


def code_of(markdown: str, language: str) -> str:
    """The blocks of one language, every line at its own line number; the others are empty.

    A block that follows a line `<!-- not run -->` is left out.
    """
    kept = []
    inside: str | None = None
    previous = ""
    for line in markdown.splitlines():
        fence = FENCE.match(line)
        if fence and inside is None:
            inside = "skipped" if previous == NOT_RUN else fence.group(1)
            kept.append("")
        elif fence:
            inside = None
            kept.append("")
        else:
            kept.append(line if inside == language else "")
        previous = line.strip() or previous
    return "\n".join(kept)


def test_code_of_keeps_line_numbers_and_skips() -> None:
    markdown = "\n".join(
        ["# T", "```python", "a = 1", "```", NOT_RUN, "```python", "b", "```", "```sh", "c", "```"]
    )
    assert code_of(markdown, "python").split("\n") == ["", "", "a = 1"] + [""] * 8
    assert code_of(markdown, "sh").split("\n")[9] == "c"


@pytest.fixture(scope="module")
def readme(root: Path) -> str:
    return (root / "README.md").read_text(encoding="utf-8")


def test_its_make_commands_exist(root: Path, readme: str) -> None:
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)\b", "\n".join(_shell_lines(readme))))
    assert {"demo", "test"} <= named
    assert named <= targets


def _shell_lines(readme: str) -> list[str]:
    blocks = [code_of(readme, language) for language in ("", "sh", "bash", "shell", "console")]
    return [line for block in blocks for line in block.splitlines() if line]


@pytest.mark.slow
def test_its_python_runs(root: Path, readme: str, tmp_path: Path) -> None:
    code = code_of(readme, "python")
    if not code.strip():
        pytest.skip("README.md holds no Python to run")
    # As a reader would stand in the checkout, but what the code writes stays out of it.
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for entry in root.iterdir():
        if not entry.name.startswith("."):
            (checkout / entry.name).symlink_to(entry)
    script = tmp_path / "readme.py"
    script.write_text(code, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, str(script)], cwd=checkout, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
