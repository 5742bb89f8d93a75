"""The model card: what a bundle is for, what it is not for, how it was made, how good it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stillwatch.model.campaigns.risk import CampaignCalibration
from stillwatch.training.settings import Settings


def model_card(settings: Settings, fields: dict[str, Any], figures: dict[str, Any]) -> str:
    """The bundle's README.md. Every figure in it is one that the run printed."""
    thresholds = fields["thresholds"]
    risk = fields["calibration"]["risk"]
    lines = [
        "# Stillwatch detector",
        "",
        "Scores an account's stream of prompts for adversarial distillation. Intents: "
        f"{', '.join(settings.intents)}.",
        "",
        "## What it is for",
        "Ranking accounts for a person to look at, from the request log of an LLM API.",
        "",
        "## What it must not be used for",
        "Blocking an account on its score alone; judging a single prompt; judging people.",
        "",
        "## How it was made",
        f"Encoder: {settings.encoder} ({fields['encoder']['precision']}), revision "
        f"`{fields['encoder']['revision']}`.",
        f"Streams composed from the corpora with data hash `{fields['data_hash'][:16]}`, "
        f"{settings.composition.folds} folds of {settings.composition.attacks} attacking and "
        f"{settings.composition.ordinary} ordinary accounts, seed {settings.seed}.",
        "",
        "## Figures",
        "On composed accounts of folds whose sources, wrappers and product trades were "
        f"left out of training ({settings.calibration_folds} folds, by the run of "
        "`stillwatch train` that made this bundle):",
        "",
        "| figure | value |",
        "| --- | --- |",
        *[f"| {name} | {value} |" for name, value in figures.items()],
        "",
        "`stillwatch evaluate` prints the whole evaluation, fold by fold, beside baselines.",
        "",
        "## Risk and thresholds",
        f"risk = sigmoid({risk['slope']} × logit + {risk['offset']}), a probability "
        f"where {settings.prevalence:.0%} of accounts attack. An account is flagged at "
        f"{thresholds['enter']} and left below {thresholds['leave']}: at most "
        f"{thresholds['max_fpr']:.1%} of {thresholds['ordinary_accounts']} left-out ordinary "
        "accounts ever came above it. Set it from your own traffic with `stillwatch calibrate`.",
        "",
        "## Limits",
        "Trained on composed streams, not on real campaigns. The encoder was trained on English; "
        "other languages rest more on n-grams and on the shape of the stream. Streams of training "
        f"and calibration have at most {settings.optimisation.longest} events; longer ordinary "
        "accounts have more chances to be flagged.",
        "",
    ]
    return "\n".join(lines)


CAMPAIGNS, LIMITS = "## Campaigns", "## Limits"


def with_campaigns(
    card: str, calibration: CampaignCalibration, figures: Mapping[str, float]
) -> str:
    """The card with a section on campaigns, in the place of one that it has."""
    before, _, after = card.partition(CAMPAIGNS)
    if after:
        after = LIMITS + after.partition(LIMITS)[2]
    else:
        before, _, after = card.partition(LIMITS)
        after = LIMITS + after
    section = [
        CAMPAIGNS,
        f"Calibrated on {calibration.origin}. A community of accounts is flagged at "
        f"{calibration.enter:.3f} and left below {calibration.leave:.3f}. Judged crosswise:",
        "",
        "| figure | value |",
        "| --- | --- |",
        *[f"| {name} | {value} |" for name, value in figures.items()],
        "",
        "`python benchmarks/campaigns.py` measures them among far more ordinary accounts.",
        "",
    ]
    return before + "\n".join(section) + "\n" + after
