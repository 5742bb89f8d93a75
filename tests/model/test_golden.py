"""Golden risks: a bundle whose files do not belong together is found out before it serves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stillwatch.data.errors import BundleError
from stillwatch.model.bundle import Bundle
from stillwatch.model.detector import Detector
from stillwatch.model.golden import check_golden_risks, golden_risks, load_detector
from tests.support import TinyEncoder, tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def test_the_manifest_states_what_the_detector_gives(bundle: Bundle) -> None:
    stated = bundle.manifest.golden_risks
    assert stated == golden_risks(Detector(bundle, TinyEncoder()))
    assert len(set(stated)) > 6
    assert load_detector(bundle.path, encoder=TinyEncoder()).bundle_id == bundle.id


def test_other_weights_under_the_same_manifest_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    other = tiny_bundle(tmp_path / "other", seed=5)
    content = {**bundle.content, "classifier.onnx": other.content["classifier.onnx"]}
    mixed = Detector(replace(bundle, content=content), TinyEncoder())
    with pytest.raises(BundleError, match=r"golden risks within 0\.02, however: one differs by"):
        check_golden_risks(mixed)


def test_a_manifest_without_golden_risks_is_refused(bundle: Bundle) -> None:
    manifest = bundle.manifest.model_copy(update={"golden_risks": []})
    with pytest.raises(BundleError, match="must state 12 golden risks, however: 0"):
        check_golden_risks(Detector(replace(bundle, manifest=manifest), TinyEncoder()))
