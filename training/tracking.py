"""Tracking of runs in MLflow, beside the TensorBoard and CSV logs that every run has.

Settings, figures and the bundle's files go to the store that is named and nowhere else: MLflow's
own telemetry is turned off. Nothing is registered as a model, since MLflow would pickle it.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from stillwatch.data.errors import ConfigError

EXPERIMENT = "stillwatch"
_PARAMS_A_BATCH = 100
_PARAM_CHARS = 6000
_NAME_CHARS = 250

logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """Where a run is told. Only `start` may raise: a training is not lost to its tracker."""

    def start(self, name: str, settings: Mapping[str, Any]) -> None:
        """Begin a run. Raises ConfigError if the store does not take it."""

    def log(self, figures: Mapping[str, float], step: int | None = None) -> None:
        """Figures by name, after `step` if they change over the run."""

    def tag(self, name: str, value: str) -> None:
        """Something to find the run by."""

    def artifact(self, path: Path) -> None:
        """A file, or a folder with all that is in it."""

    def end(self, failed: bool = False) -> None:
        """End the run."""


class NoTracker:
    """Tells nobody."""

    def start(self, name: str, settings: Mapping[str, Any]) -> None: ...

    def log(self, figures: Mapping[str, float], step: int | None = None) -> None: ...

    def tag(self, name: str, value: str) -> None: ...

    def artifact(self, path: Path) -> None: ...

    def end(self, failed: bool = False) -> None: ...


class MlflowTracker:
    """One run of an MLflow experiment, through MLflow's client: its fluent functions would also
    send the user's name, the script's path and the state of the checkout.

    `uri` is a server (https://...) or a folder (file:... or a path). Raises ConfigError if MLflow
    is not installed.
    """

    def __init__(self, uri: str, experiment: str = EXPERIMENT) -> None:
        # Before MLflow is imported, which reads it then.
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        # Its default of 7 doubles the wait each time: minutes until a wrong address is told.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        if urlsplit(uri).scheme in ("", "file"):
            # MLflow refuses folders otherwise: they get no new features there.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self._mlflow = _import_mlflow()
        self._uri = uri
        self._experiment = experiment
        self._client: Any = None
        self._run = ""

    def start(self, name: str, settings: Mapping[str, Any]) -> None:
        entities = importlib.import_module("mlflow.entities")
        try:
            self._client = self._mlflow.MlflowClient(tracking_uri=self._uri)
            known = self._client.get_experiment_by_name(self._experiment)
            identity = (
                known.experiment_id
                if known is not None
                else self._client.create_experiment(self._experiment)
            )
            self._run = self._client.create_run(identity, run_name=name).info.run_id
            params = [
                entities.Param(key[:_NAME_CHARS], value[:_PARAM_CHARS])
                for key, value in flatten(settings).items()
            ]
            for first in range(0, len(params), _PARAMS_A_BATCH):
                batch = params[first : first + _PARAMS_A_BATCH]
                self._client.log_batch(self._run, params=batch)
        except Exception as error:
            # MLflow's own message may quote an address with its password.
            raise ConfigError(
                f"the MLflow store must take a new run, however: {_shown(self._uri)} met "
                f"{type(error).__name__}; correct the address or start the server"
            ) from error

    def log(self, figures: Mapping[str, float], step: int | None = None) -> None:
        entities = importlib.import_module("mlflow.entities")
        now = int(time.time() * 1000)
        metrics = [
            entities.Metric(metric_name(name), float(value), now, step or 0)
            for name, value in figures.items()
            if math.isfinite(value)
        ]
        self._tell("figures", lambda: self._client.log_batch(self._run, metrics=metrics))

    def tag(self, name: str, value: str) -> None:
        self._tell(f"tag {name}", lambda: self._client.set_tag(self._run, name, value))

    def artifact(self, path: Path) -> None:
        def send() -> None:
            if path.is_dir():
                self._client.log_artifacts(self._run, str(path), artifact_path=path.name)
            else:
                self._client.log_artifact(self._run, str(path))

        self._tell(path.name, send)

    def end(self, failed: bool = False) -> None:
        status = "FAILED" if failed else "FINISHED"
        self._tell("the run's end", lambda: self._client.set_terminated(self._run, status=status))

    def _tell(self, what: str, send: Callable[[], object]) -> None:
        try:
            send()
        except Exception as error:
            logger.warning(
                "MLflow at %s did not take %s: %s",
                _shown(self._uri), what, type(error).__name__,
            )  # fmt: skip


def open_tracker(uri: str | None, experiment: str = EXPERIMENT) -> Tracker:
    """A tracker of the MLflow store at `uri`, of nobody if it is None. Raises ConfigError if
    MLflow is not installed."""
    return NoTracker() if uri is None else MlflowTracker(uri, experiment)


@contextmanager
def tracked_run(tracker: Tracker, name: str, settings: Mapping[str, Any]) -> Iterator[Tracker]:
    """A run that is ended whatever happens, as failed if the block raises."""
    tracker.start(name, settings)
    failed = True
    try:
        yield tracker
        failed = False
    finally:
        tracker.end(failed)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings under dotted names; lists as JSON."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            flat[f"{prefix}{name}"] = text
    return flat


def metric_name(name: str) -> str:
    """The name with what MLflow allows in one: letters, digits and _-. :/"""
    return re.sub(r"[^\w\-. /]", "", name.replace("%", " percent"), flags=re.ASCII)[:_NAME_CHARS]


def _import_mlflow() -> Any:
    try:
        return importlib.import_module("mlflow")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"tracking with MLflow must have the extra, however: {error.name} is not installed; "
            "pip install 'stillwatch[mlflow]'"
        ) from error


def _shown(uri: str) -> str:
    """The address without what stands before an @ in it: a password."""
    return re.sub(r"(?<=://)[^/]*@", "", uri)
