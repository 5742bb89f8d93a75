"""What the released bundle says of sealed streams: tests hold later ones against the record.

Run it when a bundle is released: python benchmarks/regression.py --json benchmarks/regression.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from stillwatch.model.bundle import load_bundle, released_bundle
from stillwatch.serving.cli import judge_log
from stillwatch.training.benchmark.sealed import (
    REGRESSION,
    compose_sealed,
    score_sealed,
    sealed_figures,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=released_bundle())
    parser.add_argument(
        "--json", type=Path, help="write the record here; else print the recall alone"
    )
    options = parser.parse_args()
    streams = compose_sealed(REGRESSION)
    scores = score_sealed(judge_log, options.bundle, streams)
    record = {
        "bundle": load_bundle(options.bundle).id,
        "peaks": {
            s.account_id: round(float(p), 6) for s, p in zip(streams, scores.peaks, strict=True)
        },
    }
    recall = sealed_figures(streams, scores)["recall"]
    print(f"bundle {record['bundle']}: recall {recall:.3f} at 1% of sealed ordinary accounts")
    if options.json is not None:
        options.json.write_text(json.dumps(record, indent=0) + "\n", encoding="utf-8")
        print(f"{len(streams)} accounts written to {options.json}")


if __name__ == "__main__":
    main()
