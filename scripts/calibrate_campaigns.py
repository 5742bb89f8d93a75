"""Calibrates a bundle for campaigns without training it again, as `stillwatch train` does at its
end.

    python scripts/calibrate_campaigns.py serving/bundle --output out/bundle --worlds 4
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from stillwatch.model.bundle import load_bundle, manifest_fields, write_bundle
from stillwatch.training.campaign_readings import read_worlds
from stillwatch.training.campaigns import fit_campaigns
from stillwatch.training.card import with_campaigns

CARD = "README.md"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="may be the bundle itself")
    parser.add_argument("--worlds", type=int, default=4, help="of each half of the sealed wrappers")
    parser.add_argument("--corpora", type=Path)
    parser.add_argument("--readings", type=Path, help="folder that keeps what was read")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    halves = read_worlds(
        options.bundle, options.corpora, range(options.worlds), options.threads,
        lambda text: print(text, file=sys.stderr, flush=True), options.readings,
    )  # fmt: skip
    calibration, figures = fit_campaigns(halves)
    bundle = load_bundle(options.bundle)
    fields = {**manifest_fields(bundle.manifest), "campaigns": calibration.model_dump()}
    card = with_campaigns(bundle.content[CARD].decode(), calibration, figures)
    written = write_bundle(options.output, fields, {**bundle.content, CARD: card.encode()})
    print(json.dumps({"bundle": written.id, **figures}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
