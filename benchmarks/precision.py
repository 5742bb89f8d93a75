"""What quantising the encoder costs in detection: sealed streams read by the released detector with
its int8 encoder and with the fp32 one.

    python benchmarks/precision.py --json benchmarks/precision.json

Templates, references, heads and classifier are the same, made for int8. Recall is of attacking
accounts at the risk that a share of the ordinary ones reached. Takes a few minutes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _machine import machine, tell
from sklearn.metrics import roc_auc_score

from stillwatch.data.simulator.streams import Stream
from stillwatch.model.bundle import load_bundle, released_bundle
from stillwatch.model.detector import Detector
from stillwatch.model.encoder import OnnxEncoder
from stillwatch.model.encoder_export import Precision, cached_encoder
from stillwatch.serving.scorer import Scorer
from stillwatch.training.benchmark.sealed import REGRESSION, compose_sealed, is_attack
from stillwatch.training.metrics import recall_at

PRECISIONS: tuple[Precision, ...] = ("int8", "fp32")
RATES = (0.01, 0.05, 0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--bundle", type=Path, default=released_bundle())
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    options = parser.parse_args()
    streams = compose_sealed(REGRESSION)
    attacks = is_attack(streams)
    bundle = load_bundle(options.bundle)
    figures: dict[str, Any] = {
        "machine": machine(options.threads),
        "bundle": bundle.id,
        "attacking accounts": int(attacks.sum()),
        "ordinary accounts": int((~attacks).sum()),
    }
    peaks = {}
    for precision in PRECISIONS:
        folder = cached_encoder(bundle.manifest.encoder.name, precision, tell)
        encoder = OnnxEncoder(folder, threads=options.threads)
        peaks[precision] = _peaks(Detector.load(options.bundle, encoder=encoder), streams)
        own = {
            "area under the curve": float(roc_auc_score(attacks, peaks[precision])),
            **{
                f"recall at {rate:.0%}": float(
                    recall_at(peaks[precision][attacks], peaks[precision][~attacks], rate)
                )
                for rate in RATES
            },
        }
        figures[precision] = own
        tell(f"{precision}: " + ", ".join(f"{name} {value:.3f}" for name, value in own.items()))
    apart = np.abs(peaks["int8"] - peaks["fp32"])
    figures["difference of peak risks"] = {
        "median": float(np.median(apart)), "99%": float(np.quantile(apart, 0.99)),
    }  # fmt: skip
    tell(f"peak risks differ by {np.median(apart):.4f} (median)")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def _peaks(detector: Detector, streams: Sequence[Stream]) -> np.ndarray:
    """The highest risk of each stream, float64 (S,)."""
    scorer = Scorer(detector)
    scorer.ingest(event for stream in streams for event in stream.events)
    found = {verdict.account_id: verdict.peak_risk for verdict in scorer.verdicts()}
    return np.array([found[stream.account_id] for stream in streams])


if __name__ == "__main__":
    main()
