"""The checkout's files and the wheel built from them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("data", "model", "serving", "training")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def repository_files() -> list[Path]:
    """Every file that is, or would be, under version control, relative to the checkout."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    files = {Path(name) for name in listing.stdout.split("\0") if name}
    return sorted(file for file in files if (ROOT / file).is_file())


@pytest.fixture(scope="session")
def package_files(repository_files: list[Path]) -> list[Path]:
    """Those of them that lie in one of the four packages."""
    return [file for file in repository_files if file.parts[0] in PACKAGES]


@pytest.fixture(scope="session")
def wheel(package_files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built offline from a copy: a build folder left in the checkout would leak in."""
    source = tmp_path_factory.mktemp("source")
    for file in [Path("pyproject.toml"), Path("README.md"), *package_files]:
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, source / file)
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target)]
    build = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert build.returncode == 0, build.stdout + build.stderr
    (built,) = target.glob("*.whl")
    return built
