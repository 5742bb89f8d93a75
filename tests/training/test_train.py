"""Training from corpora to bundle, on small corpora of our own phrases, with the real encoder."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from stillwatch.data.errors import ConfigError, InputError
from stillwatch.data.writers import write_events
from stillwatch.serving.scorer import Scorer
from stillwatch.training.datamodule import StreamSet
from stillwatch.training.fit_classifier import fit_classifier
from stillwatch.training.settings import Optimisation, Settings
from tests.support import make_events
from tests.training.small_training import run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(corpora: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(corpora, tmp_path_factory.mktemp("first"), cache)


def test_the_bundle_scores_and_the_run_is_logged(trained: Path) -> None:
    scorer = Scorer.from_bundle(trained)
    verdicts = scorer.update(make_events(accounts=2, each=5))
    assert all(0 < verdict.risk < 1 for verdict in verdicts)
    card = (trained / "README.md").read_text()
    assert "recall at 1.0% false positives, new traffic" in card
    assert "must not be used for" in card
    run_folder = trained.parent / "run"
    assert "seed: 3" in (run_folder / "config.yaml").read_text()
    assert list(run_folder.rglob("metrics.csv"))
    assert list(run_folder.rglob("events.out.tfevents*"))


def test_the_same_seed_gives_the_same_bundle(
    trained: Path, corpora: Path, cache: Path, tmp_path: Path
) -> None:
    again = run(corpora, tmp_path / "again", cache)
    for file in sorted(trained.iterdir()):
        assert (again / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize(
    ("option", "value", "library"),
    [("--label_issues", "true", "cleanlab"), ("--mlflow", "store", "mlflow")],
)
def test_a_missing_extra_is_said_before_the_long_work(
    corpora: Path, cache: Path, tmp_path: Path, option: str, value: str, library: str
) -> None:
    if importlib.util.find_spec(library):
        pytest.skip(f"{library} is installed")
    with pytest.raises(ConfigError, match=f"however: {library} is not installed"):
        run(corpora, tmp_path, cache, option, value)
    assert not (tmp_path / "bundle").exists()


def test_a_run_folder_keeps_its_settings(trained: Path, corpora: Path, cache: Path) -> None:
    with pytest.raises(ConfigError, match="must go on with the settings it began with"):
        run(corpora, trained.parent, cache, "--seed", "4")


def test_a_checkpoint_of_other_streams_is_not_gone_on_from(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(4, 9, 40)
    streams = StreamSet(
        [rng.normal(size=(length, 5)).astype(np.float16) for length in lengths],
        np.eye(3, dtype=np.float32)[rng.integers(0, 3, 40)],
        [np.zeros((length, 3), dtype=np.float32) for length in lengths],
    )
    settings = Settings(optimisation=Optimisation(epochs=1, width=16, key=4))
    fit_classifier(streams, settings, tmp_path, False)
    fit_classifier(streams, settings, tmp_path, False)
    streams.features[7][0, 0] += 1
    with pytest.raises(ConfigError, match="must go on from what it began with"):
        fit_classifier(streams, settings, tmp_path, False)


def test_a_new_intent_is_a_line_of_configuration(
    corpora: Path, cache: Path, tmp_path: Path
) -> None:
    wrappers, templates = tmp_path / "wrappers.jsonl", tmp_path / "templates.jsonl"
    wrappers.write_text(
        "".join(
            json.dumps(
                {
                    "id": f"voice-0{n}-en", "family": f"voice_{n}", "intent": "voice_copying",
                    "language": "en", "template": f"{opening} {{slot}}", "slots": ["question"],
                }
            ) + "\n"
            for n, opening in enumerate(("Sound like her:", "Mimic his voice in", "As they talk:"))
        )
    )  # fmt: skip
    templates.write_text(
        json.dumps(
            {
                "id": "V1", "family": "voice_0", "intent": "voice_copying", "language": "en",
                "text": "Speak exactly as this person does: {slot}", "source": "stillwatch",
                "created": "2026-11-01", "expires": None,
            }
        ) + "\n"
    )  # fmt: skip
    intents = ["capability_probing", "cot_harvesting", "output_harvesting", "voice_copying"]
    output = run(
        corpora, tmp_path / "with", cache, "--intents", json.dumps(intents),
        "--wrappers", json.dumps([str(wrappers)]), "--templates", json.dumps([str(templates)]),
    )  # fmt: skip
    scorer = Scorer.from_bundle(output)
    (verdict,) = scorer.update(make_events(accounts=1, each=1))
    assert list(verdict.intents) == intents
    assert "voice_copying" in (output / "templates.jsonl").read_text()


def test_a_labelled_log_takes_part(corpora: Path, cache: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    write_events(site / "log.jsonl", make_events(accounts=6, each=12))
    labels = [
        {"account_id": f"a{n}", "intents": ["cot_harvesting"] if n % 2 else [], "source": "test"}
        for n in range(6)
    ]
    (site / "labels.jsonl").write_text("".join(json.dumps(label) + "\n" for label in labels))
    output = run(corpora, tmp_path / "with", cache, "--labelled", json.dumps([str(site)]))
    sources = json.loads((output / "manifest.json").read_text())["settings"]["labelled"]
    assert sources == [str(site)]


def test_an_unknown_intent_in_labels_is_told_first(
    corpora: Path, cache: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    write_events(site / "log.jsonl", make_events(accounts=1, each=3))
    label = {"account_id": "a0", "intents": ["weight_theft"], "source": "test"}
    (site / "labels.jsonl").write_text(json.dumps(label) + "\n")
    with pytest.raises(InputError, match="weight_theft"):
        run(corpora, tmp_path / "refused", cache, "--labelled", json.dumps([str(site)]))
