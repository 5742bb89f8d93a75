"""The command lines of training: `stillwatch train`, `evaluate` and `export`.

Options are read by jsonargparse from one YAML file (`--config`) and from the command line, as in
LightningCLI; what was used is saved with each run.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from stillwatch.data.errors import ConfigError, OutputError
from stillwatch.training.settings import Settings

if TYPE_CHECKING:
    from stillwatch.training.benchmark.sealed import Judge

RELEASE_CONFIG = Path(__file__).parent / "configs" / "release.yaml"


def _parser(program: str, description: str, example: str) -> ArgumentParser:
    parser = ArgumentParser(
        prog=f"stillwatch {program}", description=f"{description} Example: {example}"
    )
    parser.add_argument("--config", action="config", help="YAML file with the settings below")
    parser.add_class_arguments(Settings, as_group=False, fail_untyped=True)
    parser.add_argument("--corpora", type=str | None, default=None, help="the corpora folder")
    parser.add_argument("--cache", type=str, default=".cache/vectors", help="folder of encodings")
    parser.add_argument(
        "--threads", type=int, default=2,
        help="threads that encode, and processes of one thread that do all else",
    )  # fmt: skip
    parser.add_argument("--progress", type=bool, default=True, help="tell what is done")
    return parser


def _settings(parser: ArgumentParser, argv: list[str]) -> tuple[Settings, Namespace]:
    if not any(word.split("=")[0] == "--config" for word in argv) and RELEASE_CONFIG.is_file():
        argv = ["--config", str(RELEASE_CONFIG), *argv]
    found = parser.parse_args(argv)
    if found.threads < 1:
        raise ConfigError(f"threads must be at least 1, however: {found.threads}; raise --threads")
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
    parser.add_argument(
        "--label_issues", type=bool, default=False,
        help="list labels of labelled logs that are likely wrong; needs stillwatch[labels]",
    )  # fmt: skip
    parser.add_argument(
        "--mlflow", type=str | None, default=None,
        help="address or folder of an MLflow store to log the run to; needs stillwatch[mlflow]",
    )  # fmt: skip
    settings, options = _settings(parser, argv)
    settings.check()
    from stillwatch.training.tracking import open_tracker
    from stillwatch.training.train import train as run_training

    tracker = open_tracker(options.mlflow)

    report = _progress(options.progress)
    bundle = run_training(
        settings, _path(options.corpora), Path(options.output), Path(options.run),
        Path(options.cache), options.threads, options.progress, report, tracker,
        options.label_issues,
    )  # fmt: skip
    print(f"bundle {bundle.id} written to {bundle.path}")
    return 0


def evaluate(argv: list[str], judge: Judge) -> int:
    """Train and test fold by fold on material left out, beside the baselines; test a bundle on
    sealed material; compare it with another."""
    parser = _parser(
        "evaluate",
        "Trains without each fold in turn and tests on it, beside baselines, and tests a bundle "
        "on sealed material that nothing is trained on; prints tables and writes a report. With "
        "--compare, says instead where a bundle is worse than an older one, and exits with 1 if "
        "it is.",
        "stillwatch evaluate --report out/report; "
        "stillwatch evaluate --bundle out/bundle --compare last-release",
    )
    parser.add_argument("--report", type=str, default="out/evaluation", help="folder of the report")
    parser.add_argument("--run", type=str, default="runs/evaluate", help="folder of checkpoints")
    parser.add_argument("--folds", type=list[int] | None, default=None, help="only these, from 1")
    parser.add_argument("--baselines", type=bool, default=True, help="fit the baselines too")
    parser.add_argument(
        "--bundle", type=str | None, default=None,
        help="bundle to test; default: out/bundle with --compare, else the released one",
    )  # fmt: skip
    parser.add_argument(
        "--compare", type=str | None, default=None, metavar="OLD_BUNDLE",
        help="only compare --bundle with this one on the sealed material",
    )  # fmt: skip
    parser.add_argument(
        "--only", type=Literal["folds", "bundle"] | None, default=None,
        help="folds: train and test fold by fold alone; bundle: test --bundle on sealed material "
        "alone",
    )  # fmt: skip
    settings, options = _settings(parser, argv)
    settings.check()
    from stillwatch.model.bundle import load_bundle, released_bundle
    from stillwatch.training.benchmark import evaluate as benchmark

    report = _progress(options.progress)
    folder = Path(options.report)
    if options.compare is not None:
        new, old = Path(options.bundle or "out/bundle"), Path(options.compare)
        for path in (new, old):
            load_bundle(path)
        _, fit = benchmark.compare_bundles(new, old, judge, options.threads, report)
        print(
            f"{new} is no worse than {old} on any group: it may be released"
            if fit
            else f"{new} is worse than {old} where the table says so: do not release it"
        )
        return 0 if fit else 1
    tested = None
    if options.only != "folds":
        bundle = _path(options.bundle) or released_bundle()
        report(f"the bundle that is tested on sealed material: {load_bundle(bundle).id}")
        tested = bundle, judge
    if tested and options.only == "bundle":
        benchmark.evaluate_bundle(*tested, options.threads, report, folder)
        return 0
    benchmark.evaluate(
        settings, _path(options.corpora), folder, Path(options.run), Path(options.cache),
        options.threads, options.progress, report, shlex.join(["stillwatch", "evaluate", *argv]),
        options.folds, options.baselines, tested,
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
