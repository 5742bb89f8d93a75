"""Settings of a training run. One YAML file holds them and is saved with each run."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import yaml

from stillwatch.data.errors import ConfigError
from stillwatch.data.events import DEFAULT_INTENTS
from stillwatch.data.simulator.streams import MAX_EVENTS
from stillwatch.model.thresholds import accounts_needed

_NEVER_ZERO = frozenset(
    ("source_prompts", "prompt_chars", "attacks", "ordinary", "reference", "forms", "test_attacks",
     "test_ordinary", "test_longest", "members", "width", "layers", "heads", "key",
     "longest", "epochs", "learning_rate", "batch_events", "head_examples")
)  # fmt: skip


@dataclass
class Composition:
    """How many streams are composed, and from what.

    Args:
        folds: parts into which sources, hands of wrappers and product trades are dealt.
        source_prompts: prompts taken of each source; null takes all.
        prompt_chars: longer prompts of a source are left out; windows make them dear to encode.
        attacks: attacking accounts composed in each fold for training.
        ordinary: ordinary accounts composed in each fold for training.
        reference: ordinary accounts composed in each fold for benign references.
        forms: wrappers, and as many products, of each fold that heads learn frames from; null takes
            all.
        buried: share of the attacking accounts trained on, and of their ordinary twins, whose
            prompts stand behind ordinary text.
        test_attacks: attacking accounts of each intent and share in each fold's test.
        test_ordinary: ordinary accounts in each fold's test of new traffic, and as many in that of
            known traffic.
        test_longest: events of a test stream at most.
        hold_out: sources, wrapper families, wrappers, products or trades never to be used.
    """

    folds: int = 5
    source_prompts: int | None = 800
    prompt_chars: int = 2500
    attacks: int = 420
    ordinary: int = 800
    reference: int = 300
    forms: int | None = None
    buried: float = 0.08
    test_attacks: int = 12
    test_ordinary: int = 2000
    test_longest: int = MAX_EVENTS
    hold_out: list[str] = field(default_factory=list)


@dataclass
class Optimisation:
    """The classifier's size and training.

    Args:
        members: classifiers whose logits are averaged.
        width: width of each member's residual stream.
        layers: layers of attention.
        heads: attention heads of each layer.
        key: size of a key.
        dropout: share of activations dropped.
        longest: events of a stream used in training.
        epochs: passes over the streams.
        learning_rate: highest rate of the one-cycle schedule.
        weight_decay: of AdamW.
        batch_events: padded events in a batch.
        head_examples: texts of streams, of each place, used to fit the heads beside the forms.
    """

    members: int = 4
    width: int = 64
    layers: int = 1
    heads: int = 4
    key: int = 4
    dropout: float = 0.1
    longest: int = 160
    epochs: int = 6
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    batch_events: int = 8192
    head_examples: int = 20000


@dataclass
class Settings:
    """A training run.

    Args:
        seed: of everything that is drawn.
        encoder: a sentence-transformers model, by name or folder.
        precision: of the exported encoder, int8 or fp32.
        intents: what a stream can be after, in order; a new intent is a new line here, and
            wrappers or labelled logs that name it.
        prevalence: share of attacking accounts for which risk is a calibrated probability.
        max_fpr: false-positive rate of the default thresholds, on ordinary traffic of folds
            that were left out, half of it built as attacks are.
        calibration_folds: folds left out in turn to calibrate on.
        campaign_worlds: worlds composed of each half of the sealed wrappers, to calibrate campaigns
            on; 0 leaves the bundle without.
        labelled: folders with labelled logs (a log beside its labels) to train on as well.
        more_corpora: further corpora folders, in the form of the first.
        wrappers: further files of attack wrappers, in the form of data/simulator/wrappers.jsonl.
        templates: further files of known attack templates, in the form of model/library.jsonl.
        composition: what is composed of the corpora.
        optimisation: the classifier.
    """

    seed: int = 1
    encoder: str = "all-MiniLM-L6-v2"
    precision: str = "int8"
    intents: list[str] = field(default_factory=lambda: list(DEFAULT_INTENTS))
    prevalence: float = 0.05
    max_fpr: float = 0.02
    calibration_folds: int = 2
    campaign_worlds: int = 0
    labelled: list[str] = field(default_factory=list)
    more_corpora: list[str] = field(default_factory=list)
    wrappers: list[str] = field(default_factory=list)
    templates: list[str] = field(default_factory=list)
    composition: Composition = field(default_factory=Composition)
    optimisation: Optimisation = field(default_factory=Optimisation)

    def check(self) -> None:
        """ConfigError that lists every setting that cannot be used."""
        faults = []
        if self.precision not in ("int8", "fp32"):
            faults.append(f"precision must be int8 or fp32, however: {self.precision}")
        if not self.intents or len(set(self.intents)) != len(self.intents):
            faults.append(f"intents must be different names, however: {self.intents}")
        if self.composition.folds < 3:
            faults.append(f"composition.folds must be 3 or more, however: {self.composition.folds}")
        for name in ("prevalence", "max_fpr"):
            if not 0 < getattr(self, name) < 0.5:
                faults.append(f"{name} must lie in (0, 0.5), however: {getattr(self, name)}")
        if not 1 <= self.calibration_folds <= self.composition.folds:
            faults.append(
                f"calibration_folds must be 1 to {self.composition.folds}, however: "
                f"{self.calibration_folds}"
            )
        for part in (self.composition, self.optimisation):
            for item in fields(part):
                value = getattr(part, item.name)
                if not isinstance(value, int | float):
                    continue
                if not math.isfinite(value) or value < 0:
                    faults.append(f"{item.name} must be finite and not negative, however: {value}")
                elif value == 0 and item.name in _NEVER_ZERO:
                    faults.append(f"{item.name} must be above 0, however: {value}")
        faults += self._calibration_faults()
        for name in ("seed", "campaign_worlds"):
            if getattr(self, name) < 0:
                faults.append(f"{name} must not be negative, however: {getattr(self, name)}")
        if self.optimisation.dropout >= 1:
            faults.append(f"dropout must be below 1, however: {self.optimisation.dropout}")
        if self.optimisation.heads > 0 and self.optimisation.width % self.optimisation.heads:
            faults.append(
                f"width must be a multiple of heads, however: {self.optimisation.width} and "
                f"{self.optimisation.heads}"
            )
        if faults:
            raise ConfigError("; ".join(faults) + "; correct the configuration")

    def _calibration_faults(self) -> list[str]:
        """Before a long training, not after it: enough accounts for the rate asked for."""
        accounts = self.calibration_folds * self.composition.ordinary
        if not 0 < self.max_fpr < 0.5 or accounts >= accounts_needed(self.max_fpr):
            return []
        return [
            f"calibration_folds times composition.ordinary must be {accounts_needed(self.max_fpr)} "
            f"or more for a max_fpr of {self.max_fpr:g}, however: {accounts}"
        ]

    def to_fields(self) -> dict[str, Any]:
        return asdict(self)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_fields(), sort_keys=False)
