"""A training small enough for tests: corpora of the simulator's own phrases, the real encoder."""

from __future__ import annotations

import json
from pathlib import Path

from stillwatch.data.simulator.phrases import load_phrases
from stillwatch.training import cli

ROLES = ("attack_harvest", "attack_probe", "attack_boundary", "chat", "app", "lookalike")
PROMPTS = 40
SMALL = """
seed: 3
max_fpr: 0.2
calibration_folds: 1
composition: {folds: 3, attacks: 18, ordinary: 24, reference: 10, source_prompts: 40, forms: 20}
optimisation: {epochs: 2, longest: 32, head_examples: 1500, width: 16, key: 4}
"""


def write_corpora(folder: Path) -> None:
    """Two sources of each role, made of the simulator's own phrases."""
    texts = [phrase.text for phrases in load_phrases().values() for phrase in phrases]
    rows = ["name\trole\tlicence\tprompts\tsessions\trepository\tcommit"]
    for number, role in enumerate(role for role in ROLES for _ in range(2)):
        name = f"{role}_{number}"
        rows.append(f"{name}\t{role}\tours\t{PROMPTS}\t0\tnone\tnone")
        lines = [
            json.dumps({"prompt": f"{texts[(number * 37 + k * 5) % len(texts)]} ({number}-{k})"})
            for k in range(PROMPTS)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "MANIFEST.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def run(corpora: Path, folder: Path, cache: Path, *more: str) -> Path:
    """The bundle that a training made; `more` are further options of `stillwatch train`."""
    config = folder / "small.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    config.write_text(SMALL)
    output = folder / "bundle"
    options = ["--config", str(config), "--corpora", str(corpora), "--output", str(output)]
    options += ["--cache", str(cache), "--run", str(folder / "run"), "--progress", "false"]
    assert cli.train([*options, *more]) == 0
    return output
