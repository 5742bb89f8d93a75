"""The command lines of training: `stillwatch train`, `evaluate` and `export`.

Options are read by jsonargparse from one YAML file (`--config`) and from the command line, as in
LightningCLI; what was used is saved with each run.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from stillwatch.data.errors import OutputError
from stillwatch.training.settings import Settings

RELEASE_CONFIG = Path(__file__).parent / "configs" / "release.yaml"


def _parser(program: str, description: str, example: str) -> ArgumentParser:
    parser = ArgumentParser(
        prog=f"stillwatch {program}", description=f"{description} Example: {example}"
    )
    parser.add_argument("--config", action="config", help="YAML file with the settings below")
    parser.add_class_arguments(Settings, as_group=False, fail_untyped=True)
    parser.add_argument("--corpora", type=str | None, default=None, help="the corpora folder")
    parser.add_argument("--cache", type=str, default=".cache/vectors", help="folder of encodings")
    parser.add_argument("--threads", type=int, default=2, help="threads that encode")
    parser.add_argument("--progress", type=bool, default=True, help="show progress bars")
    return parser


def _settings(parser: ArgumentParser, argv: list[str]) -> tuple[Settings, Namespace]:
    if not any(word.split("=")[0] == "--config" for word in argv) and RELEASE_CONFIG.is_file():
        argv = ["--config", str(RELEASE_CONFIG), *argv]
    found = parser.parse_args(argv)
    made = parser.instantiate(found)
    names = Settings.__dataclass_fields__
    return Settings(**{name: made[name] for name in names}), made


def _progress(show: bool) -> Callable[[str], None]:
    console = Console(stderr=True)
    started = time.monotonic()

    def report(message: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - started), 60)
        console.print(f"[dim]{minutes:3d}:{seconds:02d}[/dim] {message}", highlight=False)

    return report if show else lambda message: None


def _path(value: str | None) -> Path | None:
    return Path(value) if value is not None else None


def train(argv: list[str]) -> int:
    """Train a detector and write its bundle."""
    parser = _parser(
        "train",
        "Trains a detector from the corpora and labelled logs and writes a bundle.",
        "stillwatch train --config training/configs/release.yaml --output out/bundle",
    )
    parser.add_argument("--output", type=str, default="out/bundle", help="folder of the bundle")
    parser.add_argument("--run", type=str, default="runs/train", help="folder of checkpoints, logs")
    settings, options = _settings(parser, argv)
    settings.check()
    from stillwatch.training.train import train as run_training

    report = _progress(options.progress)
    bundle = run_training(
        settings, _path(options.corpora), Path(options.output), Path(options.run),
        Path(options.cache), options.threads, options.progress, report,
    )  # fmt: skip
    print(f"bundle {bundle.id} written to {bundle.path}")
    return 0


def evaluate(argv: list[str]) -> int:
    """Train and test fold by fold on material left out, beside the baselines."""
    parser = _parser(
        "evaluate",
        "Trains without each fold in turn and tests on it, beside baselines; prints the table.",
        "stillwatch evaluate --config training/configs/release.yaml --report out/report",
    )
    parser.add_argument("--report", type=str, default="out/evaluation", help="folder of the report")
    parser.add_argument("--run", type=str, default="runs/evaluate", help="folder of checkpoints")
    parser.add_argument("--folds", type=list[int] | None, default=None, help="only these, from 1")
    parser.add_argument("--baselines", type=bool, default=True, help="fit the baselines too")
    settings, options = _settings(parser, argv)
    settings.check()
    from stillwatch.training.evaluate import evaluate as run_evaluation

    run_evaluation(
        settings, _path(options.corpora), Path(options.report), Path(options.run),
        Path(options.cache), options.threads, options.progress, _progress(options.progress),
        options.folds, options.baselines,
    )  # fmt: skip
    return 0


def export(argv: list[str]) -> int:
    """Write a complete bundle, encoder included, for machines without torch."""
    parser = ArgumentParser(
        prog="stillwatch export",
        description="Writes a complete bundle, the encoder included, for machines without torch; "
        "the exported encoder is compared with sentence-transformers first. "
        "Example: stillwatch export --output out/complete",
    )
    parser.add_argument("--bundle", type=str | None, default=None, help="default: the released one")
    parser.add_argument("--output", type=str, required=True, help="folder of the complete bundle")
    options = parser.parse_args(argv)
    from stillwatch.model.bundle import (
        Layout,
        load_bundle,
        manifest_fields,
        released_bundle,
        write_bundle,
    )
    from stillwatch.model.encoder import OnnxEncoder
    from stillwatch.model.encoder_export import check_golden, export_encoder

    bundle = load_bundle(_path(options.bundle) or released_bundle())
    output = Path(options.output)
    if output.exists() and any(output.iterdir()):
        raise OutputError(f"{output} must be new or empty, however: it holds files; name another")
    import tempfile

    entry = bundle.manifest.encoder
    with tempfile.TemporaryDirectory() as scratch:
        report = export_encoder(
            entry.name, scratch, "fp32" if entry.precision == "fp32" else "int8", _progress(True)
        )
        check_golden(OnnxEncoder(Path(scratch)), entry.golden)
        files = {name: (Path(scratch) / name).read_bytes() for name in Layout.ENCODER}
    complete = write_bundle(output, manifest_fields(bundle.manifest), {**bundle.content, **files})
    print(
        f"largest difference to sentence-transformers: {report.parity_max_abs:.1e}\n"
        f"bundle {complete.id} written to {output}"
    )
    return 0


if __name__ == "__main__":
    sys.exit({"train": train, "evaluate": evaluate, "export": export}[sys.argv[1]](sys.argv[2:]))
