"""What every file under version control must be free of."""

import re
from pathlib import Path

# Spelt in two parts, so that this file does not find itself.
MACHINE_PATH = re.compile(r"(?<![\w.~)}-])/(?:" + "|".join(["wor" + "k", "roo" + "t"]) + r")/\w")
HOME_PATH = re.compile(r"(?<![\w.~)}-])/(?:" + "|".join(["hom" + "e", "User" + "s"]) + r")/\w")
UNFINISHED = re.compile(
    "|".join([r"\bTO" + r"DO\b", r"\bFIX" + r"ME\b", "NotImplemented" + "Error"])
)


def _faults(root: Path, files: list[Path], *patterns: re.Pattern[str]) -> list[str]:
    faults = []
    for file in files:
        raw = (root / file).read_bytes()
        # What is no text, such as an exported model, may hold strings all the same.
        encoding = "latin-1" if b"\0" in raw else "utf-8"
        for number, line in enumerate(raw.decode(encoding).split("\n"), start=1):
            for pattern in patterns:
                if found := pattern.search(line):
                    faults.append(f"{file}:{number} holds {found.group()!r}")
    return faults


def test_no_path_of_a_machine(root: Path, repository_files: list[Path]) -> None:
    faults = _faults(root, repository_files, MACHINE_PATH)
    # Prompts may speak of anybody's home folder.
    ours = [file for file in repository_files if file.suffix != ".jsonl"]
    faults += _faults(root, ours, HOME_PATH)
    assert not faults, "\n".join(faults)


def test_no_unfinished_code(root: Path, repository_files: list[Path]) -> None:
    code = [file for file in repository_files if file.suffix == ".py"]
    faults = _faults(root, code, UNFINISHED)
    assert not faults, "\n".join(faults)
