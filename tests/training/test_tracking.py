"""Tracking: what is told, that nothing else is, and that a training outlives its tracker."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from stillwatch.data.errors import ConfigError
from stillwatch.training.settings import Settings
from stillwatch.training.tracking import (
    MlflowTracker,
    NoTracker,
    flatten,
    metric_name,
    open_tracker,
    tracked_run,
)

URI = "https://someone:hidden@tracking.example/mlflow"
FIGURE = "recall at 1.0% false positives, new traffic"
VARIABLES = (
    "MLFLOW_DISABLE_TELEMETRY", "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_ALLOW_FILE_STORE",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each variable that a tracker sets is as it was when the test has ended."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "as before")
        monkeypatch.delenv(name)


class FakeClient:
    """Notes every call; fails at those in `failing`."""

    def __init__(self, tracking_uri: str, experiment: str | None, failing: set[str]) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
            ("client", (tracking_uri,), {})
        ]
        self._experiment = experiment
        self._failing = failing

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            if name in self._failing:
                raise OSError(f"no route to {URI}")
            self.calls.append((name, args, options))
            if name == "get_experiment_by_name":
                known = self._experiment
                return SimpleNamespace(experiment_id=known) if known is not None else None
            if name == "create_experiment":
                return "new experiment"
            if name == "create_run":
                return SimpleNamespace(info=SimpleNamespace(run_id="run"))
            return None

        return call

    def named(self, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [(args, options) for called, args, options in self.calls if called == name]


def fake_mlflow(
    monkeypatch: pytest.MonkeyPatch, experiment: str | None = "7", failing: set[str] | None = None
) -> list[FakeClient]:
    """Puts a module in MLflow's place; its clients as they are made."""
    clients: list[FakeClient] = []

    def make(tracking_uri: str) -> FakeClient:
        clients.append(FakeClient(tracking_uri, experiment, failing or set()))
        return clients[-1]

    module, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    vars(module)["MlflowClient"] = make
    vars(entities).update(
        Param=lambda key, value: (key, value),
        Metric=lambda key, value, timestamp, step: (key, value, step),
    )
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    return clients


def test_a_run_is_told_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clients = fake_mlflow(monkeypatch)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    config = tmp_path / "config.yaml"
    config.touch()
    settings = {"seed": 3, "composition": {"folds": 5}, "intents": ["a", "b"], "encoder": "x"}
    with tracked_run(MlflowTracker(URI, "site"), "autumn", settings) as tracker:
        tracker.log({FIGURE: 0.5, "loss": 1.0, "of nothing": float("nan")})
        tracker.log({"loss": 0.5}, step=7)
        tracker.artifact(bundle)
        tracker.artifact(config)
        tracker.tag("bundle", "b1")
    (client,) = clients
    assert client.calls == [
        ("client", (URI,), {}),
        ("get_experiment_by_name", ("site",), {}),
        ("create_run", ("7",), {"run_name": "autumn"}),
        ("log_batch", ("run",), {"params": [
            ("seed", "3"), ("composition.folds", "5"), ("intents", '["a", "b"]'), ("encoder", "x"),
        ]}),
        ("log_batch", ("run",), {"metrics": [
            ("recall at 1.0 percent false positives new traffic", 0.5, 0), ("loss", 1.0, 0),
        ]}),
        ("log_batch", ("run",), {"metrics": [("loss", 0.5, 7)]}),
        ("log_artifacts", ("run", str(bundle)), {"artifact_path": "bundle"}),
        ("log_artifact", ("run", str(config)), {}),
        ("set_tag", ("run", "bundle", "b1"), {}),
        ("set_terminated", ("run",), {"status": "FINISHED"}),
    ]  # fmt: skip


def test_a_new_experiment_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    clients = fake_mlflow(monkeypatch, experiment=None)
    MlflowTracker(URI).start("first", {})
    assert clients[0].named("create_experiment") == [(("stillwatch",), {})]
    assert clients[0].named("create_run") == [(("new experiment",), {"run_name": "first"})]


def test_many_and_long_settings_are_told_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    clients = fake_mlflow(monkeypatch)
    MlflowTracker(URI).start("many", {**{f"s{n}": n for n in range(149)}, "long": ["x" * 7000]})
    batches = [options["params"] for _, options in clients[0].named("log_batch")]
    assert [len(batch) for batch in batches] == [100, 50]
    assert len(batches[1][-1][1]) == 6000


def test_a_run_that_breaks_is_ended_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    clients = fake_mlflow(monkeypatch)
    with pytest.raises(KeyboardInterrupt), tracked_run(MlflowTracker(URI), "broken", {}):
        raise KeyboardInterrupt
    assert clients[0].named("set_terminated") == [(("run",), {"status": "FAILED"})]


