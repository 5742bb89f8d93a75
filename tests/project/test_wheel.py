"""The built wheel holds everything, nothing else, and works away from the checkout."""

import configparser
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest


def _is_shipped(file: Path) -> bool:
    """All but notes for whoever reads the checkout; the model card is part of the bundle."""
    return file.suffix != ".md" or "bundle" in file.parts


@pytest.fixture(scope="module")
def wheel_names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def test_the_wheel_holds_every_package(wheel_names: set[str], package_files: list[Path]) -> None:
    folders = {file.parent for file in package_files if file.suffix == ".py"}
    shipped = {Path(name).parent for name in wheel_names if name.endswith(".py")}
    missing = sorted(
        ".".join(("stillwatch", *folder.parts))
        for folder in folders
        if Path("stillwatch") / folder not in shipped
    )
    assert not missing, f"add to [tool.setuptools] packages in pyproject.toml: {missing}"


def test_the_wheel_holds_every_file_and_no_other(
    wheel_names: set[str], package_files: list[Path]
) -> None:
    expected = {f"stillwatch/{file.as_posix()}" for file in package_files if _is_shipped(file)}
    found = {name for name in wheel_names if ".dist-info/" not in name}
    missing, unexpected = sorted(expected - found), sorted(found - expected)
    assert not missing, f"add to packages or package-data in pyproject.toml: {missing}"
    assert not unexpected, f"not under version control: {unexpected}"


def test_the_wheel_installs_stillwatch_alone(wheel_names: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel_names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"stillwatch"}


OUTSIDE = """
import importlib, pathlib, sys
unpacked, module_names = pathlib.Path(sys.argv[1]), sys.argv[2:]
sys.path[:0] = [str(unpacked)]
for name in module_names:
    module = importlib.import_module(name)
    assert pathlib.Path(module.__file__).is_relative_to(unpacked), module.__file__
print("imported", len(module_names))
"""


def test_the_wheel_imports_from_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    unpacked, elsewhere = tmp_path / "unpacked", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    (entry_points,) = unpacked.glob("*.dist-info/entry_points.txt")
    scripts = configparser.ConfigParser()
    scripts.read(entry_points)
    command_modules = {target.split(":")[0] for target in scripts["console_scripts"].values()}
    modules = ["stillwatch.data", "stillwatch.model", "stillwatch.serving", *command_modules]
    # With -S no .pth file is read, so that the editable install cannot stand in for the wheel;
    # the dependencies are then named by hand.
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    code = f"import sys; sys.path += {sorted(libraries)!r}\n{OUTSIDE}"
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(unpacked), *modules],
        cwd=elsewhere,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["imported", str(len(modules))]
