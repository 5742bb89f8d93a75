"""From a wrong flag to a bundle that does not raise it: rejected, exported, trained on again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from stillwatch.data.events import Event
from stillwatch.data.simulator.phrases import load_phrases
from stillwatch.model.detector import Detector
from stillwatch.serving.archive import PromptArchive, encoder_id
from stillwatch.serving.scorer import Scorer
from stillwatch.serving.verdict import Verdict
from stillwatch.training.benchmark.compare import compare
from stillwatch.training.benchmark.sealed import SealedPlan, compose_sealed, score_sealed
from tests.serving.desk.desk_support import desk_in
from tests.training import test_train

pytestmark = pytest.mark.slow

corpora, cache = test_train.corpora, test_train.cache

PRODUCT = "You check homework. Show every step of the solution, then say if the pupil is right: {}"
PLAN = SealedPlan(ordinary=30, longest=16, bare_repeats=0, shares=(1.0,))
# Few streams, but seen often: a bundle that has learnt nothing flags nobody.
LEARNT = (
    "--composition.source_prompts", "20", "--composition.attacks", "15",
    "--composition.ordinary", "20", "--composition.reference", "8", "--optimisation.longest", "24",
    "--optimisation.head_examples", "500", "--optimisation.epochs", "40",
)  # fmt: skip
SITES, EACH = 6, 14


class Reviewed(NamedTuple):
    """What a review of the first bundle's flags came to."""

    bundle: Path
    wrong: list[str]
    labelled: Path


def ordinary_traffic() -> list[Event]:
    """Accounts of one product that shows steps to pupils: honest, and near to what a harvest is."""
    texts = [phrase.text for phrase in load_phrases()["opening"]]
    return [
        Event(
            f"e{site}-{n}", f"school-{site}", 1.76e9 + 300.0 * n + site,
            PRODUCT.format(texts[site * EACH + n]),
        )
        for n in range(EACH)
        for site in range(SITES)
    ]  # fmt: skip


def judge(bundle: Path, events: Iterable[Event]) -> Mapping[str, Verdict]:
    scorer = Scorer(Detector.load(bundle))
    scorer.ingest(events)
    return {verdict.account_id: verdict for verdict in scorer.verdicts()}


@pytest.fixture(scope="module")
def reviewed(corpora: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Reviewed:
    folder = tmp_path_factory.mktemp("review")
    bundle = test_train.run(corpora, folder / "first", cache, *LEARNT)
    scorer = Scorer(Detector.load(bundle))
    archive = PromptArchive.open(
        folder / "archive", scorer.bundle.manifest.encoder.dimensions,
        encoder_id=encoder_id(scorer.detector), background=False,
    )  # fmt: skip
    scorer.archive = archive
    scorer.ingest(ordinary_traffic())
    archive.flush()
    with desk_in(folder / "desk", archive=archive) as desk:
        queue = desk.queue(scorer.verdicts())
        for verdict, cause in queue:
            assert cause == "new"
            desk.decide(verdict.account_id, "reject", "a school's homework", "ann", verdict)
        assert desk.queue(scorer.verdicts()) == []
        exported = desk.export_labels(folder / "labelled", "ann")
        assert (exported.attacking, exported.ordinary) == (0, len(queue))
        assert exported.events == len(queue) * EACH
        assert desk.verify().intact
    archive.close()
    return Reviewed(bundle, [verdict.account_id for verdict, _ in queue], folder / "labelled")


def test_wrong_flags_are_raised(reviewed: Reviewed) -> None:
    assert len(reviewed.wrong) > SITES // 2


def test_a_rejected_flag_is_not_raised_again(
    reviewed: Reviewed, corpora: Path, cache: Path, tmp_path: Path
) -> None:
    labelled = json.dumps([str(reviewed.labelled)])
    bundle = test_train.run(corpora, tmp_path, cache, *LEARNT, "--labelled", labelled)
    after = judge(bundle, ordinary_traffic())
    assert [name for name in reviewed.wrong if after[name].flagged] == []

    streams = compose_sealed(PLAN)
    old, new = (score_sealed(judge, one, streams) for one in (reviewed.bundle, bundle))
    assert any(prompts is not None for prompts in new.prompts_to_flag)
    assert [change for change in compare(streams, old, new) if change.worse] == []