@pytest.mark.parametrize("step", ["get_experiment_by_name", "create_run", "log_batch"])
def test_a_store_that_takes_no_run_is_told_first(
    monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    fake_mlflow(monkeypatch, failing={step})
    with pytest.raises(ConfigError) as caught:
        MlflowTracker(URI).start("first", {"seed": 1})
    assert str(caught.value) == (
        "the MLflow store must take a new run, however: https://tracking.example/mlflow met "
        "OSError; correct the address or start the server"
    )


def test_a_store_that_fails_later_does_not_end_the_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    failing = {"log_artifact", "log_artifacts", "set_tag", "set_terminated"}
    clients = fake_mlflow(monkeypatch, failing=failing)
    with (
        caplog.at_level(logging.WARNING),
        tracked_run(MlflowTracker(URI), "kept", {}) as tracker,
    ):
        failing.add("log_batch")
        tracker.log({"loss": 1.0})
        tracker.tag("bundle", "b1")
        tracker.artifact(tmp_path)
        tracker.artifact(tmp_path / "file")
    assert len(clients) == 1
    assert len(caplog.messages) == 5
    assert caplog.messages[0] == (
        "MLflow at https://tracking.example/mlflow did not take figures: OSError"
    )
    assert "hidden" not in caplog.text


def test_telemetry_is_off_before_mlflow_is_imported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "mlflow"
    package.mkdir()
    (package / "__init__.py").write_text("import os\nSEEN = dict(os.environ)\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "mlflow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    MlflowTracker(URI)
    seen = vars(sys.modules.pop("mlflow"))["SEEN"]
    assert seen["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert seen["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "3"
    assert "MLFLOW_ALLOW_FILE_STORE" not in seen


@pytest.mark.parametrize("uri", ["runs/mlflow", "file:runs/mlflow"])
def test_a_folder_may_be_the_store(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    fake_mlflow(monkeypatch)
    MlflowTracker(uri)
    assert os.environ["MLFLOW_ALLOW_FILE_STORE"] == "true"


def test_without_an_address_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    tracker = open_tracker(None)
    assert isinstance(tracker, NoTracker)
    with tracked_run(tracker, "alone", {"seed": 1}):
        tracker.log({FIGURE: 1.0})
        tracker.tag("bundle", "b1")
        tracker.artifact(Path("nowhere"))


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError) as caught:
        open_tracker(URI)
    assert str(caught.value) == (
        "tracking with MLflow must have the extra, however: mlflow is not installed; "
        "pip install 'stillwatch[mlflow]'"
    )


def test_every_setting_has_one_name() -> None:
    flat = flatten(Settings(labelled=["site"]).to_fields())
    assert flat["composition.folds"] == "5"
    assert flat["labelled"] == '["site"]'
    assert flat["encoder"] == "all-MiniLM-L6-v2"
    assert flat["composition.source_prompts"] == "800"
    assert all(isinstance(value, str) for value in flat.values())
    assert not {"composition", "optimisation"} & flat.keys()


def test_figures_have_names_that_mlflow_takes() -> None:
    assert metric_name(FIGURE) == "recall at 1.0 percent false positives new traffic"
    assert metric_name("é(x)=y/z_1-2") == "xy/z_1-2"


@pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None,
    reason="mlflow is not installed: pip install 'stillwatch[mlflow]'",
)
def test_a_folder_holds_what_was_told(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "manifest.json").write_text("{}")
    uri = (tmp_path / "store").as_uri()
    settings = Settings()
    for number, name in enumerate(("first", "second")):
        with tracked_run(open_tracker(uri), name, settings.to_fields()) as tracker:
            tracker.log({FIGURE: 0.25 + number})
            tracker.log({"loss": 2.0}, step=1)
            tracker.log({"loss": 1.0}, step=2)
            tracker.artifact(bundle)
            tracker.tag("bundle", f"b{number}")
    client = importlib.import_module("mlflow").MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("stillwatch")
    found = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(found) == {"first", "second"}
    second = found["second"]
    assert second.info.status == "FINISHED"
    assert second.data.params == flatten(settings.to_fields())
    assert second.data.metrics == {metric_name(FIGURE): 1.25, "loss": 1.0}
    history = client.get_metric_history(second.info.run_id, "loss")
    assert [(each.step, each.value) for each in history] == [(1, 2.0), (2, 1.0)]
    assert second.data.tags["bundle"] == "b1"
    files = [file.path for file in client.list_artifacts(second.info.run_id, "bundle")]
    assert files == ["bundle/manifest.json"]
    # Neither who ran it nor from where.
    assert set(second.data.tags) == {"bundle", "mlflow.runName"}
