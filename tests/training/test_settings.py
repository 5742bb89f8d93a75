"""Settings: every fault in one message, before anything long starts; saved as they were used."""

from __future__ import annotations

import pytest
import yaml

from stillwatch.data.errors import ConfigError
from stillwatch.training.cli import RELEASE_CONFIG
from stillwatch.training.settings import Composition, Optimisation, Settings


def test_the_defaults_can_be_used() -> None:
    Settings().check()


def test_every_fault_is_told_at_once() -> None:
    settings = Settings(
        precision="fp16",
        intents=["probing", "probing"],
        prevalence=0.0,
        max_fpr=0.7,
        calibration_folds=9,
        composition=Composition(folds=2, attacks=-1, test_ordinary=-5),
        optimisation=Optimisation(width=30, heads=4, learning_rate=-0.1),
    )
    with pytest.raises(ConfigError) as caught:
        settings.check()
    message = str(caught.value)
    for fault in (
        "precision must be int8 or fp32, however: fp16",
        "intents must be different names, however: ['probing', 'probing']",
        "composition.folds must be 3 or more, however: 2",
        "prevalence must lie in (0, 0.5), however: 0.0",
        "max_fpr must lie in (0, 0.5), however: 0.7",
        "calibration_folds must be 1 to 2, however: 9",
        "attacks must be finite and not negative, however: -1",
        "test_ordinary must be finite and not negative, however: -5",
        "learning_rate must be finite and not negative, however: -0.1",
        "width must be a multiple of heads, however: 30 and 4",
    ):
        assert fault in message
    assert message.count("however: ") == 10
    assert message.endswith("; correct the configuration")


@pytest.mark.parametrize(
    "settings",
    [
        Settings(intents=[]),
        Settings(prevalence=0.5),
        Settings(max_fpr=-0.1),
        Settings(calibration_folds=0),
        Settings(composition=Composition(folds=0)),
        Settings(composition=Composition(source_prompts=0)),
        Settings(composition=Composition(forms=0)),
        Settings(seed=-1),
        Settings(composition=Composition(attacks=0)),
        Settings(composition=Composition(ordinary=20)),
        Settings(max_fpr=0.001),
        Settings(optimisation=Optimisation(learning_rate=float("nan"))),
        Settings(optimisation=Optimisation(heads=0)),
        Settings(optimisation=Optimisation(batch_events=0)),
        Settings(optimisation=Optimisation(dropout=1.0)),
        Settings(optimisation=Optimisation(epochs=-1)),
    ],
    ids=lambda settings: "",
)
def test_one_fault_is_enough(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="however: "):
        settings.check()


def test_no_limit_of_prompts_is_allowed() -> None:
    Settings(composition=Composition(source_prompts=None)).check()


def test_what_is_saved_is_what_was_used() -> None:
    settings = Settings(seed=7, intents=["probing", "other"], labelled=["logs/märz"])
    fields = yaml.safe_load(settings.to_yaml())
    assert fields == settings.to_fields()
    assert fields["labelled"] == ["logs/märz"]
    assert next(iter(fields)) == "seed"


@pytest.mark.skipif(not RELEASE_CONFIG.is_file(), reason="there is no release configuration")
def test_the_release_configuration_names_known_settings() -> None:
    fields = yaml.safe_load(RELEASE_CONFIG.read_text(encoding="utf-8"))
    composition = Composition(**fields.pop("composition", {}))
    optimisation = Optimisation(**fields.pop("optimisation", {}))
    Settings(**fields, composition=composition, optimisation=optimisation).check()
